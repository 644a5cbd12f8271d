"""Pairs that are trained on: what is left out, their order, and their balance over micro-batches."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamatrain.data.rows import write_rows
from llamatrain.data.skipped import BadRows
from llamatrain.errors import UserError
from llamatrain.responses.pairs import Pair
from llamatrain.tokenizer import Tokenizer
from reward.data import PairBatches, load_pairs, mix_pairs, training_batch
from tests.responses.test_pairs import make_pairs


def make_batches(pairs: list[Pair], **changes: int) -> PairBatches:
    settings = {"max_length": 128, "batch_pairs": 8, "micro_batch_size": 2, "seed": 0} | changes
    return PairBatches(pairs, margin="small", **settings)


def write_preferences(path: Path, count: int, kind: str = "helpfulness", long: int = 0) -> str:
    def row(i: int) -> dict[str, object]:
        question = "Where does the red fox live? " * (40 if i < long else 1)
        return {
            "messages": [{"role": "user", "content": f"{question}{i}"}],
            "chosen": f"The red fox lives in the forest near the river {i}.",
            "rejected": "No.",
            "kind": kind,
            "rating": "better",
        }

    write_rows(path, (row(i) for i in range(count)))
    return str(path)


def test_training_batch_columns() -> None:
    pairs = make_pairs(3)
    batch = training_batch(pairs, 128, "small")
    rows, columns = batch["ends"].unbind(-1)
    assert set(batch["input_ids"][rows, columns].flatten().tolist()) == {2}  # EOS
    assert batch["loss_mask"].sum() == 6
    assert batch["loss_mask"][rows, columns].all()
    assert batch["margin"].tolist() == pytest.approx([1.0, 1 / 3, 0.0])
    assert batch["safe"][:, 0].tolist() == [1.0, 0.0, 1.0]
    assert batch["safe"][:, 1].isnan().all()
    assert batch["weight"] == 3


def test_an_epoch_shows_every_pair_once_and_ranks_share_it() -> None:
    pairs = make_pairs(24)
    one = make_batches(pairs)
    ids = [i for step in range(3) for i in one.sample_ids(step)]
    assert sorted(ids) == list(range(24))
    assert one.sample_ids(0) != one.sample_ids(3)
    assert one.steps_per_epoch == 3
    tokens = sum(len(pairs[i]) for i in one.sample_ids(1))
    for world_size in (1, 2, 4):
        parts = [make_batches(pairs, rank=rank, world_size=world_size).batch_at(1) for rank in range(world_size)]
        batches = [batch for part in parts for batch in part]
        assert len(batches) == 4
        assert sum(int((batch["segment_ids"] > 0).sum()) for batch in batches) == tokens


def test_micro_batches_are_balanced() -> None:
    pairs = make_pairs(64)
    batches = make_batches(pairs, batch_pairs=64, micro_batch_size=8).batch_at(0)
    tokens = [int((batch["segment_ids"] > 0).sum()) for batch in batches]
    assert max(tokens) < 1.15 * min(tokens)


def test_every_rank_makes_as_many_micro_batches_of_pairs_that_do_not_divide() -> None:
    pairs = make_pairs(9)
    alone = make_batches(pairs, batch_pairs=5, micro_batch_size=5).batch_at(0)[0]
    for size, ranks in ((2, 2), (3, 4), (1, 7)):
        settings = {"batch_pairs": 5, "micro_batch_size": size, "world_size": ranks}
        shares = [make_batches(pairs, rank=rank, **settings).batch_at(0) for rank in range(ranks)]
        assert len({len(share) for share in shares}) == 1
        batches = [batch for share in shares for batch in share]
        assert sum(float(batch["weight"]) for batch in batches) == 5
        assert max(float(batch["weight"]) for batch in batches) <= size
        assert sum(int((batch["segment_ids"] > 0).sum()) for batch in batches) == int((alone["segment_ids"] > 0).sum())


def test_a_batch_above_all_pairs_is_refused() -> None:
    with pytest.raises(UserError, match="batch_pairs=8 exceeds the 5"):
        make_batches(make_pairs(5))


def test_fingerprint_follows_tokens_and_labels() -> None:
    pairs = make_pairs(8)
    assert make_batches(pairs).fingerprint == make_batches(make_pairs(8)).fingerprint
    assert make_batches(pairs).fingerprint != make_batches(make_pairs(8, seed=1)).fingerprint


def test_load_pairs_encodes_both_sides(tmp_path: Path, tokenizer: Tokenizer) -> None:
    pairs, dropped = load_pairs(write_preferences(tmp_path / "p.jsonl", 4), tokenizer, 128, "skip")
    assert (len(pairs), dropped) == (4, {})
    assert pairs[1].chosen[-1] == pairs[1].rejected[-1] == tokenizer.eos_id
    assert tokenizer.decode(pairs[1].chosen.tolist()).endswith("forest near the river 1. ")
    assert (pairs[1].rating, pairs[1].chosen_safe, pairs[1].row) == ("better", None, 1)


def test_long_pairs_are_skipped_and_counted_or_stop(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write_preferences(tmp_path / "p.jsonl", 5, long=2)
    pairs, dropped = load_pairs(path, tokenizer, 128, "skip")
    assert ([pair.row for pair in pairs], dropped) == ([2, 3, 4], {"too_long": 2})
    with pytest.raises(UserError, match=r"p\.jsonl:1 has .* tokens, max_length=128"):
        load_pairs(path, tokenizer, 128, "stop")
    with pytest.raises(UserError, match="too_long=cut: need skip or stop"):
        load_pairs(path, tokenizer, 128, "cut")
    with pytest.raises(UserError, match="has no pair to rank within max_length=10 tokens: 5 longer than"):
        load_pairs(path, tokenizer, 10, "skip")


def test_rows_keep_their_places_where_bad_ones_are_skipped(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = Path(write_preferences(tmp_path / "p.jsonl", 4, long=0))
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["{", lines[0], "[]", *lines[1:]]) + "\n")
    bad = BadRows("skip")
    for _ in range(2):  # bad rows of other files count for nothing
        pairs, _ = load_pairs(str(path), tokenizer, 128, "skip", bad=bad)
        assert [pair.row for pair in pairs] == [1, 3, 4, 5]
    with pytest.raises(UserError, match=r"p\.jsonl:2 is a helpfulness preference"):
        load_pairs(str(path), tokenizer, 128, "skip", "safety", BadRows("skip"))


def test_rows_of_a_share_keep_their_places_in_the_file(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write_preferences(tmp_path / "p.jsonl", 12, long=0)
    parts = [load_pairs(f"{path}@fold{k}/3", tokenizer, 128, "skip")[0] for k in range(3)]
    assert sorted(pair.row for part in parts for pair in part) == list(range(12))


def test_pairs_that_teach_nothing_are_dropped_and_counted(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Planted: equal answers (but for spaces), an empty one, and an unsafe answer chosen over a safe one."""
    labels = {"chosen_safe": False, "rejected_safe": True}
    made: list[tuple[str, str, dict[str, bool]]] = [
        ("A whale is bigger.", " A whale is bigger. ", {}),
        ("", "", {}),
        (" ", "A whale.", {}),
        ("A whale.", "", {}),
        ("To bully him, call him names.", "I cannot help.", labels),
        ("I cannot help.", "To bully him, call him names.", {"chosen_safe": True, "rejected_safe": False}),
        ("No.", "I cannot help.", {"chosen_safe": False, "rejected_safe": False}),
        ("A whale.", "A fox.", {"rejected_safe": True}),
    ]
    question = [{"role": "user", "content": "Which is bigger?"}]
    rows = [{"messages": question, "chosen": c, "rejected": r, "kind": "safety", **more} for c, r, more in made]
    write_rows(tmp_path / "p.jsonl", rows)
    pairs, dropped = load_pairs(str(tmp_path / "p.jsonl"), tokenizer, 128, "skip")
    assert [pair.row for pair in pairs] == [5, 6, 7]
    assert dropped == {"equal": 2, "empty": 2, "unsafe_chosen": 1}
    assert dropped.in_words().startswith("2 with two equal answers, 2 with an empty answer")
    write_rows(tmp_path / "q.jsonl", rows[:5])
    with pytest.raises(UserError, match=r"q\.jsonl has no pair to rank.*: 2 with two equal answers"):
        load_pairs(str(tmp_path / "q.jsonl"), tokenizer, 128, "skip")


def test_the_kind_of_prompt_is_the_preferences_unless_told(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Safety is also rated on harmless prompts, which the row's meta says."""
    rows = [
        {"messages": [{"role": "user", "content": "?"}], "chosen": "a", "rejected": "b", "kind": kind, **more}
        for kind, more in (("helpfulness", {}), ("safety", {}), ("safety", {"meta": {"is_adversarial": False}}))
    ]
    write_rows(tmp_path / "p.jsonl", rows)
    pairs, _ = load_pairs(str(tmp_path / "p.jsonl"), tokenizer, 128, "skip")
    assert [pair.is_adversarial for pair in pairs] == [False, True, False]


def test_the_other_kind_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write_preferences(tmp_path / "p.jsonl", 2, kind="safety")
    with pytest.raises(UserError, match=r"\.jsonl:1 is a safety preference, but kind=helpfulness"):
        load_pairs(path, tokenizer, 128, "skip", kind="helpfulness")


def test_mix_is_exact() -> None:
    own, other = make_pairs(90), make_pairs(40, seed=1)
    mixed = mix_pairs(own, other, 0.1, seed=0)
    assert mixed[:90] == own
    assert len(mixed) == 100
    assert all(pair in other for pair in mixed[90:])
    assert [id(p) for p in mix_pairs(own, other, 0.1, seed=0)] == [id(p) for p in mixed]
    assert list(mix_pairs(own, [], 0.0, seed=0)) == own
    with pytest.raises(UserError, match=r"mix_share=0\.1: need files in mix"):
        mix_pairs(own, [], 0.1, seed=0)


def test_pairs_know_where_their_prompt_ends(tmp_path: Path, tokenizer: Tokenizer) -> None:
    pairs, _ = load_pairs(write_preferences(tmp_path / "pairs.jsonl", 3), tokenizer, 128, "stop")
    for number, one in enumerate(pairs):
        question = f"[INST] Where does the red fox live? {number} [/INST]"
        asked = tokenizer.encode(question, bos=True)
        assert one.chosen[: one.prompt].tolist() == one.rejected[: one.prompt].tolist() == asked
