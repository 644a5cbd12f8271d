"""How long a chat model keeps to an instruction that stands in the first turn alone (paper A.3.5, table 30).

The model's own answers stand in the later turns. By kind of constraint a rule tells whether an answer keeps to it: whether it
holds the value's words. A kind with a question (`ask`) is told by the answer to that, which is asked in place of each turn that is
measured; what has neither, such as a language, recall.jsonl has for people to read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from statistics import fmean
from typing import TypedDict

from llamatrain import checkpoint
from llamatrain.config.program import main
from llamatrain.data.rows import write_rows
from llamatrain.progress import counted
from llamatrain.responses.models import generated_at_once
from llamatrain.responses.prompts import prompts_fingerprint
from llamatrain.run import Run

from .config import RecallConfig
from .turns import Talk, TalkRow, converse, read_talks


class RecallRow(TypedDict):
    """An answer at a turn that is measured, and what it keeps to; `kept` is null where only a reader can tell."""

    dialogue: str
    turn: int
    instruction: str
    question: str
    response: str
    replies: dict[str, str]  # to the questions for kinds of constraints
    kept: dict[str, bool | None]  # by kind of constraint


def recall(cfg: RecallConfig) -> None:
    """Measure at which turns a model still keeps to its instruction."""
    start = checkpoint.resolve(cfg.checkpoint, "sft")
    cfg.generation_batch_size = generated_at_once(cfg.generation_batch_size, {"checkpoint": start}, cfg.dtype)
    data = {"dialogues": prompts_fingerprint(cfg.dialogues)}
    with Run(cfg.run, "recall", cfg, {"checkpoint": start}, data, dashboard=False) as run:
        run.resume({})
        last = max(cfg.turns)
        talks = read_talks(cfg, "recall", last, lambda turns, rng: last, run.print)
        made = converse(run, cfg, start, talks, "recall", everywhere=False, patient=True, asking=cfg.turns)
        if run.is_main:
            found = list(rows(cfg.turns, made))
            write_rows(run.folder / "recall.jsonl", found)
            metrics = measures(found)
            run.log(0, {"recall/dialogues": len(talks), **metrics})
            run.print(f"wrote {run.folder / 'recall.jsonl'}\n{in_words(cfg.turns, metrics)}")


def rows(turns: Iterable[int], pairs: Iterable[tuple[Talk, TalkRow]]) -> Iterator[RecallRow]:
    """Yield the answers at the turns that are measured; a dialogue that fills the context has none at later ones."""
    wanted = list(turns)
    for talk, row in pairs:
        for turn in wanted:
            if turn <= len(row["answers"]):
                answer, replies = row["answers"][turn - 1], row.get("replies", {}).get(str(turn), {})
                yield {
                    "dialogue": talk.id,
                    "turn": turn,
                    "instruction": talk.instruction.full,
                    "question": talk.users[turn - 1],
                    "response": answer,
                    "replies": replies,
                    "kept": talk.instruction.kept(answer, replies),
                }


def measures(found: Iterable[RecallRow]) -> dict[str, float]:
    """Return the share of attributes that answers keep to, by turn; and how many dialogues reach each."""
    told: dict[int, list[bool]] = defaultdict(list)
    reached: dict[int, int] = defaultdict(int)
    for row in found:
        told[row["turn"]] += [kept for kept in row["kept"].values() if kept is not None]
        reached[row["turn"]] += 1
    shares = {f"recall/turn_{turn}": fmean(kept) for turn, kept in told.items() if kept}
    return {**shares, **{f"recall/reached_{turn}": count for turn, count in reached.items()}}


def in_words(turns: Iterable[int], metrics: dict[str, float]) -> str:
    """Return the result for the terminal."""
    told = [
        f"{metrics[key]:.0%} at turn {turn} ({counted(metrics[f'recall/reached_{turn}'], 'dialogue')})"
        for turn in turns
        if (key := f"recall/turn_{turn}") in metrics
    ]
    return (
        f"attributes recalled: {', '.join(told)}"
        if told
        else "no rule tells whether these instructions are kept to: read the file"
    )


if __name__ == "__main__":
    main("recall", RecallConfig, recall)
