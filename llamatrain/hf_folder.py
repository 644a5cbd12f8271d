"""A model's folder as Hugging Face lays it out, read: configuration, weights, the model, its tokenizer."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TypedDict

import torch
from safetensors import SafetensorError, safe_open

from . import distributed, heartbeat
from .errors import UserError
from .model.config import load_config
from .model.scalar_head import ScalarModel
from .model.transformer import Attention, FeedForward, Transformer
from .tensor_files import Shapes
from .text_files import read_json
from .tokenizer import MODEL_FILE, Tokenizer

PADDING = 1024  # embeddings that have no piece: fewer round a vocabulary up, as many are another tokenizer's
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
HEAD = "lm_head.weight"
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".gguf")  # formats that are not read


class _Index(TypedDict):
    weight_map: dict[str, str]


def load_weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (parameter name, tensor) from the folder's safetensors files, one tensor in memory at a time."""
    index = folder / INDEX
    names = sorted(set(read_json(index, _Index)["weight_map"].values())) if index.is_file() else [WEIGHTS]
    for name in names:
        path = folder / name
        if not path.is_file():
            others = [other.name for other in sorted(folder.iterdir()) if other.suffix in OTHER_WEIGHTS]
            if others and not index.is_file():
                raise UserError(f"{folder} has {others[0]} but no {name}: need safetensors, as transformers saves them")
            raise UserError(f"checkpoint {folder} is damaged: {name} is missing")
        path.open("rb").close()  # what may not be read says so itself; `safe_open` would call it missing
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                    heartbeat.beat("read")
                    yield key, file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise UserError(f"checkpoint {folder} is damaged: {name} cannot be read ({error})") from error


def matched(
    weights: Iterable[tuple[str, torch.Tensor]], shapes: Shapes, where: str, fresh: Collection[str] = ()
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights a model of these shapes needs; UserError on a missing (but for `fresh`), unknown or misshapen one."""
    left = set(shapes)  # what has not come yet
    for name, tensor in weights:
        if name in shapes:
            if shapes[name] != tensor.shape:
                need = tuple(shapes[name])
                raise UserError(
                    f"{where}: {name} has shape {tuple(tensor.shape)}, the model's configuration says {need}"
                )
            left.discard(name)
            yield name, tensor
        elif name != HEAD and not name.endswith("rotary_emb.inv_freq"):
            # Older exporters keep the rotary table; a tied head may be written twice, and a scalar model has none.
            raise UserError(f"{where}: unknown weight {name}")
        del tensor  # before the next one is read
    if left - set(fresh):
        raise UserError(f"{where}: weight {sorted(left - set(fresh))[0]} is missing")


def empty_model(folder: Path) -> Transformer | ScalarModel:
    """Return a checkpoint folder's model without its weights: they appear once, where and as they are wanted."""
    config, scalar = load_config(folder)
    with torch.device("meta"):
        return ScalarModel(config, seed=None) if scalar else Transformer(config, seed=None)


def shapes_of(model: torch.nn.Module) -> Shapes:
    """Return the shapes of a model's weights, by name."""
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def load_model(
    folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Transformer | ScalarModel:
    """Load a checkpoint folder (see `resolve`) as a `Transformer` or, where it is a reward model, a `ScalarModel`."""
    model = empty_model(folder)
    shapes = shapes_of(model)
    for name, tensor in matched(load_weights(folder), shapes, str(folder)):
        # Module.to_empty would do, but imports torch's symbolic shapes: half a second.
        module, _, leaf = name.rpartition(".")
        weight = torch.empty(tensor.shape, dtype=dtype, device=device).copy_(tensor)
        setattr(model.get_submodule(module), leaf, torch.nn.Parameter(weight))
    for part in model.modules():
        if isinstance(part, Attention | FeedForward):
            part.lay_out()
    return model


def load_tokenizer(path: str | Path, given: str | None = None) -> Tokenizer:
    """Load the tokenizer that lies in a checkpoint folder or, where it has none, the `given` one (the key `tokenizer`).

    UserError where the given one is not the folder's, or where the model has too few embeddings for it.
    """
    folder = Path(path)
    if (folder / "final").exists():
        folder = folder / "final"
    tokenizer = Tokenizer(folder if given is None else given)
    # Of as many pieces, a wrong tokenizer would only show in what the model writes.
    if given is not None and (folder / MODEL_FILE).is_file() and Tokenizer(folder).fingerprint != tokenizer.fingerprint:
        raise UserError(f"tokenizer={given} is not the tokenizer in {folder}: need the same one, or null for that")
    known = load_config(folder)[0].vocab_size
    if known is not None and known < tokenizer.vocab_size:
        raise UserError(f"{tokenizer.path} has {tokenizer.vocab_size} pieces, but the model in {folder} knows {known}")
    if known is not None and known - tokenizer.vocab_size >= PADDING and distributed.is_main():
        print(
            f"warning: the model in {folder} has {known:,} embeddings, {tokenizer.path} {tokenizer.vocab_size:,} pieces: "
            "was it trained with this tokenizer?",
            file=sys.stderr,
        )
    return tokenizer
