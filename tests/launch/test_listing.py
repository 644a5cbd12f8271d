"""`llamatrain runs`: every run folder in a line, whatever lies there, at any width."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launch import listing
from launch.found import Found, newest, runs_in, scan
from launch.listing import table
from launch.programs import NAME, PROGRAMS, ROOT
from llamatrain.lock import Lock
from llamatrain.replaced import move_beside

NOW = 1_800_000_000.0


def make(folder: Path, state: str = "done", program: str = "sft", rows: int = 3, **status: Any) -> Path:
    """Make what a run of some steps leaves."""
    (folder / "checkpoints/step_00000003").mkdir(parents=True)
    (folder / "checkpoints/step_00000003/model.safetensors").write_bytes(b"x" * 5000)
    if state == "done":
        (folder / "final").symlink_to("checkpoints/step_00000003")
    lines = [{"step": n + 1, "time": 0, "train/loss": 3.5 - n, "train/lr": 1e-3} for n in range(rows)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = {"state": state, "program": program, "step": rows, "updated": NOW - 7200, **status}
    (folder / "status.json").write_text(json.dumps(content))
    os.utime(folder / "metrics.jsonl", (NOW - 7200, NOW - 7200))
    return folder


def make_pipeline(folder: Path, *states: str) -> Path:
    """Make a pipeline of pretrain, sft and ppo, of which some have begun."""
    names = ("pretrain", "sft", "ppo")
    for name, state in zip(names, states, strict=False):
        make(folder / name, state, name, reason=f"of {name}")
    described = {"command": ["llamatrain", "pipeline", "preset=demo"], "stages": {name: {} for name in names}}
    (folder / "pipeline.json").write_text(json.dumps(described))
    return folder


def found(folder: Path) -> dict[str, Found]:
    return {one.path.name: one for one in runs_in(scan(folder))}


def test_states_steps_and_what_comes_next(tmp_path: Path) -> None:
    make(tmp_path / "chat")
    make(tmp_path / "base", "stopped", "pretrain", total=300)
    make(tmp_path / "broken", "failed", ranks=2, reason="UserError: train/loss is nan")
    make(tmp_path / "deep/er", "running", total=10)
    there = found(tmp_path)
    assert {name: one.state for name, one in there.items()} == {
        "chat": "done", "base": "stopped", "broken": "failed", "er": "killed",
    }  # fmt: skip
    assert there["chat"].next == ["chat", str(tmp_path / "chat")]
    assert there["base"].next == ["pretrain", f"--config={tmp_path}/base/config.yaml"]
    assert there["broken"].next == ["sft", f"--config={tmp_path}/broken/config.yaml", "ranks=2"]
    (tmp_path / "broken/jobs").mkdir()
    script = "#!/bin/bash\n# Written by: llamatrain slurm sft run.name=broken 'train=a b.jsonl'\n"
    (tmp_path / "broken/jobs/job.sh").write_text(script)  # its ranks were those of several machines
    assert found(tmp_path)["broken"].next == ["slurm", "sft", "run.name=broken", "train=a b.jsonl"]
    assert (there["base"].step, there["base"].total) == (3, 300)
    assert there["broken"].note == "UserError: train/loss is nan"
    with Lock(tmp_path / "deep/er"):
        running = found(tmp_path)["er"]
    assert (running.state, running.step, running.next) == ("running", 3, [])


def test_stages_stand_under_their_pipeline_which_is_what_they_are(tmp_path: Path) -> None:
    whole = make_pipeline(tmp_path / "whole", "done", "done", "done")
    for name, *states in (
        ("part", "done", "stopped"),
        ("bad", "done", "done", "failed"),
        ("people", "done", "waiting"),
    ):
        make_pipeline(tmp_path / name, *states)
    make(whole / "own", program="sample")
    there = found(tmp_path)
    assert [one.path.name for one in there["whole"].stages] == ["pretrain", "sft", "ppo", "own"]
    assert (there["whole"].state, there["whole"].step, there["whole"].total) == ("done", 3, 3)
    assert there["whole"].next == ["chat", str(whole / "ppo")]
    assert [there[name].state for name in ("part", "bad", "people")] == ["stopped", "failed", "waiting"]
    assert there["bad"].next == ["pipeline", "preset=demo"]
    assert there["bad"].note == "ppo of ppo" and there["people"].note == "sft of sft"
    assert not [stage for name in there for stage in there[name].stages if stage.next and stage.path.name != "own"]
    with Lock(tmp_path / "part"):
        assert found(tmp_path)["part"].state == "running"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "is damaged: not JSON"),
        ("[]", "need an object"),
        ('{"state": 3, "program": "sft"}', "state is 3, need a text"),
        ('{"program": "sft"}', "state is missing"),
        ('{"state": "asleep", "program": "sft"}', "need one of running, done"),
        ("\udcff", "not UTF-8"),
        (None, "status.json is missing"),
    ],
)
def test_what_is_damaged_is_shown_as_such(text: str | None, why: str, tmp_path: Path) -> None:
    status = make(tmp_path / "chat") / "status.json"
    (tmp_path / "chat/config.yaml").touch()
    if text is None:
        status.unlink()
    else:
        status.write_bytes(text.encode(errors="surrogateescape"))
    one = found(tmp_path)["chat"]
    assert one.state == "damaged" and why in one.note
    assert any("damaged" in line for line in table([one], tmp_path, 80, False, NOW))


def test_a_damaged_pipeline_and_damaged_metrics_are_no_obstacle(tmp_path: Path) -> None:
    folder = make_pipeline(tmp_path / "demo", "done")
    with (folder / "pretrain/metrics.jsonl").open("ab") as file:
        file.write(b'[1]\n{"step": "x"}\n\xff{{\n{"step": 4, "train/lo')
    (one,) = found(tmp_path)["demo"].stages
    assert one.figures == [("loss", "1.500")]
    (folder / "pipeline.json").write_text("{}")
    one = found(tmp_path)["demo"]
    assert (one.state, [stage.path.name for stage in one.stages]) == ("damaged", ["pretrain"])


def test_an_unknown_program_is_no_obstacle(tmp_path: Path) -> None:
    make(tmp_path / "old", program="of_another_version")
    one = found(tmp_path)["old"]
    assert (one.state, one.figures, one.next) == ("done", [], [])


def test_the_newest_figures_come_from_the_end_of_long_metrics(tmp_path: Path) -> None:
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in range(1, 5001):
            row = {"step": step, "train/loss": step / 1000} | ({"eval/loss": 1.25} if step == 4900 else {})
            file.write(json.dumps(row) + "\n")
    step, last = newest(tmp_path, PROGRAMS["pretrain"].headline)
    assert (step, last["eval/loss"], last["train/loss"]) == (5000, 1.25, 5.0)


def test_the_table_fits_the_terminal(tmp_path: Path) -> None:
    make_pipeline(tmp_path / "a pipeline", "done", "done", "done")
    make(tmp_path / ("tries/" + "n" * 90), "failed", reason="a reason, " * 30, total=123456)
    there = sorted(runs_in(scan(tmp_path)), key=lambda one: one.path)
    for width in (80, 100, 160, 300):
        lines = table(there, tmp_path, width, False, NOW)
        shown = [line for line in lines if not line.startswith("    next: ")]
        assert max(map(len, shown)) <= width
        assert len(shown) == 1 + 4 + 1
    narrow, wide = table(there, tmp_path, 80, False, NOW), table(there, tmp_path, 0, False, NOW)
    assert f"    next: {NAME} chat '{tmp_path}/a pipeline/ppo'" in narrow
    assert wide[0].split() == list(listing.HEAD) and len(wide) == 6
    row = next(line for line in wide if line.startswith("a pipeline"))
    assert re.search(r"done +3/3 +1\.500 .*2 h +16 kB +.*chat '", row), row
    assert any(re.match(r"  sft +done +3 +1\.500 loss", line) for line in wide)


def test_a_long_reason_widens_no_table_and_names_stay_whole_where_there_is_no_terminal(tmp_path: Path) -> None:
    reason = f"{tmp_path}/rated/v1_preferences.jsonl: preferences between the responses " * 9
    make(tmp_path / "people" / ("n" * 40), "waiting", reason=reason)
    there = list(runs_in(scan(tmp_path)))
    assert max(map(len, table(there, tmp_path, 80, False, NOW))) <= 80
    head, row = table(there, tmp_path, 0, False, NOW)
    assert len(head) < 140 and len(row) < 140
    assert row.split()[:2] == [f"people/{'n' * 40}", "waiting"] and "…" in row


@pytest.mark.parametrize(
    ("number", "told"), [(7, "7"), (9500, "9,500"), (12500, "12.5k"), (20000, "20k"), (476_837, "477k")]
)
def test_many_steps_take_few_columns(number: int, told: str) -> None:
    assert listing.count(number) == told


def listed(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        listing.main(arguments)
    return int(end.value.code or 0)


def test_as_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "old", updated=1.0)
    os.utime(tmp_path / "old/metrics.jsonl", (1, 1))
    make(tmp_path / "new", updated=time.time())
    move_beside(make(tmp_path / "other"), "0123456789ab")
    assert listed(str(tmp_path)) == 0
    told = capsys.readouterr().out
    assert [line.split()[0] for line in told.splitlines()[:3]] == ["run", "old", "new"]  # the newest last
    assert f"1 replaced, 5 kB: {NAME} clean {tmp_path}" in told
    assert listed(f"folder={tmp_path}") == 0 and capsys.readouterr().out == told
    assert listed("--help") == 0 and "Usage: llamatrain runs" in capsys.readouterr().out
    (tmp_path / "none").mkdir()
    assert listed(str(tmp_path / "none")) == 0 and f"no run lies below {tmp_path}/none" in capsys.readouterr().out
    for wrong, message in ((str(tmp_path / "x"), "there is no such folder"), ("foldr=x", "unknown key 'foldr'")):
        assert listed(wrong) == 2
        told = capsys.readouterr().err
        assert message in told and told.count("\n") == 1


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    make(tmp_path / "chat")
    code = (
        "import sys; from launch import cli\n"
        f"try: cli.main(['runs', {str(tmp_path)!r}])\n"
        "finally: print(sorted({'torch', 'hydra', 'rich', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, timeout=60)
    assert done.stderr.strip() == "[]" and "chat" in done.stdout
