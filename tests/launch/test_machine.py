"""What the machine has, without asking torch."""

from __future__ import annotations

import pytest

from launch.machine import CORE, this_machine


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    here = this_machine()
    assert (here.gpus, here.devices, here.speed) == (0, here.cores, here.cores * CORE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert this_machine().devices == 2
