"""The pages of PPO's iterations, beside the report: from a curve to a step, to its samples, to a table of each one's tokens.

    report/STAGE/index.html  step_00000007.html

They are made from what the run stored of its iterations (`llamatrain.responses.stored`), need no server, and are bounded: so
many steps spread evenly over those that are stored, so many samples of each, and so many tokens of a sample.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llamatrain import manifest
from llamatrain.errors import UserError
from llamatrain.pages.drawing import Drawing
from llamatrain.pages.parts import Card
from llamatrain.responses import stored
from llamatrain.responses.stored import Stored
from llamatrain.runs import Row, decimals, figure, skip
from llamatrain.tokenizer import SPACE, Tokenizer

from ..stage_run import StageRun
from ..story import Story
from . import figures
from .figures import NARROW, Line

FOLDER = "report"
STEPS, SAMPLES, TOKENS = 60, 8, 256
SHADES = (0.5, 1.0, 2.0)  # advantages, in standard deviations, from which on a token is tinted more
# The two scores apart: combined they move with the share of adversarial prompts in a batch, more than with what is learned.
TRENDS = {
    "ppo/helpfulness_harmless": ("Helpfulness", "score on harmless prompts"),
    "ppo/safety_adversarial": ("Safety", "score on adversarial prompts"),
    "ppo/kl": ("KL", "from the start, nats per response"),
    "ppo/explained_variance": ("Critic", "share of the returns' variance it explains"),
    "ppo/response_length": ("Length", "tokens per answer"),
    "ppo/clip_fraction": ("Clipped", "share of tokens"),
}
COLUMNS = {**TRENDS, "ppo/finished": ("Finished", "share of answers"), "ppo/entropy": ("Entropy", "nats per token")}


@dataclass(frozen=True)
class Token:
    """A response token: as it is written, its numbers, the class of its tint, and what clipping did to it."""

    text: str
    numbers: Sequence[str]
    tint: str
    clipping: str


def where(stage: StageRun) -> str:
    """Return where the pages of a stage are, seen from the report; empty where it has none."""
    has = stage.about.experience and bool(stored.steps(stage.folder))
    return f"{FOLDER}/{stage.name}/index.html" if has else ""


def pages_of(story: Story) -> Iterator[tuple[Path, str, Row]]:
    """Yield the path, the template and what it is filled with of every page; a file that cannot be read is left out."""
    for stage in story.stages:
        if not where(stage):
            continue
        folder, shown = (story.folder / where(stage)).parent, chosen(stored.steps(stage.folder), STEPS)
        common = {"title": f"{story.name}: {stage.name}", "stage": stage.name, "last": stage.status.get("step")}
        yield folder / "index.html", "steps.html", {**common, **_index(stage, shown)}
        tokenizer = _tokenizer(stage)
        for place, step in enumerate(shown):
            try:
                found = stored.read(stored.path_of(stage.folder, step))
                made = _step(stage, step, found, tokenizer)
            except (UserError, OSError, KeyError) as error:
                skip(error)
                continue
            beside = {
                "before": shown[place - 1] if place else None,
                "after": shown[place + 1] if shown[-1] > step else None,
            }
            yield folder / page_of(step), "step.html", {**common, **beside, **made}


def page_of(step: int) -> str:
    """Return the name of a step's page."""
    return f"step_{step:08d}.html"


def chosen(items: Sequence[int], most: int) -> list[int]:
    """Return at most so many of the items, spread evenly, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _tokenizer(stage: StageRun) -> Tokenizer | None:
    """Return the tokenizer of the run's newest checkpoint, or of the model that it starts from; None where none is there."""
    folders = [*manifest.published(stage.folder / "checkpoints")[::-1], *map(Path, stage.sources("checkpoint"))]
    for folder in folders:
        try:
            return Tokenizer(folder)
        except UserError:
            continue
    return None


# --- all steps ---------------------------------------------------------------------------------------------------


def _index(stage: StageRun, shown: Sequence[int]) -> Row:
    known = {name: dict(stage.series.get(name, ())) for name in COLUMNS}
    columns = {name: title for name, (title, _) in COLUMNS.items() if known[name]}
    rows = [
        (step, page_of(step), [figure(known[name][step]) if step in known[name] else "–" for name in columns])
        for step in shown
    ]
    curves = [
        Card(title, note, _trend(stage, name, title, shown))
        for name, (title, note) in TRENDS.items()
        if len(known[name]) > 1
    ]
    gaps = any("–" in values for _, _, values in rows)  # of updates that the policy did not have
    return {"curves": curves, "columns": list(columns.values()), "rows": rows, "gaps": gaps}


def _trend(stage: StageRun, name: str, title: str, shown: Sequence[int]) -> Drawing:
    """Return a curve whose points lead to the steps that have a page."""
    points = stage.series[name]
    spots = [(x, y) for x, y in points if x in set(shown)]
    bounds = (-1.0, 1.0) if name == "ppo/explained_variance" else None
    lines = [Line(title, points, 1, "faint"), Line(title, spots, 1, "dots")]
    drawn = figures.line_chart(lines, "iteration", "", f"{title} of {stage.name}", NARROW, bounds=bounds)
    steps = iter(int(x) for x, _ in spots)
    linked = [replace(shape, link=page_of(next(steps))) if shape.tag == "circle" else shape for shape in drawn.shapes]
    return replace(drawn, shapes=linked)


# --- one step ----------------------------------------------------------------------------------------------------


def _step(stage: StageRun, step: int, found: Stored, tokenizer: Tokenizer | None) -> Row:
    known = {name: dict(points).get(step) for name, points in stage.series.items()}
    facts = [
        (title, note, figure(value))
        for name, (title, note) in COLUMNS.items()
        if (value := known.get(name)) is not None
    ]
    order = sorted(range(len(found.arrays["score"])), key=lambda i: (-float(found.arrays["whitened"][i]), i))
    places = chosen(range(len(order)), SAMPLES)
    return {
        "step": step,
        "facts": facts,
        "held": bool(found.facts["held"]),
        "kl_coef": f"{found.facts['kl_coef']:.3g}",
        "clip": f"{found.facts['clip']:g}",
        "again": f"llamatrain experience {_ranks(stage)}folder={stage.folder} step={step}",
        "kl_in_loss": stage.config.get("kl.place") == "loss",
        "by_kind": stage.config.get("whiten") != "batch",
        "responses": len(order),
        "samples": [_sample(found, order[place], place + 1, tokenizer) for place in places],
    }


def _ranks(stage: StageRun) -> str:
    ranks = stage.status.get("ranks", 1)
    return f"ranks={ranks} " if ranks != 1 else ""


def _sample(found: Stored, number: int, rank: int, tokenizer: Tokenizer | None) -> Row:
    own = {name: array[number] for name, array in found.arrays.items() if len(array) == len(found.arrays["lengths"])}
    each = {name: found.each(name)[number].tolist() for name in PER_TOKEN if name in found.arrays}
    adversarial, kl = (
        bool(own["is_adversarial"]),
        [p - q for p, q in zip(each["logprobs"], each["reference"], strict=True)],
    )
    ratios = [math.exp(one) for one in each["log_ratios"]] if "log_ratios" in each else None
    marks = [
        ("helpfulness", decimals(float(own["helpfulness"]), 2)),
        ("safety", decimals(float(own["safety"]), 2)),
        ("combined", decimals(float(own["score"]), 2)),
        ("whitened", decimals(float(own["whitened"]), 2, "+")),
        ("KL", decimals(sum(kl), 2)),
    ]
    tokens = []
    for i, token in enumerate(each["tokens"][:TOKENS]):
        advantage, ratio = each["advantages"][i], ratios[i] if ratios else None
        numbers = [decimals(each["rewards"][i], 3), decimals(kl[i], 3), decimals(each["values"][i], 2)]
        numbers += [decimals(advantage, 2, "+"), "" if ratio is None else decimals(ratio, 3)]
        tokens.append(Token(_written(token, tokenizer), numbers, _tint(advantage), _clipping(ratio, advantage, found)))
    return {
        "rank": rank,
        "kind": "adversarial" if adversarial else "harmless",
        "prompt": _text(found.each("prompt_tokens")[number].tolist(), tokenizer),
        "marks": marks,
        "gated": bool(own["gated"]),
        "finished": bool(own["finished"]),
        "length": len(each["tokens"]),
        "tokens": tokens,
    }


PER_TOKEN = ("tokens", "logprobs", "reference", "values", "rewards", "advantages", "log_ratios")


def _text(tokens: list[int], tokenizer: Tokenizer | None) -> str:
    """Return tokens as text; their numbers where there is no tokenizer."""
    return tokenizer.decode(tokens).strip() if tokenizer is not None else " ".join(map(str, tokens))


def _written(token: int, tokenizer: Tokenizer | None) -> str:
    """Return a token as it is in a text, with the space before it; a byte of a longer character stays as 0xE2 in angle brackets."""
    piece = tokenizer.piece(token).replace(SPACE, " ") if tokenizer is not None else f" {token}"
    byte = re.fullmatch("<0x([2-7][0-9A-F])>", piece)
    return chr(int(byte[1], 16)) if byte else piece


def _tint(advantage: float) -> str:
    degree = sum(abs(advantage) >= limit for limit in SHADES)
    return f"{'up' if advantage > 0 else 'down'}{degree}" if degree else ""


def _clipping(ratio: float | None, advantage: float, found: Stored) -> str:
    """Tell what clipping did: it takes the gradient where the ratio has gone too far the way that the advantage wants."""
    if ratio is None or abs(ratio - 1) <= found.facts["clip"]:
        return ""
    return "clipped" if (ratio > 1) == (advantage > 0) else "outside"
