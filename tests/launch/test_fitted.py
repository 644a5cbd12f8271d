"""Fitted values suit the data and the machine: every stage composes, batches are below an epoch and go to every rank."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from launch.fitted import Fit, vocabulary
from launch.graphs.chat import KINDS
from launch.machine import CORE, Machine
from launch.roles import File, Part, assigned
from llamatrain.data.shapes import BUCKETS, Shape
from llamatrain.fitting import power

CPU = Machine(2, 0, 2 * CORE, "2 CPU cores")
LARGE = Machine(64, 0, 64 * CORE, "64 CPU cores")
GPUS = Machine(16, 8, 8 * 3e13, "8 GPUs (A100)")


def a_file(kind: str, rows: int, size: int, answer: int = 100, text: str = "abc ") -> File:
    """Return what `look` finds in so many rows of so many bytes."""
    kinds = list(KINDS) if kind == "preference" else [""]
    spread = [rows // len(kinds) // BUCKETS + 1] * BUCKETS
    folds = {name: [*spread[:-1], rows // len(kinds) - sum(spread[:-1])] for name in kinds}
    sizes, answers = [size] * min(rows, 1000), [answer] * min(rows, 1000)
    shape = Shape(f"/data/{kind}.jsonl", None, kind, rows=rows, sizes=sizes, answers=answers, folds=folds)
    if kind == "document":
        shape.characters, shape.words = Counter(text), {f"{'word' * 9}{n}" for n in range(10**4)}
    return File(f"{kind}.jsonl", shape)


def some(documents: int = 100, dialogues: int = 1000, pairs: int = 1000, size: int = 400) -> list[File]:
    """Return files of so many rows; documents in units of ten kilobytes."""
    wanted: list[tuple[str, int, int]] = [
        ("document", documents, 10_000),
        ("dialogue", dialogues, size),
        ("preference", pairs, size),
    ]
    return [a_file(kind, rows, each) for kind, rows, each in wanted if rows]


def test_the_model_grows_with_minutes_text_and_machine() -> None:
    def shape(documents: int, machine: Machine, minutes: float) -> tuple[str | None, float]:
        fit = Fit(assigned(some(documents)), machine, minutes)
        assert 6 * fit.model.parameters * fit.tokens <= 0.41 * 60 * minutes * machine.speed
        assert fit.tokens <= max(4 * fit.corpus, 500_000)
        return fit.shape, fit.tokens

    assert shape(100, CPU, 5)[0] == shape(100, LARGE, 600)[0] == "tiny"  # a text of a megabyte feeds no more
    assert shape(3000, CPU, 5)[0] == "tiny"
    assert shape(3000, CPU, 120)[0] == "small"
    assert shape(3000, LARGE, 120)[0] == "stories"
    assert shape(10**6, LARGE, 10**5)[0] == "stories"  # more is for GPUs
    assert shape(10**6, GPUS, 600)[0] == "stories110m"
    assert shape(3000, CPU, 5)[1] < shape(3000, CPU, 10)[1]


def test_however_few_the_minutes_answers_learn_to_end() -> None:
    fit = Fit(assigned(some(100, 5000)), CPU, 0.1)
    assert (fit.shape, fit.tokens) == ("tiny", 300_000)
    assert fit.sizes.epochs * fit.sizes.dialogues / fit.sizes.batch_sequences >= 90
    assert sum(fit.estimated().values()) > 60


def test_pieces_follow_the_text_and_its_characters() -> None:
    def pieces(size: float, text: str = "abc", gpu: bool = False) -> int:
        return vocabulary(size, Part(files=[a_file("document", 1, 1, text=text)]), gpu)

    assert [pieces(size) for size in (1e4, 1e5, 2e6, 5e7, 1e12)] == [512, 1024, 2048, 4096, 4096]
    assert [pieces(size, gpu=True) for size in (5e8, 1e12)] == [8192, 32000]
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))
    assert pieces(1e4, many) == 8192
    few = a_file("document", 1, 1)
    few.shape.words = {"the", "fox", "lives"}  # each piece is a byte, a character or a part of a word
    assert vocabulary(1e6, Part(files=[few]), False) == 264


def test_context_and_answers_hold_nine_of_ten() -> None:
    assert Fit(assigned(some(size=100)), CPU, 30).context == 128
    assert Fit(assigned(some(size=1000)), CPU, 30).context == 512
    assert Fit(assigned(some(size=10**5)), CPU, 30).context == 512
    assert Fit(assigned(some(size=10**5)), GPUS, 30).context == 2048
    assert Fit(assigned(some(dialogues=0, pairs=0)), CPU, 30).context == 256


def test_the_estimate_covers_every_stage_and_keeps_about_to_the_minutes() -> None:
    roles = assigned(some(3000, 20_000, 2000))
    for minutes in (10, 30, 120):
        fit = Fit(roles, CPU, minutes)
        seconds = fit.estimated()
        assert seconds.keys() == {stage.program for stage in fit.graph.stages.values()}
        assert 0.5 * minutes < sum(seconds.values()) / 60 < 1.5 * minutes
        faster = Fit(roles, replace(CPU, cores=4, speed=2 * CPU.speed), minutes).estimated()
        assert sum(faster.values()) < 1.6 * sum(seconds.values())


def test_batches_are_powers_of_two() -> None:
    assert [power(most) for most in (0.5, 1, 3, 8, 9.5)] == [1, 1, 2, 8, 8]
