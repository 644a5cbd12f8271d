"""What a model in training answered to the same held-out prompts, step by step."""

from __future__ import annotations

from llamatrain.run_files import Logged
from llamatrain.runs import Row, is_number
from llamatrain.text_files import read_lines

from ..stage_run import StageRun
from ..story import Story
from .samples import clipped

STEPS = 6  # shown of each prompt, spread evenly, the first and the last among them


def during(story: Story) -> Row | None:
    """Return for each stage that wrote answers in the course of its training the prompts with them."""
    cards = [made for stage in story.stages if stage.about.course and (made := _card(stage))]
    return {"stages": cards} if cards else None


def _card(stage: StageRun) -> Row | None:
    path = stage.folder / stage.about.course
    if not path.is_file():
        return None
    prompts: dict[str, list[Row]] = {}
    for row in read_lines(path, Logged, bad=lambda _: None, grows=True):
        found: Row = {**row}
        if is_number(found.get("step")) and isinstance(found.get("messages"), list):
            prompts.setdefault(str(found.get("prompt_id")), []).append(found)
    return {"stage": stage.name, "prompts": [_prompt(rows) for rows in prompts.values()]} if prompts else None


def _prompt(rows: list[Row]) -> Row:
    last = len(rows) - 1
    places = sorted({round(place * last / (STEPS - 1)) for place in range(STEPS)})
    return {
        "turns": [(str(one.get("role")), clipped(str(one.get("content")))) for one in rows[0]["messages"]],
        "written": clipped(str(rows[0].get("written") or "")),
        "answers": [_answer(rows[place]) for place in places],
    }


def _answer(row: Row) -> Row:
    text = clipped(str(row.get("response") or "").strip()) or "(empty)"
    return {"step": f"{row['step']:,}", "text": text, "unfinished": row.get("finished") is False}
