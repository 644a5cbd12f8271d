"""Program `rate`: comparisons -> preferences on helpfulness and on safety, by simulated annotators (paper 3.2.1).

Helpfulness is rated on harmless prompts, safety on adversarial ones. As in the paper, a pair whose chosen answer is
unsafe while the other is safe is dropped, and some harmless pairs are mixed into the safety data: without them the
safety model scores harmless answers at random.
"""

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
DROPPED = {"same": "of equal answers", "unsafe_chosen": "of which the unsafe answer was chosen"}


class Panel:
    """The annotators and the gold judge through whose eyes they see."""

    def __init__(self, cfg: RateConfig, judge: Judge) -> None:
        self.cfg, self.judge = cfg, judge
        self.people = hire(cfg.annotators, cfg.noise, cfg.length_bias, cfg.label_noise, cfg.seed)
        self.asked: dict[str, list[list[Opinion]]] = {HELPFULNESS: [], SAFETY: []}
        self.dropped: Counter[str] = Counter()

    def rate(self, row: ComparisonRow, kind: RatedFor) -> RatedRow | None:
        """The preference of the annotator whose turn it is; None where there is none to use."""
        responses = (row["response_a"], row["response_b"])
        if responses[0].strip() == responses[1].strip():
            self.dropped["same"] += 1
            return None
        first, second = (self.judge.judge(row["messages"], r) for r in responses)
        pair = Pair(row["id"], responses, (first, second))
        opinions = [person.opinion(pair, kind, self.cfg.thresholds) for person in self.people]
        turn = digest(f"{self.cfg.seed}/{row['id']}") % len(self.people)
        person, opinion = self.people[turn], opinions[turn]
        chosen, other = opinion.choice, 1 - opinion.choice
        if kind == SAFETY and opinion.safe[other] and not opinion.safe[chosen]:
            self.dropped["unsafe_chosen"] += 1
            return None
        if (kind == SAFETY) == row["is_adversarial"]:
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
    """The prompt's id, or where there is none its text's hash: all pairs of a prompt fall on one side of the split."""
    return str(row.get("prompt_id") or digest(json.dumps(row["messages"])))


def preferences(cfg: RateConfig, panel: Panel, rows: list[ComparisonRow]) -> dict[str, list[RatedRow]]:
    """Preferences by file name."""
    helpfulness = [p for row in rows if not row["is_adversarial"] and (p := panel.rate(row, HELPFULNESS))]
    safety = [p for row in rows if row["is_adversarial"] and (p := panel.rate(row, SAFETY))]
    files: dict[str, list[RatedRow]] = {}
    for kind, rated in ((HELPFULNESS, helpfulness), (SAFETY, safety)):
        files[f"preferences_{kind}"] = [p for p in rated if not held_out(cfg, p)]
        files[f"preferences_{kind}_eval"] = [p for p in rated if held_out(cfg, p)]
    train = files["preferences_safety"]
    wanted = round(len(train) * cfg.harmless_fraction / (1 - cfg.harmless_fraction))
    train += list(_harmless(cfg, panel, rows, wanted))
    train.sort(key=lambda p: digest(f"{cfg.seed}/{p['prompt_id']}/{p['chosen']}"))
    return files


def _harmless(cfg: RateConfig, panel: Panel, rows: list[ComparisonRow], wanted: int) -> Iterator[RatedRow]:
    """Pairs on harmless prompts, rated for safety: both are safe as a rule, and the more helpful one is chosen."""
    order = sorted(
        (row for row in rows if not row["is_adversarial"]), key=lambda row: digest(f"{cfg.seed}/{row['id']}")
    )
    for row in order:
        if wanted <= 0:
            return
        preference = None if held_out(cfg, row) else panel.rate(row, SAFETY)
        if preference:
            wanted -= 1
            yield preference


def held_out(cfg: RateConfig, row: ComparisonRow | RatedRow) -> bool:
    """Whether this prompt's pairs are kept for evaluation."""
    return digest(f"{cfg.seed}/held out/{_prompt(row)}") % 10_000 < cfg.eval_fraction * 10_000


def rate(cfg: RateConfig) -> None:
    """Rates all comparisons and writes the four files."""
    with Run(cfg.run, "rate", cfg, dashboard=False, inputs=fingerprints(cfg)) as run:
        judge = judge_of(World.load(cfg.world).seed)
        bad = BadRows(cfg.bad_rows)
        rows = [row for source in cfg.comparisons for row in judge.rows(source, ComparisonRow, bad)]
        bad.say(run.print)
        panel = Panel(cfg, judge)
        files = preferences(cfg, panel, rows)
        metrics: dict[str, float] = {f"rate/dropped_{why}": float(n) for why, n in panel.dropped.items()}
        for name, rated in files.items():
            write_rows(Path(run.folder) / f"{name}.jsonl", rated)
            metrics[f"rate/{name}"] = float(len(rated))
        for kind in (HELPFULNESS, SAFETY):
            metrics[f"rate/agreement_{kind}"] = agreement(panel.asked[kind])
            rated = [p for p in files[f"preferences_{kind}"] if p["meta"]["is_adversarial"] == (kind == SAFETY)]
            counts = Counter(p["rating"] for p in rated)
            metrics |= {f"rate/{kind}_{name}": counts[name] / max(1, len(rated)) for name in RATINGS}
        metrics |= {f"rate/safety_{name}": share for name, share in label_bins(rated).items()}
        run.log(0, metrics)
        run.print(in_words(metrics))


def in_words(metrics: dict[str, float]) -> str:
    """The metrics for the terminal: how many preferences of each kind, how the ratings fall, what was left out."""

    def shares(kind: str, names: Iterable[str]) -> str:
        return ", ".join(f"{metrics[f'rate/{kind}_{name}']:.0%} {name.replace('_', ' ')}" for name in names)

    lines = []
    for kind in (HELPFULNESS, SAFETY):
        count, held = metrics[f"rate/preferences_{kind}"], metrics[f"rate/preferences_{kind}_eval"]
        agree = f"annotators agree on {metrics[f'rate/agreement_{kind}']:.0%}"
        lines += [f"{kind}: {count:,.0f} preferences and {held:,.0f} held out; {agree}", f"  {shares(kind, RATINGS)}"]
    lines.append(f"  {shares(SAFETY, BINS)}")
    dropped = {why: metrics.get(f"rate/dropped_{key}", 0.0) for key, why in DROPPED.items()}
    lines.append("left out: " + ", ".join(f"{count:,.0f} pairs {why}" for why, count in dropped.items()))
    return "\n".join(lines)


def label_bins(rated: list[RatedRow]) -> dict[str, float]:
    """Shares of the paper's three bins (section 3.2.1: 18, 47 and 35 %)."""
    bins = Counter(
        "both_safe" if p["rejected_safe"] else "chosen_safe_only" if p["chosen_safe"] else "both_unsafe" for p in rated
    )
    return {name: bins[name] / max(1, len(rated)) for name in BINS}


if __name__ == "__main__":
    main("rate", RateConfig, rate)
