"""The state of a model in training by parameter name: weights, AdamW's moments and float32 masters, at any ZeRO stage.

What is read or set by name knows neither ranks nor stages, so that checkpoints do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from llamatrain.engine.zero import fragments, full_shape, gathered, own_part, own_shard, set_own_part, set_weight
from llamatrain.errors import UserError
from llamatrain.tensor_files import Parts

MOMENTS = ("exp_avg", "exp_avg_sq")


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Return every parameter's full shape, also where it is sharded over the ranks."""
    return {name: full_shape(parameter) for name, parameter in model.named_parameters()}


class NamedState:
    """Weights and optimizer state of a module under DeepSpeed, one tensor in memory at a time."""

    def __init__(self, ds: Any, stage: int, dtype: torch.dtype) -> None:
        self.module: nn.Module = ds.module
        self._zero, self._adamw = ds.optimizer, ds.basic_optimizer
        self._stage, self._dtype = stage, dtype
        self.steps_done = 0

    def shapes(self) -> dict[str, torch.Size]:
        """Return every parameter's full shape."""
        return shapes(self.module)

    def parameters_by_name(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every weight in full, in the training precision; all ranks take part, one weight at a time."""
        for name, parameter in self.module.named_parameters():
            with gathered(parameter):
                yield name, parameter.data

    def weights(self) -> Parts:
        """Return what this rank holds of the weights, in the training precision."""
        parameters = dict(self.module.named_parameters())

        def part(name: str) -> torch.Tensor:
            return own_shard(parameters[name]) if self._stage == 3 else parameters[name].data

        return Parts(self.shapes(), self._dtype, self._stage < 3, part, part)

    def optimizer_state(self) -> Parts:
        """Return what this rank holds of the optimizer state, as "<key>.<parameter>" in float32."""
        keys, full, parameters = self.optimizer_keys(), self.shapes(), dict(self.module.named_parameters())
        if keys and keys[0] in MOMENTS:  # DeepSpeed links them once, at a first step that a resumed engine did not make
            self._link_moments()

        def part(name: str) -> torch.Tensor:
            key, _, parameter = name.partition(".")
            if self._stage == 0:
                state: torch.Tensor = self._adamw.state[parameters[parameter]][key]
                return state
            return own_part(parameters[parameter], None if key == "master" else key)

        shapes = {f"{key}.{name}": full[name] for name in full for key in keys}
        return Parts(shapes, torch.float32, self._stage == 0, part, part)

    def optimizer_keys(self) -> tuple[str, ...]:
        """Return what is kept beside each weight: AdamW's moments once a step was done, masters in bfloat16."""
        moments = MOMENTS if self.steps_done else ()
        return moments if self._dtype == torch.float32 else (*moments, "master")

    def optimizer_state_by_name(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield ("<key>.<parameter>", float32 tensor) for every parameter and optimizer key, one in memory at a time.

        All ranks take part.
        """
        keys = self.optimizer_keys()
        if keys and keys[0] in MOMENTS:  # DeepSpeed links them once, at a first step that a resumed engine did not make
            self._link_moments()
        for name, parameter in self.module.named_parameters():
            for key in keys:
                yield f"{key}.{name}", self._full_state(parameter, key)

    def _full_state(self, parameter: torch.Tensor, key: str) -> torch.Tensor:
        get = fragments()
        if self._stage == 0:
            state: torch.Tensor = self._adamw.state[parameter][key]
        elif key == "master":
            state = get.safe_get_full_fp32_param(parameter)
        else:
            state = get.safe_get_full_optimizer_state(parameter, key)
        return state.view(full_shape(parameter))

    def load_parameters(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Set weights, and the float32 master weights behind them, from (name, full tensor), one at a time."""
        parameters = dict(self.module.named_parameters())
        for name, tensor in weights:
            self._load_weight(parameters[name], tensor)
            del tensor

    def _load_weight(self, parameter: torch.Tensor, tensor: torch.Tensor) -> None:
        set_weight(parameter, tensor)
        if self._stage > 0:
            set_own_part(parameter, tensor)

    def load_optimizer_state(self, where: dict[str, Path]) -> None:
        """Set moments and master weights from tensor name -> safetensors file; none there means a fresh optimizer.

        Of a file only what this rank keeps is read: safetensors maps it.
        """
        held = {name.partition(".")[0] for name in where}
        unknown = sorted({name.partition(".")[2] for name in where} - shapes(self.module).keys())
        if unknown:
            raise UserError(f"the trainer state has {unknown[0]}, the model does not: it belongs to another model")
        moments = MOMENTS if held & set(MOMENTS) else ()
        if moments:
            self._make_moments()
        else:  # an engine that has made steps goes back to its start
            for state in self._adamw.state.values():
                for key in set(state) & set(MOMENTS):
                    state[key].zero_()
        for name, parameter in self.module.named_parameters():
            for key in (*moments, *held - set(MOMENTS)):
                path = where.get(f"{key}.{name}")
                if path is None:
                    raise UserError(f"the trainer state has no {key} for {name}: it belongs to another model")
                with safe_open(path, framework="pt") as file:
                    self._load_state(parameter, key, file.get_tensor(f"{key}.{name}"))

    def _load_state(self, parameter: torch.Tensor, key: str, tensor: torch.Tensor) -> None:
        if tensor.shape != full_shape(parameter):
            raise UserError(
                f"the trainer state's {key} has shape {tuple(tensor.shape)}, need {tuple(full_shape(parameter))}"
            )
        if key == "master":  # in float32 the weights themselves are the masters
            self._load_weight(parameter, tensor)
        elif self._stage == 0:
            self._adamw.state[parameter][key].copy_(tensor)
        else:
            set_own_part(parameter, tensor, key)

    def _make_moments(self) -> None:
        """Create AdamW's state, which otherwise appears with the first step."""
        if self._stage == 3:  # there the groups are filled only during the step
            flats = self._zero.fp32_partitioned_groups_flat
        else:
            flats = [flat for group in self._adamw.param_groups for flat in group["params"]]
        for flat in flats:
            state = self._adamw.state[flat]
            for key in MOMENTS:
                if key not in state:
                    state[key] = torch.zeros_like(flat, dtype=torch.float32)
            state.setdefault("step", torch.tensor(0.0, device=flat.device))
        self._link_moments()

    def _link_moments(self) -> None:
        """Let DeepSpeed (stages 1 and 2) know which part of each parameter's moments lies in this rank's partition."""
        link = getattr(self._zero, "_lazy_init_hp_params_optimizer_state", None)
        if link is not None:
            self._zero._hp_optimizer_states_linked = False
            link()

    def set_step(self, step: int) -> None:
        """Set the number of updates done: the schedule's place and AdamW's bias correction."""
        self.steps_done = step
        for state in self._adamw.state.values():
            if "step" in state:
                state["step"].fill_(float(step))
