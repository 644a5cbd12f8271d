"""Losses, gradients, generation and a PPO update on this device against the CPU's in float32.

`check("float32", "reference")` leaves the CPU's; the same on a device, or in bfloat16, is held against them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from parts import device, figure, folder, rows, shape
from ppo_update import update
from safetensors.torch import load_file, save_file
from torch import Tensor

from llamatrain.generation import generate
from llamatrain.losses import language_model_loss
from llamatrain.model.transformer import Transformer
from llamatrain.settings import Sampling

# Relative differences: of a loss, of a gradient's norm to the reference's, of a log-probability (nats); and the share of
# tokens that are drawn as on the CPU, of those up to the first of a response that is not. In float32 only rounding differs
# (tensor cores are off there). In bfloat16 logits are off by some hundredths, wherever they are computed. That moves the edges
# between tokens in the cumulative distribution by a fifth of a token's width (0.78 are alike on a CPU); of wrong
# distributions or noise one draw in a hundred would be alike.
BOUNDS = {"float32": (1e-5, 1e-3, 1e-3, 0.99), "bfloat16": (1e-2, 0.1, 0.15, 0.5)}
PROMPTS, TOKENS = 16, 24
STD = 0.1  # of the weights: small ones predict all tokens alike, whatever attention does


def check(dtype: str, role: str = "compared") -> Iterator[dict[str, Any]]:
    """Make the figures; keep them, or compare them with those that are kept."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    made = {**language_model(dtype), **sampled(dtype), **update(dtype, STD)}
    path = folder() / "parity.safetensors"
    if role == "reference":
        save_file({name: tensor.contiguous() for name, tensor in made.items()}, path)
        yield figure("figures kept for comparison", float(len(made)))
        return
    yield from compared(load_file(path), made, dtype)


def language_model(dtype: str) -> dict[str, Tensor]:
    """Return the loss and the gradients of packed rows, plain and segmented."""
    found: dict[str, Tensor] = {}
    for name, segments in (("plain", 1), ("packed", 5)):
        config = shape(init_std=STD)
        model = Transformer(config, seed=0).to(device(), getattr(torch, dtype))
        batch = {key: value.to(device()) for key, value in rows(config, 4, 256, segments, seed=1).items()}
        loss = language_model_loss(model, batch)[0] / batch["weight"]
        loss.backward()
        found[f"loss.{name}"] = loss.detach().float().cpu()
        for parameter, weight in model.named_parameters():
            assert weight.grad is not None
            found[f"gradient.{name}.{parameter}"] = weight.grad.float().cpu()
    return found


def sampled(dtype: str) -> dict[str, Tensor]:
    """Return responses to prompts of uneven length, and their log-probabilities, padded with -1 and 0."""
    model = Transformer(shape(init_std=STD), seed=0).to(device(), getattr(torch, dtype))
    prompts = [list(range(3, 8 + 3 * i)) for i in range(PROMPTS)]
    sampling = Sampling(1.0, 0.9, TOKENS, seed=0)
    made = generate(model, prompts, [(str(i), 0) for i in range(PROMPTS)], sampling, eos_id=2, batch_size=5)
    tokens, logprobs = torch.full((PROMPTS, TOKENS), -1), torch.zeros(PROMPTS, TOKENS)
    for i, response in enumerate(made):
        tokens[i, : len(response.tokens)] = torch.tensor(response.tokens)
        logprobs[i, : len(response.logprobs)] = torch.tensor(response.logprobs)
    return {"sampled.tokens": tokens, "sampled.logprobs": logprobs}


def compared(reference: dict[str, Tensor], made: dict[str, Tensor], dtype: str) -> Iterator[dict[str, Any]]:
    """Yield how far the figures lie from the reference's."""
    loss, gradient, logprob, same = BOUNDS[dtype]
    for name in ("plain", "packed"):
        yield figure(f"loss, {name} rows: relative difference", apart(reference, made, f"loss.{name}"), most=loss)
        of = [key for key in reference if key.startswith(f"gradient.{name}.")]
        worst = max(apart(reference, made, key) for key in of)
        yield figure(f"gradients, {name} rows: largest relative difference", worst, most=gradient)
    # After the first token that differs the responses are others.
    alike = (reference["sampled.tokens"] == made["sampled.tokens"]).cummin(-1).values
    drawn = reference["sampled.tokens"] >= 0
    differing, count = int((drawn & ~alike).any(-1).sum()), int((drawn & alike).sum())
    yield figure("tokens drawn alike, up to the first that is not", count / (count + differing), least=same)
    gaps = (reference["sampled.logprobs"] - made["sampled.logprobs"]).abs()
    yield figure("their log-probabilities: largest difference, nats", float(gaps[alike].max()), most=logprob)
    for key in sorted(key for key in reference if key.startswith("ppo.")):
        if "change" in key and dtype == "bfloat16":
            continue  # smaller than its steps: the masters hold it
        most = gradient if "norm" in key or "change" in key else logprob
        yield figure(f"PPO update, {key[4:]}: relative difference", apart(reference, made, key), most=most)


def apart(reference: dict[str, Tensor], made: dict[str, Tensor], key: str) -> float:
    """Return the norm of a difference relative to the reference's norm (at least to 0.01)."""
    first, second = reference[key].double(), made[key].double()
    return float((first - second).norm() / first.norm().clamp(min=0.01))
