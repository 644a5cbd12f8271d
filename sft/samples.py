"""What the model in training answers to a few held-out prompts, every so many steps: samples.jsonl, the dashboard, the report.

Rank 0 alone samples, so that a batch is the same on any number of ranks, and with equal weights so is every answer.
"""

from __future__ import annotations

import itertools

from llamatrain.chat import decode_response, encode_prompt, too_many
from llamatrain.data.kinds import AnsweredRow, DialogueRow
from llamatrain.data.rows import read_rows
from llamatrain.data.skipped import BadRows
from llamatrain.engine.learning import Engine
from llamatrain.responses.prompts import Prompt
from llamatrain.responses.rollouts import sample_rollouts
from llamatrain.run import Run
from llamatrain.tokenizer import Tokenizer

from .config import SFTConfig


class Samples:
    """Answers to the first `samples_kept` dialogues of `eval` that leave room for one, each beside the written answer."""

    def __init__(
        self, cfg: SFTConfig, engine: Engine, tokenizer: Tokenizer, context: int, run: Run, steps: int
    ) -> None:
        self.cfg, self.engine, self.tokenizer, self.run, self.steps = cfg, engine, tokenizer, run, steps
        self.prompts: list[Prompt] = []
        self.written: list[str] = []  # the answers that people gave
        if cfg.samples_every:
            room = max(1, min(cfg.sampling.max_new_tokens, context // 8))
            self._read(context - room)

    def _read(self, most: int) -> None:
        rows = itertools.chain.from_iterable(read_rows(path, DialogueRow, BadRows("skip")) for path in self.cfg.eval)
        for number, row in enumerate(rows):
            if len(self.prompts) == self.cfg.samples_kept:
                return
            asked, answer = row["messages"][:-1], row["messages"][-1]["content"]
            tokens = [] if too_many(asked, self.tokenizer, most) else encode_prompt(asked, self.tokenizer)
            if 0 < len(tokens) <= most:
                source = row.get("source", "")
                adversarial = row.get("is_adversarial", False)
                self.prompts.append(Prompt(f"held-out-{number}", asked, adversarial, source, tokens))
                self.written.append(answer)

    def write(self, step: int) -> None:
        """Write the model's answers where that is due after `step`: at a multiple of `samples_every`, and after the last."""
        if not self.prompts or (step % self.cfg.samples_every and step != self.steps):
            return
        with self.engine.generating() as model:  # under ZeRO-3 all ranks gather its weights
            if self.run.is_main:
                self.run.log_samples(self._answered(model, step))

    def _answered(self, model: object, step: int) -> list[AnsweredRow]:
        sampling = self.cfg.sampling.seeded(self.cfg.run.seed, "sft")
        numbers = [0] * len(self.prompts)  # the same noise each time: what differs between steps is the model
        rollouts = sample_rollouts(model, self.prompts, numbers, sampling, self.tokenizer, len(self.prompts))
        return [
            {
                "step": step,
                "model": self.cfg.checkpoint,
                "temperature": sampling.temperature,
                "seed": sampling.seed,
                "prompt_id": prompt.id,
                "messages": prompt.messages,
                "response": decode_response(rollout.tokens, self.tokenizer),
                "finished": rollout.finished,
                "is_adversarial": prompt.is_adversarial,
                "written": written,
            }
            for prompt, rollout, written in zip(self.prompts, rollouts, self.written, strict=True)
        ]
