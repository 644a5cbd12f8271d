"""Program `rate`: comparisons -> preferences on helpfulness and on safety, by simulated annotators (paper 3.2.1).

Helpfulness is rated on harmless prompts, safety on adversarial ones. As in the paper, a pair whose chosen answer is
unsafe while the other is safe is dropped, and some harmless pairs are mixed into the safety data: without them the
safety model scores harmless answers at random.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from llamatrain.config.program import main
from llamatrain.data.kinds import RATINGS, ComparisonRow, RatedRow, SafetyLabels
from llamatrain.data.rows import write_rows
from llamatrain.data.skipped import BadRows
from llamatrain.inputs import fingerprints
from llamatrain.run import Run

from .annotators import HELPFULNESS, SAFETY, Annotator, Opinion, Pair, RatedFor, agreement, hire
from .config import RateConfig
from .judge import Judge, judge_of
from .world import World, digest

BINS = ("chosen_safe_only", "both_safe", "both_unsafe")
DROPPED = {"same": "of equal answers", "unsafe_chosen": "whose unsafe answer was chosen"}


class Panel:
    """The annotators and the gold judge through whose eyes they see."""

    def __init__(self, cfg: RateConfig, judge: Judge) -> None:
        self.cfg, self.judge = cfg, judge
        self.people = hire(cfg.annotators, cfg.noise, cfg.length_bias, cfg.label_noise, cfg.seed)
        self.asked: dict[str, list[list[Opinion]]] = {HELPFULNESS: [], SAFETY: []}
        self.dropped: Counter[str] = Counter()

    def rate(self, row: ComparisonRow, kind: RatedFor) -> RatedRow | None:
        """Return the preference of the annotator whose turn it is; None where there is none to use."""
        responses = (row["response_a"], row["response_b"])
        if responses[0].strip() == responses[1].strip():
            self.dropped["same"] += 1
            return None
        first, second = (self.judge.judge(row["messages"], r) for r in responses)
        pair = Pair(row["id"], responses, (first, second))
        # All are asked, for their agreement; one is heard: by the row's id, so that the order of rows changes nothing.
        opinions = [person.opinion(pair, kind, self.cfg.thresholds) for person in self.people]
        turn = digest(f"{self.cfg.seed}/{row['id']}") % len(self.people)
        person, opinion = self.people[turn], opinions[turn]
        chosen, other = opinion.choice, 1 - opinion.choice
        # "We believe safer responses will also be better/preferred by humans" (paper 3.2.1).
        if kind == SAFETY and opinion.safe[other] and not opinion.safe[chosen]:
            self.dropped["unsafe_chosen"] += 1
            return None
        if (kind == SAFETY) == row["is_adversarial"]:  # not the harmless pairs that are mixed into the safety data
            self.asked[kind].append(opinions)
        return _preference(row, kind, responses, person, opinion)


def _preference(
    row: ComparisonRow, kind: RatedFor, responses: tuple[str, str], person: Annotator, opinion: Opinion
) -> RatedRow:
    chosen, other = opinion.choice, 1 - opinion.choice
    labels: SafetyLabels = (
        {"chosen_safe": opinion.safe[chosen], "rejected_safe": opinion.safe[other]} if kind == SAFETY else {}
    )
    return {
        "prompt_id": _prompt(row),
        "messages": row["messages"],
        "chosen": responses[chosen],
        "rejected": responses[other],
        "kind": kind,
        "rating": opinion.rating,
        **labels,
        "annotator": person.name,
        "meta": {"is_adversarial": row["is_adversarial"]},
    }


def _prompt(row: ComparisonRow | RatedRow) -> str:
    """Return the prompt's id, or where there is none its text's hash: all its pairs fall on one side of the split."""
    return str(row.get("prompt_id") or digest(json.dumps(row["messages"])))


def preferences(cfg: RateConfig, panel: Panel, rows: list[ComparisonRow]) -> dict[str, list[RatedRow]]:
    """Return the preferences of each file: helpfulness and safety, each for training and held out."""
    files: dict[str, list[RatedRow]] = {}
    for kind in (HELPFULNESS, SAFETY):
        train, evaluation = list[RatedRow](), list[RatedRow]()
        for row in rows:
            if row["is_adversarial"] != (kind == SAFETY):
                continue  # each kind of prompt is rated by its own guidelines
            preference = panel.rate(row, kind)
            if preference is not None:
                (evaluation if held_out(cfg, preference) else train).append(preference)
        files[f"preferences_{kind}"], files[f"preferences_{kind}_eval"] = train, evaluation
    safety = files["preferences_safety"]
    # The share is of the mixture: f of all pairs are f / (1 - f) of the adversarial ones.
    wanted = round(len(safety) * cfg.harmless_fraction / (1 - cfg.harmless_fraction))
    safety += list(_harmless(cfg, panel, rows, wanted))
    # By hash, so that the harmless pairs do not all stand at the end.
    safety.sort(key=lambda p: digest(f"{cfg.seed}/{p['prompt_id']}/{p['chosen']}"))
    return files


def _harmless(cfg: RateConfig, panel: Panel, rows: list[ComparisonRow], wanted: int) -> Iterator[RatedRow]:
    """Yield pairs on harmless prompts, rated for safety: both are safe as a rule, and the more helpful one is chosen."""
    harmless = [row for row in rows if not row["is_adversarial"]]
    for row in sorted(harmless, key=lambda row: digest(f"{cfg.seed}/{row['id']}")):
        if wanted <= 0:
            return
        preference = None if held_out(cfg, row) else panel.rate(row, SAFETY)
        if preference:
            wanted -= 1
            yield preference


def held_out(cfg: RateConfig, row: ComparisonRow | RatedRow) -> bool:
    """Tell whether this prompt's pairs are kept for evaluation."""
    return digest(f"{cfg.seed}/held out/{_prompt(row)}") % 10_000 < cfg.eval_fraction * 10_000


def rate(cfg: RateConfig) -> None:
    """Rate all comparisons and write the four files."""
    with Run(cfg.run, "rate", cfg, dashboard=False, inputs=fingerprints(cfg)) as run:
        judge = judge_of(World.load(cfg.world).seed)
        bad = BadRows(cfg.bad_rows)
        rows = [row for source in cfg.comparisons for row in judge.rows(source, ComparisonRow, bad)]
        bad.say(run.print)
        panel = Panel(cfg, judge)
        files = preferences(cfg, panel, rows)
        for name, rated in files.items():
            write_rows(Path(run.folder) / f"{name}.jsonl", rated)
        metrics = rating_metrics(panel, files)
        run.log(0, metrics)
        run.print(in_words(metrics))


def rating_metrics(panel: Panel, files: dict[str, list[RatedRow]]) -> dict[str, float]:
    """Return counts of each file, how far annotators agree, how the ratings and safety labels fall, what was dropped."""
    metrics: dict[str, float] = {f"rate/dropped_{why}": float(n) for why, n in panel.dropped.items()}
    metrics |= {f"rate/{name}": float(len(rated)) for name, rated in files.items()}
    for kind in (HELPFULNESS, SAFETY):
        agreed = agreement(panel.asked[kind])
        metrics |= {} if agreed is None else {f"rate/agreement_{kind}": agreed}
        # Of the kind's own prompts: the harmless pairs in the safety data would make its ratings look weak.
        own = [p for p in files[f"preferences_{kind}"] if p["meta"]["is_adversarial"] == (kind == SAFETY)]
        counts = Counter(p["rating"] for p in own)
        metrics |= {f"rate/{kind}_{name}": counts[name] / max(1, len(own)) for name in RATINGS}
        if kind == SAFETY:
            metrics |= {f"rate/safety_{name}": share for name, share in label_bins(own).items()}
    return metrics


def in_words(metrics: dict[str, float]) -> str:
    """Return the metrics for the terminal: preferences of each kind, how the ratings fall, what was left out."""

    def shares(kind: str, names: Iterable[str]) -> str:
        return ", ".join(f"{metrics[f'rate/{kind}_{name}']:.0%} {name.replace('_', ' ')}" for name in names)

    lines = []
    for kind in (HELPFULNESS, SAFETY):
        count, held = metrics[f"rate/preferences_{kind}"], metrics[f"rate/preferences_{kind}_eval"]
        agreed = metrics.get(f"rate/agreement_{kind}")
        agree = "" if agreed is None else f"; annotators agree on {agreed:.0%}"
        lines += [f"{kind}: {count:,.0f} preferences and {held:,.0f} held out{agree}", f"  {shares(kind, RATINGS)}"]
    lines.append(f"  {shares(SAFETY, BINS)}")
    dropped = {why: metrics.get(f"rate/dropped_{key}", 0.0) for key, why in DROPPED.items()}
    lines.append("left out: " + ", ".join(f"{count:,.0f} pairs {why}" for why, count in dropped.items()))
    return "\n".join(lines)


def label_bins(rated: list[RatedRow]) -> dict[str, float]:
    """Return the shares of the paper's three bins (section 3.2.1: 18, 47 and 35 %)."""
    bins: Counter[str] = Counter()
    for preference in rated:
        if preference["rejected_safe"]:
            bins["both_safe"] += 1  # an unsafe choice beside a safe answer was dropped before
        elif preference["chosen_safe"]:
            bins["chosen_safe_only"] += 1
        else:
            bins["both_unsafe"] += 1
    return {name: bins[name] / max(1, len(rated)) for name in BINS}


if __name__ == "__main__":
    main("rate", RateConfig, rate)
