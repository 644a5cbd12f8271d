"""Where the answers come from: sampled from a checkpoint, or a file of responses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

from llamatrain.errors import UserError, missing
from llamatrain.progress import Progress, counted
from llamatrain.responses.answers import Answerer
from llamatrain.responses.config import CHAT, TEXT
from llamatrain.responses.prompts import Prompt
from llamatrain.text_files import read_lines

from .config import SafetyBenchmarkConfig
from .sets import Found, Item

Key = tuple[str, str]  # set, id


class Given(TypedDict):
    """An answer in a user's file, or in the judged.jsonl of a run."""

    set: str
    id: str
    response: str
    finished: NotRequired[bool]
    format: NotRequired[str]


class Sampled(TypedDict):
    """An answer in a chunk, and in which format its prompt was put."""

    response: str
    finished: bool
    format: str


def sampled(cfg: SafetyBenchmarkConfig, who: Answerer, items: Sequence[Item]) -> dict[Key, Sampled]:
    """Return an answer to each prompt, but for those that leave no room for one; all ranks call."""
    prompts, kept = list[Prompt](), list[Item]()
    for item in items:
        prompt = who.prompt(f"{item.set}/{item.id}", [{"role": "user", "content": item.prompt}])
        if prompt is not None:
            prompts.append(prompt)
            kept.append(item)
    if not prompts:
        raise UserError(f"root={cfg.root}: no prompt leaves room for an answer in the context of {who.context} tokens")
    who.run.print(f"{counted(len(prompts), 'prompt')}, put as {who.form}")
    if len(prompts) < len(items):
        left_out = counted(len(items) - len(prompts), "prompt")
        who.run.print(f"{left_out} left out: no room for an answer in the context of {who.context} tokens")

    def rows_of(numbers: range, bar: Progress) -> list[Sampled]:
        asked = [prompts[number] for number in numbers]
        made = who.answer(asked, [0] * len(asked), bar)
        return [{"response": answer.text, "finished": answer.finished, "format": who.form} for answer in made]

    rows = who.chunks(prompts, cfg.chunk_responses, Sampled, rows_of)
    return {(item.set, item.id): row for item, row in zip(kept, rows, strict=True)}


def given(cfg: SafetyBenchmarkConfig, found: Found) -> dict[Key, Sampled]:
    """Return the answers of the user's file. A set without any is not measured; of others every prompt must have one."""
    assert cfg.responses is not None
    path = Path(cfg.responses)
    if not path.is_file():
        raise missing(path, "safety_benchmark")
    answers: dict[Key, Sampled] = {}
    for number, row in enumerate(read_lines(path, Given), 1):
        key, form = (row["set"], row["id"]), row.get("format", CHAT)
        if key in answers:
            raise UserError(f"{path}:{number}: prompt {row['id']!r} of {row['set']} is there twice, need one response")
        if form not in (CHAT, TEXT):
            raise UserError(f"{path}:{number}: format={form}, need {CHAT} or {TEXT}")
        answers[key] = {"response": row["response"], "finished": row.get("finished", True), "format": form}
    for name, items in list(found.items.items()):
        lacking = [item.id for item in items if (name, item.id) not in answers]
        if len(lacking) == len(items):
            found.leave_out(name, f"{path} has no responses of it", cfg.sets is not None)
        elif lacking:
            raise UserError(
                f"{path}: {len(lacking)} of {len(items)} prompts of {name} have no response, such as {lacking[0]!r}; need all"
            )
    return answers
