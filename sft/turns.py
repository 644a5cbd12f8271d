"""Dialogues answered turn by turn by a model, under an instruction: what Ghost Attention trains on, and by what it is measured."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from llamatrain.chat import TAGS, Message, decode_response, encode_prompt, too_many
from llamatrain.constraints import Instruction, draw_instruction, read_constraints
from llamatrain.data.kinds import DialogueRow
from llamatrain.data.rows import read_rows
from llamatrain.data.skipped import BadRows
from llamatrain.errors import UserError
from llamatrain.model.config import load_config
from llamatrain.progress import Progress, counted
from llamatrain.responses.chunks import Chunks, chunk_key
from llamatrain.responses.models import loaded_once, shared_tokenizer
from llamatrain.responses.prompts import Prompt
from llamatrain.responses.rollouts import Rollout, sample_rollouts
from llamatrain.run import Run
from llamatrain.tokenizer import Tokenizer

from .config import ConversationConfig


class TalkRow(TypedDict):
    """A dialogue in a chunk: the answers, and why there are no more; empty where there are as many as were wanted.

    `replies`: turn -> kind of constraint -> what was answered when it was asked for in place of that turn.
    """

    id: str
    answers: list[str]
    ended: str
    replies: NotRequired[dict[str, dict[str, str]]]


@dataclass
class Talk:
    """A dialogue's users' turns, how many of them are answered, and under which instruction."""

    id: str
    users: list[str]
    turns: int
    instruction: Instruction
    source: str

    def messages(
        self, answers: Sequence[str], instruction: str, everywhere: bool, asked: str | None = None
    ) -> list[Message]:
        """Return the turns that are answered and the next, with the instruction before each user's words or the first ones'.

        `asked` is what the user says in that next turn instead.
        """
        made: list[Message] = []
        users = self.users[: len(answers) + 1] if asked is None else [*self.users[: len(answers)], asked]
        for turn, said in enumerate(users):
            text = f"{instruction} {said}" if everywhere or turn == 0 else said
            made.append({"role": "user", "content": text})
            made += [{"role": "assistant", "content": answer} for answer in answers[turn : turn + 1]]
        return made


def read_talks(
    cfg: ConversationConfig,
    noise: str,
    least: int,
    wanted: Callable[[int, random.Random], int],
    say: Callable[[str], None],
) -> list[Talk]:
    """Read harmless dialogues, joining shorter ones until they have `least` turns.

    `wanted` draws, of a number of turns, how many are answered. A talk is a function of the run's seed, `noise` and its
    place, so that ranks and restarts have the same.
    """
    path = Path(cfg.constraints) if cfg.constraints else Path(__file__).with_name("constraints.yaml")
    constraints, bad, talks, joined = read_constraints(path), BadRows(cfg.bad_rows), list[Talk](), 0

    def add(users: list[str], source: str) -> None:
        rng = random.Random(f"{noise}/{cfg.run.seed}/{len(talks)}")
        turns = wanted(len(users), rng)
        talks.append(Talk(f"{len(talks)}", users, turns, draw_instruction(constraints, rng), source))

    pending: list[str] = []  # turns of shorter dialogues
    for row in itertools.chain.from_iterable(read_rows(path, DialogueRow, bad) for path in cfg.dialogues):
        if len(talks) == cfg.max_dialogues:
            break
        if row.get("is_adversarial"):  # nobody has seen whether its answers are safe
            continue
        users = [message["content"] for message in row["messages"] if message["role"] == "user"]
        if len(users) < least:
            pending, users = [], [*pending, *users]
            joined += 1
        if len(users) < least:
            pending = users
        else:
            add(users, row.get("source", ""))
    bad.say(say)
    if not talks:
        raise UserError(
            f"dialogues={', '.join(cfg.dialogues)}: harmless ones have {len(pending)} turns in all; need {least}"
        )
    if joined:
        say(f"{counted(joined, 'dialogue')} of fewer than {least} turns joined")
    return talks


@dataclass
class Speaker:
    """Answers talks with a model. Where it is `patient`, a talk goes on after an answer that has no end or says nothing.

    At the turns `asking` (from 1) it is also asked for what its instruction's kinds have a question for; the talk knows nothing of it.
    """

    cfg: ConversationConfig
    model: Callable[[], Any]
    tokenizer: Tokenizer
    context: int
    noise: str
    everywhere: bool
    patient: bool
    asking: Sequence[int]
    run: Run
    bar: Progress

    def rows(self, talks: Sequence[Talk]) -> list[TalkRow]:
        """Answer the talks, all of them turn by turn together."""
        made: list[TalkRow] = [{"id": talk.id, "answers": [], "ended": ""} for talk in talks]
        for turn in range(max((talk.turns for talk in talks), default=0)):
            open_ = [
                (talk, row) for talk, row in zip(talks, made, strict=True) if turn < talk.turns and not row["ended"]
            ]
            if turn + 1 in self.asking:
                self._ask(open_, turn)
            asked = list[tuple[Prompt, TalkRow]]()
            for talk, row in open_:
                prompt = self._prompt(talk, row, talk.id)
                if prompt is None:
                    row["ended"] = "context"
                else:
                    asked.append((prompt, row))
            if not asked:
                break
            self._answer(asked, turn)
        self.bar.update(sum(talk.turns for talk in talks) - sum(len(row["answers"]) for row in made))  # that never came
        return made

    def _prompt(self, talk: Talk, row: TalkRow, id: str, asked: str | None = None) -> Prompt | None:
        """Return what is asked next, or `asked` in its place; None where the context has no room for an answer."""
        most = self.context - max(1, min(self.cfg.sampling.max_new_tokens, self.context // 8))
        messages = talk.messages(row["answers"], talk.instruction.full, self.everywhere, asked)
        tokens = [] if too_many(messages, self.tokenizer, most) else encode_prompt(messages, self.tokenizer)
        return Prompt(id, messages, False, talk.source, tokens) if 0 < len(tokens) <= most else None

    def _ask(self, talks: Sequence[tuple[Talk, TalkRow]], turn: int) -> None:
        """Note what is answered when each kind of constraint that has a question is asked for in place of a turn."""
        asked = list[tuple[Prompt, TalkRow, str]]()
        for talk, row in talks:
            for kind, (question, _) in talk.instruction.asks.items():
                if prompt := self._prompt(talk, row, f"{talk.id}/{kind}", question):
                    asked.append((prompt, row, kind))
        rollouts = self._sample([prompt for prompt, _, _ in asked], turn) if asked else []
        for (_, row, kind), rollout in zip(asked, rollouts, strict=True):
            replies = row.setdefault("replies", {}).setdefault(str(turn + 1), {})
            replies[kind] = decode_response(rollout.tokens, self.tokenizer)

    def _sample(self, prompts: list[Prompt], turn: int, on_done: Callable[[int], None] | None = None) -> list[Rollout]:
        cfg = self.cfg
        sampling = cfg.sampling.seeded(cfg.run.seed, self.noise)
        return sample_rollouts(
            self.model(),
            prompts,
            [turn] * len(prompts),
            sampling,
            self.tokenizer,
            cfg.generation_batch_size,
            on_done,
            on_step=self.run.interrupt,
        )

    def _answer(self, asked: Sequence[tuple[Prompt, TalkRow]], turn: int) -> None:
        rollouts = self._sample([prompt for prompt, _ in asked], turn, lambda _: self.bar.update(1))
        for (_, row), rollout in zip(asked, rollouts, strict=True):
            text = decode_response(rollout.tokens, self.tokenizer)
            if any(tag in text for tag in TAGS):  # in a later prompt it would pose as a turn
                row["ended"] = "tags"
            elif not rollout.is_answer and not self.patient:
                row["ended"] = "unfinished"
            else:
                row["answers"].append(text)


def converse(
    run: Run,
    cfg: ConversationConfig,
    start: Path,
    talks: Sequence[Talk],
    noise: str,
    everywhere: bool,
    patient: bool,
    asking: Sequence[int] = (),
) -> Iterator[tuple[Talk, TalkRow]]:
    """Answer the talks, as chunks on disk, and yield each with its answers in order; all ranks call, rank 0 reads.

    `everywhere`: the instruction stands before each of the user's turns, not the first alone. `patient`, `asking`: see `Speaker`.
    """
    tokenizer, context = shared_tokenizer({"checkpoint": start}, cfg.tokenizer), load_config(start)[0].max_seq_len
    drawn = [[talk.turns, talk.instruction.full] for talk in talks]
    sampling = {**vars(cfg.sampling), "seed": cfg.run.seed, "program": noise}
    asks = [[list(asking), talk.instruction.asks] for talk in talks if asking and talk.instruction.asks]
    rest = [drawn, everywhere, patient, cfg.dtype, *asks]
    key = chunk_key({"checkpoint": start}, cfg.dialogues, sampling=sampling, rest=rest)
    chunks = Chunks(run, key, len(talks), cfg.chunk_dialogues, TalkRow)
    load = partial(loaded_once([start], cfg.dtype), start, scalar=False)
    with run.progress(sum(talk.turns for talk in talks), "sampling", "answers") as bar:
        speaker = Speaker(cfg, load, tokenizer, context, noise, everywhere, patient, asking, run, bar)
        if not chunks.make(lambda items: speaker.rows([talks[item] for item in items]), bar):
            run.stop(0)
    return zip(talks, chunks.rows(), strict=True)
