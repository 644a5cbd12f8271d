"""Sample two responses per prompt, from different variants and at varied temperatures, to be rated (paper 3.2.1).

With one checkpoint the two responses differ in temperature; with two, each gives one of them, and which comes first is
drawn. Writes comparisons.jsonl.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamatrain import checkpoint
from llamatrain.chat import decode_response
from llamatrain.config.program import main
from llamatrain.data.kinds import ComparedRow, ComparisonRow
from llamatrain.data.rows import write_rows
from llamatrain.data.skipped import BadRows
from llamatrain.errors import UserError
from llamatrain.noise import noise_key
from llamatrain.progress import counted
from llamatrain.responses.chunks import Chunks, chunk_key
from llamatrain.responses.config import noise_of
from llamatrain.responses.models import generated_at_once, loaded_once, shared_context, shared_tokenizer
from llamatrain.responses.prompts import Prompt, load_prompts, prompts_fingerprint
from llamatrain.responses.rollouts import Rollout, sample_rollouts
from llamatrain.run import Run
from llamatrain.tokenizer import Tokenizer

from .config import CompareConfig


@dataclass(frozen=True)
class Variant:
    """Where a response comes from: the config key of its checkpoint, and the temperature."""

    key: str
    temperature: float


def compare(cfg: CompareConfig) -> None:
    """Sample two responses per prompt."""
    paths = {"checkpoint_a": cfg.checkpoint_a, "checkpoint_b": cfg.checkpoint_b}
    parents = {key: checkpoint.resolve(path, "sft") for key, path in paths.items() if path is not None}
    cfg.generation_batch_size = generated_at_once(cfg.generation_batch_size, parents, cfg.dtype)
    data = {"prompts": prompts_fingerprint(cfg.prompts)}
    with Run(cfg.run, "compare", cfg, parents, data, dashboard=False) as run:
        run.resume({})
        chunks = make_pairs(run, cfg, parents)
        if run.is_main:
            kept = write_rows(run.folder / "comparisons.jsonl", (row for row in chunks.rows() if differs(row)))
            equal = chunks.count - kept
            if not kept:
                raise UserError(
                    f"all {equal} pairs are of two equal responses: raise sampling.temperatures or give checkpoint_b"
                )
            run.log(0, {"compare/pairs": kept, "compare/equal": equal})
            run.print(
                f"wrote {run.folder / 'comparisons.jsonl'}: {counted(kept, 'pair')}; {counted(equal, 'pair')} of equal "
                "responses left out"
            )


def make_pairs(run: Run, cfg: CompareConfig, parents: dict[str, Path]) -> Chunks[ComparedRow]:
    """Sample `pairs_per_prompt` pairs per prompt from the checkpoints, as chunks on disk."""
    tokenizer, context = shared_tokenizer(parents, cfg.tokenizer), shared_context(parents)
    prompts = load_prompts(
        cfg.prompts,
        tokenizer,
        context,
        cfg.sampling.max_new_tokens,
        cfg.max_prompts,
        cfg.too_long,
        run.print,
        BadRows(cfg.bad_rows),
        round=cfg.round,
    )
    sampling = {**vars(cfg.sampling), "seed": cfg.run.seed, "program": noise_of("compare", cfg.round)}
    rest = [cfg.checkpoint_a, cfg.checkpoint_b, cfg.pairs_per_prompt, cfg.dtype]
    key = chunk_key(parents, cfg.prompts, sampling=sampling, rest=rest)
    chunks = Chunks(run, key, len(prompts) * cfg.pairs_per_prompt, cfg.chunk_pairs, ComparedRow)
    load = loaded_once(parents.values(), cfg.dtype)
    with run.progress(2 * chunks.missing(), "sampling", "responses") as bar:
        sampler = PairSampler(
            cfg,
            prompts,
            tokenizer,
            lambda key: load(parents[key], scalar=False),
            lambda _: bar.update(1),
            run.interrupt,
        )
        if not chunks.make(sampler.rows, bar, units=2):
            run.stop(0)
    return chunks


@dataclass(frozen=True)
class PairSampler:
    """Samples pairs of responses by number; `load` gives the model behind a checkpoint's config key."""

    cfg: CompareConfig
    prompts: Sequence[Prompt]
    tokenizer: Tokenizer
    load: Callable[[str], Any]
    on_done: Callable[[int], None]
    on_step: Callable[[], None]

    def rows(self, items: range) -> list[ComparedRow]:
        """Return the rows of a chunk's pairs: item i is pair i % pairs_per_prompt of prompt i // pairs_per_prompt."""
        pairs: list[tuple[Prompt, int, tuple[Variant, Variant]]] = []
        for item in items:
            place, number = divmod(item, self.cfg.pairs_per_prompt)
            prompt = self.prompts[place]
            pairs.append((prompt, number, draw_variants(self.cfg, prompt.id, number)))
        # Grouped by checkpoint alone: groups by temperature, too, would each end with few rows in the batch.
        sides: dict[str, list[tuple[int, int]]] = defaultdict(list)  # checkpoint -> (which pair, which side)
        for index, (_, _, variants) in enumerate(pairs):
            for side, variant in enumerate(variants):
                sides[variant.key].append((index, side))
        rollouts: dict[tuple[int, int], Rollout] = {}
        for key, own in sides.items():
            wanted = []
            for index, side in own:
                prompt, number, variants = pairs[index]
                # The two sides are samples 2n and 2n + 1: they never share their noise.
                wanted.append((prompt, 2 * number + side, variants[side].temperature))
            rollouts |= dict(zip(own, self._respond(key, wanted), strict=True))
        return [
            comparison(self.cfg, prompt, number, variants, (rollouts[i, 0], rollouts[i, 1]), self.tokenizer)
            for i, (prompt, number, variants) in enumerate(pairs)
        ]

    def _respond(self, key: str, wanted: list[tuple[Prompt, int, float]]) -> list[Rollout]:
        """Sample a response to each (prompt, sample number, temperature) from one checkpoint."""
        prompts, numbers, temperatures = zip(*wanted, strict=True)
        return sample_rollouts(
            self.load(key),
            prompts,
            numbers,
            self.cfg.sampling.at(temperatures[0]).seeded(self.cfg.run.seed, noise_of("compare", self.cfg.round)),
            self.tokenizer,
            self.cfg.generation_batch_size,
            self.on_done,
            temperatures,
            self.on_step,
        )


def comparison(
    cfg: CompareConfig,
    prompt: Prompt,
    number: int,
    variants: Sequence[Variant],
    rollouts: Sequence[Rollout],
    tokenizer: Tokenizer,
) -> ComparedRow:
    """Return one row of comparisons.jsonl."""
    (a, b), (first, second) = variants, rollouts
    return {
        "id": f"{prompt.id}#{noise_of(str(number), cfg.round)}",  # annotators draw by it, in each round anew
        "prompt_id": prompt.id,
        "messages": prompt.messages,
        "response_a": decode_response(first.tokens, tokenizer),
        "model_a": getattr(cfg, a.key),
        "temperature_a": a.temperature,
        "finished_a": first.finished,
        "response_b": decode_response(second.tokens, tokenizer),
        "model_b": getattr(cfg, b.key),
        "temperature_b": b.temperature,
        "finished_b": second.finished,
        "is_adversarial": prompt.is_adversarial,
    }


def draw_variants(cfg: CompareConfig, prompt_id: str, pair: int) -> tuple[Variant, Variant]:
    """Return where responses a and b of a pair come from: a function of the seed, the prompt and the pair's number."""
    chance = random.Random(noise_key(cfg.run.seed, noise_of(f"variants of {prompt_id}", cfg.round), pair))
    temperatures = cfg.sampling.temperatures
    if cfg.checkpoint_b is not None:
        first = Variant("checkpoint_a", chance.choice(temperatures))
        second = Variant("checkpoint_b", chance.choice(temperatures))
    else:
        different = chance.sample(temperatures, 2) if len(temperatures) > 1 else temperatures * 2
        first, second = (Variant("checkpoint_a", temperature) for temperature in different)
    # In random order: else annotators, or the reader of the file, could learn which model comes first.
    return (second, first) if chance.random() < 0.5 else (first, second)


def differs(row: ComparisonRow) -> bool:
    """Tell whether a pair's responses differ: equal ones have no better one."""
    return row["response_a"] != row["response_b"]


if __name__ == "__main__":
    main("compare", CompareConfig, compare)
