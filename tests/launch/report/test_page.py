"""The report is one self-contained page, and as long as what there is to tell."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from launch.programs import PROGRAMS
from launch.report import page as report
from launch.report.__main__ import make as make_report
from launch.report.config import ReportConfig
from launch.report.learned_from import _files, _shown, read
from launch.story import Story
from llamatrain.description import Chart, Program, Table
from llamatrain.errors import UserError
from llamatrain.runs import decimals, figure
from llamatrain.spent import default_rates

from ..synthetic import STAGES, make, write_lines


class Page(HTMLParser):
    """Checks that elements are closed in order, and gathers what a browser would fetch."""

    VOID = ("meta", "br", "link", "img", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.handlers: set[str] = set()  # of events: scripts
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        values = dict(attrs)
        self.handlers |= {name for name in values if name.startswith("on")}
        self.anchors.add(values.get("id") or "")
        if tag == "a":
            self.links.add((values["href"] or "").removeprefix("#"))
        elif tag in ("link", "img", "script", "iframe"):
            self.fetched.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A finished pipeline's folder."""
    return make(tmp_path / "demo")


def test_whole_page_is_self_contained(demo: Path) -> None:
    text = report.write(demo).read_text()
    page = Page(text)
    assert not page.fetched
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text
    sections = {"run", "chain", "examples", "results", "scores", "learned", "learning", "course", "reward", "samples"}
    assert page.links - {"top"} == sections | {"cost", "lineage"}
    assert page.links <= page.anchors
    assert "nan" not in text.lower().replace("finance", "")
    assert len(text) < 1_000_000


def test_cost_has_energy_and_carbon_as_the_carbon_program_computes_them(demo: Path) -> None:
    text = re.sub(r"<[^>]+>", " ", report.write(demo).read_text())
    hours = sum(seconds for _, _, seconds in STAGES.values()) * 2 / 3600  # two cores, 5 W each
    assert f"{hours * 5:.3f}" in text
    assert (
        "Carbon is hours x power x PUE 1.1 x 0.385 kgCO2eq per kWh; power is not measured, but as the devices state it."
        in text
    )


def test_texts_of_models_are_escaped(demo: Path) -> None:
    text = report.write(demo).read_text()
    assert "<b>now</b>" not in text
    assert "&lt;b&gt;now&lt;/b&gt; &amp; hurt him" in text


SCRIPT = "<script>/*\"'><img src=x onerror=alert(1)>"
FAULTS: dict[str, Callable[[Any], Any]] = {
    "before": lambda leaf: f"{SCRIPT}{leaf}" if isinstance(leaf, str) else leaf,
    "after": lambda leaf: f"{leaf}{SCRIPT}" if isinstance(leaf, str) else leaf,
    "instead": lambda leaf: SCRIPT if isinstance(leaf, str) else leaf,
    "numbers": lambda leaf: leaf if isinstance(leaf, str) else SCRIPT,
}


def planted(value: Any, change: Callable[[Any], Any], in_keys: bool) -> Any:
    """Return a JSON value with every leaf changed, or every key."""
    if isinstance(value, dict):
        return {f"{key}{SCRIPT}" if in_keys else key: planted(v, change, in_keys) for key, v in value.items()}
    if isinstance(value, list):
        return [planted(item, change, in_keys) for item in value]
    return value if in_keys else change(value)


@pytest.mark.parametrize(
    "file",
    [
        *("pipeline.json", "stage.json", "status.json", "metrics.jsonl"),
        *("accuracy.json", "evaluation.json", "responses.jsonl", "judgements.jsonl"),
    ],
)
def test_no_value_of_a_file_reaches_the_page_unescaped(demo: Path, file: str) -> None:
    changed = {path: path.read_text() for path in demo.rglob(file)}
    for fault in [*FAULTS, "keys"]:
        for path, text in changed.items():
            lines = text.splitlines()[:40] if path.suffix == ".jsonl" else [text]
            made = (planted(json.loads(line), FAULTS.get(fault, str), fault == "keys") for line in lines)
            path.write_text("".join(f"{json.dumps(value)}\n" for value in made))
        page = Page(report.write(demo).read_text())
        assert not page.fetched and not page.handlers, fault


def test_models_bear_the_names_of_the_evaluation(demo: Path) -> None:
    assert list(Story(demo).responses) == ["base", "sft", "rs", "ppo"]
    assert Story(demo).colours == {"base": 0, "sft": 1, "rs": 2, "ppo": 3}


def test_without_a_judge(tmp_path: Path) -> None:
    text = report.write(make(tmp_path / "tales", judge=False)).read_text()
    Page(text)
    assert "Helpfulness score of every model" in text
    assert "gold judge" not in text


@pytest.mark.parametrize(
    ("gone", "section"),
    [
        (["evaluate"], "results"),
        (["accuracy_helpfulness", "accuracy_safety"], "reward"),
        (["ppo"], "course"),
        (["sample_pretrain", "sample_sft", "sample_rs", "sample_ppo"], "samples"),
        (["pretrain", "sft", "rs", "reward_helpfulness", "reward_safety"], "learning"),
    ],
)
def test_a_section_needs_its_files(demo: Path, gone: list[str], section: str) -> None:
    for name in gone:
        shutil.rmtree(demo / name)
    page = Page(report.write(demo).read_text())
    assert section not in page.links
    assert "cost" in page.links


def test_answers_during_training_are_shown_by_step(demo: Path) -> None:
    asked = [{"role": "user", "content": "Who <b>lives</b> there?"}]
    rows = [
        {
            "step": step,
            "prompt_id": "p",
            "messages": asked,
            "response": f"answer {step}",
            "finished": step > 1,
            "written": "Tom.",
        }
        for step in (1, 20, 300)
    ]
    write_lines(demo / "sft" / "samples.jsonl", rows)
    (demo / "sft" / "samples.jsonl").open("a").write('{"step": 400, "resp')  # cut by a kill
    page = report.page(Story(demo))
    assert "Answers during training" in page and "answer 1 <span" in page and "answer 300</td>" in page
    assert "Who &lt;b&gt;lives&lt;/b&gt; there?" in page and "Tom." in page and "answer 400" not in page


def test_rows_of_ghost_attention_show_their_instruction(demo: Path) -> None:
    said = [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, "abcd", strict=True)]
    write_lines(
        demo / "sft" / "gatt.jsonl",
        [{"messages": said, "loss": "last", "meta": {"turn": 2, "instruction": "Act as a king."}}],
    )
    stage = next(one for one in Story(demo).stages if one.name == "sft")
    (file,) = _files(Story(demo), replace(stage, program="gatt"))
    (row,) = read(file.rows, file.rules).drawn
    assert (
        file.title == "Ghost Attention: gatt.jsonl"
        and _shown(row[1])["marks"] == "turn 2, first told: “Act as a king.”"
    )


def test_broken_and_empty_files_are_passed_over(demo: Path) -> None:
    (demo / "evaluate" / "evaluation.json").write_text("{")
    (demo / "ppo" / "metrics.jsonl").write_text('{"step": 1, "ppo/score": NaN}\n{"step"')
    (demo / "pretrain" / "metrics.jsonl").write_text('{"step": 1, "train/loss": 3.0}\n')
    (demo / "sample_ppo" / "responses.jsonl").write_text("")
    page = Page(report.write(demo).read_text())
    assert {"results", "course"} & page.links == set()


def test_a_folder_of_an_earlier_version_is_refused(demo: Path) -> None:
    path = demo / "ppo" / "stage.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "config": {**record["config"], "mini_batch": 8}}))
    with pytest.raises(UserError, match=r"by an earlier version \(its mini_batch is now called mini_batch_prompts\)"):
        make_report(ReportConfig(str(demo), [], 5, None, None, default_rates()))


def test_run_folders_without_a_pipeline(demo: Path) -> None:
    (demo / "pipeline.json").unlink()
    assert "learning" in Page(report.write(demo).read_text()).links
    shutil.copytree(demo / "sft", demo.parent / "single")
    assert [stage.name for stage in Story(demo.parent / "single").stages] == ["single"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("pipeline.json", b'{"stages": []}'),
        ("pipeline.json", b"\xff"),
        ("ppo/status.json", b'{"updated": "now"}'),
        ("ppo/status.json", b"[]"),
        ("ppo/stage.json", b'{"program": "ppo", "config": 3}'),
        ("ppo/stage.json", b"\xff"),
        ("ppo/metrics.jsonl", b'{"step": 1, "ppo/kl": 1.0}\n[1]\n{"step": "2"}\n\xff\n'),
        ("sample_ppo/responses.jsonl", b'{"prompt_id": "1", "messages": "hello", "response": "a"}\n'),
        ("judge_ppo/judgements.jsonl", b"\xff\n"),
        ("evaluate/evaluation.json", b"{"),
        ("evaluate/evaluation.json", b'{"models": {"ppo": [1]}}'),
        ("accuracy_safety/accuracy.json", b'{"overall": [1]}'),
        ("accuracy_safety/accuracy.json", b"null"),
    ],
)
def test_what_cannot_be_read_is_left_out_and_told(
    file: str, content: bytes, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (demo / file).write_bytes(content)
    page = Page(report.write(demo).read_text())
    assert "cost" in page.links
    assert "warning: " in capsys.readouterr().err


def test_a_time_that_cannot_be_is_no_time(demo: Path) -> None:
    (demo / "ppo" / "status.json").write_text('{"state": "done", "updated": 1e300}')
    Page(report.write(demo).read_text())


def test_the_story_comes_first_and_names_commit_machine_and_models(demo: Path) -> None:
    text = report.write(demo).read_text()
    story = text[text.index('id="run"') : text.index('id="examples"')]
    for told in ("abc123", "EPYC (2 cores)", "torch 2.13", "helpfulness went from 0.520 for sft to 0.770 for ppo"):
        assert told in story
    for what in ("Pretrained", "Supervised fine-tuning (SFT)", "Rejection sampling (RS)", "(RLHF) by PPO"):
        assert what in story


def test_only_tuned_models_are_compared_by_scores_and_in_logits(demo: Path) -> None:
    story = Story(demo)
    assert story.tuned == ["sft", "rs", "ppo"]
    scored = story.scored("helpfulness", adversarial=False)
    assert list(scored) == ["sft", "rs", "ppo"]
    assert {row["is_adversarial"] for rows in scored.values() for row in rows} == {False}
    scores = report.page(story).split('id="scores"')[1].split("<section")[0]
    assert "score (logit)" in scores and "gold score" in scores and "base" not in scores


def test_numbers_have_true_minus_signs_and_no_negative_zero() -> None:
    assert [decimals(value, 3) for value in (-0.0004, -1.5, 0.0)] == ["0.000", "−1.500", "0.000"]
    assert [decimals(value, 2, "+") for value in (0.004, 0.5, -0.5)] == ["0.00", "+0.50", "−0.50"]
    assert [figure(value) for value in (0.0, 0.0003, -0.0003, 0.25, 12.0)] == ["0", "0.0003", "−0.0003", "0.250", "12"]


def test_table_heads_say_their_scope_and_axes_their_names(demo: Path) -> None:
    text = report.write(demo).read_text()
    assert "<th>" not in text and '<th scope="col"' in text
    course = text.split('id="course"')[1].split("<section")[0]
    assert ">iteration</text>" in course and ">step</text>" not in course
    assert ">nats per response</text>" in course and 'aria-label="KL of ppo"' in course


def test_templates_alone_write_html_and_take_nothing_for_it() -> None:
    """Autoescape minds every text: only what a section's own template wrote is passed on as it is."""
    folder = Path(report.__file__).parent
    for path in folder.glob("*.py"):
        assert not re.search(r"Markup|escape\(|<\w+[ >]", path.read_text()), path.name
    safe = [path.name for path in folder.glob("templates/*") for _ in re.findall(r"\|\s*safe", path.read_text())]
    assert safe == ["page.html"]


def test_a_program_needs_its_description_alone(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its box, its model, its curves and what it learned from are drawn, though no module here has heard of it."""
    novel = Program(
        "novel",
        "Training",
        "something new",
        size="{rows of train} poems",
        model="A poet.",
        trained_on="{rows of train} poems",
        chats=True,
        charts=(
            Chart("Rhyme", "how often", "share", {"novel/rhyme": "rhymes"}),
            Chart("Metre", "", "share", {"novel/metre": "metre"}),
        ),
        learns_from=(Table("Poems", "dialogue", key="train"),),
    )
    monkeypatch.setitem(PROGRAMS, "novel", novel)
    stage = demo / "sft"
    for name, change in (
        ("pipeline.json", ("sft", "program")),
        ("sft/stage.json", ("program",)),
        ("sft/status.json", ("program",)),
    ):
        content = json.loads((demo / name).read_text())
        node = content["stages"] if name == "pipeline.json" else content
        for key in change[:-1]:
            node = node[key]
        node[change[-1]] = "novel"
        (demo / name).write_text(json.dumps(content))
    write_lines(stage / "metrics.jsonl", [{"step": i, "novel/rhyme": 0.1 * i, "novel/metre": 0.5} for i in range(1, 9)])
    text = report.write(demo).read_text()
    for told in ("30 poems", "A poet.", "Rhyme", "something new", "Poems: dialogues.jsonl"):
        assert told in text


def test_the_course_of_kept_checkpoints_is_drawn(tmp_path: Path) -> None:
    folder = make(tmp_path / "demo")
    path = folder / "measured" / "ppo"
    path.mkdir(parents=True)
    (path / "status.json").write_text(json.dumps({"state": "done", "program": "measure"}))
    points = ((10, 0.4), (20, 0.6))
    rows = [
        {"step": step, "time": 0.0, "ppo/helpfulness": at, "ppo/length": 9.0, "ppo/seconds": 1.0} for step, at in points
    ]
    write_lines(path / "metrics.jsonl", rows)
    text = report.page(Story(folder))
    Page(text)
    kept = text[text.index('id="kept"') : text.index('id="course"')]
    assert "Helpfulness of ppo, over its steps" in kept and "Helpfulness 0.6 at 20" in kept
    assert kept.index("Helpfulness of ppo") < kept.index("All other metrics") < kept.index("Words per response of ppo")
    assert "seconds" not in kept.lower()
