"""Peak memory of a training step: losses in chunks against whole logits, and the kinds of activation checkpointing.

    python benchmarks/memory.py

Each setting runs in a process of its own: forward and backward of 4,096 tokens; of PPO's log-probabilities, at a vocabulary of
32,000, what comes beside the logits of 1,024 tokens (125 MiB). What is reported is the peak of resident memory above that
before the step, in MiB. A line goes to results/memory.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chain import commit, machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results" / "memory.jsonl"
TOKENS = 4096
LOSSES = {  # name -> (vocabulary, is the loss in chunks)
    "loss, vocabulary 32,000, whole logits": (32_000, False),
    "loss, vocabulary 32,000, in chunks": (32_000, True),
}
JUDGING, LEARNING = "PPO judging", "PPO learning"
PPO_LOSSES = {  # name -> (phase, are the log-probabilities in chunks)
    f"{phase}, vocabulary 32,000, {how}": (phase, how == "in chunks")
    for phase in (JUDGING, LEARNING)
    for how in ("whole", "in chunks")
}
CHECKPOINTING = ("none", "selective", "full")


def main() -> int:
    """Measure every setting, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker")
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(options.worker)))
        return 0
    results = {}
    env = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }  # what is freed goes back at once: the peak is what is in use
    for name in [*LOSSES, *PPO_LOSSES, *(f"activation_checkpointing={kind}" for kind in CHECKPOINTING)]:
        worker = [sys.executable, __file__, "--worker", name]
        shown = subprocess.run(worker, capture_output=True, text=True, check=True, env=env)
        results[name] = json.loads(shown.stdout.splitlines()[-1])
        print(f"{name:45s} {results[name]['MiB']:8,.0f} MiB", flush=True)
    line = {"date": datetime.now(UTC).date().isoformat(), "commit": commit(), "machine": machine(), "results": results}
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")
    return 0


def work(name: str) -> dict[str, float]:
    """Take one step of a setting; return what it held at its peak."""
    sys.path.insert(0, str(ROOT))
    import torch

    torch.manual_seed(0)
    if name in LOSSES:
        step = loss_step(torch, *LOSSES[name])
    elif name in PPO_LOSSES:
        step = ppo_step(torch, *PPO_LOSSES[name])
    else:
        step = model_step(torch, name.split("=")[1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    return {"MiB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def loss_step(torch: Any, vocabulary: int, chunked: bool) -> Any:
    """Return forward and backward of the head and the loss at 512 dimensions."""
    from llamatrain.losses import linear_cross_entropy

    hidden = torch.randn(TOKENS, 512, requires_grad=True)
    weight = torch.randn(vocabulary, 512, requires_grad=True)
    targets = torch.randint(0, vocabulary, (TOKENS,))
    weight.grad, hidden.grad = torch.zeros_like(weight), torch.zeros_like(hidden)  # held by every training

    def whole() -> None:
        torch.nn.functional.cross_entropy((hidden @ weight.t()).float(), targets, reduction="sum").backward()

    return (lambda: linear_cross_entropy(hidden, weight, targets).backward()) if chunked else whole


def ppo_step(torch: Any, phase: str, chunked: bool) -> Any:
    """Return what PPO makes of logits: judging, log-probabilities and entropies; learning, a loss and its gradient."""
    from rlhf.losses import entropies, token_logprobs

    logits = torch.randn(1024, 32_000, requires_grad=phase == LEARNING)
    targets = torch.randint(0, 32_000, (1024,))

    def whole() -> Any:
        logprobs = torch.log_softmax(logits, -1)
        chosen = logprobs.gather(1, targets[:, None]).squeeze(1)
        return chosen if phase == LEARNING else (chosen, -(logprobs.exp() * logprobs).sum(-1))

    def in_chunks() -> Any:
        chosen = token_logprobs(logits, targets, temperature=1.0)
        return chosen if phase == LEARNING else (chosen, entropies(logits, temperature=1.0))

    made = in_chunks if chunked else whole
    return (lambda: made().sum().backward()) if phase == LEARNING else made


def model_step(torch: Any, kind: str) -> Any:
    """Return forward and backward of a model of eight layers."""
    from llamatrain.losses import language_model_loss
    from llamatrain.model.config import ModelConfig
    from llamatrain.model.transformer import Transformer

    shape = {"dim": 512, "n_layers": 8, "n_heads": 8, "n_kv_heads": 8, "hidden_dim": 1408, "vocab_size": 4096}
    model = Transformer(
        ModelConfig(
            **shape,
            max_seq_len=TOKENS,
            rope_theta=10_000.0,
            norm_eps=1e-5,
            tie_embeddings=False,
            init_std=0.02,
            activation_checkpointing=kind,
        ),
        seed=0,
    )
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    batch = {
        "input_ids": torch.randint(3, 4096, (1, TOKENS)),
        "position_ids": torch.arange(TOKENS)[None],
        "segment_ids": torch.ones(1, TOKENS, dtype=torch.int64),
        "loss_mask": torch.ones(1, TOKENS, dtype=torch.bool),
    }
    return lambda: language_model_loss(model, batch)[0].backward()


if __name__ == "__main__":
    sys.exit(main())
