"""Packing: every sample once, no overflow, few rows; the batch's columns by hand."""

from __future__ import annotations

import random
import time

import pytest
import torch

from llamatrain.data.packing import Sample, collate, pack


def first_fit_decreasing(lengths: list[int], capacity: int) -> list[list[int]]:
    """The textbook's loop over all rows."""
    rows: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        for row in rows:
            if sum(lengths[i] for i in row) + lengths[index] <= capacity:
                row.append(index)
                break
        else:
            rows.append([index])
    return rows


def test_equals_the_textbooks_first_fit_decreasing() -> None:
    rng = random.Random(0)
    for _ in range(100):
        capacity = rng.randint(1, 60)
        lengths = [rng.randint(1, capacity) for _ in range(rng.randint(0, 80))]
        assert pack(lengths, capacity) == first_fit_decreasing(lengths, capacity)


def test_covers_all_once_without_overflow_and_fast() -> None:
    rng = random.Random(1)
    lengths = [rng.randint(1, 4096) for _ in range(100_000)]
    started = time.process_time()
    rows = pack(lengths, 4096)
    assert time.process_time() - started < 10
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert max(sum(lengths[i] for i in row) for row in rows) <= 4096
    assert sum(lengths) / (4096 * len(rows)) > 0.95


@pytest.mark.parametrize("length", [0, 11])
def test_a_sample_no_row_holds_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"sample 1 has {length} tokens"):
        pack([5, length], 10)


def sample(*tokens: int, targets: str) -> Sample:
    return Sample(list(tokens), [mark == "x" for mark in targets])


def test_columns_by_hand() -> None:
    samples = [
        sample(5, 6, 7, targets="xxx"),
        sample(8, 9, targets=".x"),
        sample(4, targets="."),
        sample(1, 1, targets=".."),
    ]
    batch, locations = collate(samples, [[1, 0], [2], []], length=6)
    assert batch["input_ids"].tolist() == [[8, 9, 5, 6, 7, 0], [4, 0, 0, 0, 0, 0], [0] * 6]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0], [0] * 6, [0] * 6]
    assert batch["segment_ids"].tolist() == [[1, 1, 2, 2, 2, 0], [1, 0, 0, 0, 0, 0], [0] * 6]
    assert batch["loss_mask"].int().tolist() == [[0, 1, 0, 1, 1, 0], [0] * 6, [0] * 6]  # a segment's first token never
    assert locations.tolist() == [[0, 2], [0, 0], [1, 0], [-1, -1]]
    assert batch["weight"].item() == 3.0
    assert {name: tensor.dtype for name, tensor in batch.items()} == {
        **dict.fromkeys(("input_ids", "position_ids", "segment_ids"), torch.int64),
        "loss_mask": torch.bool,
        "weight": torch.float32,
    }


def test_shared_rows_are_one_segment() -> None:
    samples = [sample(5, 6, targets=".x"), sample(8, 9, targets=".x")]
    batch, _ = collate(samples, [[0, 1]], length=5, isolate=False)
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0]]
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 1, 0]]


def test_an_overfull_row_is_refused() -> None:
    with pytest.raises(ValueError, match="row 0 holds"):
        collate([sample(1, 2, targets=".x")] * 2, [[0, 1]], length=3)
