"""The pipeline skips what is done, runs again what changed and says why, resumes, and passes failures on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from launch import pipeline, processes, programs, stage
from launch.graph import Graph
from launch.graphs.chat import Chat, Data
from launch.report import page as report
from launch.stage import EXIT_WAITING
from llamatrain.lock import Lock

from . import fake_program
from .conftest import FAKE_PROGRAM, Start, trio

Capture = pytest.CaptureFixture[str]


def started(stage: str) -> int:
    """Return how many times a stage's program was started since its folder was made."""
    path = Path("runs/trio") / stage / "started.txt"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_runs_all_stages_in_order_and_passes_files_on(start: Start) -> None:
    assert start() == 0
    assert Path("runs/trio/third/out.txt").read_text() == "one"
    description = json.loads(Path("runs/trio/pipeline.json").read_text())
    assert description["stages"]["third"] == {"program": "fake", "parents": ["second"]}
    assert Path("runs/trio/report.html").exists()


def test_second_run_starts_nothing(start: Start, capsys: Capture) -> None:
    assert start() == 0
    capsys.readouterr()
    assert start() == 0
    assert [started(stage) for stage in ("first", "second", "third")] == [1, 1, 1]
    assert capsys.readouterr().out.count("done  loss 1.500") == 3


def test_it_ends_with_what_was_left_out_and_the_rows_that_it_needs(
    start: Start, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(g: Graph, cfg: Any, data: Any) -> None:
        trio(g, cfg, data)
        g.leave_out("tuning", "data.preferences.safety (or data.ratings)")

    monkeypatch.setattr(pipeline, "build", short)
    assert start() == 0
    begun, _, ended = capsys.readouterr().out.partition("✓ trio")
    assert "– left out: tuning: need data.preferences.safety (or data.ratings)" in begun
    told = ended.splitlines()[-3:]
    assert told[0] == "  left out: tuning: need data.preferences.safety (or data.ratings)"
    assert told[1].startswith('  a row of data.preferences: {"messages": [{"role": "user"')
    assert told[2].startswith("  data.ratings=FOLDER: comparisons are sampled, and v1_preferences.jsonl")


def test_a_report_that_cannot_be_written_fails_nothing(
    start: Start, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(folder: Path) -> Path:
        raise PermissionError(13, "Permission denied", f"{folder}/report.html")

    monkeypatch.setattr(report, "write", write)
    assert start() == 0
    told = "done, but its report cannot be written: runs/trio/report.html cannot be read or written: Permission denied"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    "override",
    ["first.micro_batch_size=4", "run.save_every=7", "first.run.wandb.mode=offline", "second.run.save_every=9"],
)
def test_what_cannot_change_the_result_runs_nothing(start: Start, override: str) -> None:
    assert start() == 0
    assert start(override) == 0
    assert started("first") == started("second") == 1


def test_changed_configuration_reruns_that_stage_and_says_why(start: Start, capsys: Capture) -> None:
    assert start() == 0
    Path("runs/trio/second/stale.txt").touch()
    capsys.readouterr()
    assert start("second.number=5") == 0
    output = capsys.readouterr().out
    assert "number: 2 -> 5; the former result (" in output
    (former,) = Path("runs/trio").glob("second.replaced-*")
    assert (former / "stale.txt").exists()
    assert (former / "out.txt").read_text() == "one"
    assert not Path("runs/trio/second/stale.txt").exists()
    # Its result came out the same, so the third stage has nothing to do.
    assert "third   done" in output


def test_what_a_program_refuses_touches_no_former_result(start: Start, capsys: Capture) -> None:
    assert start() == 0
    before = results()
    capsys.readouterr()
    assert start("second.text=too much") == 2
    said = capsys.readouterr().out
    assert (
        "refused, see its message above; the former result was not touched" in said and "what would be done" not in said
    )
    assert results() == before and not list(Path("runs/trio").glob("*.replaced-*"))
    assert start() == 0


def test_changed_parent_reruns_its_children(start: Start, capsys: Capture) -> None:
    assert start() == 0
    capsys.readouterr()
    assert start("first.text=two") == 0
    output = capsys.readouterr().out
    assert 'text: "one" -> "two"' in output
    assert "@first/out.txt changed" in output
    assert "@second/out.txt changed" in output
    assert Path("runs/trio/third/out.txt").read_text() == "two"


def test_changed_data_file_reruns_and_a_moved_one_does_not(start: Start, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    assert start("first.input=@data/a.txt", "data.root=mine") == 0
    (tmp_path / "mine").rename(tmp_path / "yours")
    assert start("first.input=@data/a.txt", "data.root=yours") == 0
    assert started("first") == 1
    (tmp_path / "yours" / "a.txt").write_text("other")
    capsys.readouterr()
    assert start("first.input=@data/a.txt", "data.root=yours") == 0
    assert "yours/a.txt changed" in capsys.readouterr().out
    assert Path("runs/trio/third/out.txt").read_text() == "oneother"


def test_failure_passes_the_exit_code_and_the_same_command_goes_on(start: Start, capsys: Capture) -> None:
    Path("runs/trio").mkdir(parents=True)
    Path("runs/trio/fail_second").write_text("3")
    assert start() == 3
    output = capsys.readouterr().out
    assert "failed after" in output
    assert "exit code 3" in output
    assert f"{programs.typed(['pipeline', 'preset=trio', 'run.dir=runs'])}\n" in output
    assert started("third") == 0
    Path("runs/trio/fail_second").unlink()
    assert start() == 0
    assert "resumes where it was interrupted" in capsys.readouterr().out
    assert [started(stage) for stage in ("first", "second", "third")] == [1, 2, 1]


def test_a_stage_that_is_done_is_done_however_its_process_ends(start: Start, capsys: Capture) -> None:
    assert start("second.text=abort") == 0
    output = capsys.readouterr().out
    assert "second" in output and "done, but its process failed while exiting (killed by SIGABRT)" in output
    assert start("second.text=abort") == 0
    assert [started(stage) for stage in ("first", "second", "third")] == [1, 1, 1]


def test_a_killed_stage_has_no_message_to_point_at(start: Start, capsys: Capture) -> None:
    assert start("second.text=killed") == 137
    output = capsys.readouterr().out
    assert "(killed by SIGKILL, most likely out of memory)" in output
    assert "message" not in output


def test_seed_goes_to_every_stage_and_to_the_world(start: Start) -> None:
    assert start("seed=7") == 0
    values = json.loads(Path("runs/trio/first/started.txt").read_text())
    assert (values["run"]["seed"], values["seed"]) == (7, 7)
    assert start() == 0  # another seed is another result
    assert json.loads(Path("runs/trio/first/started.txt").read_text())["seed"] == 0


def test_until_rerun_and_dry_run(start: Start, capsys: Capture) -> None:
    assert start("until=first") == 0
    assert (started("first"), started("second")) == (1, 0)
    assert start() == 0
    capsys.readouterr()
    assert start("dry_run=true", "first.text=two") == 0
    output = capsys.readouterr().out
    assert 'text: "one" -> "two"' in output
    assert "only if the output of first changes" in output
    assert started("first") == 1
    Path("runs/trio/first/stale.txt").touch()
    assert start("rerun=[first]") == 0
    assert not Path("runs/trio/first/stale.txt").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["first.txt=1"], "stage 'first': unknown key 'txt'"),
        (["until=secnd"], "there is no stage 'secnd'; did you mean 'second'?"),
        (["first.input=@data/x"], "need data.root="),
        (["first.input=@data/x", "data.root=nope"], "data.root=nope: there is no such folder"),
        (["third.input=nope.txt"], "stage 'third': input: nope.txt does not exist"),
        (["third.number=abc"], "stage 'third': number=abc: need a whole number"),
        (["third.number=-3"], "stage 'third': number=-3: need 0 or more"),
        (["+third.nonsense=1"], "stage 'third': unknown key 'nonsense'"),
        (["first.input=@third/out.txt"], "stage 'first': reads @third, which runs after it"),
        (["first.input=@thrd/out.txt"], "no stage of this pipeline; did you mean 'third'?"),
        (["third.input=@first/oot.txt"], "reads @first/oot.txt, but fake makes no such file; did you mean 'out.txt'?"),
        (["thrd.number=1"], "thrd.number=1: there is no stage and no program 'thrd'; did you mean 'third'?"),
        (["sft.epochs=1"], "no stage of this pipeline runs 'sft'"),
        (["rank=2"], "rank"),
        (["ranks=0"], "ranks=0"),
    ],
)
def test_mistakes_are_named(start: Start, capsys: Capture, overrides: list[str], message: str) -> None:
    assert start(*overrides) == 2
    assert message in capsys.readouterr().err


def test_unknown_preset(start: Start, capsys: Capture) -> None:
    assert start(preset="duo") == 2
    assert "no such preset; need one of trio, in presets/ none, or the path" in capsys.readouterr().err


def test_a_preset_of_the_users_brings_its_data_file(start: Start, tmp_path: Path, capsys: Capture) -> None:
    for folder, word in (("presets", "named"), ("else where", "by path")):
        (tmp_path / folder / "data").mkdir(parents=True)
        (tmp_path / folder / "mine.yaml").write_text("pipeline: [data=data/mine.yaml]\nfake: [number=7]\n")
        (tmp_path / folder / "data" / "mine.yaml").write_text(f"dialogues: {word}.jsonl\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("dialogues: of the working folder.jsonl\n")
    with mock.patch.object(pipeline, "Pipeline", autospec=True) as made:
        made.return_value.run.return_value = 0
        for preset, *others in (["mine"], ["else where/mine.yaml"], ["mine", "data=toyworld"], ["mine", "data=mine"]):
            assert start(*others, preset=preset) == 0
    read = [call.args[0].data for call in made.call_args_list]
    assert [data.dialogues for data in read] == [["named.jsonl"], ["by path.jsonl"], [], []]
    assert [data.world for data in read] == [False, False, True, False]
    assert start(preset="mine") == 0
    assert json.loads(Path("runs/mine/first/config.yaml").read_text().partition("number: ")[2][0]) == 7
    assert start("dry_run=true", preset="presets/mine.yaml") == 0
    assert capsys.readouterr().out.count("done  loss") == 3


def test_a_folder_of_somebody_else_is_not_touched(start: Start, capsys: Capture) -> None:
    precious = Path("runs/trio/first/precious.txt")
    precious.parent.mkdir(parents=True)
    precious.touch()
    assert start() == 2
    assert "was not made by a pipeline" in capsys.readouterr().err
    assert precious.exists()


@pytest.mark.parametrize("name", ["stage.json", "status.json"])
def test_a_kill_as_a_stage_is_noted_leaves_nothing_in_the_way(name: str, start: Start, capsys: Capture) -> None:
    half = Path(f"runs/trio/first/.{name}.tmp")
    half.parent.mkdir(parents=True)
    half.write_text('{"key": ')
    assert start("dry_run=true") == 0 and "first" in capsys.readouterr().out
    assert start() == 0 and started("first") == 1


def test_an_unknown_key_of_a_late_stage_is_told_before_the_first_starts(start: Start, capsys: Capture) -> None:
    assert start("third.numbr=5") == 2
    assert "stage 'third': unknown key 'numbr'" in capsys.readouterr().err
    assert not Path("runs/trio").exists()


def test_a_sweep_over_pipelines_is_refused(start: Start, capsys: Capture) -> None:
    assert start("seed=1,2", "--multirun") == 2
    assert "--multirun is for single programs" in capsys.readouterr().err


def test_ranks_share_the_cores(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(programs.PROGRAMS, "fake", replace(FAKE_PROGRAM, parallel=True))
    assert start("ranks=2", "until=first") == 0
    assert started("first") == 2


def at_work(folder: Path, repository: Path, *overrides: str) -> subprocess.Popen[str]:
    """Return a pipeline of fake programs in a process of its own, as its first stage is at work."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background shell has it ignored
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # and nohup this one
        "from pathlib import Path; from launch import pipeline, programs; from llamatrain.config import presets\n"
        "presets.config_folder = lambda: Path('configs').resolve()\n"
        "from tests.launch.conftest import FAKE_PROGRAM, trio\n"
        "pipeline.build, programs.PROGRAMS['fake'] = trio, FAKE_PROGRAM\n"
        "pipeline.main()"
    )
    command = [sys.executable, "-c", code, "preset=trio", "first.wait=20", *overrides]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(repository)}, text=True, stdout=subprocess.PIPE
    )
    status = folder / "runs/trio/first/status.json"
    deadline = time.monotonic() + 30
    while not status.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
@pytest.mark.usefixtures("start")
def test_a_signal_reaches_the_program_once(tmp_path: Path, repository: Path, number: int) -> None:
    process = at_work(tmp_path, repository)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "interrupted after" in output
    assert " pipeline preset=trio first.wait=20\n" in output
    assert (tmp_path / "runs/trio/first/signals.txt").read_text() == str(int(number))


@pytest.mark.usefixtures("start")
def test_a_stage_that_dies_of_the_signal_was_stopped_too(tmp_path: Path, repository: Path) -> None:
    process = at_work(tmp_path, repository, "first.text=deaf")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "interrupted after" in output and "failed" not in output


def test_a_killed_pipeline_stops_its_stage_and_the_next_start_goes_on(
    start: Start, tmp_path: Path, repository: Path
) -> None:
    process = at_work(tmp_path, repository)
    process.kill()
    process.communicate(timeout=30)  # its stage held the other end of the pipe, too
    # The kernel may send it again as the last of the killed pipeline's threads goes.
    heard = (tmp_path / "runs/trio/first/signals.txt").read_text().split()
    assert set(heard) == {str(int(signal.SIGTERM))}
    assert start("first.wait=20") == 0
    assert started("first") == 2


def test_a_dry_run_of_a_new_pipeline_calls_every_stage_new(start: Start, capsys: Capture) -> None:
    assert start("dry_run=true") == 0
    assert capsys.readouterr().out.count("  new\n") == 3
    assert not Path("runs/trio").exists()


@pytest.mark.parametrize("dry_run", ["true", "false"])
def test_a_mistake_leaves_a_finished_pipeline_as_it_was(start: Start, capsys: Capture, dry_run: str) -> None:
    assert start() == 0
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    assert start("second.text=two", "third.number=abc", f"dry_run={dry_run}") == 2
    assert "stage 'third': number=abc: need a whole number" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == before


def test_a_costly_result_is_replaced_only_when_named(start: Start, capsys: Capture) -> None:
    assert start() == 0
    record = Path("runs/trio/second/stage.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"seconds": 1800.0, "ranks": 4}))
    capsys.readouterr()
    for override in ("second.text=other", "first.text=two"):  # of its own, and by what it reads
        assert start(override) == 2
        error = capsys.readouterr().err
        assert "second (120 minutes)" in error
        assert "rerun=[second]" in error
        assert (started("first"), started("second")) == (1, 1)
    assert start("second.text=other", "confirm_minutes=200", "dry_run=true") == 0
    assert start("second.text=other", "rerun=[second]") == 0
    (former,) = Path("runs/trio").glob("second.replaced-*")
    assert json.loads((former / "stage.json").read_text())["ranks"] == 4


def test_a_folder_where_another_pipeline_or_a_stage_is_at_work_is_left_alone(start: Start, capsys: Capture) -> None:
    assert start() == 0
    with Lock(Path("runs/trio")):
        assert start("rerun=[first]") == 2
    assert "is running in runs/trio: wait for it, or choose another run.name" in capsys.readouterr().err
    with Lock(Path("runs/trio/second")):  # a pipeline that was killed may leave a stage at work
        assert start("second.text=other") == 2
    assert "is running in runs/trio/second: wait for it" in capsys.readouterr().err
    assert not list(Path("runs/trio").glob("*.replaced-*"))
    assert [started(stage) for stage in ("first", "second", "third")] == [1, 1, 1]


@pytest.mark.parametrize("name", ["it's a run", "with [brackets], {braces} & (more)", 'say "so"'])
def test_folders_with_spaces_quotes_and_brackets(start: Start, tmp_path: Path, name: str, capsys: Capture) -> None:
    data = tmp_path / name
    data.mkdir()
    (data / "a.txt").write_text("mine")
    quoted = "'" + str(data).replace("'", "\\'") + "'"
    assert start("first.input=@data/a.txt", f"data.root={quoted}", f"run.dir={quoted}") == 0
    assert (data / "trio/third/out.txt").read_text() == "onemine"
    assert f"the report: {data}/trio/report.html" in capsys.readouterr().out


# What a user may type on a finished pipeline: meant or mistyped, of any stage.
TYPED = (
    "first.text=two",
    "second.text=too much",
    "second.text=three",
    "second.number=5",
    "third.number=abc",
    "third.number=-3",
    "second.micro_batch_size=4",
    "+third.nonsense=1",
    "first.input=nope.txt",
    "first.input=@data/a.txt",
    "data.root=nope",
    "data.root=.",
    "seed=7",
    "rerun=[second]",
    "rerun=[first,third]",
    "rerun=[nobody]",
    "until=first",
    "dry_run=true",
    "confirm_minutes=0",
    "run.resume=never",
    "run.save_every=9",
    "ranks=0",
    "third.input=@first/out.txt",
    "third.input=@third/out.txt",
)


def results() -> dict[int, str]:
    """Return every finished result below runs, wherever it lies: inode -> content."""
    found = {}
    for path in Path("runs").rglob("out.txt"):
        if json.loads((path.parent / "status.json").read_text())["state"] == "done":
            found[path.stat().st_ino] = path.read_text()
    return found


@pytest.mark.parametrize("seed", range(4))
def test_no_sequence_of_overrides_loses_a_finished_result(
    start: Start, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    Path("a.txt").write_text("mine")
    monkeypatch.setattr(processes.Processes, "run", run_here)
    draw = random.Random(seed)
    assert start() == 0
    kept = results()
    for _ in range(25):
        code = start(*draw.sample(TYPED, draw.choice((1, 1, 2, 3))))
        assert code in (0, 2)
        now = results()
        assert kept.items() <= now.items()
        kept = now
    assert len(kept) > 3  # some stage ran again


def run_here(self: processes.Processes, command: list[str], ranks: int = 1, aside: bool = False) -> int:
    """Run the fake program in this process: a hundred starts take a second."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        with mock.patch.object(sys, "argv", ["fake", *(argument for argument in command if argument.startswith("--"))]):
            return fake_program.main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_the_graph_is_printed_and_nothing_else_happens(start: Start, capsys: Capture) -> None:
    assert start("graph=true", "fake.number=3", "second.run.seed=1") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert list(shown) == ["first", "second", "third"]
    second = {"program": "fake", "input": "@first/out.txt", "number": 2, "overrides": ["number=3", "run.seed=1"]}
    assert shown["second"] == second
    assert not Path("runs").exists()


def test_a_folder_of_an_earlier_version_is_left_alone(start: Start, capsys: Capture) -> None:
    assert start() == 0
    path = Path("runs/trio/pipeline.json")
    path.write_text(json.dumps({key: one for key, one in json.loads(path.read_text()).items() if key != "graph"}))
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    for overrides in ([], ["dry_run=true"], ["rerun=[first]"]):
        assert start(*overrides) == 2
        assert "made by an earlier version" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == before


def test_results_under_former_names_of_keys_are_left_alone(start: Start, capsys: Capture) -> None:
    assert start() == 0
    path = Path("runs/trio/second/stage.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "config": {**record["config"], "beta": 0.1}}))
    before = results()
    for overrides in ([], ["dry_run=true"], ["rerun=[first]"]):
        capsys.readouterr()
        assert start(*overrides) == 2
        said = capsys.readouterr().err
        assert "runs/trio was made by an earlier version (of 'second' its beta is now called kl_coef)" in said
        assert ("rerun=[first,second]" if overrides == ["rerun=[first]"] else "rerun=[second]") in said
    assert results() == before
    with pytest.raises(SystemExit) as end:
        stage.main(["runs/trio", "second"])
    assert end.value.code == 2 and results() == before
    assert start("rerun=[second]") == 0
    assert len(list(Path("runs/trio").glob("second.replaced-*"))) == 1


def test_a_plan_under_former_names_of_keys_is_not_begun(start: Start, capsys: Capture) -> None:
    assert start("until=first") == 0
    path = Path("runs/trio/plan.json")
    content = json.loads(path.read_text())
    content["stages"][1]["values"]["limit"] = 3
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit) as end:
        stage.main(["runs/trio", "second"])
    assert end.value.code == 2 and not Path("runs/trio/second").exists()
    assert "plan.json was made by an earlier version (of 'second' its limit" in capsys.readouterr().err


def test_a_data_file_of_ones_own_gives_the_roles(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    roles: dict[str, Any] = {
        "root": "it's",
        "documents": ["a b.jsonl", "hf:x/y"],
        "dialogues": "d.jsonl",
        "world": True,
    }
    Path("mine.yaml").write_text(yaml.safe_dump({**roles, "preferences": {"safety": ["p.jsonl"]}}))
    seen: list[Data] = []

    def keep(g: Graph, cfg: Chat, data: Data) -> None:
        seen.append(data)
        trio(g, cfg, data)

    monkeypatch.setattr(pipeline, "build", keep)
    assert start("data=mine.yaml", "data.prompts=p.jsonl", "data.world=false", "graph=true") == 0
    (data,) = seen
    assert (data.root, data.documents, data.dialogues) == ("it's", ["a b.jsonl", "hf:x/y"], ["d.jsonl"])
    assert (data.preferences.safety, data.prompts, data.world) == (["p.jsonl"], ["p.jsonl"], False)
    Path("mine.yaml").write_text("documnts: a\n")
    assert start("data=mine.yaml") == 2
    assert "the nearest is 'data.documents'" in capsys.readouterr().err
    assert start("data=absent.yaml") == 2
    assert "data=absent.yaml: there is no such file" in capsys.readouterr().err


def waits(g: Graph, cfg: Chat, data: Data) -> None:
    """A graph whose second stage waits for a file of people, and the third through it; the fourth does not."""
    first = g.add("fake", "first", text="one")
    what = f"what they think of {first / 'out.txt'}"
    path = g.wait_for("people/v1.txt", what, comparisons=first / "out.txt", out="people/v1.txt")
    second = g.add("fake", "second", input=path, text=str(first / "out.txt"))
    g.add("fake", "third", input=second / "out.txt")
    g.add("fake", "fourth", input=first / "out.txt")


def test_a_stage_waits_for_a_file_that_people_make(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(pipeline, "build", waits)
    assert start("--dry-run") == 0
    lines = [line.split(None, 2)[1:] for line in capsys.readouterr().out.splitlines() if line.startswith(("▶", "◇"))]
    assert lines == [
        ["first", "new"],
        ["second", "waits for people/v1.txt: what they think of runs/trio/first/out.txt"],
        ["third", "waits for people/v1.txt, through second"],
        ["fourth", "new"],
    ]
    for _ in range(2):
        assert start() == EXIT_WAITING == 3
        output = capsys.readouterr().out
        assert "waits for people/v1.txt: what they think of runs/trio/first/out.txt" in output
        again = programs.typed(["pipeline", "preset=trio", "run.dir=runs"])
        page = programs.typed(["collect", "comparisons=runs/trio/first/out.txt", "out=people/v1.txt"])
        assert output.endswith(
            f"2 stages wait for people/v1.txt. People rate on the page of:\n  {page}\nOnce it exists, resume with:\n  {again}\n"
        )
        status = json.loads(Path("runs/trio/second/status.json").read_text())
        assert status["state"] == "waiting" and "people/v1.txt" in status["reason"]
    assert [started(stage) for stage in ("first", "second", "third", "fourth")] == [1, 0, 0, 1]
    Path("people").mkdir()
    Path("people/v1.txt").write_text("good")
    assert start() == 0
    assert Path("runs/trio/third/out.txt").read_text().endswith("good")
    Path("people/v1.txt").write_text("bad")
    capsys.readouterr()
    assert start() == 0
    assert "people/v1.txt changed" in capsys.readouterr().out


def test_dry_run_is_spelt_as_the_programs_spell_it(start: Start, capsys: Capture) -> None:
    for option in ("--dry-run", "--dry-run=4"):
        assert start(option) == 0
        assert capsys.readouterr().out.count("  new\n") == 3
    assert not Path("runs/trio").exists()
    assert start("--dry-run=0") == 2
    assert "ranks=0: need 1 or more" in capsys.readouterr().err


def test_the_last_line_is_the_command_that_talks_to_the_last_model(
    start: Start, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start() == 0
    assert "talk to it" not in capsys.readouterr().out  # nothing of it can be talked to
    monkeypatch.setitem(programs.PROGRAMS, "fake", replace(FAKE_PROGRAM, chats=True))
    assert start() == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("  talk to it: ") and last.endswith(" chat checkpoint=runs/trio/third/final")


def test_where_there_are_texts_alone_it_is_said_how_to_try_the_base_model() -> None:
    stages = {"tokenizer": "tokenizer", "corpus": "corpus", "pretrain": "pretrain", "evaluate": "evaluate"}
    line = pipeline.how_to_talk(stages, Path("runs/mine"))
    assert line.startswith("try it (a base model: it continues text rather than answers): ")
    assert line.endswith(" chat checkpoint=runs/mine/pretrain/final")
    assert pipeline.how_to_talk({**stages, "sft": "sft"}, Path("runs/mine")).startswith("talk to it: ")
