"""The report's first section: every model's measures with their intervals, and the paired differences."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape
from typing import Any

from ..runs import Row, decimals, figure, is_number, read_json
from ..story import StageRun, Story
from . import figures
from .elements import card, spread, table
from .figures import Interval

METRICS = {
    "helpfulness": "Helpfulness",
    "safety": "Safety",
    "score_helpfulness": "Helpfulness score",
    "score_safety": "Safety score",
    "score_combined": "Combined score",
    "perplexity": "Perplexity",
    "bits_per_byte": "Bits per byte",
    "loss": "Loss",
    "spearman_helpfulness": "Score and judge (Spearman)",
    "spearman_safety": "Score and judge (Spearman)",
    "refused": "Over-refusals",
    "gated": "Scored unsafe",
    "finished": "Finished",
    "length": "Words a response",
}
BY = {  # who gives the marks, the one that counts first
    "by the gold judge": ("helpfulness", "safety"),
    "by the reward models": ("score_helpfulness", "score_safety", "score_combined"),
}


# Kind of prompt -> what is told of it there.
AT = {
    "harmless": ("helpfulness", "score_helpfulness", "spearman_helpfulness", "refused", "gated", "finished"),
    "unsafe": ("safety", "helpfulness", "score_safety", "spearman_safety", "gated", "finished"),
}
GOLD = " (gold judge)"


def digits_of(metric: str) -> int:
    """Return the decimals a metric is told with: logits two, words one, shares and marks three."""
    return 2 if metric in BY["by the reward models"] else 1 if metric == "length" else 3


def title_of(metric: str) -> str:
    """Return a metric's name for people."""
    return METRICS.get(metric, metric.replace("_", " ").capitalize())


def by_of(metric: str) -> str:
    """Return who gives a metric's marks, empty where nobody does."""
    return next((by for by, metrics in BY.items() if metric in metrics), "")


def accuracy_stages(story: Story) -> list[StageRun]:
    """Return the stages that measured reward models, without those that another one pools."""
    stages = story.of("reward.evaluate")
    pooled = {name for stage in stages for name in stage.reads("pool")}
    return [stage for stage in stages if stage.name not in pooled]


def reward_name(stage: StageRun) -> str:
    """Return the name of the reward model that a stage measured."""
    return next(iter(stage.reads("checkpoint")), stage.name)


def results(story: Story) -> str:
    """Every model's measures with 95 % intervals, and the paired differences."""
    models: dict[str, Row] = story.evaluation.get("models") or {}
    if not models:
        return ""
    with_interval = _metrics(models, lambda value: isinstance(value, dict) and is_number(value.get("mean")))
    kinds = _by_kind(story)
    told = set(itertools.chain(*AT.values())) if kinds else set[str]()
    plain = [metric for metric in _metrics(models, is_number) if metric not in told]
    prompts, each = story.evaluation.get("prompts"), story.evaluation.get("samples_per_prompt")
    basis = f" {prompts:,} held-out prompts" if is_number(prompts) else " held-out prompts"
    basis += f", {each:,} sampled responses each" if is_number(each) and each > 1 else ""
    lead = f'<p class="lead">Measured on{basis}. Ranges are 95 % confidence intervals.{_about(with_interval)}</p>'
    charts = [_metric_card(story, models, metric) for metric in with_interval[:2]]
    means = "".join(
        card("Means", _models_table(story, models, list(metrics)), by)
        for by, metrics in itertools.groupby(with_interval, key=by_of)
    )
    return (
        lead
        + _tiles(story, models)
        + f'<div class="cards">{"".join(charts)}</div>'
        + (kinds or means)
        + (card("Also measured", _models_table(story, models, plain), "over all prompts") if plain else "")
        + _differences(story)
    )


def _about(metrics: Sequence[str]) -> str:
    """Say who gives which marks, and what the reward models' are worth."""
    about = {
        "by the gold judge": " <b>The gold judge</b> knows the truth of the toy world; its marks count, and train nothing.",
        "by the reward models": " <b>The reward models'</b> scores are logits, and the training signal's own view: what "
        "tuning raised, whether or not it is better. They saw only what fine-tuned models answer, so a pretrained model is "
        "not scored.",
    }
    return "".join(about.get(by, "") for by in dict.fromkeys(map(by_of, metrics)))


def _models_table(story: Story, models: dict[str, Row], metrics: Sequence[str], titles: Sequence[str] = ()) -> str:
    """Return a row a model and a column a metric, with the interval where there is one."""
    rows = []
    for model, measured in models.items():
        cells = [f'<i class="key c{story.colours.get(model, 0)}"></i><b>{escape(model)}</b>']
        for metric in metrics:
            value = measured.get(metric)
            if isinstance(value, dict):
                digits = digits_of(metric.partition(" ")[0])
                mean = f"<b>{decimals(value['mean'], digits)}</b>"
                cells.append(f"{mean} {spread(value.get('low'), value.get('high'), digits)}")
            else:
                cells.append(decimals(value, digits_of(metric)) if is_number(value) else "–")
        rows.append(cells)
    return table(["Model", *(titles or [escape(title_of(metric)) for metric in metrics])], rows)


def _by_kind(story: Story) -> str:
    """What counts on harmless and on adversarial prompts, a table each."""
    kinds = story.evaluation.get("by_kind") or {}
    if len(kinds) < 2:
        return ""
    cards = []
    for kind, part in kinds.items():
        models = part.get("models") or {}
        metrics = [metric for metric in AT.get(kind, ()) if any(metric in measured for measured in models.values())]
        titles = [
            escape(f"{title_of(metric)}{GOLD if metric in BY['by the gold judge'] else ''}") for metric in metrics
        ]
        shown = "adversarial" if kind == "unsafe" else kind
        count = part.get("prompts")
        note = f"{count:,} prompts" if is_number(count) else ""
        cards.append(card(f"On {escape(shown)} prompts", _models_table(story, models, metrics, titles), note))
    return "".join(cards)


def _metrics(models: dict[str, Row], wanted: Any) -> list[str]:
    found = dict.fromkeys(key for measured in models.values() for key, value in measured.items() if wanted(value))
    return sorted(found, key=lambda key: list(METRICS).index(key) if key in METRICS else len(METRICS))


def _metric_card(story: Story, models: dict[str, Row], metric: str) -> str:
    values = {model: measured[metric] for model, measured in models.items() if isinstance(measured.get(metric), dict)}
    # An interval of marks or shares that reaches beyond 0 or 1 means nothing there.
    share = metric not in BY["by the reward models"] and all(0 <= value["mean"] <= 1 for value in values.values())
    rows = []
    for model, value in values.items():
        mean, low, high = value["mean"], value.get("low"), value.get("high")
        if share and is_number(low) and is_number(high):
            low, high = max(0.0, low), min(1.0, high)
        rows.append(Interval(model, mean, low, high, story.colours[model], decimals(mean, digits_of(metric))))
    bounds = (0.0, 1.0) if share else None
    drawn = figures.intervals(rows, f"{title_of(metric)} of every model", bounds=bounds)
    unit = ", as a logit" if metric in BY["by the reward models"] else ""
    return card(escape(title_of(metric)), drawn, f"{by_of(metric)}{unit}")


def _tiles(story: Story, models: dict[str, Row]) -> str:
    """The last model's main measures, large, and how they changed since the first."""
    tiles: list[tuple[str, str, str]] = []
    first, last = next(iter(models)), list(models)[-1]
    for metric in ("helpfulness", "safety", "score_helpfulness", "score_safety"):
        value, before = models[last].get(metric), models[first].get(metric)
        if not isinstance(value, dict) or len(tiles) == 2:
            continue
        change = f"; {figure(before['mean'])} for {escape(first)}" if isinstance(before, dict) and first != last else ""
        tiles.append((f"{title_of(metric)} of {escape(last)}", figure(value["mean"]), f"{by_of(metric)}{change}"))
    for stage in accuracy_stages(story):
        overall = read_json(stage.folder / "accuracy.json").get("overall", {})
        if is_number(overall.get("accuracy")):
            low, high = spread(overall.get("low"), overall.get("high")), f"{overall.get('pairs', 0):,} pairs"
            tiles.append((f"Accuracy, {escape(reward_name(stage))}", decimals(overall["accuracy"], 3), low or high))
    tiles = tiles[:4]
    shown = (
        f'<div class="tile"><div class="what">{what}</div><div class="number">{number}</div><div class="change">{change}</div></div>'
        for what, number, change in tiles
    )
    return f'<div class="tiles">{"".join(shown)}</div>'


def _differences(story: Story) -> str:
    """The paired differences between models, on the same prompts: the gold judge's, and apart from them the rest."""
    tables = dict[str, list[list[str]]]()
    for entry in story.evaluation.get("comparisons") or []:
        difference, low, high = (entry.get(key) for key in ("difference", "low", "high"))
        if not is_number(difference):
            continue
        sure = is_number(low) and is_number(high) and not low <= 0 <= high
        kind = ("better" if difference > 0 else "worse") if sure else ""
        pair = f"{entry.get('model')} − {entry.get('baseline')}"
        metric = str(entry.get("metric"))
        digits = digits_of(metric)
        rate, span = entry.get("win_rate"), spread(entry.get("win_low"), entry.get("win_high"), 2)
        wins = f"{decimals(rate, 2)} {span}" if is_number(rate) else "–"
        value = f'<b class="{kind}">{decimals(difference, digits, "+")}</b> {spread(low, high, digits)}'
        tables.setdefault(by_of(metric), []).append([escape(pair), escape(title_of(metric)), value, wins])
    text = "the same prompts under both models; coloured where the interval leaves out zero"
    head = ["Models", "Measure", "Difference", "Win rate"]
    ordered = sorted(tables.items(), key=lambda item: list(BY).index(item[0]) if item[0] in BY else len(BY))
    shown = [
        card("Paired differences", table(head, rows, numbers=2), f"{by}; {text}" if by else text)
        for by, rows in ordered
    ]
    rest = "".join(shown[1:])
    more = f'<details class="card"><summary>Paired differences in the reward models\' scores</summary>{rest}</details>'
    return "".join(shown[:1]) + (more if rest else "")
