"""Batches: a function of the step alone, whatever ranks and micro-batches; sequences, isolation, policies, replay."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llamatrain.chat import encode_dialogue, too_many
from llamatrain.data.cache import Cache
from llamatrain.data.dialogues import DialogueBatches
from llamatrain.data.packing import Batch
from llamatrain.data.rows import write_rows
from llamatrain.data.sequences import TokenBatches
from llamatrain.errors import MissingFileError, UserError
from llamatrain.tokenizer import Tokenizer
from tests.corpora import write_corpus

WORDS = ["the", "red", "fox", "lives", "in", "the", "forest", "near", "the", "river", "and", "bakes", "bread"]


def words(count: int, start: int = 0) -> str:
    return " ".join(WORDS[(start + i) % len(WORDS)] for i in range(count))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """Some 40 documents of 1 to 40 words."""
    folder = tmp_path_factory.mktemp("corpus")
    write_rows(folder / "documents.jsonl", ({"text": words(1 + i % 40, i), "source": "s"} for i in range(40)))
    write_corpus(folder / "train", [str(folder / "documents.jsonl")], tokenizer)
    return folder / "train"


def dialogue(question: int, answer: int, start: int = 0, **more: Any) -> dict[str, Any]:
    turns = [
        {"role": "user", "content": words(question, start)},
        {"role": "assistant", "content": words(answer, start)},
    ]
    return {"messages": turns, "source": "s", **more}


DIALOGUES = [dialogue(1 + i % 5, 1 + i % 7, i) for i in range(40)]
Make = Callable[..., TokenBatches | DialogueBatches]


@pytest.fixture(params=["tokens", "tokens isolated", "dialogues", "dialogues with replay"])
def make(request: pytest.FixtureRequest, corpus: Path, tokenizer: Tokenizer) -> Make:
    """Make batches of one sort; the order's settings can be given."""

    def build(**settings: Any) -> TokenBatches | DialogueBatches:
        settings = {"batch_size": 4, "micro_batch_size": 2, "seed": 0, **settings}
        if request.param.startswith("tokens"):
            isolate = "isolated" in request.param
            return TokenBatches(corpus, seq_len=64, isolate=isolate, tokenizer=tokenizer, **settings)
        if "replay" in request.param:
            settings |= {"replay": corpus, "replay_fraction": 0.3}
        return DialogueBatches(DIALOGUES, tokenizer, max_length=64, **settings)

    return build


def rows(batches: Iterable[Batch]) -> list[list[list[int]]]:
    """All rows in order, each as its columns."""
    names = ("input_ids", "position_ids", "segment_ids", "loss_mask")
    return [
        [batch[name][row].int().tolist() for name in names]
        for batch in batches
        for row in range(len(batch["input_ids"]))
    ]


@pytest.mark.parametrize(("world_size", "micro_batch_size"), [(1, 1), (1, 4), (2, 1), (2, 2), (4, 1)])
def test_ranks_and_micro_batches_leave_the_global_batch_unchanged(
    make: Make, world_size: int, micro_batch_size: int
) -> None:
    whole = make()
    ranks = [make(rank=rank, world_size=world_size, micro_batch_size=micro_batch_size) for rank in range(world_size)]
    for step in (0, 1, 7, 40):
        batches = [batch for rank in ranks for batch in rank.batch_at(step)]
        assert {len(batch["input_ids"]) for batch in batches} == {micro_batch_size}
        assert rows(batches) == rows(whole.batch_at(step))
        assert sum(b["weight"].item() for b in batches) == sum(b["loss_mask"].sum().item() for b in batches)
        assert all(rank.sample_ids(step) == whole.sample_ids(step) for rank in ranks)
    assert {rank.fingerprint for rank in ranks} == {whole.fingerprint}
    assert {rank.steps_per_epoch for rank in ranks} == {whole.steps_per_epoch}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """Three sources of different lengths in many shards."""
    folder = tmp_path_factory.mktemp("sources")
    names = {"crawl": 60, "books": 25, "code": 9}
    for name, count in names.items():
        texts = (words(5 + i % 30, i + count) for i in range(count))
        write_rows(folder / f"{name}.jsonl", ({"text": text, "source": name} for text in texts))
    write_corpus(folder / "train", {name: str(folder / f"{name}.jsonl") for name in names}, tokenizer, 4)
    return folder / "train"


def test_two_hundred_steps_are_the_same_on_any_ranks_and_after_any_kill(sources: Path) -> None:
    def opened(**split: int) -> TokenBatches:
        mixture = {"crawl": 5, "books": 2, "code": 1}
        settings: dict[str, Any] = {"seq_len": 32, "batch_size": 8, "seed": 3, "skip": [7, 500, 501], **split}
        return TokenBatches(sources, micro_batch_size=2, mixture=mixture, **settings)

    def equal(found: list[Batch], expected: list[Batch]) -> bool:
        return len(found) == len(expected) and all(
            torch.equal(one[name], other[name]) for one, other in zip(found, expected, strict=True) for name in other
        )

    whole = opened()
    assert len(whole.sources) == 3 and min(source.shards for source in whole.sources) > 2
    ranks = {count: [opened(rank=rank, world_size=count) for rank in range(count)] for count in (2, 4)}
    for step in range(201):
        ids, batches = whole.sample_ids(step), whole.batch_at(step)
        for group in (*ranks.values(), [opened()]):  # the last is what a run opens after a kill
            assert all(one.sample_ids(step) == ids for one in group)
            assert equal([batch for one in group for batch in one.batch_at(step)], batches)
    assert 5 * sum(whole.sequences) < 201 * 8  # several epochs


def test_a_step_is_the_same_in_any_order_and_seeds_differ(make: Make) -> None:
    one, other = make(), make(seed=1)
    forward = [rows(one.batch_at(step)) for step in range(6)]
    assert [rows(make().batch_at(step)) for step in reversed(range(6))] == forward[::-1]
    assert [rows(other.batch_at(step)) for step in range(6)] != forward


def test_each_epoch_holds_every_row_once_in_an_order_of_its_own(corpus: Path, tokenizer: Tokenizer) -> None:
    settings: dict[str, Any] = {"batch_size": 1, "micro_batch_size": 1, "seed": 0}
    tokens = TokenBatches(corpus, seq_len=64, **settings)
    for batches in (tokens, DialogueBatches(DIALOGUES, tokenizer, max_length=64, **settings)):
        count = round(batches.steps_per_epoch)
        epochs = [[str(rows(batches.batch_at(epoch * count + i))) for i in range(count)] for epoch in range(3)]
        assert count > 5
        assert Counter(epochs[0]) == Counter(epochs[1]) == Counter(epochs[2])
        assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_goes_on_into_the_next_epoch(corpus: Path) -> None:
    single = TokenBatches(corpus, seq_len=64, batch_size=1, micro_batch_size=1, seed=0)
    large = TokenBatches(corpus, seq_len=64, batch_size=5, micro_batch_size=5, seed=0)
    [sequences] = single.sequences
    assert sequences % 5  # else nothing goes on
    for step in range(2 * sequences // 5):
        assert rows(large.batch_at(step)) == [r for i in range(5) for r in rows(single.batch_at(step * 5 + i))]


def test_skipped_samples_are_passed_over(make: Make) -> None:
    plain, skipping = make(batch_size=2, micro_batch_size=2), make(batch_size=2, micro_batch_size=2)
    skipping.skip = [5, 2, 3]
    assert [skipping.sample_ids(step) for step in range(4)] == [[0, 1], [4, 6], [7, 8], [9, 10]]
    assert rows(skipping.batch_at(2)) == [rows(plain.batch_at(3))[1], rows(plain.batch_at(4))[0]]


@pytest.mark.parametrize(("size", "ranks"), [(1, 2), (5, 2), (4, 3), (2, 4)])
def test_a_batch_need_not_divide_by_the_ranks(make: Make, size: int, ranks: int) -> None:
    whole = rows(make(batch_size=size, micro_batch_size=1).batch_at(1))
    shares = [make(batch_size=size, rank=rank, world_size=ranks).batch_at(1) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    assert len({batch["input_ids"].shape for share in shares for batch in share}) == 1
    found = [row for share in shares for row in rows(share)]
    assert [row for row in found if any(row[3])] == whole
    assert sum(float(batch["weight"]) for share in shares for batch in share) == sum(sum(row[3]) for row in whole)


def test_eval_shows_every_row_once_in_order_and_as_many_batches_on_every_rank(make: Make) -> None:
    alone = list(make(batch_size=1, micro_batch_size=1).eval_batches())
    targets = sum(batch["weight"].item() for batch in alone)
    for world_size in (1, 2, 4):
        ranks = [
            list(make(rank=rank, world_size=world_size, batch_size=8).eval_batches()) for rank in range(world_size)
        ]
        assert len({len(batches) for batches in ranks}) == 1
        together = [row for batches in zip(*ranks, strict=True) for row in rows(batches)]
        assert together[: len(alone)] == rows(alone)
        assert not any(any(row[2]) or any(row[3]) for row in together[len(alone) :])
        assert sum(b["weight"].item() for batches in ranks for b in batches) == targets
    assert rows(make(batch_size=1, micro_batch_size=1).eval_batches(limit=3)) == rows(alone[:3])


# --- sequences -----------------------------------------------------------------------------------------------------


def stream(corpus: Path) -> list[int]:
    return [int(token) for token in np.fromfile(corpus / "documents" / "00000000.tokens", dtype=np.uint16)]


def test_every_token_but_the_first_is_a_target_once(corpus: Path) -> None:
    batches = TokenBatches(corpus, seq_len=50, batch_size=1, micro_batch_size=1, seed=0)
    targets = [token for batch in batches.eval_batches() for token in batch["input_ids"][batch["loss_mask"]].tolist()]
    assert targets == stream(corpus)[1:]
    batch = batches.batch_at(0)[0]
    assert batch["loss_mask"].tolist() == [[False] + [True] * 49]
    assert batch["segment_ids"].tolist() == [[1] * 50]
    assert batch["position_ids"].tolist() == [list(range(50))]


def test_isolated_documents_are_segments_and_their_bos_no_target(corpus: Path, tokenizer: Tokenizer) -> None:
    batches = TokenBatches(corpus, seq_len=50, batch_size=1, micro_batch_size=1, seed=0, isolate=True)
    for batch in batches.eval_batches():
        ids, positions, segments, mask = rows([batch])[0]
        for t in range(50):
            if segments[t] == 0:
                assert not mask[t]
            elif t == 0:
                assert (segments[t], positions[t], mask[t]) == (1, 0, 0)
            elif ids[t] == tokenizer.bos_id:
                assert (segments[t], positions[t], mask[t]) == (segments[t - 1] + 1, 0, 0)
            else:
                assert (segments[t], positions[t], mask[t]) == (segments[t - 1], positions[t - 1] + 1, 1)
    targets = sum(batch["weight"].item() for batch in batches.eval_batches())
    assert targets == len(stream(corpus)) - stream(corpus).count(tokenizer.bos_id)


def damaged(corpus: Path, folder: Path) -> Path:
    return Path(shutil.copytree(corpus, folder / "train"))


def test_damaged_corpora_are_refused(corpus: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"seq_len": 50, "batch_size": 1, "micro_batch_size": 1, "seed": 0}
    with pytest.raises(MissingFileError, match="llamatrain corpus"):
        TokenBatches(tmp_path, **settings)
    folder = damaged(corpus, tmp_path)
    shard = folder / "documents" / "00000000.tokens"
    size = shard.stat().st_size
    with shard.open("r+b") as file:
        file.truncate(size - 2)
    with pytest.raises(UserError, match=rf"0\.tokens has {size - 2} bytes, its index says {size} bytes"):
        TokenBatches(folder, **settings).batch_at(0)
    shard.unlink()
    with pytest.raises(UserError, match=r"0\.tokens is missing"):
        TokenBatches(folder, **settings).batch_at(0)
    (folder / "documents" / "shards.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"shards\.bin has 0 bytes, 1 shards need 16"):
        TokenBatches(folder, **settings)
    (folder / "manifest.json").write_text('{"files":')
    with pytest.raises(UserError, match=r"manifest\.json is damaged: not JSON"):
        TokenBatches(folder, **settings)


def test_another_tokenizers_corpus_is_refused(corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = damaged(corpus, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "tokenizer": "0" * 64}))
    with pytest.raises(UserError, match="made with another tokenizer"):
        TokenBatches(folder, seq_len=50, batch_size=1, micro_batch_size=1, seed=0, tokenizer=tokenizer)


def test_a_corpus_shorter_than_a_window_is_refused(corpus: Path) -> None:
    with pytest.raises(UserError, match="seq_len=100000 needs that many at least"):
        TokenBatches(corpus, seq_len=100_000, batch_size=1, micro_batch_size=1, seed=0)


def test_a_source_shorter_than_a_window_may_be_held_out_or_left_out(sources: Path) -> None:
    settings: dict[str, Any] = {"batch_size": 2, "micro_batch_size": 2, "seed": 0}
    tokens = {source.name: source.tokens for source in TokenBatches(sources, seq_len=32, **settings).sources}
    assert min(tokens, key=tokens.__getitem__) == "code"
    length = tokens["code"] + 1
    with pytest.raises(UserError, match=rf"source code of .* seq_len={length} needs that many at least"):
        TokenBatches(sources, seq_len=length, **settings)
    weights = {"crawl": 2, "books": 1}
    assert TokenBatches(sources, seq_len=length, mixture=weights, **settings).batch_at(0)
    held_out = TokenBatches(sources, seq_len=length, held_out=True, **settings)
    assert sum(batch["weight"].item() for batch in held_out.source_batches("code")) == tokens["code"] - 1
    assert sum(batch["weight"].item() for batch in held_out.eval_batches()) == sum(tokens.values()) - 3


# --- dialogues ---------------------------------------------------------------------------------------------------


def pack_dialogues(dialogues: list[dict[str, Any]], tokenizer: Tokenizer, **settings: Any) -> DialogueBatches:
    return DialogueBatches(
        dialogues, tokenizer, **{"max_length": 64, "batch_size": 1, "micro_batch_size": 1, "seed": 0, **settings}
    )


def answers(batches: DialogueBatches, tokenizer: Tokenizer) -> list[str]:
    """The decoded targets of all rows, sorted, and EOS after each."""
    found: list[str] = []
    for batch in batches.eval_batches():
        targets = batch["input_ids"][batch["loss_mask"]].tolist()
        while targets:
            end = targets.index(tokenizer.eos_id)
            found.append(tokenizer.decode(targets[:end]))
            targets = targets[end + 1 :]
    return sorted(found)


def test_the_packing_of_rows_in_memory_is_not_cached(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Nothing would tell it from that of as many other rows."""
    with pytest.raises(AssertionError):
        pack_dialogues(DIALOGUES, tokenizer, cached=Cache(tmp_path))
    assert not list(tmp_path.iterdir())


def test_targets_are_exactly_the_answers(tokenizer: Tokenizer) -> None:
    batches = pack_dialogues(DIALOGUES, tokenizer)
    assert answers(batches, tokenizer) == sorted(row["messages"][-1]["content"] + " " for row in DIALOGUES)
    assert batches.counts["kept"] == batches.counts["dialogues"] == 40
    assert batches.counts["rows"] < 40


def test_a_rows_own_loss_rules(tokenizer: Tokenizer) -> None:
    turns = [*dialogue(1, 1)["messages"], *dialogue(1, 2)["messages"]]
    row = {"messages": turns, "source": "s"}
    assert answers(pack_dialogues([row], tokenizer), tokenizer) == ["the ", "the red "]
    assert answers(pack_dialogues([{**row, "loss": "last"}], tokenizer), tokenizer) == ["the red "]
    assert answers(pack_dialogues([row], tokenizer, loss="last"), tokenizer) == ["the red "]


def test_segments_start_at_bos_with_position_zero(tokenizer: Tokenizer) -> None:
    for batch in pack_dialogues(DIALOGUES, tokenizer).eval_batches():
        ids, positions, segments, _ = rows([batch])[0]
        starts = [t for t in range(64) if segments[t] and (t == 0 or segments[t] != segments[t - 1])]
        assert starts == [t for t in range(64) if ids[t] == tokenizer.bos_id]  # dialogues of one turn
        assert all(positions[t] == 0 for t in starts)


LONG = {"messages": [*dialogue(3, 3)["messages"], *dialogue(20, 20)["messages"]], "source": "s"}


def test_too_long_dialogues_are_skipped_stopped_or_shortened(tokenizer: Tokenizer) -> None:
    length = pack_dialogues([LONG], tokenizer, max_length=1000).counts["tokens"]
    both = [DIALOGUES[0], LONG]
    skipped = pack_dialogues(both, tokenizer, max_length=length - 1, too_long="skip")
    assert (skipped.counts["kept"], skipped.counts["skipped"], skipped.counts["shortened"]) == (1, 1, 0)
    shortened = pack_dialogues(both, tokenizer, max_length=length - 1, too_long="drop_turns")
    assert (shortened.counts["kept"], shortened.counts["skipped"], shortened.counts["shortened"]) == (2, 0, 1)
    assert answers(shortened, tokenizer) == sorted(["the ", words(20) + " "])  # the last answer is whole
    hopeless = pack_dialogues(both, tokenizer, max_length=40, too_long="drop_turns")
    assert (hopeless.counts["kept"], hopeless.counts["skipped"], hopeless.counts["shortened"]) == (1, 1, 0)
    with pytest.raises(UserError, match=rf"dialogue 2 has {length} tokens, more than max_length={length - 1}"):
        pack_dialogues(both, tokenizer, max_length=length - 1, too_long="stop")
    assert pack_dialogues(both, tokenizer, max_length=length, too_long="stop").counts["kept"] == 2


def test_a_dialogue_under_an_instruction_is_never_shortened(tokenizer: Tokenizer) -> None:
    under = {**LONG, "loss": "last", "meta": {"instruction": "Act as a king."}}
    length = pack_dialogues([under], tokenizer, max_length=1000, too_long="drop_turns").counts["tokens"]  # it fits
    both = [under, LONG, {**LONG, "meta": "a note"}]  # what is no mapping holds no instruction
    batches = pack_dialogues(both, tokenizer, max_length=length - 1, too_long="drop_turns")
    assert [batches.counts[name] for name in ("kept", "skipped", "shortened")] == [2, 1, 2]


def test_a_dialogue_far_too_long_is_not_encoded(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "Where does the red fox live? " * 5_000
    long = {"messages": [{"role": "user", "content": words}, {"role": "assistant", "content": "There."}], "source": "x"}
    fewest, exactly = too_many(long["messages"], tokenizer, 64), len(encode_dialogue(long["messages"], tokenizer)[0])
    assert fewest is not None and 64 < fewest < exactly
    encoded: list[int] = []
    encode = tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda text, **more: encoded.append(len(text)) or encode(text, **more))
    batches = pack_dialogues([*DIALOGUES, long], tokenizer)
    assert batches.counts["skipped"] == 1 and max(encoded) < 1000
    short = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A fox."}]
    shortened = {**long, "messages": [*long["messages"], *short]}
    assert pack_dialogues([shortened], tokenizer, too_long="drop_turns").counts["shortened"] == 1
    with pytest.raises(UserError, match=f"has {fewest} tokens, more than max_length=64"):
        pack_dialogues([long], tokenizer, too_long="stop")


def test_nothing_left_and_unknown_policies_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="none of 1 dialogues fits into max_length=20"):
        pack_dialogues([LONG], tokenizer, max_length=20)
    with pytest.raises(UserError, match="too_long='cut'"):
        pack_dialogues([LONG], tokenizer, too_long="cut")


def test_the_fingerprint_is_of_what_is_trained(tokenizer: Tokenizer) -> None:
    one = pack_dialogues(DIALOGUES, tokenizer).fingerprint
    assert one == pack_dialogues([dict(row) for row in DIALOGUES], tokenizer, batch_size=2).fingerprint
    changed = [*DIALOGUES[:-1], {**DIALOGUES[-1], "messages": dialogue(1, 1)["messages"]}]
    assert one != pack_dialogues(changed, tokenizer).fingerprint


def test_replay_is_the_asked_share_and_leaves_the_dialogues_whole(corpus: Path, tokenizer: Tokenizer) -> None:
    mixed = pack_dialogues(DIALOGUES, tokenizer, batch_size=4, micro_batch_size=2, replay=corpus, replay_fraction=0.3)
    plain = pack_dialogues(DIALOGUES, tokenizer, batch_size=1, micro_batch_size=1)
    steps = 25
    shown = [row for step in range(steps) for row in rows(mixed.batch_at(step))]
    sequences = TokenBatches(corpus, seq_len=64, batch_size=1, micro_batch_size=1, seed=0, isolate=True)
    known = {str(row) for row in rows(sequences.eval_batches())}
    replayed = [row for row in shown if str(row) in known]
    others = [row for row in shown if str(row) not in known]
    assert len(replayed) == 0.3 * 4 * steps
    assert others == [row for place in range(len(others)) for row in rows(plain.batch_at(place))]
    assert mixed.steps_per_epoch == pytest.approx(plain.steps_per_epoch / 4 / 0.7)


def test_replay_needs_both_a_corpus_and_a_fraction(corpus: Path, tokenizer: Tokenizer) -> None:
    for settings in ({"replay": corpus}, {"replay_fraction": 0.2}, {"replay": corpus, "replay_fraction": 1.0}):
        with pytest.raises(UserError, match="replay_fraction"):
            pack_dialogues(DIALOGUES, tokenizer, **settings)


def test_batches_are_tensors_of_the_agreed_types(make: Make) -> None:
    batch = make().batch_at(0)[0]
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in batch.items()} == {
        **dict.fromkeys(("input_ids", "position_ids", "segment_ids"), (torch.int64, (2, 64))),
        "loss_mask": (torch.bool, (2, 64)),
        "weight": (torch.float32, ()),
    }
