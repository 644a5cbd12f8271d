"""Tokens per second, MFU and memory of each kind of work, at the largest shape that fits a device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from parts import ON_GPU, device, figure, optim, rows, shape, wait, zero
from ppo_update import models, random_rollouts, settings
from torch import nn

from llamatrain import footprint
from llamatrain.engine.learning import Engine
from llamatrain.engine.models import build
from llamatrain.fit import train_step
from llamatrain.flops import flops_per_token
from llamatrain.footprint import ALONE, ModelCounts
from llamatrain.generation import generate
from llamatrain.hardware import peak_of
from llamatrain.losses import Batch, language_model_loss
from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import Transformer
from llamatrain.responses.pairs import Pair, collate_pairs
from llamatrain.settings import Sampling
from reward.__main__ import pair_loss
from rlhf.experience import credit, judge
from rlhf.learning import learn
from rlhf.ppo_config import MODELS

# Llama 2 7B, and with fewer of its layers: a layer is as fast in all of them.
WIDE = {"dim": 4096, "n_heads": 32, "n_kv_heads": 32, "hidden_dim": 11_008, "vocab_size": 32_000}
LAYERS = (32, 24, 16, 8, 4, 2)
SHARE = 0.85  # of the device's memory that the arithmetic may fill
STEPS = 3
ARITHMETIC = 1.5, 0.8  # at most and at least, over the peak that torch measured
REWARD = ModelCounts(scalars=1)


def check(what: str) -> Iterator[dict[str, Any]]:
    """Measure one kind of work."""
    yield from {
        "pretrain": pretraining,
        "sft": fine_tuning,
        "reward": reward_model,
        "generation": generation,
        "ppo": proximal,
    }[what]()


def largest(tokens: int, own: ModelCounts = ALONE, checkpointing: str = "full") -> ModelConfig:
    """Return the largest shape whose models, and activations of so many tokens, fit the device by arithmetic."""
    length = 4096 if ON_GPU else 256
    if not ON_GPU:
        return shape(checkpointing, max_seq_len=length)
    memory = torch.cuda.get_device_properties(device()).total_memory
    for layers in LAYERS:
        config = shape(checkpointing, max_seq_len=length, **WIDE, n_layers=layers)
        if predicted(config, tokens, own) <= SHARE * memory:
            return config
    return shape(checkpointing, max_seq_len=1024, dim=768, n_layers=12, n_heads=12, n_kv_heads=12, hidden_dim=2048)


def predicted(config: ModelConfig, tokens: int, own: ModelCounts, learned: int | None = None) -> float:
    """Return the bytes that the arithmetic says of a micro-batch; `learned`: tokens of a row whose logits are held whole."""
    setting, kind = zero(1, "bfloat16" if ON_GPU else "float32"), "cuda" if ON_GPU else "cpu"
    if not tokens:
        return footprint.models(config, setting, 1, own, kind).total
    rows = max(1, tokens // config.max_seq_len)
    row = min(tokens, config.max_seq_len)
    return footprint.training(config, setting, 1, rows, row, False, kind, own, learned).total


def described(config: ModelConfig) -> dict[str, Any]:
    """Return the row that says the shape."""
    return figure("shape", f"{config.parameters / 1e6:,.1f}M parameters, {config.n_layers} layers of {config.dim}")


def engine_of(config: ModelConfig, kind: Callable[[ModelConfig, int], nn.Module]) -> Engine:
    """Return an engine that trains a model of this shape."""
    setting = zero(1, "bfloat16" if ON_GPU else "float32")
    return Engine(build(lambda: kind(config, 0), setting), optim(1e-5), setting, 100)


def trained(config: ModelConfig, kind: Any, batch: Batch, loss: Any) -> Iterator[dict[str, Any]]:
    """Yield the speed of optimizer steps of one micro-batch, and their memory beside the arithmetic's."""
    engine = engine_of(config, kind)
    train_step(engine, [batch], loss)
    wait()
    started = time.perf_counter()
    for _ in range(STEPS):
        train_step(engine, [batch], loss)
    wait()
    seconds = (time.perf_counter() - started) / STEPS
    tokens = int((batch["segment_ids"] > 0).sum())
    yield figure("tokens per second", tokens / seconds)
    for attention, words in ((False, "6N"), (True, "6N + attention")):
        each = flops_per_token(config.parameters, config, config.max_seq_len, attention)
        yield from utilised(each * tokens / seconds, words)
    yield from memory(predicted(config, tokens, REWARD if kind is ScalarModel else ALONE))


def memory(expected: float) -> Iterator[dict[str, Any]]:
    """Yield the memory that the arithmetic expects and, on a GPU, the most that was allocated, with bounds."""
    yield figure("memory by the planner's arithmetic, GB", expected / 1e9)
    if ON_GPU:
        most = torch.cuda.max_memory_allocated()
        yield figure("most memory allocated, GB", most / 1e9)
        yield figure("the arithmetic's over the allocated", expected / most, *ARITHMETIC)


def utilised(rate: float, words: str) -> Iterator[dict[str, Any]]:
    """Yield floating-point operations per second and, where the device's peak is known, the share of it: MFU."""
    yield figure(f"TFLOP/s ({words})", rate / 1e12)
    peak = peak_of(torch.cuda.get_device_name()) if ON_GPU else None
    if peak:
        yield figure(f"MFU ({words})", rate / 1e12 / peak)


def pretraining() -> Iterator[dict[str, Any]]:
    """Whole rows of text."""
    count = 2 if ON_GPU else 4
    config = largest(count * 4096)
    yield described(config)
    yield from trained(config, Transformer, rows(config, count, config.max_seq_len, 1, seed=0), language_model_loss)


def fine_tuning() -> Iterator[dict[str, Any]]:
    """Packed dialogues, of which half the tokens are targets."""
    count = 2 if ON_GPU else 4
    config = largest(count * 4096)
    yield described(config)
    batch = rows(config, count, config.max_seq_len, 12 if ON_GPU else 4, seed=0, answers=True)
    yield from trained(config, Transformer, batch, language_model_loss)


def reward_model() -> Iterator[dict[str, Any]]:
    """Pairs of answers, packed."""
    config = largest(2 * 4096, REWARD)
    yield described(config)
    assert config.vocab_size is not None
    made = random_rollouts(16, config.vocab_size, config.max_seq_len // 16, config.max_seq_len // 16, even=True)
    sides = [np.array([*r.prompt.tokens, *r.tokens], dtype=np.int32) for r in made]
    pairs = [
        Pair(a, b, None, None, None, False, "random", i)
        for i, (a, b) in enumerate(zip(sides[::2], sides[1::2], strict=True))
    ]
    batch = {**collate_pairs(pairs, config.max_seq_len), "margin": torch.zeros(len(pairs))}
    yield figure("pairs per step", float(len(pairs)))
    yield from trained(config, ScalarModel, batch, lambda model, given: pair_loss(model, given, 0.0, 0.01))


def generation() -> Iterator[dict[str, Any]]:
    """Sampling to the length limit."""
    count, new = (64, 128) if ON_GPU else (8, 32)
    config = largest(0, ModelCounts(0, reading=1))
    yield described(config)
    model = build(lambda: Transformer(config, 0), zero(1, "bfloat16" if ON_GPU else "float32"))
    model = model.to(device(), torch.bfloat16 if ON_GPU else torch.float32)
    prompts = [list(range(3, 3 + (new if ON_GPU else 16)))] * count
    keys = [(str(i), 0) for i in range(count)]

    def sample(length: int) -> None:
        generate(model, prompts, keys, Sampling(1.0, 1.0, length, seed=0), -1, count)  # type: ignore[arg-type]

    sample(8)
    wait()
    started = time.perf_counter()
    sample(new)
    wait()
    rate = count * new / (time.perf_counter() - started)
    yield figure(f"tokens per second, {count} responses at once", rate)
    yield from utilised(2 * config.parameters * rate, "2N")
    dtype = "bfloat16" if ON_GPU else "float32"
    yield from memory(footprint.sampling(config, dtype, count, len(prompts[0]) + new, 1).total)


def proximal() -> Iterator[dict[str, Any]]:
    """An iteration: sampling, judging by five models, one update of two."""
    count, new = (32, 128) if ON_GPU else (8, 16)
    config = largest(8 * 2 * new, MODELS)
    yield described(config)
    dtype = "bfloat16" if ON_GPU else "float32"
    five = models(config, zero(1, dtype), getattr(torch, dtype))
    cfg = settings(count, "micro_batch_size=8", f"activation_checkpointing={config.activation_checkpointing}")
    assert config.vocab_size is not None
    asked = random_rollouts(count, config.vocab_size, prompt=new, answer=new, even=True)
    seconds: dict[str, float] = {}

    def timed(phase: str, work: Callable[[], Any]) -> Any:
        wait()
        started = time.perf_counter()
        made = work()
        wait()
        seconds[phase] = time.perf_counter() - started
        return made

    def act() -> None:
        prompts, keys = [r.prompt.tokens for r in asked], [(r.prompt.id, 0) for r in asked]
        with five.policy.generating() as model:
            generate(model, prompts, keys, Sampling(1.0, 1.0, new, seed=0), -1, count)

    for _ in range(2):  # the first to warm up
        timed("act", act)
        batch = timed(
            "judge and credit",
            lambda: credit(cfg, judge(cfg, five, asked, config.max_seq_len), cfg.kl_coef),
        )
        timed("learn", partial(learn, cfg, five, batch, 0, config.max_seq_len, hold=False))
    rate = count / sum(seconds.values())
    yield figure("episodes per second", rate)
    # A response is sampled, read by five models, and learned from by two.
    yield from utilised((2 * new + (5 * 2 + 2 * 6) * 2 * new) * config.parameters * rate, "2N read, 6N learned")
    for phase, took in seconds.items():
        yield figure(f"share of the time: {phase}", took / sum(seconds.values()))
    yield from memory(predicted(config, 8 * 2 * new, MODELS, learned=new))
