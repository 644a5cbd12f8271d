"""Use of tools from nothing but their description (paper 5.1, figure 23; with a calculator, table 15).

Every probe is asked twice: with the tools described in the system message, and without. A call that the model writes is
carried out, what follows it is cut off, the result is the next user message, and the model goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from llamatrain.chat import TAGS, Message
from llamatrain.progress import Progress
from llamatrain.responses.answers import Answerer
from llamatrain.statistics import paired_interval, share_interval

from .calling import find_call, run_call
from .config import ProbeConfig
from .matching import holds
from .reading import Probe, read_probes, with_system

TITLES = {
    "right": "right with tools",
    "right_without": "right without",
    "gain": "gain",
    "called": "called a tool",
    "no_room": "no room in the context for an answer",
}


class ToolProbe(Probe):
    """A question, what a right answer holds, and the texts that `search` finds."""

    question: str
    answers: list[str]
    documents: NotRequired[list[str]]
    tool: NotRequired[str]  # which one helps, for shares by it


class ToolAnswer(TypedDict):
    """What a model wrote to a probe: all messages after the question, and whether the last one is right."""

    id: str
    tool: str
    with_tools: bool
    question: str
    messages: list[Message]
    calls: int
    failed_calls: int
    right: bool


@dataclass
class Talk:
    """A probe being asked."""

    probe: ToolProbe
    with_tools: bool
    messages: list[Message]
    asked: int = 0  # messages before the model's first
    calls: int = 0
    failed: int = 0

    def hear(self, text: str, max_calls: int) -> bool:
        """Take what the model wrote; return whether it goes on, after a call."""
        call = find_call(text) if self.with_tools and self.calls < max_calls else None
        if call is None or any(tag in text for tag in TAGS):  # tags would pose as a turn
            self.messages.append({"role": "assistant", "content": text.strip()})
            return False
        result, worked = run_call(call, self.probe.get("documents", []))
        if any(tag in result for tag in TAGS):
            result, worked = "nothing found", False
        self.calls, self.failed = self.calls + 1, self.failed + (not worked)
        self.messages += [
            {"role": "assistant", "content": text[: call.end].strip()},
            {"role": "user", "content": f"{call.tool}: {result}"},
        ]
        return True

    def row(self) -> ToolAnswer:
        """Return it as a row."""
        said = self.messages[self.asked :]
        final = said[-1]["content"] if said and said[-1]["role"] == "assistant" else ""
        return {
            "id": self.probe["id"],
            "tool": self.probe.get("tool", ""),
            "with_tools": self.with_tools,
            "question": self.probe["question"],
            "messages": said,
            "calls": self.calls,
            "failed_calls": self.failed,
            "right": holds(final, self.probe["answers"]),
        }


def ask(cfg: ProbeConfig, who: Answerer) -> list[ToolAnswer]:
    """Return what was written to each probe, with tools and without, on all ranks."""
    probes = read_probes(cfg.probes, ToolProbe, cfg.max_probes)
    told = [(probe, with_tools) for probe in probes for with_tools in (True, False)]
    asked = [
        with_system(probe.get("system", cfg.tools.system) if with_tools else "", probe["question"])
        for probe, with_tools in told
    ]
    # With and without by different noise, as the prompts differ.
    ids = [f"{probe['id']}/{'with' if with_tools else 'without'}" for probe, with_tools in told]
    prompts, turns = who.prompts(zip(ids, asked, strict=True)), cfg.tools.max_calls + 1

    def rows_of(items: range, bar: Progress) -> list[ToolAnswer]:
        talks = [Talk(*told[item], list(asked[item]), len(asked[item])) for item in items]
        waiting = [(talk, prompts[item]) for talk, item in zip(talks, items, strict=True)]
        answers = 0
        for turn in range(turns):
            made = who.answer([prompt for _, prompt in waiting], [turn] * len(waiting), bar)
            answers += len(made)
            heard = zip(waiting, made, strict=True)
            going = [(talk, prompt.id) for (talk, prompt), answer in heard if talk.hear(answer.text, turns - 1)]
            # One that fills the context ends with the result of its call.
            again = [(talk, who.prompt(name, talk.messages)) for talk, name in going]
            waiting = [(talk, prompt) for talk, prompt in again if prompt is not None]
            if not waiting:
                break
        bar.update(turns * len(talks) - answers)  # that were not needed
        return [talk.row() for talk in talks]

    return who.chunks(prompts, cfg.chunk_responses, ToolAnswer, rows_of, answers=turns, rest=[probes, turns])


def measure(answers: Sequence[ToolAnswer]) -> dict[str, Any]:
    """Return the shares of right answers with tools and without, their difference over probes, and how tools were called."""
    tools = list(dict.fromkeys(row["tool"] for row in answers))
    by_tool = {tool: _measured([row for row in answers if row["tool"] == tool]) for tool in tools if tool}
    return {**_measured(answers), "by_tool": by_tool}


def _measured(answers: Sequence[ToolAnswer]) -> dict[str, Any]:
    having = [row for row in answers if row["with_tools"]]
    right = {flag: {r["id"]: [float(r["right"])] for r in answers if r["with_tools"] is flag} for flag in (True, False)}
    gain = paired_interval(right[True], right[False])
    assert gain is not None
    return {
        "right": share_interval(right[True]).as_dict(),
        "right_without": share_interval(right[False]).as_dict(),
        "gain": gain.as_dict(),
        "called": share_interval({row["id"]: [float(row["calls"] > 0)] for row in having}).as_dict(),
        "no_room": share_interval({row["id"]: [float(_ends_with_result(row))] for row in having}).as_dict(),
        "calls": sum(row["calls"] for row in having),
        "failed_calls": sum(row["failed_calls"] for row in having),
    }


def _ends_with_result(row: ToolAnswer) -> bool:
    """Tell whether the context had no room for an answer after the last call: then none can be right."""
    return row["messages"][-1]["role"] == "user"


def flat(found: dict[str, Any]) -> dict[str, float]:
    """Return the figures for metrics.jsonl."""
    return {f"probe/tools_{key}": found[key]["mean"] for key in TITLES}


def lines(found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return what is shown in the terminal."""
    own = [(title, found[key]) for key, title in TITLES.items()]
    return own + [(f"right, {tool}", part["right"]) for tool, part in found["by_tool"].items()]
