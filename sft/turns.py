"""Dialogues answered turn by turn by a model, under an instruction: what Ghost Attention trains on, and by what it is measured."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypedDict

from llamatrain import distributed
from llamatrain.chat import TAGS, Message, decode_response, encode_prompt, too_many
from llamatrain.constraints import Instruction, draw_instruction, read_constraints
from llamatrain.data.kinds import DialogueRow
from llamatrain.data.rows import read_rows
from llamatrain.data.skipped import BadRows
from llamatrain.errors import UserError
from llamatrain.model.config import load_config
from llamatrain.progress import Progress, counted
from llamatrain.responses.chunks import Chunks, chunk_key
from llamatrain.responses.models import load_inference, shared_tokenizer
from llamatrain.responses.prompts import Prompt
from llamatrain.responses.rollouts import sample_rollouts
from llamatrain.run import Run
from llamatrain.tokenizer import Tokenizer

from .config import ConversationConfig


class TalkRow(TypedDict):
    """A dialogue in a chunk: the answers, and why there are no more; empty where there are as many as were wanted."""

    id: str
    answers: list[str]
    ended: str


@dataclass
class Talk:
    """A dialogue's users' turns, how many of them are answered, and under which instruction."""

    id: str
    users: list[str]
    turns: int
    instruction: Instruction
    source: str

    def messages(self, answers: Sequence[str], instruction: str, everywhere: bool) -> list[Message]:
        """Return the turns that are answered and the next, with the instruction before each user's words or the first ones'."""
        made: list[Message] = []
        for turn, said in enumerate(self.users[: len(answers) + 1]):
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
    """Answers talks with a model. Where it is `patient`, a talk goes on after an answer that has no end or says nothing."""

    cfg: ConversationConfig
    model: Callable[[], Any]
    tokenizer: Tokenizer
    context: int
    noise: str
    everywhere: bool
    patient: bool
    run: Run
    bar: Progress

    def rows(self, talks: Sequence[Talk]) -> list[TalkRow]:
        """Answer the talks, all of them turn by turn together."""
        made: list[TalkRow] = [{"id": talk.id, "answers": [], "ended": ""} for talk in talks]
        for turn in range(max((talk.turns for talk in talks), default=0)):
            open_ = [
                (talk, row) for talk, row in zip(talks, made, strict=True) if turn < talk.turns and not row["ended"]
            ]
            asked = [(prompt, row) for talk, row in open_ if (prompt := self._prompt(talk, row)) is not None]
            if not asked:
                break
            self._answer(asked, turn)
        self.bar.update(sum(talk.turns for talk in talks) - sum(len(row["answers"]) for row in made))  # that never came
        return made

    def _prompt(self, talk: Talk, row: TalkRow) -> Prompt | None:
        """Return what is asked next; None where the context has no room for an answer, which is then why the talk ends."""
        most = self.context - max(1, min(self.cfg.sampling.max_new_tokens, self.context // 8))
        messages = talk.messages(row["answers"], talk.instruction.full, self.everywhere)
        tokens = [] if too_many(messages, self.tokenizer, most) else encode_prompt(messages, self.tokenizer)
        if not 0 < len(tokens) <= most:
            row["ended"] = "context"
            return None
        return Prompt(talk.id, messages, False, talk.source, tokens)

    def _answer(self, asked: Sequence[tuple[Prompt, TalkRow]], turn: int) -> None:
        cfg, prompts = self.cfg, [prompt for prompt, _ in asked]
        sampling = cfg.sampling.seeded(cfg.run.seed, self.noise)
        rollouts = sample_rollouts(
            self.model(),
            prompts,
            [turn] * len(prompts),
            sampling,
            self.tokenizer,
            cfg.generation_batch_size,
            lambda _: self.bar.update(1),
            on_step=self.run.interrupt,
        )
        for (_, row), rollout in zip(asked, rollouts, strict=True):
            text = decode_response(rollout.tokens, self.tokenizer)
            if any(tag in text for tag in TAGS):  # in a later prompt it would pose as a turn
                row["ended"] = "tags"
            elif not rollout.is_answer and not self.patient:
                row["ended"] = "unfinished"
            else:
                row["answers"].append(text)


def converse(
    run: Run, cfg: ConversationConfig, start: Path, talks: Sequence[Talk], noise: str, everywhere: bool, patient: bool
) -> Iterator[tuple[Talk, TalkRow]]:
    """Answer the talks, as chunks on disk, and yield each with its answers in order; all ranks call, rank 0 reads.

    `everywhere`: the instruction stands before each of the user's turns, not the first alone.
    """
    tokenizer, context = shared_tokenizer({"checkpoint": start}, cfg.tokenizer), load_config(start)[0].max_seq_len
    drawn = [[talk.turns, talk.instruction.full] for talk in talks]
    sampling = {**vars(cfg.sampling), "seed": cfg.run.seed, "program": noise}
    key = chunk_key(
        {"checkpoint": start}, cfg.dialogues, sampling=sampling, rest=[drawn, everywhere, patient, cfg.dtype]
    )
    chunks = Chunks(run, key, len(talks), cfg.chunk_dialogues, TalkRow)
    load = cache(partial(load_inference, start, device=distributed.device(), dtype=cfg.dtype, scalar=False))
    with run.progress(sum(talk.turns for talk in talks), "sampling", "answers") as bar:
        speaker = Speaker(cfg, load, tokenizer, context, noise, everywhere, patient, run, bar)
        if not chunks.make(lambda items: speaker.rows([talks[item] for item in items]), bar):
            run.stop(0)
    return zip(talks, chunks.rows(), strict=True)
