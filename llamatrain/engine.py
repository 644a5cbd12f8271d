"""The one contact with DeepSpeed: a model, AdamW and its schedule under ZeRO stages 0-3, in float32 or bfloat16.

DeepSpeed is told that the caller owns gradient accumulation: any number of `backward` calls, then one `step`. Losses
arrive divided by the weight of the whole global batch, so DeepSpeed's average over the ranks is undone here.
"""

from __future__ import annotations

import contextlib
import gc
import io
import itertools
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from . import distributed, kernels
from .allocator import keep_freed_memory
from .errors import UserError
from .model.transformer import Attention, FeedForward
from .optim import AdamW, kind_of, parameter_groups
from .settings import PRECISIONS, OptimConfig, ZeroConfig

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in PRECISIONS}
MOMENTS = ("exp_avg", "exp_avg_sq")


def _import_deepspeed() -> Any:
    """Import DeepSpeed quietly and keep it from compiling its shared-memory collectives on a CPU."""
    if os.environ.get("LLAMATRAIN_VERBOSE") != "1":
        os.environ.setdefault("DS_LOG_LEVEL", "error")
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore")
    collects = gc.isenabled()
    gc.disable()  # what an import makes stays: looking it through for garbage takes a third of a second
    import deepspeed

    if collects:
        gc.enable()
    # ZeRO marks a Muon optimizer, unused here, for torch.compile: that alone would import the compiler.
    deepspeed.runtime.compiler.compile = lambda: lambda function: function
    if os.environ.get("LLAMATRAIN_VERBOSE") != "1":
        from deepspeed.utils import logger

        logger.setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__ = {}  # none: asking for them compiles programs to see which would run
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo", verbose=False)
    return deepspeed


class Engine:
    """A model in training: forward, backward, step, and its state by parameter name."""

    def __init__(
        self, model: nn.Module, optim: OptimConfig, zero: ZeroConfig, total_steps: int, compiled: bool = False
    ) -> None:
        """Wrap a model; `total_steps` is the length of the learning-rate schedule in optimizer steps.

        `compiled` hands the decoder to torch.compile, which does its work at the first micro-batch of each shape.
        """
        distributed.setup()
        if compiled:
            _compile(model, zero)
        deepspeed = _import_deepspeed()
        self.optim, self.zero, self.total_steps, self.compiled = optim, zero, total_steps, compiled
        self.dtype = DTYPES[zero.dtype]
        self.device = distributed.device()
        if self.device.type == "cpu":
            keep_freed_memory()
        self.steps_done = 0
        self._norm = 0.0
        self._detailed = False
        self.grad_norms: dict[str, float] = {}  # of the last step, by kind of tensor, where it was asked for
        config = _deepspeed_config(optim, zero)
        groups = parameter_groups(model, optim)
        adamw = AdamW(groups, lr=optim.lr, betas=_pair(optim.betas), eps=optim.eps, fused=True)
        with _quiet():
            self._ds, *_ = deepspeed.initialize(model=model, optimizer=adamw, config=config)
        self._adamw: torch.optim.Optimizer = self._ds.basic_optimizer
        self._parameters = {parameter: kind_of(name) for name, parameter in self.module.named_parameters()}
        if zero.stage == 0:
            # DeepSpeed reports no norm at stage 0; after its reduction and before the update is the place to clip.
            self._adamw.register_step_pre_hook(self._clip)
        else:
            self._adamw.register_step_pre_hook(self._square)

    # --- learning ---

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model forward."""
        return self._ds(*args, **kwargs)

    @property
    def module(self) -> Any:
        """Return the bare model; under ZeRO-3 its parameters are divided over the ranks."""
        return self._ds.module

    @property
    def lr(self) -> float:
        """Return the learning rate of the next update."""
        return self.optim.lr_at(self.steps_done, self.total_steps)

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate gradients of a loss that is already divided by the global batch's weight."""
        self._ds.backward(loss * distributed.world_size(), scale_wrt_gas=False)

    def step(self, detailed: bool = False) -> float:
        """Clip, update, move the schedule on, forget the gradients; return the gradient norm before clipping.

        A gradient that is not finite changes no weight. `detailed` fills `grad_norms`.
        """
        for group in self._adamw.param_groups:
            group["lr"] = self.lr
        self._detailed, self.grad_norms = detailed, {}
        if detailed and self.zero.stage > 0:
            self._pieces, self._squares = self._own_pieces(), dict.fromkeys(self._parameters.values(), 0.0)
        self._ds.step()
        self.steps_done += 1
        if self.zero.stage == 0:
            return self._norm
        norm = float(self._ds.get_global_grad_norm())
        if not math.isfinite(norm) and self.zero.offload_optimizer and self.zero.stage < 3:
            # DeepSpeed would add the next gradients to these: in bfloat16 no later norm would be finite again.
            self._ds.optimizer.averaged_gradients.clear()
        if detailed and math.isfinite(norm):
            clipped = max(1.0, (norm + 1e-6) / self.optim.grad_clip) if self.optim.grad_clip else 1.0
            squares = distributed.all_reduce_sum(torch.tensor(list(self._squares.values()), dtype=torch.float64))
            self.grad_norms = dict(zip(self._squares, (squares.sqrt() * clipped).tolist(), strict=True))
        return norm

    def _clip(self, *_: Any) -> None:
        """Clip at stage 0; a gradient that is not finite is dropped, as DeepSpeed does at the other stages."""
        trained = [p for p in self._parameters if p.grad is not None]
        gradients = [p.grad for p in trained]
        norms = torch.stack(torch._foreach_norm(gradients))
        total = torch.linalg.vector_norm(norms)
        self._norm = float(total)
        if not math.isfinite(self._norm):
            for parameter in trained:
                parameter.grad = None
            return
        if self.optim.grad_clip and self._norm + 1e-6 > self.optim.grad_clip:
            torch._foreach_mul_(gradients, self.optim.grad_clip / (total + 1e-6))
        if self._detailed:
            squares = dict.fromkeys(self._parameters.values(), 0.0)
            for parameter, norm in zip(trained, norms.tolist(), strict=True):
                squares[self._parameters[parameter]] += norm * norm
            self.grad_norms = {kind: math.sqrt(square) for kind, square in squares.items()}

    def _own_pieces(self) -> dict[int, list[tuple[str, int, int]]]:
        """Return, for each of this rank's flat gradients (by id), the kind, start and length of what lies in it."""
        pieces: dict[int, list[tuple[str, int, int]]] = {}
        zero, kinds = self._ds.optimizer, self._parameters
        if self.zero.stage == 3:
            for flat, group in zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True):
                sizes = [parameter.partition_numel() for parameter in group]
                starts = itertools.accumulate(sizes, initial=0)
                pieces[id(flat)] = [(kinds[p], at, n) for p, at, n in zip(group, starts, sizes, strict=False)]
            return pieces
        for parameter, kind in kinds.items():
            held = parameter._hp_mapping  # None where other ranks hold it
            if held is not None:
                (flat,) = self._adamw.param_groups[held.param_group_index]["params"]
                address = held.hp_fragment_address
                pieces.setdefault(id(flat), []).append((kind, address.start, address.numel))
        return pieces

    def _square(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Add up the squares of this rank's clipped gradients by kind, as DeepSpeed hands them to AdamW."""
        if not self._detailed:
            return
        for flat in (flat for group in optimizer.param_groups for flat in group["params"] if flat.grad is not None):
            pieces = self._pieces[id(flat)]
            norms = torch._foreach_norm([flat.grad.narrow(0, start, size) for _, start, size in pieces])
            for piece, norm in zip(pieces, torch.stack(norms).tolist(), strict=True):
                self._squares[piece[0]] += norm * norm

    @contextlib.contextmanager
    def generating(self) -> Iterator[Any]:
        """Give the plain model for generation or scoring; under ZeRO-3 its weights are gathered once."""
        module = self.module
        was_training = module.training
        module.eval()
        try:
            with torch.no_grad(), _whole(self._ds, self.zero) as whole:
                yield whole
        finally:
            module.train(was_training)

    # --- state by parameter name ---

    def shapes(self) -> dict[str, torch.Size]:
        """Return every parameter's full shape."""
        return shapes(self.module)

    def parameters_by_name(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every weight in full, in the training precision; all ranks take part, one weight at a time."""
        for name, parameter in self.module.named_parameters():
            with _gathered(parameter):
                yield name, parameter.data

    def optimizer_keys(self) -> tuple[str, ...]:
        """Return what is kept beside each weight: AdamW's moments once a step was done, masters in bfloat16."""
        moments = MOMENTS if self.steps_done else ()
        return moments if self.dtype == torch.float32 else (*moments, "master")

    def optimizer_state_by_name(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield ("<key>.<parameter>", float32 tensor) for every parameter and optimizer key, one in memory at a time.

        All ranks take part.
        """
        keys = self.optimizer_keys()
        if keys and keys[0] in MOMENTS:
            self._link_moments()
        for name, parameter in self.module.named_parameters():
            for key in keys:
                yield f"{key}.{name}", self._full_state(parameter, key)

    def _full_state(self, parameter: torch.Tensor, key: str) -> torch.Tensor:
        get = _fragments()
        if self.zero.stage == 0:
            state: torch.Tensor = self._adamw.state[parameter][key]
        elif key == "master":
            state = get.safe_get_full_fp32_param(parameter)
        else:
            state = get.safe_get_full_optimizer_state(parameter, key)
        return state.view(_shape(parameter))

    def load_parameters(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Set weights, and the float32 master weights behind them, from (name, full tensor), one at a time."""
        parameters = dict(self.module.named_parameters())
        for name, tensor in weights:
            self._load_weight(parameters[name], tensor)
            del tensor

    def _load_weight(self, parameter: torch.Tensor, tensor: torch.Tensor) -> None:
        _set_weight(parameter, tensor)
        if self.zero.stage > 0:
            _set_own_part(parameter, tensor)

    def load_optimizer_state(self, where: dict[str, Path]) -> None:
        """Set moments and master weights from tensor name -> safetensors file; none there means a fresh optimizer.

        Of a file only what this rank keeps is read: safetensors maps it.
        """
        held = {name.partition(".")[0] for name in where}
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
        if tensor.shape != _shape(parameter):
            raise UserError(
                f"the trainer state's {key} has shape {tuple(tensor.shape)}, need {tuple(_shape(parameter))}"
            )
        if key == "master":  # in float32 the weights themselves are the masters
            self._load_weight(parameter, tensor)
        elif self.zero.stage == 0:
            self._adamw.state[parameter][key].copy_(tensor)
        else:
            _set_own_part(parameter, tensor, key)

    def _make_moments(self) -> None:
        """Create AdamW's state, which otherwise appears with the first step."""
        if self.zero.stage == 3:  # there the groups are filled only during the step
            flats = self._ds.optimizer.fp32_partitioned_groups_flat
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
        link = getattr(self._ds.optimizer, "_lazy_init_hp_params_optimizer_state", None)
        if link is not None:
            self._ds.optimizer._hp_optimizer_states_linked = False
            link()

    def set_step(self, step: int) -> None:
        """Set the number of updates done: the schedule's place and AdamW's bias correction."""
        self.steps_done = step
        for state in self._adamw.state.values():
            if "step" in state:
                state["step"].fill_(float(step))


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Return every parameter's full shape, also where it is divided over the ranks."""
    return {name: _shape(parameter) for name, parameter in model.named_parameters()}


def divides(zero: ZeroConfig) -> bool:
    """Tell whether models are divided over the ranks: at stage 3, where there are several."""
    distributed.setup()
    return zero.stage == 3 and distributed.world_size() > 1


def build(make: Callable[[], nn.Module], zero: ZeroConfig) -> nn.Module:
    """Make a model; where models are divided, each parameter is as soon as it is made."""
    context: Any = contextlib.nullcontext()
    if divides(zero):
        context = _import_deepspeed().zero.Init(config_dict_or_path=_reading_config(zero))
    with context:
        model = make()
    kernels.measure(model.config)  # type: ignore[arg-type]
    return model


def frozen(model: nn.Module, weights: Iterable[tuple[str, torch.Tensor]], zero: ZeroConfig) -> Any:
    """Prepare a divided model (of `build`) that is only read: filled weight by weight, gathered by layer as it runs."""
    deepspeed = _import_deepspeed()
    model.requires_grad_(False).eval()
    parameters = dict(model.named_parameters())
    for name, tensor in weights:
        _set_weight(parameters[name], tensor)
        del tensor
    with _quiet():
        engine, *_ = deepspeed.initialize(model=model, config=_reading_config(zero))
    engine.eval()
    return engine


# --- DeepSpeed's particulars ---------------------------------------------------------------------------------------


def _compile(model: nn.Module, zero: ZeroConfig) -> None:
    if zero.stage == 3:
        raise UserError("compile=true needs zero.stage of 2 or lower: at stage 3 each layer's weights come and go")
    if os.environ.get("LLAMATRAIN_VERBOSE") != "1":
        logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    decoder: Any = model.model
    decoder.compile()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what DeepSpeed prints about memory off the terminal, unless run.verbose asks for it."""
    if os.environ.get("LLAMATRAIN_VERBOSE") == "1":
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _deepspeed_config(optim: OptimConfig, zero: ZeroConfig) -> dict[str, Any]:
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed insists on a number; the caller's micro-batches may vary
        "managed_gradient_accumulation": False,
        "gradient_clipping": optim.grad_clip if zero.stage > 0 else 0.0,
        "steps_per_print": None,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # offloaded states take torch's AdamW, too: nothing has to be compiled
        "zero_optimization": _zero_section(zero),
    }
    if zero.dtype == "bfloat16":
        config["bf16"] = {"enabled": True}
        # A sum of many micro-batches in bfloat16 would swallow the small ones.
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def _reading_config(zero: ZeroConfig) -> dict[str, Any]:
    """Return DeepSpeed's configuration of a model without an optimizer."""
    section = _zero_section(zero)
    section.pop("offload_optimizer", None)
    config: dict[str, Any] = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": section}
    if zero.dtype == "bfloat16":
        config["bf16"] = {"enabled": True}
    return config


def _zero_section(zero: ZeroConfig) -> dict[str, Any]:
    section: dict[str, Any] = {"stage": zero.stage}
    if zero.stage == 3:
        # What is one product is gathered at once, wherever in the module its weights are named.
        section["leaf_module"] = {
            "classes": [f"{module.__module__}.{module.__name__}" for module in (Attention, FeedForward)]
        }
        # Small parameters (norms) stay on every rank.
        section["stage3_param_persistence_threshold"] = 10_000 if torch.cuda.is_available() else 0
    if torch.cuda.is_available() and zero.stage == 2:
        section["overlap_comm"] = True
    if not torch.cuda.is_available():
        section["overlap_comm"] = False
    if zero.offload_optimizer:
        section["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if zero.offload_parameters:
        section["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return section


def _pair(betas: list[float]) -> tuple[float, float]:
    return betas[0], betas[1]


def _shape(parameter: torch.Tensor) -> torch.Size:
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def _fragments() -> Any:
    import deepspeed.utils

    return deepspeed.utils


@contextlib.contextmanager
def _gathered(parameter: torch.Tensor, write: bool = False) -> Iterator[None]:
    """Make a ZeRO-3 parameter whole; what rank 0 writes into it is divided again. A no-op for other parameters."""
    if not hasattr(parameter, "ds_id"):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0 if write else None):
        yield


def _set_weight(parameter: torch.Tensor, tensor: torch.Tensor) -> None:
    """Copy a full weight into a parameter, whole or divided."""
    with torch.no_grad(), _gathered(parameter, write=True):
        parameter.data.copy_(tensor)


def _set_own_part(parameter: torch.Tensor, tensor: torch.Tensor, key: str | None = None) -> None:
    """Set this rank's part of a parameter's float32 master (no key) or moment, at stages 1 to 3, from the full tensor."""
    set_ = _fragments()
    if not hasattr(parameter, "ds_tensor"):
        if key is None:
            set_.safe_set_full_fp32_param(parameter, tensor)
        else:
            set_.safe_set_full_optimizer_state(parameter, tensor, key)
        return
    # DeepSpeed's setters for full tensors fail where the last ranks' parts are padded.
    size = parameter.ds_tensor.numel()
    part = tensor.flatten()[distributed.rank() * size : (distributed.rank() + 1) * size]
    part = nn.functional.pad(part, (0, size - part.numel()))
    if key is None:
        set_.safe_set_local_fp32_param(parameter, part)
    else:
        set_.safe_set_local_optimizer_state(parameter, part, key)


@contextlib.contextmanager
def _whole(ds: Any, zero: ZeroConfig) -> Iterator[Any]:
    """Gather a ZeRO-3 model's weights once and take its hooks off; they are put back whatever happens inside."""
    if zero.stage < 3:
        yield ds.module
        return
    from deepspeed.runtime.zero import unwrap_model_for_generation

    failure: BaseException | None = None
    with unwrap_model_for_generation(ds) as whole:
        try:
            yield whole.module if hasattr(whole, "module") else whole
        except BaseException as error:  # unwrap has no try/finally: let it put the hooks back first
            failure = error
    if failure is not None:
        raise failure
