"""Sample responses to prompts from a checkpoint, and score them with the reward models where given.

Writes responses.jsonl. A response is a function of the seed, the prompt's id and the sample's number, so an interrupted
run goes on where it stopped and ends with the same file.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any, TypedDict

import torch

from llamatrain import checkpoint, config, distributed, manifest
from llamatrain.chat import decode_response
from llamatrain.data.rows import write_rows
from llamatrain.data.skipped import BadRows
from llamatrain.engine import DTYPES
from llamatrain.errors import UserError
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import Transformer
from llamatrain.run import Run
from llamatrain.tokenizer import Tokenizer

from .chunks import Chunks, Row
from .config import PPOConfig, SampleConfig
from .prompts import load_prompts, prompts_fingerprint
from .rollouts import Rollout, sample_rollouts
from .scoring import Scores, combine, score, sigmoid


def sample(cfg: SampleConfig) -> None:
    """Sample responses from a checkpoint."""
    parents = parent_checkpoints(cfg)
    data = {"prompts": prompts_fingerprint(cfg.prompts)}
    with Run(cfg.run, "sample", cfg, parents, data, dashboard=False) as run:
        run.resume({})
        started = time.monotonic()
        chunks = make_responses(run, cfg, parents)
        if run.is_main:
            write_responses(run.folder, chunks)
            metrics = response_metrics("sample", list(chunks.rows()))
            run.log(0, {**metrics, "sample/seconds": time.monotonic() - started})
            run.print(f"wrote {run.folder / 'responses.jsonl'}\n{in_words('sample', metrics)}")


def parent_checkpoints(cfg: SampleConfig | PPOConfig) -> dict[str, Path]:
    """Return the verified folders of the policy and of the reward models that are given."""
    given = {"checkpoint": (cfg.checkpoint, "sft")}
    for kind, path in (("helpfulness", cfg.helpfulness), ("safety", cfg.safety)):
        if path is not None:
            given[kind] = (path, "reward")
    return {key: checkpoint.resolve(path, made_by) for key, (path, made_by) in given.items()}


def make_responses(run: Run, cfg: SampleConfig, parents: dict[str, Path]) -> Chunks:
    """Sample and score `samples_per_prompt` responses a prompt, as chunks on disk."""
    tokenizer = shared_tokenizer(parents, cfg.tokenizer)
    context = shared_context(parents)
    prompts = load_prompts(
        cfg.prompts, tokenizer, context, cfg.max_new_tokens, cfg.limit, cfg.too_long, run.print, BadRows(cfg.bad_rows)
    )
    sampling = replace(cfg.sampling, program=run.program)
    rest = [cfg.checkpoint, cfg.samples_per_prompt, vars(cfg.gate), cfg.batch_size, cfg.score_batch_size, cfg.dtype]
    key = chunk_key(parents, cfg.prompts, sampling=vars(sampling), rest=rest)
    per_prompt = cfg.samples_per_prompt
    chunks = Chunks(run, key, len(prompts), max(1, cfg.chunk_responses // per_prompt), Response, per_prompt)
    load = cache(partial(load_inference, dtype=cfg.dtype))  # a finished run loads no model
    device = distributed.device()

    with run.progress(chunks.missing() * cfg.samples_per_prompt, "sampling", "responses") as bar:

        def rows_of(items: range) -> list[Row]:
            started = time.monotonic()
            wanted = [(prompts[i], number) for i in items for number in range(cfg.samples_per_prompt)]
            rollouts = sample_rollouts(
                load(parents["checkpoint"], Transformer, device),
                [prompt for prompt, _ in wanted],
                [number for _, number in wanted],
                sampling,
                tokenizer.eos_id,
                cfg.batch_size,
                lambda _: bar.update(1),
            )
            speed = sum(len(r.tokens) for r in rollouts) / (time.monotonic() - started)
            bar.update(0, **{"tokens/s": f"{speed:,.0f}"})
            logits = {
                kind: score(load(parents[kind], ScalarModel, device), rollouts, context, cfg.score_batch_size)
                for kind in ("helpfulness", "safety")
                if kind in parents
            }
            scores = combine(rollouts, logits.get("helpfulness"), logits.get("safety"), cfg.gate)
            return [
                response_row(rollout, number, own, tokenizer, cfg)
                for rollout, (_, number), own in zip(rollouts, wanted, scores, strict=True)
            ]

        chunks.make(rows_of)
    return chunks


class Response(TypedDict):
    """What every row of a chunk holds; with reward models also their scores after a sigmoid."""

    prompt_id: str
    sample: int
    messages: list[dict[str, str]]
    response: str
    finished: bool
    safety: bool
    raw: dict[str, Any]


def response_row(rollout: Rollout, number: int, scores: Scores, tokenizer: Tokenizer, cfg: SampleConfig) -> Row:
    """Return a response as a chunk keeps it: the public row, and under `raw` what only this package reads."""
    prompt = rollout.prompt
    row = {
        "prompt_id": prompt.id,
        "sample": number,
        "messages": prompt.messages,
        "response": decode_response(rollout.tokens, tokenizer),
        "model": cfg.checkpoint,
        "temperature": cfg.temperature,
        "seed": cfg.run.seed,
        "finished": rollout.finished,
        "safety": prompt.safety,
        **public_scores(scores),
        **({} if scores.gated is None else {"gated": scores.gated}),
    }
    return {**row, "raw": {"tokens": len(rollout.tokens), "source": prompt.source, **vars(scores)}}


def public_scores(scores: Scores) -> dict[str, float]:
    """Return the scores that are there, after a sigmoid."""
    named = {"helpfulness": scores.helpfulness, "safety_score": scores.safety, "combined": scores.combined}
    return {key: round(sigmoid(logit), 6) for key, logit in named.items() if logit is not None}


def write_responses(folder: Path, chunks: Chunks) -> None:
    """Write responses.jsonl from the chunks."""
    write_rows(folder / "responses.jsonl", ({k: v for k, v in row.items() if k != "raw"} for row in chunks.rows()))


def response_metrics(prefix: str, rows: list[Row]) -> dict[str, float]:
    """Return means over responses: of all of them, and of the scores (logits) on harmless and on safety prompts."""
    metrics = {
        f"{prefix}/responses": len(rows),
        f"{prefix}/finished": fmean(row["finished"] for row in rows),
        f"{prefix}/response_length": fmean(row["raw"]["tokens"] for row in rows),
    }
    groups = {"": rows, "_harmless": [r for r in rows if not r["safety"]], "_unsafe": [r for r in rows if r["safety"]]}
    for name, group in groups.items():
        for key, raw in (("helpfulness", "helpfulness"), ("safety_score", "safety"), ("combined", "combined")):
            if group and key in group[0]:
                metrics[f"{prefix}/{key}{name}"] = fmean(row["raw"][raw] for row in group)
    return metrics


def in_words(prefix: str, metrics: dict[str, float]) -> str:
    """Return `response_metrics` for the terminal: what there is, and where each reward model has the word, its mean score."""

    def value(name: str) -> float:
        return metrics[f"{prefix}/{name}"]

    text = f"{value('responses'):,.0f} responses, {value('finished'):.0%} finished"
    text += f", {value('response_length'):.1f} tokens long on average"
    where = {
        "helpfulness_harmless": "helpfulness {:.2f} on harmless prompts",
        "safety_score_unsafe": "safety {:.2f} on adversarial ones",
        "combined": "combined {:.2f} on all",
    }
    scores = [words.format(value(name)) for name, words in where.items() if f"{prefix}/{name}" in metrics]
    return f"{text}\nmean scores by the reward models (logits): {', '.join(scores)}" if scores else text


# --- models ------------------------------------------------------------------------------------------------------


def shared_tokenizer(parents: dict[str, Path], given: str | None = None) -> Tokenizer:
    """Return the tokenizer of the checkpoints, which must be one and the same; `given` is that of those without one."""
    tokenizers = {key: checkpoint.load_tokenizer(path, given) for key, path in parents.items()}
    first, tokenizer = next(iter(tokenizers.items()))
    for key, other in tokenizers.items():
        if other.fingerprint != tokenizer.fingerprint:
            raise UserError(
                f"{key}={parents[key]} has another tokenizer than {first}={parents[first]}: need the same one"
            )
    return tokenizer


def shared_context(parents: dict[str, Path]) -> int:
    """Return the first checkpoint's context, which the others must not be shorter than."""
    contexts = {key: checkpoint.load_config(path)[0].max_seq_len for key, path in parents.items()}
    first, context = next(iter(contexts.items()))
    for key, other in contexts.items():
        if other < context:
            raise UserError(f"{key}={parents[key]} has a context of {other} tokens, {first} of {context}: need as many")
    return context


def chunk_key(parents: dict[str, Path], prompts: Sequence[str], **settings: Any) -> dict[str, Any]:
    """Return all that sampled rows depend on: the models, the prompts' sources, and the program's own settings."""
    models = {name: _identity(path) for name, path in parents.items()}
    return {"models": models, "prompts": prompts_fingerprint(prompts), **settings}


def _identity(folder: Path) -> str:
    """Return what tells a checkpoint from another: its fingerprint or, for a folder made elsewhere, its path."""
    return checkpoint.fingerprint(folder) if (folder / manifest.NAME).is_file() else str(folder)


def load_inference(path: Path, kind: type, device: torch.device, dtype: str) -> Any:
    """Load a model that is only read; UserError where it is of the other kind."""
    model = checkpoint.load_model(path, device, DTYPES[dtype])
    if not isinstance(model, kind):
        need = "a reward model" if kind is ScalarModel else "a language model"
        raise UserError(f"{path} is {'a language model' if kind is ScalarModel else 'a reward model'}; need {need}")
    return model.requires_grad_(False).eval()


if __name__ == "__main__":
    config.main("sample", SampleConfig, sample)
