"""DeepSpeed and its particulars: how it is imported, configured, and asked for whole weights and own parts of them."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from llamatrain import distributed
from llamatrain.model.transformer import Attention, FeedForward
from llamatrain.settings import PRECISIONS, OptimConfig, ZeroConfig

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in PRECISIONS}


def import_deepspeed() -> Any:
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what DeepSpeed prints about memory off the terminal, unless run.verbose asks for it."""
    if os.environ.get("LLAMATRAIN_VERBOSE") == "1":
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def divides(zero: ZeroConfig) -> bool:
    """Tell whether models are sharded over the ranks: at stage 3, where there are several."""
    distributed.setup()
    return zero.stage == 3 and distributed.world_size() > 1


# --- configuration ---


def training_config(optim: OptimConfig, zero: ZeroConfig) -> dict[str, Any]:
    """Return DeepSpeed's configuration of a model that learns."""
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
        if zero.reduce_dtype == "float32":
            config["communication_data_type"] = "fp32"
    return config


def reading_config(zero: ZeroConfig) -> dict[str, Any]:
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


# --- weights, whole and divided ---


def full_shape(parameter: torch.Tensor) -> torch.Size:
    """Return a parameter's full shape, also where it is sharded over the ranks."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def fragments() -> Any:
    """Return DeepSpeed's getters and setters of what lies behind a parameter."""
    import deepspeed.utils

    return deepspeed.utils


@contextlib.contextmanager
def gathered(parameter: torch.Tensor, writer: int | None = None) -> Iterator[None]:
    """Gather a ZeRO-3 parameter; what the rank `writer` puts into it is sharded again. A no-op for other parameters."""
    if not hasattr(parameter, "ds_id"):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=writer):
        yield


@contextlib.contextmanager
def gathered_module(module: torch.nn.Module) -> Iterator[None]:
    """Gather all weights of a module that is sharded by ZeRO-3, to be read; every rank takes part."""
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(module.parameters())):
        yield


def set_weight(parameter: torch.Tensor, tensor: torch.Tensor) -> None:
    """Copy a full weight into a parameter; of a sharded one this rank's shard, and no more is read of the tensor."""
    with torch.no_grad():
        if hasattr(parameter, "ds_tensor"):
            parameter.ds_tensor.copy_(_cut(parameter, tensor))
        if parameter.numel():  # not gathered is empty
            parameter.data.copy_(tensor)


def own_shard(parameter: torch.Tensor, shard: torch.Tensor | None = None) -> torch.Tensor:
    """Return this rank's shard of a ZeRO-3 parameter, or of a state that is sharded alike, flat and without padding."""
    held: torch.Tensor = parameter.ds_tensor if shard is None else shard  # type: ignore[attr-defined]
    size = held.numel()
    left = full_shape(parameter).numel() - distributed.rank() * size
    return held.detach().flatten()[: max(0, min(size, left))]


def own_part(parameter: torch.Tensor, key: str | None = None) -> torch.Tensor:
    """Return this rank's part of a parameter's float32 master (no key) or moment, flat, at stages 1 to 3."""
    if hasattr(parameter, "ds_tensor"):
        # Not DeepSpeed's public getter, which would copy offloaded states to the GPU.
        find = parameter._z3_optimizer._get_fp32_opt_state_partition  # type: ignore[attr-defined]
        return own_shard(parameter, find(parameter, release_swap_buffers=True, optim_state_key=key)[0])
    held = parameter._hp_mapping  # type: ignore[attr-defined]
    if held is None:  # it lies in other ranks' partitions
        return torch.empty(0)
    part: torch.Tensor = held.get_hp_fragment(optim_state_key=key)
    return part.detach().flatten()


def set_own_part(parameter: torch.Tensor, tensor: torch.Tensor, key: str | None = None) -> None:
    """Set this rank's part of a parameter's float32 master (no key) or moment, at stages 1 to 3, from the full tensor."""
    set_ = fragments()
    if not hasattr(parameter, "ds_tensor"):
        if key is None:
            set_.safe_set_full_fp32_param(parameter, tensor)
        else:
            set_.safe_set_full_optimizer_state(parameter, tensor, key)
        return
    # DeepSpeed's setters for full tensors fail where the last ranks' parts are padded.
    part = _cut(parameter, tensor)
    if key is None:
        set_.safe_set_local_fp32_param(parameter, part)
    else:
        set_.safe_set_local_optimizer_state(parameter, part, key)


def _cut(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's shard of a full tensor, flat, padded to the shards' size."""
    size: int = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
    part = tensor.flatten()[distributed.rank() * size : (distributed.rank() + 1) * size]
    return nn.functional.pad(part, (0, size - part.numel()))


@contextlib.contextmanager
def whole(ds: Any, zero: ZeroConfig) -> Iterator[Any]:
    """Gather a ZeRO-3 model's weights once and take its hooks off; they are put back whatever happens inside."""
    if zero.stage < 3:
        yield ds.module
        return
    from deepspeed.runtime.zero import unwrap_model_for_generation

    failure: BaseException | None = None
    with unwrap_model_for_generation(ds) as whole:
        # One hook is left: at the first two passes it compares the ranks, of which one without prompts makes none.
        hooks = ds.module._forward_pre_hooks
        left = dict(hooks)
        hooks.clear()
        try:
            yield whole.module if hasattr(whole, "module") else whole
        except BaseException as error:  # unwrap has no try/finally: let it put the hooks back first
            failure = error
        finally:
            hooks.update(left)
    if failure is not None:
        raise failure
