"""Keys that came later: runs that do not record them did as with their former value, and nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llamatrain.errors import UserError
from llamatrain.keys import SPEED, changed, completed, filled, formerly, least
from llamatrain.resuming import refuse_resume


@dataclass
class Gate:
    threshold: float
    models: str = field(default="both", metadata=formerly("both"))


@dataclass
class Settings:
    steps: int
    gate: Gate
    grid: list[float] = field(default_factory=list, metadata=formerly([]) | least(0))
    rows: int = field(default=1, metadata=SPEED)


OLD = {"steps": 3, "gate": {"threshold": 0.1}}


def settings(models: str = "both", grid: tuple[float, ...] = ()) -> dict[str, object]:
    return {"steps": 3, "gate": {"threshold": 0.1, "models": models}, "grid": list(grid), "rows": 2}


def test_an_earlier_version_did_as_with_the_former_value() -> None:
    assert list(changed(Settings, OLD, settings())) == []
    assert list(changed(Settings, OLD, settings("one", (0.5,)))) == [
        ("gate.models", "both", "one"),
        ("grid", [], [0.5]),
    ]
    recorded = {**OLD, "gate": {"threshold": 0.1, "models": "one"}, "grid": [0.5]}
    assert list(changed(Settings, recorded, settings())) == [("gate.models", "one", "both"), ("grid", [0.5], [])]


def test_a_flat_record_is_completed_where_it_lacks_a_key() -> None:
    assert completed(Settings, {"steps": 3, "gate.threshold": 0.1}) == {
        "steps": 3,
        "gate.threshold": 0.1,
        "gate.models": "both",
        "grid": [],
    }
    recorded = {"steps": 3, "gate.threshold": 0.1, "gate.models": "one", "grid.0": 0.5}
    assert completed(Settings, recorded) == recorded


def test_a_nested_configuration_is_filled_where_it_lacks_a_key() -> None:
    lacking = {"steps": 3, "gate": {"threshold": 0.1}}
    assert filled(Settings, lacking) == {"steps": 3, "gate": {"threshold": 0.1, "models": "both"}, "grid": []}
    assert lacking == {"steps": 3, "gate": {"threshold": 0.1}}
    recorded = {"steps": 3, "gate": {"threshold": 0.1, "models": "one"}, "grid": [0.5]}
    assert filled(Settings, recorded) == recorded


def test_a_checkpoint_of_an_earlier_version_is_resumed_as_it_was_trained(tmp_path: Path) -> None:
    (tmp_path / "llamatrain.json").write_text(
        json.dumps({"program": "p", "step": 1, "config": OLD, "parents": {}, "data": {}})
    )
    fixed = ("gate.threshold", "gate.models", "grid")
    refuse_resume(Settings, settings(), {}, {}, fixed, tmp_path)
    with pytest.raises(UserError, match=r"gate\.models=one: .* was trained with both"):
        refuse_resume(Settings, settings("one"), {}, {}, fixed, tmp_path)
    with pytest.raises(UserError, match=r"grid=\[0\.5\]: .* was trained with \[\]"):
        refuse_resume(Settings, settings(grid=(0.5,)), {}, {}, fixed, tmp_path)
