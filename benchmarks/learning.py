"""Does the speed cost learning? Our training against a plain loop around transformers' model: same start, same batches.

    python benchmarks/learning.py --corpus runs/demo/corpus --tokenizer runs/demo/tokenizer --steps 300 --seeds 0 1

The plain side is `LlamaForCausalLM`, `torch.optim.AdamW` and `F.cross_entropy` with torch's own products and attention;
ours is the engine (DeepSpeed, oneDNN's products, attention in blocks, the loss in chunks), and `compiled` that under
torch.compile. A line a seed goes to results/learning.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chain import commit, machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results" / "learning.jsonl"
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from llamatrain.config.compose import compose_dict  # noqa: E402
from llamatrain.data.sequences import TokenBatches  # noqa: E402
from llamatrain.engine.learning import Engine  # noqa: E402
from llamatrain.fit import train_step  # noqa: E402
from llamatrain.losses import language_model_loss  # noqa: E402
from llamatrain.model.config import ModelConfig  # noqa: E402
from llamatrain.model.transformer import Transformer  # noqa: E402
from llamatrain.optim import parameter_groups  # noqa: E402
from llamatrain.settings import OptimConfig, ZeroConfig  # noqa: E402
from llamatrain.tokenizer import Tokenizer  # noqa: E402

LENGTH, ROWS, HELD_OUT = 128, 8, 128


def main() -> int:
    """Train the three sides for each seed, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    print(
        "| seed | side | training loss, last 50 steps | held-out loss | largest difference of a step's loss to plain |"
    )
    print("|---|---|---|---|---|")
    for seed in options.seeds:
        sides = {name: train(name, options, seed) for name in ("plain", "ours", "compiled")}
        plain = sides["plain"]["losses"]
        results = {}
        for name, side in sides.items():
            apart = max(abs(a - b) for a, b in zip(side["losses"], plain, strict=True))
            last = sum(side["losses"][-50:]) / 50
            results[name] = {"train": round(last, 5), "held_out": round(side["held_out"], 5), "apart": apart}
            print(f"| {seed} | {name} | {last:.4f} | {side['held_out']:.4f} | {apart:.1e} |", flush=True)
        line = {
            "date": datetime.now(UTC).date().isoformat(),
            "commit": commit(),
            "machine": machine(),
            "seed": seed,
            "steps": options.steps,
            "results": results,
        }
        with RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")
    return 0


def train(side: str, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train one side; return its loss at every step and its held-out loss at the end."""
    tokenizer = Tokenizer(options.tokenizer)
    composed = compose_dict("pretrain", ["model=tiny", "optim.lr=3e-3", "optim.warmup_steps=50"])
    shape = ModelConfig(**composed["model"]).with_vocabulary(tokenizer.vocab_size)
    optim = OptimConfig(**composed["optim"])
    parts = [
        TokenBatches(
            Path(options.corpus) / part,
            seq_len=LENGTH,
            batch_size=ROWS,
            micro_batch_size=ROWS,
            seed=seed,
            isolate=False,
        )
        for part in ("train", "eval")
    ]
    model = Transformer(shape, seed)
    if side == "plain":
        losses, model = plain(model, shape, optim, parts[0], options.steps)
    else:
        zero = ZeroConfig(0, "float32", False, False)
        engine = Engine(model, optim, zero, options.steps, compiled=side == "compiled")
        losses = [
            train_step(engine, parts[0].batch_at(step), language_model_loss)["train/loss"]
            for step in range(options.steps)
        ]
    total = weight = 0.0
    with torch.no_grad():
        for batch in parts[1].eval_batches(HELD_OUT):
            total += float(language_model_loss(model, batch)[0])
            weight += float(batch["weight"])
    return {"losses": losses, "held_out": total / weight}


def plain(
    start: Transformer, shape: ModelConfig, optim: OptimConfig, batches: TokenBatches, steps: int
) -> tuple[list[float], Transformer]:
    """Train transformers' model from the same weights in a plain loop; return the losses and the weights in our model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    theirs = LlamaForCausalLM(LlamaConfig(**shape.to_hf(scalar_head=False)))
    theirs.load_state_dict(start.state_dict(), strict=not shape.tie_embeddings)
    optimizer = torch.optim.AdamW(parameter_groups(theirs, optim), lr=1.0, betas=(0.9, 0.95), eps=optim.eps)
    losses = []
    for step in range(steps):
        ids = batches.batch_at(step)[0]["input_ids"]
        logits = theirs(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), optim.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = optim.lr_at(step, steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    start.load_state_dict(theirs.state_dict(), strict=not shape.tie_embeddings)
    return losses, start


if __name__ == "__main__":
    sys.exit(main())
