"""Reading one step ahead: what is read is what would have been, it is read meanwhile, and nothing of it stays."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from llamatrain.errors import UserError
from llamatrain.losses import Batch
from llamatrain.prefetch import Prefetch, on_device

CPU, WAIT = torch.device("cpu"), 60  # seconds until a test that hangs fails
END = 6


class Steps:
    """Batches that name their step, and the list of samples to skip when they were read."""

    def __init__(self) -> None:
        self.skip, self.read = 0, list[int]()
        self.begun, self.go = threading.Semaphore(0), threading.Event()
        self.go.set()

    def batch_at(self, step: int) -> list[Batch]:
        self.read.append(step)
        self.begun.release()
        assert self.go.wait(WAIT)
        if step == 4 and not self.skip:
            raise UserError("row 4 is missing")
        return [{"step": torch.tensor(step), "skip": torch.tensor(self.skip)}]


@pytest.fixture
def steps() -> Iterator[Steps]:
    """Return batches; at the end no thread is left."""
    before = threading.active_count()
    yield Steps()
    assert threading.active_count() == before


def number(batches: list[Batch], name: str = "step") -> int:
    return int(batches[0][name])


def test_the_next_step_is_read_while_this_one_computes(steps: Steps) -> None:
    with Prefetch(steps, CPU, END) as ahead:
        assert number(ahead.batch_at(2)) == 2
        assert steps.begun.acquire(timeout=WAIT)
        assert steps.begun.acquire(timeout=WAIT)  # of step 3, which nobody has asked for yet
        assert number(ahead.batch_at(3)) == 3
    assert steps.read[:2] == [2, 3]


def test_steps_are_read_once_and_none_beyond_the_end(steps: Steps) -> None:
    steps.skip = 1
    with Prefetch(steps, CPU, END) as ahead:
        assert [number(ahead.batch_at(step)) for step in range(END)] == list(range(END))
    assert steps.read == list(range(END))


def test_what_was_read_before_a_rollback_is_dropped(steps: Steps) -> None:
    with Prefetch(steps, CPU, END) as ahead:
        ahead.batch_at(1)
        ahead.forget()
        steps.skip = 7  # from here on nothing reads by the former list
        assert number(ahead.batch_at(2), "skip") == 7  # the same step as was read ahead
        assert number(ahead.batch_at(1)) == 1  # and another one


def test_what_cannot_be_read_is_said_when_it_is_due(steps: Steps) -> None:
    with Prefetch(steps, CPU, END) as ahead:
        assert number(ahead.batch_at(3)) == 3
        with pytest.raises(UserError, match="row 4 is missing"):
            ahead.batch_at(4)
    steps.read.clear()
    with Prefetch(steps, CPU, END) as ahead:
        ahead.batch_at(3)
        ahead.forget()  # the samples of step 4 are skipped now: nobody hears of it
        steps.skip = 1
        assert number(ahead.batch_at(4)) == 4


def test_an_end_in_the_middle_waits_for_the_reader(steps: Steps) -> None:
    later = threading.Timer(0.05, steps.go.set)

    def interrupted() -> None:
        with Prefetch(steps, CPU, END) as ahead:
            ahead.batch_at(0)
            steps.go.clear()
            later.start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    later.join()


def test_the_weight_stays_where_it_is_read() -> None:
    batch = {"input_ids": torch.zeros(2, 3), "weight": torch.tensor(4.0)}
    assert on_device(batch, CPU) is batch
    moved = on_device(
        {name: column.to("meta") for name, column in batch.items()} | {"weight": batch["weight"]}, torch.device("meta")
    )
    assert (moved["input_ids"].device.type, moved["weight"].device.type) == ("meta", "cpu")
