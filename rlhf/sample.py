"""Sample responses to prompts from a checkpoint, and score them with the reward models where given: responses.jsonl."""

from __future__ import annotations

import time

from llamatrain.config.program import main
from llamatrain.responses.models import generated_at_once, sampled_and_scored_by
from llamatrain.responses.prompts import prompts_fingerprint
from llamatrain.responses.sampling import (
    in_words,
    load_prompts_to_answer,
    make_responses,
    response_metrics,
    write_responses,
)
from llamatrain.run import Run

from .config import SampleConfig


def sample(cfg: SampleConfig) -> None:
    """Sample responses from a checkpoint."""
    parents = sampled_and_scored_by(cfg.checkpoint, cfg.helpfulness, cfg.safety)
    cfg.generation_batch_size = generated_at_once(cfg.generation_batch_size, parents, cfg.dtype)
    data = {"prompts": prompts_fingerprint(cfg.prompts)}
    with Run(cfg.run, "sample", cfg, parents, data, dashboard=False) as run:
        run.resume({})
        started = time.monotonic()
        chunks = make_responses(run, cfg, parents, load_prompts_to_answer(cfg, parents, run.print), "sample")
        if run.is_main:
            write_responses(run.folder, chunks)
            metrics = response_metrics("sample", list(chunks.rows()))
            run.log(0, {**metrics, "sample/seconds": time.monotonic() - started})
            run.print(f"wrote {run.folder / 'responses.jsonl'}\n{in_words('sample', metrics)}")


if __name__ == "__main__":
    main("sample", SampleConfig, sample)
