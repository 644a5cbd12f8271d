"""Training steps of others, for pretraining_speed.py: the same model, batch, clipping and optimizer by litgpt or llama2.c.

    python benchmarks/peer_steps.py litgpt --size S      # in an environment with torch and litgpt
    python benchmarks/peer_steps.py llama2.c --size S    # LLAMA2C names a checkout of github.com/karpathy/llama2.c

Both compiled, as their own training programs do by default.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from pretraining_speed import LENGTH, ROWS, SIZES

os.environ["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))

Loss = Callable[[Any], Any]  # of a batch of tokens (B, T + 1)


def main() -> None:
    """Answer each line of standard input, a number of steps, with the seconds that they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["litgpt", "llama2.c"])
    parser.add_argument("--size", choices=SIZES, default="S")
    options = parser.parse_args()
    import torch

    shape: dict[str, Any] = {"n_kv_heads": SIZES[options.size]["n_heads"], **SIZES[options.size]}
    model, loss_of = litgpt(shape) if options.peer == "litgpt" else llama2c(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        loss_of(torch.randint(3, shape["vocab_size"], (ROWS, LENGTH + 1), generator=generator)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):
        step()
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


def litgpt(shape: dict[str, Any]) -> tuple[Any, Loss]:
    """Return litgpt's model and its loss."""
    import torch
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    config = Config(
        name="bench",
        block_size=LENGTH,
        vocab_size=shape["vocab_size"],
        padded_vocab_size=shape["vocab_size"],
        n_layer=shape["n_layers"],
        n_head=shape["n_heads"],
        n_query_groups=shape["n_kv_heads"],
        n_embd=shape["dim"],
        intermediate_size=shape["hidden_dim"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=1e-5,
        mlp_class_name="LLaMAMLP",
    )
    model = GPT(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0.0, 0.02)
    if shape["tie_embeddings"]:
        model.transformer.wte.weight = model.lm_head.weight
    model.max_seq_length = LENGTH
    compiled = torch.compile(model)
    return model, lambda ids: chunked_cross_entropy(compiled(ids[:, :-1].contiguous()), ids[:, 1:].contiguous())


def llama2c(shape: dict[str, Any]) -> tuple[Any, Loss]:
    """Return llama2.c's model, which ties its embeddings at every size, and its loss."""
    import torch

    sys.path.insert(0, os.environ["LLAMA2C"])
    from model import ModelArgs, Transformer

    model = Transformer(
        ModelArgs(
            dim=shape["dim"],
            n_layers=shape["n_layers"],
            n_heads=shape["n_heads"],
            n_kv_heads=shape["n_kv_heads"],
            vocab_size=shape["vocab_size"],
            hidden_dim=shape["hidden_dim"],
            max_seq_len=LENGTH,
            dropout=0.0,
        )
    )
    compiled = torch.compile(model)

    def loss_of(ids: Any) -> Any:
        compiled(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        return model.last_loss

    return model, loss_of


if __name__ == "__main__":
    main()
