"""Sample two responses a prompt, from different variants and at varied temperatures, to be rated (paper 3.2.1).

With one checkpoint the two responses differ in temperature; with two, each gives one of them, and which comes first is
drawn. Writes comparisons.jsonl.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, partial

from llamatrain import checkpoint, config, distributed
from llamatrain.chat import decode_response
from llamatrain.data.rows import file_fingerprint, write_rows
from llamatrain.engine import DTYPES
from llamatrain.errors import UserError
from llamatrain.generation import Sampling, noise_key
from llamatrain.model import Transformer
from llamatrain.run import Run, RunConfig

from .chunks import Chunks, Row
from .prompts import load_prompts
from .rollouts import sample_rollouts
from .sample import load_inference, shared_context, shared_tokenizer

SIDES = ("a", "b")


@dataclass
class CompareConfig:
    """What is compared; configs/compare.yaml says what each key means."""

    run: RunConfig
    checkpoint_a: str
    checkpoint_b: str | None
    prompts: str
    limit: int | None
    pairs_per_prompt: int
    temperatures: list[float]
    top_p: float
    max_new_tokens: int
    too_long: str
    batch_size: int
    chunk_pairs: int
    dtype: str

    def __post_init__(self) -> None:
        """Check values."""
        if not self.temperatures:
            raise UserError("temperatures=[]: need at least one")
        for temperature in self.temperatures:
            self.sampling(temperature)
        if self.checkpoint_b is None and self.temperatures == [0]:
            raise UserError("temperatures=[0]: two greedy responses of one checkpoint are the same")
        for key in ("pairs_per_prompt", "batch_size", "chunk_pairs"):
            if getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)}: need 1 or more")
        if self.dtype not in DTYPES:
            raise UserError(f"dtype={self.dtype}: need one of {', '.join(DTYPES)}")

    def sampling(self, temperature: float) -> Sampling:
        """Return how to sample at a temperature."""
        return Sampling(temperature, self.top_p, self.max_new_tokens, self.run.seed)


@dataclass(frozen=True)
class Variant:
    """Where a response comes from."""

    checkpoint: str
    temperature: float


def compare(cfg: CompareConfig) -> None:
    """Sample two responses a prompt."""
    names = [cfg.checkpoint_a, *([cfg.checkpoint_b] if cfg.checkpoint_b is not None else [])]
    parents = {f"checkpoint_{s}": checkpoint.resolve(n, "sft") for s, n in zip(SIDES, names, strict=False)}
    folders = dict(zip(names, parents.values(), strict=True))
    tokenizer, context = shared_tokenizer(parents), shared_context(parents)
    with Run(cfg.run, "compare", cfg, parents, {"prompts": file_fingerprint(cfg.prompts)}) as run:
        run.resume({})
        prompts, skipped = load_prompts(cfg.prompts, tokenizer, context, cfg.limit, cfg.too_long)
        if skipped:
            run.print(f"{skipped} prompts skipped: no room for a response within the context of {context} tokens")
        key = {
            "models": [checkpoint.fingerprint(path) for path in parents.values()],
            "prompts": [file_fingerprint(cfg.prompts), len(prompts)],
            "sampling": [cfg.temperatures, cfg.top_p, cfg.max_new_tokens, cfg.run.seed],
            "rest": [cfg.pairs_per_prompt, cfg.batch_size, cfg.dtype],
        }
        chunks = Chunks(run, key, len(prompts) * cfg.pairs_per_prompt, cfg.chunk_pairs)
        load = cache(partial(load_inference, kind=Transformer, device=distributed.device(), dtype=cfg.dtype))

        with run.progress(2 * chunks.missing(), "sampling", "responses") as bar:

            def rows_of(items: range) -> list[Row]:
                places = [divmod(item, cfg.pairs_per_prompt) for item in items]
                variants = [draw_variants(cfg, names, prompts[p].id, pair) for p, pair in places]
                wanted: dict[Variant, list[tuple[int, int]]] = defaultdict(list)  # variant -> (place, side)
                for place, pair_of_variants in enumerate(variants):
                    for side, variant in enumerate(pair_of_variants):
                        wanted[variant].append((place, side))
                responses: dict[tuple[int, int], tuple[str, bool]] = {}
                for variant, slots in sorted(
                    wanted.items(), key=lambda item: (item[0].checkpoint, item[0].temperature)
                ):
                    rollouts = sample_rollouts(
                        load(folders[variant.checkpoint]),
                        [prompts[places[place][0]] for place, _ in slots],
                        [2 * places[place][1] + side for place, side in slots],
                        cfg.sampling(variant.temperature),
                        tokenizer.eos_id,
                        cfg.batch_size,
                        lambda _: bar.update(1),
                    )
                    for slot, rollout in zip(slots, rollouts, strict=True):
                        responses[slot] = decode_response(rollout.tokens, tokenizer), rollout.finished
                rows = []
                for place, (p, pair) in enumerate(places):
                    row: Row = {"id": f"{prompts[p].id}#{pair}", "prompt_id": prompts[p].id}
                    row |= {"messages": prompts[p].messages, "safety": prompts[p].safety}
                    for side, name in enumerate(SIDES):
                        text, finished = responses[place, side]
                        variant = variants[place][side]
                        row |= {f"response_{name}": text, f"finished_{name}": finished}
                        row |= {f"model_{name}": variant.checkpoint, f"temperature_{name}": variant.temperature}
                    rows.append(row)
                return rows

            chunks.make(rows_of)
        if run.is_main:
            kept = write_rows(run.folder / "comparisons.jsonl", filter(differs, chunks.rows()))
            equal = chunks.count - kept
            if not kept:
                raise UserError(f"all {equal} pairs are two equal responses: raise temperatures or give a checkpoint_b")
            run.log(0, {"compare/pairs": kept, "compare/equal": equal})
            run.print(
                f"wrote {run.folder / 'comparisons.jsonl'}: {kept} pairs; {equal} pairs of equal responses left out"
            )


def draw_variants(cfg: CompareConfig, names: list[str], prompt_id: str, pair: int) -> tuple[Variant, Variant]:
    """Return where responses a and b of a pair come from: a function of the seed, the prompt and the pair's number."""
    chance = random.Random(noise_key(cfg.run.seed, f"variants of {prompt_id}", pair))
    if len(names) == 2:
        first, second = (Variant(name, chance.choice(cfg.temperatures)) for name in names)
    else:
        different = chance.sample(cfg.temperatures, 2) if len(cfg.temperatures) > 1 else cfg.temperatures * 2
        first, second = (Variant(names[0], temperature) for temperature in different)
    return (second, first) if chance.random() < 0.5 else (first, second)


def differs(row: Row) -> bool:
    """Tell whether a pair's responses differ: equal ones have no better one."""
    return bool(row["response_a"] != row["response_b"])


if __name__ == "__main__":
    config.main("compare", CompareConfig, compare)
