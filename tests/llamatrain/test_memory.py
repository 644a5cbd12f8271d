"""How many rows a rank takes at once: what memory holds by arithmetic, alike on all ranks, and never what was not asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from llamatrain import capacity, footprint, memory
from llamatrain.capacity import MOST_RESPONSES
from llamatrain.errors import UserError
from llamatrain.footprint import ModelCounts
from llamatrain.memory import check_room, micro_batch, responses_at_once
from llamatrain.model.config import ModelConfig
from llamatrain.settings import ZeroConfig

GB = 1_000_000_000
TINY = ModelConfig(
    vocab_size=512,
    dim=64,
    n_layers=3,
    n_heads=4,
    n_kv_heads=4,
    hidden_dim=192,
    max_seq_len=128,
    rope_theta=10_000.0,
    norm_eps=1e-5,
    tie_embeddings=False,
    init_std=0.02,
    activation_checkpointing="none",
)
LLAMA2_7B = dataclasses.replace(
    TINY,
    vocab_size=32_000,
    dim=4096,
    n_layers=32,
    n_heads=32,
    n_kv_heads=32,
    hidden_dim=11_008,
    max_seq_len=4096,
    activation_checkpointing="full",
)
ZERO = ZeroConfig(stage=0, dtype="float32", offload_optimizer=False, offload_parameters=False)


@pytest.fixture
def gigabytes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that gives this machine so much memory."""

    def give(size: float) -> None:
        monkeypatch.setattr(memory, "machine_memory", lambda: int(size * GB))

    return give


def rows(asked: int | None = None, count: int = 12, ranks: int = 2, model: ModelConfig = TINY, **more: Any) -> int:
    return micro_batch(asked, count, model.max_seq_len, model, more.pop("zero", ZERO), ranks, **more)


def bytes_of(size: int) -> float:
    return footprint.training(TINY, ZERO, 2, size, TINY.max_seq_len, device="cpu").total


def test_a_whole_share_where_it_fits_else_a_divisor_of_it(gigabytes: Any) -> None:
    for size, expected in ((6, 6), (5, 3), (2, 2), (1, 1), (0, 1)):  # a rank's share is 6 rows
        gigabytes(2 * 1.0001 * bytes_of(size) / capacity.USED / GB)
        assert rows() == expected


def test_what_was_asked_for_is_taken_whatever_the_memory(gigabytes: Any) -> None:
    gigabytes(0)
    assert rows(asked=3) == 3
    assert responses_at_once(7, TINY, "float32", 3, 2) == 7


def test_a_cpu_takes_no_more_tokens_than_make_it_faster(gigabytes: Any) -> None:
    gigabytes(10_000)
    assert rows(count=4096) == capacity.MOST_TOKENS["cpu"] // TINY.max_seq_len
    assert responses_at_once(None, TINY, "float32", 3, 2) == MOST_RESPONSES


def test_models_leave_less_room(gigabytes: Any) -> None:
    zero = dataclasses.replace(ZERO, stage=3, dtype="bfloat16")
    gigabytes(8 * 30)
    assert rows(count=1024, ranks=8, model=LLAMA2_7B, zero=zero) == 2
    assert rows(count=1024, ranks=8, model=LLAMA2_7B, zero=zero, own=ModelCounts(2, 0, 3)) == 1
    gigabytes(8 * 80)
    alone, of_three = (responses_at_once(None, LLAMA2_7B, "bfloat16", models, 8) for models in (1, 3))
    assert alone > of_three > 1


def test_models_above_a_rank_s_memory_are_refused(gigabytes: Any) -> None:
    gigabytes(8 * 14)
    check_room(13.5 * GB, 8)
    with pytest.raises(UserError, match=r"models of 14\.1 GB on a rank, which has 14\.0 GB: need more memory"):
        check_room(14.1 * GB, 8)


def test_a_container_may_have_less_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = memory.machine_memory()
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    assert memory.machine_memory() >= whole
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.machine_memory() >= whole
    (tmp_path / "memory.max").write_text("1000000\n")
    assert memory.machine_memory() == 1_000_000
