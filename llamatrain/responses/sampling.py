"""Responses sampled to prompts from a checkpoint, scored by the reward models where given, and written as chunks.

A response is a function of the seed, the prompt's id and the sample's number, so an interrupted run goes on where it
stopped and ends with the same rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from llamatrain.chat import decode_response
from llamatrain.data.kinds import SampledRow
from llamatrain.data.rows import write_rows
from llamatrain.data.skipped import BadRows
from llamatrain.responses.chunks import Chunks, chunk_key
from llamatrain.responses.config import ResponsesConfig
from llamatrain.responses.models import loaded_once, shared_context, shared_tokenizer
from llamatrain.responses.prompts import Prompt, load_prompts
from llamatrain.responses.rollouts import Rollout, sample_rollouts
from llamatrain.responses.scoring import Scores, combine, public_scores, raw_scores, score
from llamatrain.run import Run
from llamatrain.tokenizer import Tokenizer


def load_prompts_to_answer(
    cfg: ResponsesConfig, parents: dict[str, Path], say: Callable[[str], None], round: int | None = None
) -> list[Prompt]:
    """Return the prompts that are answered, those of a `round` of a pipeline; `say` what was skipped."""
    return load_prompts(
        cfg.prompts,
        shared_tokenizer(parents, cfg.tokenizer),
        shared_context(parents),
        cfg.sampling.max_new_tokens,
        cfg.max_prompts,
        cfg.too_long,
        say,
        BadRows(cfg.bad_rows),
        round=round,
    )


def make_responses(
    run: Run, cfg: ResponsesConfig, parents: dict[str, Path], prompts: Sequence[Prompt], noise: str
) -> Chunks[SampledRow]:
    """Sample and score `samples_per_prompt` responses per prompt, as chunks on disk; `noise` names what they are drawn by."""
    tokenizer = shared_tokenizer(parents, cfg.tokenizer)
    sampling = cfg.sampling.seeded(cfg.run.seed, noise)
    rest = [cfg.checkpoint, cfg.samples_per_prompt, vars(cfg.gate), cfg.dtype, [prompt.id for prompt in prompts]]
    key = chunk_key(parents, cfg.prompts, sampling=vars(sampling), rest=rest)
    per_prompt = cfg.samples_per_prompt
    chunks = Chunks(run, key, len(prompts), max(1, cfg.chunk_responses // per_prompt), SampledRow, per_prompt)
    load = loaded_once(parents.values(), cfg.dtype)  # a finished run loads none

    with run.progress(chunks.missing() * cfg.samples_per_prompt, "sampling", "responses") as bar:
        # A chunk from its prompts: sampled, scored by whichever reward models are given, and laid out as rows.
        def rows_of(items: range) -> list[SampledRow]:
            started = time.monotonic()
            wanted = [(prompts[i], number) for i in items for number in range(cfg.samples_per_prompt)]
            rollouts = sample_rollouts(
                load(parents["checkpoint"], scalar=False),
                [prompt for prompt, _ in wanted],
                [number for _, number in wanted],
                sampling,
                tokenizer,
                cfg.generation_batch_size,
                lambda _: bar.update(1),
                on_step=run.interrupt,
            )
            speed = sum(len(r.tokens) for r in rollouts) / (time.monotonic() - started)
            bar.update(0, **{"tokens/s": f"{speed:,.0f}"})
            logits = {}
            for kind in ("helpfulness", "safety"):
                if kind in parents:
                    model = load(parents[kind], scalar=True)
                    logits[kind] = score(model, rollouts, cfg.score_batch_size, run.interrupt)
            scores = combine(rollouts, logits.get("helpfulness"), logits.get("safety"), cfg.gate)
            return [
                response_row(rollout, number, own, tokenizer, cfg)
                for rollout, (_, number), own in zip(rollouts, wanted, scores, strict=True)
            ]

        if not chunks.make(rows_of, bar, cfg.samples_per_prompt):
            run.stop(0)
    return chunks


def response_row(
    rollout: Rollout, number: int, scores: Scores, tokenizer: Tokenizer, cfg: ResponsesConfig
) -> SampledRow:
    """Return a response as a chunk keeps it: the public row, and under `raw` what only this package reads."""
    prompt = rollout.prompt
    return {
        "prompt_id": prompt.id,
        "sample": number,
        "messages": prompt.messages,
        "response": decode_response(rollout.tokens, tokenizer),
        "model": cfg.checkpoint,
        "temperature": cfg.sampling.temperature,
        "seed": cfg.run.seed,
        "finished": rollout.finished,
        "is_adversarial": prompt.is_adversarial,
        **public_scores(scores),
        "raw": {"tokens": len(rollout.tokens), "source": prompt.source, **raw_scores(scores)},
    }


def write_responses(folder: Path, chunks: Chunks[SampledRow]) -> None:
    """Write responses.jsonl from the chunks."""
    public = ({name: value for name, value in row.items() if name != "raw"} for row in chunks.rows())
    write_rows(folder / "responses.jsonl", public)


def response_metrics(prefix: str, rows: list[SampledRow]) -> dict[str, float]:
    """Return means over responses: of all of them, and of the scores (logits) by kind of prompt."""
    metrics = {
        f"{prefix}/responses": len(rows),
        f"{prefix}/finished": fmean(row["finished"] for row in rows),
        f"{prefix}/response_length": fmean(row["raw"]["tokens"] for row in rows),
    }
    adversarial = [row for row in rows if row["is_adversarial"]]
    harmless = [row for row in rows if not row["is_adversarial"]]
    groups = {"": rows, "_harmless": harmless, "_adversarial": adversarial}
    for name, group in groups.items():
        raw = [row["raw"] for row in group]
        scores = {  # absent without their reward models
            "helpfulness": [own["helpfulness"] for own in raw if "helpfulness" in own],
            "safety_score": [own["safety"] for own in raw if "safety" in own],
            "combined": [own["combined"] for own in raw if "combined" in own],
        }
        metrics |= {f"{prefix}/{key}{name}": fmean(values) for key, values in scores.items() if values}
    return metrics


def in_words(prefix: str, metrics: dict[str, float]) -> str:
    """Return `response_metrics` for the terminal, each reward model's mean score on the prompts that it governs."""

    def value(name: str) -> float:
        return metrics[f"{prefix}/{name}"]

    text = f"{value('responses'):,.0f} responses, {value('finished'):.0%} finished"
    text += f", {value('response_length'):.1f} tokens long on average"
    where = {
        "helpfulness_harmless": "helpfulness {:.2f} on harmless prompts",
        "safety_score_adversarial": "safety {:.2f} on adversarial ones",
        "combined": "combined {:.2f} on all",
    }
    scores = [words.format(value(name)) for name, words in where.items() if f"{prefix}/{name}" in metrics]
    return f"{text}\nmean scores by the reward models (logits): {', '.join(scores)}" if scores else text
