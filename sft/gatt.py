"""Ghost Attention: dialogues that keep to an instruction which stands in their first turn alone (paper 3.3, A.3.5).

    1. take the users' turns of dialogues, and draw an instruction for each dialogue
    2. answer them turn by turn with the newest chat model, the instruction before every user's turn
    3. keep the instruction in the first turn only, shortened in half of the rows
    4. mark the last answer as the only one that is trained (`loss: last`): the earlier ones follow what no longer stands there

Answers are a function of the seed, the dialogue and the turn; finished chunks of them are kept, so that an interrupted run
ends with the same file. `sft` and `rejection_sampling` train on it as on any dialogues.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from statistics import fmean
from typing import Any

from llamatrain import checkpoint
from llamatrain.config.program import main
from llamatrain.data.kinds import DialogueRow
from llamatrain.data.rows import write_rows
from llamatrain.errors import UserError
from llamatrain.progress import counted
from llamatrain.responses.models import generated_at_once
from llamatrain.responses.prompts import prompts_fingerprint
from llamatrain.run import Run

from .config import GAttConfig
from .turns import Talk, TalkRow, converse, read_talks

ENDED = {
    "context": "the context was full",
    "unfinished": "an answer had no end or said nothing",
    "tags": "an answer held the chat format's tags",
}


def synthesise(cfg: GAttConfig) -> None:
    """Answer dialogues under instructions, and write what is trained on."""
    start = checkpoint.resolve(cfg.checkpoint, "sft")
    cfg.generation_batch_size = generated_at_once(cfg.generation_batch_size, {"checkpoint": start}, cfg.dtype)
    noise = "gatt" if cfg.round is None else f"gatt, round {cfg.round}"
    data = {"dialogues": prompts_fingerprint(cfg.dialogues)}
    with Run(cfg.run, "gatt", cfg, {"checkpoint": start}, data, dashboard=False) as run:
        run.resume({})
        started = time.monotonic()
        talks = read_talks(cfg, noise, cfg.min_turns, lambda turns, rng: max(cuts(cfg, turns, rng)), run.print)
        made = converse(run, cfg, start, talks, noise, everywhere=True, patient=False)
        if run.is_main:
            pairs = list(made)
            kept = list(rows(cfg, pairs, noise))
            if not kept:
                raise UserError(
                    f"no dialogue was answered for {cfg.min_turns} turns: {_lost(pairs)}; need a model that ends its answers"
                )
            write_rows(run.folder / "gatt.jsonl", kept)
            metrics = measures(pairs, kept)
            run.log(0, {**metrics, "gatt/seconds": time.monotonic() - started})
            run.print(f"wrote {run.folder / 'gatt.jsonl'}\n{in_words(metrics, _lost(pairs))}")


def cuts(cfg: GAttConfig, turns: int, rng: random.Random) -> list[int]:
    """Draw after which turns a dialogue's rows end, of min_turns to its last."""
    places = range(cfg.min_turns, min(turns, cfg.max_turns) + 1)
    return sorted(rng.sample(places, min(cfg.rows_per_dialogue, len(places))))


def rows(cfg: GAttConfig, pairs: Iterable[tuple[Talk, TalkRow]], noise: str) -> Iterator[DialogueRow]:
    """Yield the rows to train on: of each dialogue up to the turns that were drawn, or the last that could be answered."""
    for talk, row in pairs:
        # The same draw that said how many turns are answered.
        rng = random.Random(f"{noise}/{cfg.run.seed}/{talk.id}")
        drawn = {min(turn, len(row["answers"])) for turn in cuts(cfg, len(talk.users), rng)}
        for turn in sorted(turn for turn in drawn if turn >= cfg.min_turns):
            short = random.Random(f"{noise}/{cfg.run.seed}/{talk.id}/{turn}").random() < cfg.short_fraction
            instruction = talk.instruction.short if short else talk.instruction.full
            answers = row["answers"][:turn]
            yield {
                "messages": talk.messages(answers, instruction, everywhere=False)[: 2 * turn],
                "source": "gatt",
                "is_adversarial": False,
                "loss": "last",
                "meta": {
                    "instruction": instruction,
                    "constraints": talk.instruction.chosen,
                    "short": short,
                    "turn": turn,
                },
            }


def measures(pairs: list[tuple[Talk, TalkRow]], kept: list[DialogueRow]) -> dict[str, float]:
    """Return counts, and of the answers that a rule can judge the share that keeps to each part of its instruction."""
    told: list[bool] = []
    for talk, row in pairs:
        told += [
            held for answer in row["answers"] for held in talk.instruction.kept(answer).values() if held is not None
        ]
    ended = Counter(row["ended"] for _, row in pairs)
    about: list[dict[str, Any]] = [row["meta"] for row in kept]
    return {
        "gatt/dialogues": len(pairs),
        "gatt/rows": len(kept),
        "gatt/turns": fmean(one["turn"] for one in about),
        "gatt/short": fmean(one["short"] for one in about),
        **{f"gatt/ended_{why}": ended[why] for why in ENDED},
        **({"gatt/kept_to": fmean(told)} if told else {}),
    }


def _lost(pairs: list[tuple[Talk, TalkRow]]) -> str:
    ended = Counter(row["ended"] for _, row in pairs if row["ended"])
    return ", ".join(f"{count:,} ended as {ENDED[why]}" for why, count in ended.items())


def in_words(metrics: dict[str, float], lost: str) -> str:
    """Return the result for the terminal."""
    told = (
        f"; {metrics['gatt/kept_to']:.0%} of the answers keep to each part of it" if "gatt/kept_to" in metrics else ""
    )
    return (
        f"{counted(metrics['gatt/rows'], 'row')} of {counted(metrics['gatt/dialogues'], 'dialogue')}, {metrics['gatt/turns']:.1f} turns "
        f"on average, the instruction shortened in {metrics['gatt/short']:.0%}{told}" + (f"; {lost}" if lost else "")
    )


if __name__ == "__main__":
    main("gatt", GAttConfig, synthesise)
