"""What measures the models of the graph: samples, judgements, recall of instructions, and their comparison (paper 3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..graph import Graph, Stage
from .attention import recall

if TYPE_CHECKING:
    from .chat import Data

Rows = dict[str, dict[str, str | None]]  # model -> what `evaluate` reads of it
Rewards = Mapping[str, Sequence[Stage]]  # kind -> a reward model per fold


def finals(rewards: Rewards, unused: bool = False) -> dict[str, str]:
    """Return kind -> checkpoint of the reward model of fold 0, which models learn from.

    Those that are `unused` are of fold 1, where there is one: what they score higher is not their own fault.
    """
    return {kind: models[min(int(unused), len(models) - 1)].final for kind, models in rewards.items()}


def measure(
    g: Graph,
    data: Data,
    world: Stage | None,
    models: Mapping[str, str],
    rewards: Rewards,
    corpus: Stage | None,
) -> None:
    """Sample every model on held-out prompts, judge where there is a world, compare; on borderline prompts by themselves."""
    if data.prompts_borderline:  # before the others: of several evaluations the last one is the report's
        g.add(
            "evaluate",
            "evaluate_borderline",
            models=answered(g, "borderline_", data.prompts_borderline, world, models, rewards),
        )
    recalled = recall(g, data, world, models)
    rows: Rows = {name: {"checkpoint": model, **recalled.get(name, {})} for name, model in models.items()}
    if data.prompts_eval:
        for name, own in answered(g, "", data.prompts_eval, world, models, rewards).items():
            rows[name] |= own
    else:
        g.leave_out("the models' answers to held-out prompts", "data.prompts_eval")
    text = corpus if data.documents_eval else None
    if text is None:
        lack = "data.documents_eval" if corpus else "data.documents, data.documents_eval"
        g.leave_out("the models' perplexity", lack)
    if text is not None or data.prompts_eval:
        # Of several rounds the course is told by one baseline: win rates against SFT (paper figure 11).
        baseline = "sft" if "rs_v2" in models else None
        g.add("evaluate", models=rows, corpus=text, baseline=baseline)


def benchmark(g: Graph, suite: str, models: Mapping[str, str]) -> None:
    """Measure every model on a suite of academic benchmarks (paper 2.3, A.2.2): nothing waits for it."""
    for name, model in models.items():
        g.add("benchmark", f"benchmark_{name}", checkpoint=model, suite=suite)


def safety_benchmark(g: Graph, root: str, models: Mapping[str, str]) -> None:
    """Measure every model on the safety benchmarks whose sets lie in a folder (paper 4.1, A.4.7): nothing waits for it."""
    for name, model in models.items():
        g.add("safety_benchmark", f"safety_benchmark_{name}", checkpoint=model, root=root)


def answered(
    g: Graph,
    which: str,
    prompts: list[str],
    world: Stage | None,
    models: Mapping[str, str],
    rewards: Rewards,
) -> Rows:
    """Have every model answer prompts, and its answers judged where there is a world; `which` they are names the stages."""
    rows: Rows = {}
    for name, model in models.items():
        sample = g.add(
            "sample", f"sample_{which}{name}", checkpoint=model, prompts=prompts, **finals(rewards, unused=True)
        )
        rows[name] = {"checkpoint": model, "responses": sample / "responses.jsonl", "judgements": None}
    for name in rows if world is not None else ():
        judge = g.add("judge", f"judge_{which}{name}", world=world, responses=rows[name]["responses"])
        rows[name]["judgements"] = judge / "judgements.jsonl"
    return rows


def judge_what_was_learned_from(g: Graph, world: Stage, sampled: list[Stage], ppo: bool) -> None:
    """Judge, for the report alone, what rejection sampling chose from and what PPO sampled."""
    for n, stage in enumerate(sampled, 1):
        with g.round(n):
            g.add("judge", "judge_rs_candidates", world=world, responses=stage / "responses.jsonl")
    if ppo:
        g.add("judge", "judge_ppo_rollouts", world=world, responses="@ppo/samples.jsonl")
