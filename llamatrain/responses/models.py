"""Models that are only read: those that sample, and the reference and reward models that judge."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from llamatrain import checkpoint, distributed, footprint, hf_folder, kernels
from llamatrain.engine.models import build, frozen
from llamatrain.engine.state import shapes
from llamatrain.engine.zero import DTYPES, divides
from llamatrain.errors import UserError
from llamatrain.hf_folder import load_model, load_weights, matched
from llamatrain.memory import check_room, responses_at_once
from llamatrain.model.config import load_config
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import Transformer
from llamatrain.settings import ZeroConfig
from llamatrain.tokenizer import Tokenizer

KINDS = ("a language model", "a reward model")


def sampled_and_scored_by(policy: str, helpfulness: str | None, safety: str | None) -> dict[str, Path]:
    """Return the verified folders of the policy and of the reward models that are given, by their configuration keys."""
    given = {"checkpoint": (policy, "sft")}
    for kind, path in (("helpfulness", helpfulness), ("safety", safety)):
        if path is not None:
            given[kind] = (path, "reward")
    return {key: checkpoint.resolve(path, made_by) for key, (path, made_by) in given.items()}


def shared_tokenizer(parents: dict[str, Path], given: str | None = None) -> Tokenizer:
    """Return the tokenizer of the checkpoints, which must be one and the same; `given` is that of those without one."""
    tokenizers = {key: hf_folder.load_tokenizer(path, given) for key, path in parents.items()}
    first, tokenizer = next(iter(tokenizers.items()))
    for key, other in tokenizers.items():
        if other.fingerprint != tokenizer.fingerprint:
            raise UserError(
                f"{key}={parents[key]} has another tokenizer than {first}={parents[first]}: need the same one"
            )
    return tokenizer


def shared_context(parents: dict[str, Path]) -> int:
    """Return the first checkpoint's context, which the others must not be shorter than."""
    contexts = {key: load_config(path)[0].max_seq_len for key, path in parents.items()}
    first, context = next(iter(contexts.items()))  # of the model that samples, which fills it
    for key, other in contexts.items():
        if other < context:
            raise UserError(
                f"{key}={parents[key]} has a context of {other} tokens, {first} of {context}: need the same"
            )
    return context


def generated_at_once(asked: int | None, parents: dict[str, Path], dtype: str) -> int:
    """Return how many responses a rank generates together beside all of these models: as asked or as its memory holds.

    UserError where nothing was asked for and it does not even hold the models.
    """
    shapes, ranks = [load_config(path) for path in parents.values()], distributed.world_size()
    if asked is None:
        check_room(sum(footprint.read(config, dtype, scalar=scalar).weights for config, scalar in shapes), ranks)
    return responses_at_once(asked, shapes[0][0], dtype, len(parents), ranks)


def load_inference(folder: Path, device: torch.device, dtype: str, *, scalar: bool) -> Any:
    """Load a model that is only read, whole, in `dtype`; UserError where it is of the other kind."""
    _check_kind(folder, load_config(folder)[1], scalar)
    return load_model(folder, device, DTYPES[dtype]).requires_grad_(False).eval()


def loaded_once(folders: Iterable[Path], dtype: str) -> Callable[..., Any]:
    """Return `load_inference` on this rank's device, which loads each model when it is first asked for, if at all.

    All ranks call together, as they learn what is fastest for the models' products.
    """
    for folder in folders:
        kernels.measure(load_config(folder)[0])
    return cache(partial(load_inference, device=distributed.device(), dtype=dtype))


def frozen_model(folder: Path, zero: ZeroConfig, *, scalar: bool, whole: bool = False) -> Any:
    """Return a checkpoint's model that is only read (reference, reward models), in the training precision.

    Every rank holds all of it. Under ZeRO-3, unless it is to stay `whole`, it is sharded over the ranks from its first
    weight on, and every forward pass needs them all. UserError where it is of the other kind.
    """
    config, found = load_config(folder)
    _check_kind(folder, found, scalar)
    if whole or not divides(zero):
        kernels.measure(config)
        return load_model(folder, distributed.device(), DTYPES[zero.dtype]).requires_grad_(False).eval()
    model = build(lambda: ScalarModel(config, None) if scalar else Transformer(config, None), zero)
    return frozen(model, matched(load_weights(folder), shapes(model), str(folder)), zero)


def _check_kind(folder: Path, found: bool, scalar: bool) -> None:
    if found != scalar:
        raise UserError(f"{folder} is {KINDS[found]}; need {KINDS[scalar]}")
