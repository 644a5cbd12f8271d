"""Safety context distillation: train a model to answer as it does when it is told to be safe (paper 4.2.4).

    1. answer adversarial prompts twice, as they stand and after a safety preprompt, by the same sampling noise
    2. score both answers to the prompt as it stands, by the safety model
    3. keep the second answer where it scores better: a dialogue of the prompt as it stands and that answer

Adversarial prompts alone: on others, distillation teaches to refuse what is harmless. Pairs of answers are made in
chunks on disk, each a function of its number, so an interrupted run ends with the same files.

    distilled.jsonl   dialogues to fine-tune on, loss on the last answer
    refused.jsonl     the other pairs, each with the reason why
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, TypedDict

from llamatrain import distributed
from llamatrain.chat import Message, decode_response
from llamatrain.config.program import main
from llamatrain.data.rows import write_rows
from llamatrain.data.skipped import BadRows
from llamatrain.errors import UserError
from llamatrain.noise import noise_key
from llamatrain.progress import counted
from llamatrain.responses.chunks import Chunks, chunk_key
from llamatrain.responses.config import noise_of
from llamatrain.responses.models import (
    generated_at_once,
    loaded_once,
    sampled_and_scored_by,
    shared_context,
    shared_tokenizer,
)
from llamatrain.responses.prompts import Prompt, load_prompts, prompts_fingerprint, reworded, room_for
from llamatrain.responses.rollouts import sample_rollouts
from llamatrain.responses.scoring import score, sigmoid
from llamatrain.run import Run

from .config import DistillConfig, Preprompts

KEPT = "kept"
REASONS = {  # why a pair of answers is refused -> the same for people
    "too_long": "no room beside the preprompt",
    "unfinished": "without EOS, or empty",
    "equal": "the same answer as without the preprompt",
    "no_better": "not scored better than without",
}
UNNAMED = "no category"


class Pair(TypedDict):
    """Two answers to a prompt, in a chunk: with the preprompt and without, their raw safety scores, and the verdict.

    A pair that was not sampled (`too_long`) has empty answers and scores of 0.
    """

    prompt_id: str
    sample: int
    messages: list[Message]
    source: str
    category: str
    preprompt: str
    response: str
    original: str
    safety: float
    original_safety: float
    verdict: str


class Asked(NamedTuple):
    """A prompt to answer for the so many-th time, and the same after a preprompt: None where that leaves no room."""

    prompt: Prompt
    number: int
    preprompt: str
    guided: Prompt | None


class Answer(NamedTuple):
    """An answer to a prompt, and its raw safety score; `is_answer`: it ends with EOS and says something."""

    text: str
    safety: float
    is_answer: bool


def distill(cfg: DistillConfig) -> None:
    """Sample, score, keep what is better."""
    parents = sampled_and_scored_by(cfg.checkpoint, None, cfg.safety)
    cfg.generation_batch_size = generated_at_once(cfg.generation_batch_size, parents, cfg.dtype)
    data = {"prompts": prompts_fingerprint(cfg.prompts)}
    with Run(cfg.run, "distill", cfg, parents, data, dashboard=False) as run:
        run.resume({})
        chunks = pairs(run, cfg, parents)
        kept = 0
        if run.is_main:
            write_rows(run.folder / "distilled.jsonl", distilled_rows(chunks.rows()))
            write_rows(run.folder / "refused.jsonl", refused_rows(chunks.rows()))
            found = list(chunks.rows())
            metrics = distillation_metrics(found)
            run.log(0, metrics)
            run.print(in_words(found, metrics))
            kept = int(metrics[f"distill/{KEPT}"])
        if distributed.broadcast_object(kept) == 0:
            raise UserError(
                f"no answer with a preprompt is better than the one without (see {run.folder / 'refused.jsonl'}): "
                "need other preprompts, or a model that follows them"
            )


# --- 1. and 2. pairs of answers ----------------------------------------------------------------------------------


def pairs(run: Run, cfg: DistillConfig, parents: dict[str, Path]) -> Chunks[Pair]:
    """Answer every adversarial prompt `samples_per_prompt` times with a preprompt and without, as chunks on disk."""
    tokenizer, context = shared_tokenizer(parents, cfg.tokenizer), shared_context(parents)
    new_tokens, bad = cfg.sampling.max_new_tokens, BadRows(cfg.bad_rows)
    prompts = load_prompts(
        cfg.prompts, tokenizer, context, new_tokens, cfg.max_prompts, cfg.too_long, run.print, bad, True, cfg.round
    )
    sampling = cfg.sampling.seeded(cfg.run.seed, noise_of("distill", cfg.round))
    each, longest = cfg.samples_per_prompt, context - room_for(new_tokens, context)
    rest = [cfg.checkpoint, each, vars(cfg.preprompts), cfg.require_better, cfg.dtype]
    key = chunk_key(parents, cfg.prompts, sampling=vars(sampling), rest=rest)
    chunks = Chunks(run, key, len(prompts), max(1, cfg.chunk_pairs // each), Pair, each)
    load = loaded_once(parents.values(), cfg.dtype)  # a finished run loads none

    def ask(prompt: Prompt, number: int) -> Asked:
        text = preprompt_of(cfg.preprompts, prompt, number, cfg.run.seed)
        return Asked(prompt, number, text, reworded(prompt, guided(prompt.messages, text), tokenizer, longest))

    with run.progress(2 * chunks.missing() * each, "distilling", "answers") as bar:

        def rows_of(items: range) -> list[Pair]:
            asked = [ask(prompts[i], number) for i in items for number in range(each)]
            both = [one for one in asked if one.guided is not None]
            bar.update(2 * (len(asked) - len(both)))
            # Both answers to a prompt are drawn by the same noise: they differ by the preprompt alone.
            rollouts = sample_rollouts(
                load(parents["checkpoint"], scalar=False),
                [*(one.prompt for one in both), *(one.guided for one in both if one.guided)],
                [one.number for one in both] * 2,
                sampling,
                tokenizer,
                cfg.generation_batch_size,
                lambda _: bar.update(1),
                on_step=run.interrupt,
            )
            # The safety model reads both after the prompt as it stands, as users will put it.
            read = [replace(rollout, prompt=one.prompt) for one, rollout in zip(both * 2, rollouts, strict=True)]
            scores = score(load(parents["safety"], scalar=True), read, cfg.score_batch_size, run.interrupt).tolist()
            answers = [
                Answer(decode_response(rollout.tokens, tokenizer), safety, rollout.is_answer)
                for rollout, safety in zip(read, scores, strict=True)
            ]
            made = zip(answers[: len(both)], answers[len(both) :], strict=True)
            return [pair_of(one, next(made) if one.guided else None, cfg.require_better) for one in asked]

        if not chunks.make(rows_of, bar, 2 * each):
            run.stop(0)
    return chunks


def preprompt_of(preprompts: Preprompts, prompt: Prompt, number: int, seed: int) -> str:
    """Return the preprompt of a prompt's category, or else a generic one, in one of the adjectives, by chance."""
    chance = random.Random(noise_key(seed, f"preprompt of {prompt.id}", number))
    text = preprompts.categories.get(prompt.category) or chance.choice(preprompts.generic)
    return text.replace("{adjective}", chance.choice(preprompts.adjectives))


def guided(messages: Sequence[Message], preprompt: str) -> list[Message]:
    """Return a prompt's messages after a preprompt: as the system message, before what one that is there says."""
    has_system = messages[0]["role"] == "system"
    content = f"{preprompt}\n\n{messages[0]['content']}" if has_system else preprompt
    return [{"role": "system", "content": content}, *messages[int(has_system) :]]


def pair_of(asked: Asked, answers: tuple[Answer, Answer] | None, require_better: bool) -> Pair:
    """Return a pair of answers, without the preprompt and with it, as a chunk keeps it; None: there was no room."""
    prompt, nothing = asked.prompt, Answer("", 0.0, False)
    original, answer = answers or (nothing, nothing)
    return {
        "prompt_id": prompt.id,
        "sample": asked.number,
        "messages": prompt.messages,
        "source": prompt.source,
        "category": prompt.category,
        "preprompt": asked.preprompt,
        "response": answer.text,
        "original": original.text,
        "safety": answer.safety,
        "original_safety": original.safety,
        "verdict": verdict(original, answer, require_better) if answers else "too_long",
    }


# --- 3. what is kept ---------------------------------------------------------------------------------------------


def verdict(original: Answer, answer: Answer, require_better: bool) -> str:
    """Return KEPT for an answer that distillation trains on, else why it is refused (REASONS).

    The gate per sample of the paper: a preprompt makes good answers worse as often as bad ones better. Without it
    (`require_better`) every answer counts.
    """
    if not answer.is_answer or (require_better and not original.is_answer):
        return "unfinished"
    if require_better and answer.text == original.text:
        return "equal"
    return KEPT if not require_better or answer.safety > original.safety else "no_better"


def distilled_rows(found: Iterable[Pair]) -> Iterator[dict[str, object]]:
    """Yield what is kept as dialogues: the prompt as it stands, without the preprompt, and the answer made with it."""
    for pair in found:
        if pair["verdict"] == KEPT:
            yield {
                "messages": [*pair["messages"], {"role": "assistant", "content": pair["response"]}],
                "source": pair["source"],
                "is_adversarial": True,
                "loss": "last",
                **_about(pair),
            }


def refused_rows(found: Iterable[Pair]) -> Iterator[dict[str, object]]:
    """Yield the other pairs, each with the reason why."""
    for pair in found:
        if pair["verdict"] != KEPT:
            about = {"reason": pair["verdict"], "messages": pair["messages"], "response": pair["response"]}
            yield {**about, "is_adversarial": True, **_about(pair)}


def _about(pair: Pair) -> dict[str, object]:
    """Return what both files say of a pair; scores after a sigmoid."""
    scored = pair["verdict"] != "too_long"
    scores = {"safety_score": pair["safety"], "original_safety_score": pair["original_safety"]} if scored else {}
    return {
        "prompt_id": pair["prompt_id"],
        "sample": pair["sample"],
        "category": pair["category"],
        "preprompt": pair["preprompt"],
        "original": pair["original"],
        **{name: round(sigmoid(logit), 6) for name, logit in scores.items()},
    }


def distillation_metrics(found: Sequence[Pair]) -> dict[str, float]:
    """Return how many pairs were kept and refused, and mean raw scores without the preprompt, with it, and of what is kept.

    The gain by the preprompt is also told for the halves of the originals: it is large where they were poor (figure 16).
    """
    verdicts = Counter(pair["verdict"] for pair in found)
    metrics: dict[str, float] = {"distill/pairs": len(found), f"distill/{KEPT}": verdicts[KEPT]}
    metrics |= {f"distill/refused_{reason}": verdicts[reason] for reason in REASONS}
    by_category = Counter((pair["category"] or UNNAMED, pair["verdict"]) for pair in found)
    metrics |= {f"distill/{category}/{name}": count for (category, name), count in sorted(by_category.items())}
    both = sorted((pair for pair in found if pair["verdict"] != "too_long"), key=lambda pair: pair["original_safety"])
    half = len(both) // 2
    gains = [pair["safety"] - pair["original_safety"] for pair in both]
    values = {
        "safety_original": [pair["original_safety"] for pair in both],
        "safety_preprompt": [pair["safety"] for pair in both],
        "safety_kept": [pair["safety"] for pair in both if pair["verdict"] == KEPT],
        "gain_of_worse_half": gains[:half],
        "gain_of_better_half": gains[half:],
    }
    return metrics | {f"distill/{name}": fmean(own) for name, own in values.items() if own}


def in_words(found: Sequence[Pair], metrics: dict[str, float]) -> str:
    """Return for the terminal what was kept and refused, by category and reason, and what the preprompts bring."""
    lines = [f"{metrics[f'distill/{KEPT}']:,.0f} of {counted(len(found), 'answer')} with a preprompt kept"]
    for category in sorted({pair["category"] for pair in found}):
        verdicts = Counter(pair["verdict"] for pair in found if pair["category"] == category)
        refused = [f"{verdicts[reason]:,} {words}" for reason, words in REASONS.items() if verdicts[reason]]
        kept = f"  {category or UNNAMED}: {verdicts[KEPT]:,} of {verdicts.total():,}"
        lines.append(f"{kept}; refused: {', '.join(refused)}" if refused else kept)
    means = {name: metrics.get(f"distill/{name}") for name in ("safety_original", "safety_preprompt", "safety_kept")}
    said = ("without the preprompt", "with it", "of those kept")
    told = [f"{mean:.2f} {words}" for mean, words in zip(means.values(), said, strict=True) if mean is not None]
    return "\n".join([*lines, *([f"mean safety score (logit): {', '.join(told)}"] if told else [])])


if __name__ == "__main__":
    main("distill", DistillConfig, distill)
