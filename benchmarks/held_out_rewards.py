"""A pipeline with folds: do reward models that nothing learned from find rejection sampling and PPO better, too? (paper 3.4.1)

    python benchmarks/held_out_rewards.py runs/fairytales --root runs/held_out

Each fine-tuned model's answers to held-out prompts are sampled again, which gives the same ones, and scored by the reward models of
every fold: rejection sampling and PPO learn from those of fold 0. A line with means, differences to SFT on the same prompts,
lengths and finished shares goes to results/held_out_rewards.jsonl, and with it the perplexity of the answers, as plain text, under the
base model.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from recorded import ROOT, add, ends, start

sys.path.insert(0, str(ROOT))

import torch
import yaml

from evaluation.measures import measure
from llamatrain.data.kinds import ResponseRow
from llamatrain.data.rows import read_rows
from llamatrain.hf_folder import load_tokenizer
from llamatrain.responses.models import load_inference
from llamatrain.statistics import by_prompt, mean_interval, paired_interval
from rlhf.losses import token_logprobs

KINDS = ("helpfulness", "safety")
METRICS = ("score_helpfulness", "score_safety", "score_combined")


def main() -> int:
    """Measure, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a finished pipeline with folds")
    parser.add_argument("--root", type=Path, required=True, help="folder of the runs")
    options = parser.parse_args()
    folder, root = options.folder.resolve(), options.root.resolve()
    described = json.loads((folder / "pipeline.json").read_text())
    folds = sum(name.startswith("v1_reward_safety_") for name in described["stages"])
    models = {"sft": "sft", "rs_v1": "v1_rejection_sampling", "ppo": "ppo"}
    found: dict[str, dict[str, Any]] = {name: {} for name in models}
    for fold in range(folds):
        scored = {
            name: scored_by(folder, root, described["preset"], name, stage, fold) for name, stage in models.items()
        }
        for name, own in scored.items():
            found[name][f"fold {fold}"] = {
                metric: {
                    "mean": ends(mean_interval(list(by_prompt(own.at(metric)).values()))),
                    "over sft": ends(paired_interval(own.at(metric), scored["sft"].at(metric))),
                }
                for metric in METRICS
            }
            found[name] |= {key: fmean(by_prompt(own.at(key)).values()) for key in ("length", "finished")}
    for name in models:
        found[name] |= english(folder / "pretrain" / "final", root / f"{name}_0" / "responses.jsonl")
    add("held_out_rewards", {"preset": described["preset"], "models": found})
    show(found)
    return 0


def scored_by(folder: Path, root: Path, preset: str, name: str, stage: str, fold: int) -> Any:
    """Return a model's answers to held-out prompts with the scores of a fold's reward models."""
    config = yaml.safe_load((folder / f"sample_{name}" / "config.yaml").read_text())
    rewards = (f"{kind}={folder}/v1_reward_{kind}_{fold}/final" for kind in KINDS)
    start("sample", f"preset={preset}", f"run.dir={root}", f"run.name={name}_{fold}", f"checkpoint={folder}/{stage}/final",
          f"prompts={json.dumps(config['prompts'])}", *rewards)  # fmt: skip
    return measure(str(root / f"{name}_{fold}"), None)


def english(base: Path, responses: Path) -> dict[str, Any]:
    """Return the perplexity of answers per token, under a base model that reads them as plain text; empty ones are counted."""
    model, tokenizer = load_inference(base, torch.device("cpu"), "float32", scalar=False), load_tokenizer(base)
    loss, tokens, empty = 0.0, 0, 0
    for row in read_rows(responses, ResponseRow):
        text = row["response"].strip()
        ids = torch.tensor(tokenizer.encode(text, bos=True))
        empty += not text
        if text:
            with torch.no_grad():
                logits = model(input_ids=ids[None, :-1])[0].float()
            loss, tokens = loss - float(token_logprobs(logits, ids[1:], 1.0).sum()), tokens + len(ids) - 1
    return {"perplexity": round(math.exp(loss / tokens), 1), "empty": empty}


def show(found: dict[str, dict[str, Any]]) -> None:
    """Print a table."""
    folds = [key for key in found["sft"] if key.startswith("fold")]
    print(
        "| model | " + " | ".join(f"{fold}, over sft" for fold in folds) + " | finished | words | empty | perplexity |"
    )
    print("|---" * (len(folds) + 5) + "|")
    for name, own in found.items():
        cells = ["{:+.3f} ({:+.3f} to {:+.3f})".format(*own[fold]["score_combined"]["over sft"]) for fold in folds]
        cells += [f"{own['finished']:.3f}", f"{own['length']:.1f}", str(own["empty"]), f"{own['perplexity']:.1f}"]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    sys.exit(main())
