"""A few of PPO's rollouts now and then, for people to read and the gold judge to score: samples.jsonl."""

from __future__ import annotations

import json

from llamatrain.chat import decode_response
from llamatrain.data.kinds import RolloutRow
from llamatrain.data.rows import write_rows
from llamatrain.responses.scoring import Scores, public_scores
from llamatrain.run import Run
from llamatrain.text_files import read_lines
from llamatrain.tokenizer import Tokenizer

from .experience import Batch


class SamplesLog:
    """Appends to samples.jsonl of the run; what was written after the step that the run resumes from is dropped."""

    def __init__(self, run: Run, step: int, every: int, kept: int, tokenizer: Tokenizer) -> None:
        self.path = run.folder / "samples.jsonl"
        self.every, self.kept, self.tokenizer = every, kept, tokenizer
        self.is_main = run.is_main
        settings = run.settings
        self.model: str = settings["checkpoint"]  # whose policy learns
        self.temperature: float = settings["sampling"]["temperature"]
        self.seed: int = settings["run"]["seed"]
        # As metrics.jsonl is cut: a resumed run writes these steps again.
        if self.is_main and self.path.exists():
            rows = read_lines(self.path, RolloutRow, "move it away: it is only for people to read", grows=True)
            write_rows(self.path, [row for row in rows if row["step"] <= step])

    def write(self, step: int, batch: Batch) -> None:
        """Write the first few rollouts of the batch where step 1 or a multiple of `every` is reached (rank 0)."""
        if not self.is_main or not self.every or (step % self.every and step != 1):
            return
        with self.path.open("a", encoding="utf-8") as file:
            for one, combined, gated in zip(
                batch.judged[: self.kept], batch.combined.tolist(), batch.gated.tolist(), strict=False
            ):
                prompt = one.rollout.prompt
                scores = Scores(one.helpfulness, one.safety, combined, gated and not prompt.is_adversarial)
                row: RolloutRow = {
                    "step": step,
                    "model": self.model,
                    "temperature": self.temperature,
                    "seed": self.seed,
                    "prompt_id": prompt.id,
                    "messages": prompt.messages,
                    "response": decode_response(one.rollout.tokens, self.tokenizer),
                    "finished": one.rollout.finished,
                    "is_adversarial": prompt.is_adversarial,
                    **public_scores(scores),
                    "kl": round(float((one.logprobs - one.reference).sum()), 4),
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
