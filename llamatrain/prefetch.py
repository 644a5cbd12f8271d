"""Batches read one step ahead: while a step computes, a thread reads the next one's and moves them to the device."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch

from .losses import Batch


class Batches(Protocol):
    """Random access to the global batches: what step `step` trains on, as this rank's micro-batches."""

    def batch_at(self, step: int) -> list[Batch]:
        """Return this rank's micro-batches of the step's global batch."""


class Prefetch:
    """Batches of steps in turn, each read by a thread while training is at the one before.

    What is read is what `batches` give, and an error in reading is raised where that step is due: training does not differ
    by it. Whoever changes what `batches` give (their list of samples to skip) calls `forget` first. The thread ends with the
    `with` block.
    """

    def __init__(self, batches: Batches, device: torch.device, end: int) -> None:
        """Read the steps before `end`."""
        self._batches, self._device, self._end = batches, device, end
        self._reader = ThreadPoolExecutor(1, "prefetch", self._start)
        self._step = -1
        self._reading: Future[list[Batch]] | None = None

    def __enter__(self) -> Prefetch:
        """Return it; nothing is read yet."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Wait for what is being read, and end the thread."""
        self.forget()
        self._reader.shutdown()

    def _start(self) -> None:
        if self._device.type == "cuda":  # a thread begins at the first GPU, and would pin memory for that
            torch.cuda.set_device(self._device)

    def batch_at(self, step: int) -> list[Batch]:
        """Return a step's micro-batches, on the device, and have those of the next step read."""
        if self._reading is None or self._step != step:
            self.forget()
            self._begin(step)
        assert self._reading is not None
        found = self._reading.result()
        self._reading = None
        if step + 1 < self._end:
            self._begin(step + 1)
        return found

    def forget(self) -> None:
        """Drop what was read ahead, and what went wrong there; from then on nothing is being read."""
        if self._reading is not None and not self._reading.cancel():
            self._reading.exception()
        self._reading = None

    def _begin(self, step: int) -> None:
        self._step, self._reading = step, self._reader.submit(self._read, step)

    def _read(self, step: int) -> list[Batch]:
        return [on_device(batch, self._device) for batch in self._batches.batch_at(step)]


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on a device, without waiting for it to arrive; its `weight` stays in host memory, where it is read."""
    if device.type == "cpu":
        return batch
    return {
        name: column if name == "weight" else _pinned(column).to(device, non_blocking=True)
        for name, column in batch.items()
    }


def _pinned(column: torch.Tensor) -> torch.Tensor:
    return column.pin_memory() if column.device.type == "cpu" else column
