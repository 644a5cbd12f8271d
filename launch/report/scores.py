"""The report's view of reward-model scores: as logits, among tuned models only, and held against the gold judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby
from statistics import fmean

from ..runs import Row, decimals, is_number
from ..story import Story, gold, is_adversarial, logit
from . import figures
from .elements import card, legend
from .figures import Line

KINDS = {False: ("harmless prompts", 1), True: ("adversarial prompts", 5)}  # is it adversarial -> its name and colour
WIDTH, HEIGHT = 460, 230


def scores(story: Story) -> str:
    """Best of K, the distributions of scores, and what the judge makes of what scored well."""
    against = _against_judge(story)
    cards = _distributions(story)
    best = _best_of(story)
    if not (against or cards or best):
        return ""
    lead = (
        '<p class="lead">The scores that tuning works for, as the logits that it works with. They compare only fine-tuned '
        "models: the reward models never saw what a pretrained one writes.</p>"
    )
    judged = (
        '<p class="lead">Whether a high score is a good answer: each dot is a response to a harmless prompt, the line the mean '
        "mark of a tenth of them. Where it is flat or falls, tuning raises the score and not the quality: reward hacking. ρ is "
        "Spearman's rank correlation.</p>"
    )
    parts = [
        f'<div class="cards">{"".join(cards)}</div>' if cards else "",
        f'{judged}<div class="cards small">{"".join(against)}</div>' if against else "",
        f'<div class="cards">{"".join(best)}</div>' if best else "",
    ]
    return lead + "".join(parts)


def _distributions(story: Story) -> list[str]:
    cards = []
    for key, title, adversarial in (
        ("helpfulness", "Helpfulness score", False),
        ("safety_score", "Safety score", True),
    ):
        scored = story.scored(key, adversarial)
        if scored:
            rows = [(model, [logit(row[key]) for row in rows], story.colours[model]) for model, rows in scored.items()]
            both = any(len(rows) < len(story.responses[model]) for model, rows in scored.items())
            note = f"on {KINDS[adversarial][0]}" if both else ""
            cards.append(
                card(title, figures.ridges(rows, "score (logit)", f"distribution of the {title.lower()}"), note)
            )
    return cards


def _against_judge(story: Story) -> list[str]:
    """The helpfulness score against the judge's mark, on harmless prompts, a figure a model."""
    scored = {
        model: [(logit(row["helpfulness"]), value) for row in rows if (value := gold(row)) is not None]
        for model, rows in story.scored("helpfulness", adversarial=False).items()
    }
    scored = {model: pairs for model, pairs in scored.items() if len(pairs) >= 10}
    if not scored:
        return []
    every = [score for pairs in scored.values() for score, _ in pairs]
    bounds = (min(every), max(every))
    models = ((story.evaluation.get("by_kind") or {}).get("harmless") or {}).get("models") or {}
    cards = []
    for model, pairs in scored.items():
        ordered = sorted(pairs)
        tenths = [ordered[len(ordered) * i // 10 : len(ordered) * (i + 1) // 10] for i in range(10)]
        line = [(fmean(x for x, _ in part), fmean(y for _, y in part)) for part in tenths]
        dots = ordered[:: math.ceil(len(ordered) / 400)]
        about = f"helpfulness score of {model} against the gold judge's mark"
        drawn = figures.scatter(dots, line, "score (logit)", "gold mark", about, story.colours[model], bounds)
        found = (models.get(model) or {}).get("spearman_helpfulness") or {}
        rho = f"ρ {decimals(found['mean'], 2)}" if is_number(found.get("mean")) else ""
        if is_number(found.get("low")) and is_number(found.get("high")):
            rho += f" ({decimals(found['low'], 2)} to {decimals(found['high'], 2)})"
        cards.append(card(escape(model), drawn, rho))
    return cards


def _best_of(story: Story) -> list[str]:
    """What keeping the best of K by the combined score brings: in that score, and by the judge."""
    cards = []
    for stage in story.of("rejection_sampling"):
        rows = [row for row in story.judged(stage, "responses.jsonl") if is_number(row.get("combined"))]
        groups = [list(group) for _, group in groupby(rows, key=lambda row: row.get("prompt_id"))]
        most = max(map(len, groups), default=0)
        groups = [group for group in groups if len(group) == most]
        if most < 2:
            continue
        sizes = [*(2**i for i in range(most.bit_length()) if 2**i < most), most]
        kinds = {kind: [g for g in groups if is_adversarial(g[0]) == kind] for kind in KINDS}
        for title, y_label, value in (
            ("Best of K: score", "combined score (logit)", _score),
            ("Best of K: gold judge", "mark of the one kept", gold),
        ):
            lines = []
            for kind, own in kinds.items():
                name, colour = KINDS[kind]
                values = [found for group in own if (found := _by_score(group, value)) is not None]
                if values:
                    points = [(float(k), fmean(expected_best(group, k) for group in values)) for k in sizes]
                    lines.append(Line(name, points, colour))
            if lines:
                about = f"{title} of {stage.name}"
                drawn = figures.line_chart(lines, "K samples per prompt", y_label, about, WIDTH, HEIGHT)
                cards.append(
                    card(title, drawn + legend((line.name, line.colour) for line in lines), escape(stage.name))
                )
    return cards


def _by_score(group: Sequence[Row], value: Callable[[Row], float | None]) -> list[float] | None:
    """Return the values of a prompt's responses, the worst by the rule that keeps the best first; None where one has none."""
    ordered = sorted(group, key=lambda row: (bool(row.get("finished") and row.get("response")), row["combined"]))
    found = [number for row in ordered if (number := value(row)) is not None]
    return found if len(found) == len(ordered) else None


def _score(row: Row) -> float | None:
    return logit(row["combined"]) if is_number(row.get("combined")) else None


def expected_best(ordered: Sequence[float], k: int) -> float:
    """Return the mean value of the last of k, over all choices of k among the values in their order."""
    total = math.comb(len(ordered), k)
    return sum(math.comb(i, k - 1) / total * value for i, value in enumerate(ordered))


def over_learning(story: Story) -> list[str]:
    """PPO's score and the gold judge's mark of the same rollouts, against the distance from the start."""
    cards = []
    for stage in story.of("ppo"):
        rows = [
            row
            for row in story.judged(stage, "samples.jsonl")
            if is_number(row.get("kl")) and is_number(row.get("step"))
        ]
        steps = sorted({row["step"] for row in rows})
        for title, y_label, value in (
            ("Score against KL", "combined score (logit)", _score),
            ("Gold judge against KL", "mark", gold),
        ):
            lines = []
            for kind, (name, colour) in KINDS.items():
                parts = [[row for row in rows if row["step"] == step and is_adversarial(row) == kind] for step in steps]
                marked = [[(row["kl"], mark) for row in part if (mark := value(row)) is not None] for part in parts]
                points = [(fmean(kl for kl, _ in part), fmean(mark for _, mark in part)) for part in marked if part]
                if len(points) > 1:
                    lines.append(Line(name, sorted(points), colour, "dots"))
            if lines:
                about = f"{title}, {stage.name}"
                drawn = figures.line_chart(lines, "KL from the start, nats per response", y_label, about, WIDTH, HEIGHT)
                keys = legend((line.name, line.colour) for line in lines)
                cards.append(card(title, drawn + keys, "rollouts of a batch, over the run"))
    return cards
