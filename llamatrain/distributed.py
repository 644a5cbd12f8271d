"""Ranks, devices and the few collectives that the programs use.

A program starts alike under plain `python` (one process), torchrun, the deepspeed launcher and srun: `setup` reads
whichever variables are there. With one process every collective is a no-op.

torch is imported where it is used: programs that only read and write files start in a third of the time without it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from . import heartbeat
from .errors import LostRankError, UserError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

TIMEOUT = timedelta(minutes=60)  # of a step's collective, in which no rank waits for another's work for long
# For the others before they agree on something: one may sample, tokenize or write for long. What hangs is found before
# that by the watch of a run (watch.py); until a run begins there is none.
PATIENCE = timedelta(days=1)
RENDEZVOUS = timedelta(minutes=10)  # for all ranks to come, some of them from a busy disk
# Of a collective, in gloo's words and NCCL's.
LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exiting")


_patient: Any = None  # the process group of what ranks agree on between steps: over gloo, also beside NCCL


def setup() -> None:
    """Read the launcher's variables and join the process group (NCCL on CUDA, gloo otherwise). Idempotent."""
    if _joined():
        return
    import torch

    _read_launcher()
    cuda = torch.cuda.is_available()
    if cuda:
        # srun may show each task its own GPU alone, as number 0. DeepSpeed reads the variable, too.
        os.environ["LOCAL_RANK"] = str(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    backend = "nccl" if cuda else "gloo"
    if "RANK" not in os.environ:  # plain python: no port is opened
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
        _dist().init_process_group(backend, store=_dist().HashStore(), rank=0, world_size=1, timeout=TIMEOUT)
        return
    absent = [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if absent:
        raise UserError(
            f"RANK is set but {', '.join(absent)} is not: start with torchrun, deepspeed or srun, or unset RANK"
        )
    os.environ.setdefault("LOCAL_RANK", "0")
    _dist().init_process_group(backend, store=_meet(), rank=rank(), world_size=world_size(), timeout=TIMEOUT)
    global _patient
    _patient = _dist().new_group(backend="gloo", timeout=PATIENCE)
    barrier()  # rank 0 keeps the address book: an early mistake of its must not leave the others without it


def _meet() -> Any:
    """Return the ranks' address book once all have come; LostRankError names those that do not: they sleep, or died before."""
    env = os.environ
    address = f"MASTER_ADDR={env['MASTER_ADDR']}, MASTER_PORT={env['MASTER_PORT']}"
    keeps = rank() == 0 and env.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # else torchrun's agent does
    try:
        store = _dist().TCPStore(
            *(env["MASTER_ADDR"], int(env["MASTER_PORT"]), world_size(), keeps, RENDEZVOUS),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        if keeps and not ("SLURM_PROCID" in env and "EADDRINUSE" in reason):
            raise UserError(f"rank 0 cannot be met at {address}: {reason}") from None
        if keeps:  # the job's script found the port free a moment ago: queued again, it finds another
            raise LostRankError(f"another process has just taken the port of {address}") from None
        raise LostRankError(f"rank 0 of {world_size()} never arrived at {address}: {reason}") from None
    store.set(f"rank {rank()}", "")
    if store.add("arrived", 1) == world_size():
        store.set("all", "")
    try:
        store.wait(["all"], RENDEZVOUS)
    except RuntimeError:
        absent = "another rank"
        with suppress(RuntimeError):  # rank 0 may have ended meanwhile
            absent = ", ".join(name for one in range(world_size()) if not store.check([name := f"rank {one}"]))
        within = f"within {RENDEZVOUS.total_seconds():g} s: it sleeps, or died before"
        raise LostRankError(f"{absent} of {world_size()} never arrived at {address} {within}") from None
    store.set_timeout(TIMEOUT)
    return store


def join_others() -> None:
    """Join the process group where a launcher started this process; one that is alone needs none before an engine."""
    _read_launcher()
    if "RANK" in os.environ:
        setup()


def _dist() -> Any:
    import torch.distributed

    return torch.distributed


def _joined() -> bool:
    return "torch" in sys.modules and _dist().is_initialized()


def _read_launcher() -> None:
    """Check the launcher's variables; give srun's the names that torch knows (the batch script exports MASTER_ADDR)."""
    env = os.environ
    # MASTER_ADDR as well: inside an interactive job srun's variables stand in every shell, where nothing is distributed.
    if "RANK" not in env and {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "MASTER_ADDR"} <= env.keys():
        env["RANK"], env["WORLD_SIZE"] = env["SLURM_PROCID"], env["SLURM_STEP_NUM_TASKS"]
        env["LOCAL_RANK"] = env.get("SLURM_LOCALID", "0")
        if "SLURM_STEP_TASKS_PER_NODE" in env:  # as 8(x4), or 8(x4),2: of the first node
            env["LOCAL_WORLD_SIZE"] = re.split(r"[(,]", env["SLURM_STEP_TASKS_PER_NODE"])[0]
    for name, least in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0), ("MASTER_PORT", 1)):
        value = env.get(name, str(least))
        if not (value.isascii() and value.isdigit() and int(value) >= least):
            raise UserError(
                f"{name}={value}: need a whole number from {least} on, as torchrun, deepspeed or srun set it"
            )
    size = int(env.get("WORLD_SIZE", "1"))
    if size > 1 and "RANK" not in env:
        raise UserError(
            f"WORLD_SIZE={size} is set but RANK is not: start with torchrun, deepspeed or srun, or unset it"
        )
    if "WORLD_SIZE" in env and int(env.get("RANK", "0")) >= size:
        raise UserError(f"RANK={env['RANK']}: need less than WORLD_SIZE={size}")


def rank() -> int:
    """Return this process's number among all ranks."""
    return _dist().get_rank() if _joined() else _from_launcher("RANK", 0)


def world_size() -> int:
    """Return the number of ranks."""
    return _dist().get_world_size() if _joined() else _from_launcher("WORLD_SIZE", 1)


def _from_launcher(name: str, alone: int) -> int:
    """Read what the launcher says before the process group is joined: batches are cut by rank before a run opens."""
    _read_launcher()
    return int(os.environ.get(name, alone))


def is_main() -> bool:
    """Tell whether this is rank 0, which writes files and talks to the terminal."""
    return rank() == 0


def device() -> torch.device:
    """Return the device of this rank."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def barrier() -> None:
    """Wait for all ranks, however long one of them works."""
    if world_size() > 1:
        with heartbeat.collective("barrier"):
            _dist().barrier(group=_patient)


def all_reduce_sum(value: T) -> T:
    """Sum a float or a tensor over all ranks; a float is summed in float64, a tensor is not changed in place."""
    if world_size() == 1:
        return value
    import torch

    if isinstance(value, torch.Tensor):
        total = value.detach().clone().to(device())
        with heartbeat.collective("all_reduce"):
            _dist().all_reduce(total)
            return total.to(value.device)  # type: ignore[return-value]
    tensor = torch.tensor(value, dtype=torch.float64, device=device())  # counts of tokens stay exact
    with heartbeat.collective("all_reduce"):
        _dist().all_reduce(tensor)
        return tensor.item()  # type: ignore[return-value]


def any_rank(flag: bool) -> bool:
    """Tell whether the flag is set on at least one rank."""
    if world_size() == 1:
        return flag
    import torch

    found = torch.tensor(float(flag))
    with heartbeat.collective("all_reduce"):
        _dist().all_reduce(found, group=_patient)
    return found.item() > 0


def broadcast_object(value: T) -> T:
    """Return rank 0's (small, picklable) value on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    with heartbeat.collective("broadcast"):
        _dist().broadcast_object_list(box, src=0, group=_patient)
    return box[0]


def broadcast(tensor: torch.Tensor, source: int) -> None:
    """Overwrite a tensor, on this rank's device, with that of the rank `source`."""
    import torch

    with heartbeat.collective("broadcast"):
        _dist().broadcast(tensor.detach().view(torch.uint8), src=source)  # gloo does not know every type


def new_group() -> Any:
    """Return a group of all ranks, over gloo, for a thread of its own; called by all ranks together."""
    return _dist().new_group(backend="gloo", timeout=PATIENCE) if world_size() > 1 else None


def exchange(parts: list[torch.Tensor], group: Any = None) -> torch.Tensor:
    """Give each rank its part, all of one type in host memory; return those given to this one, joined in rank order."""
    import torch

    if world_size() == 1:
        return parts[0]
    group, dtype = _patient if group is None else group, parts[0].dtype
    sent = torch.tensor([part.numel() * dtype.itemsize for part in parts])
    sizes = torch.empty_like(sent)
    given = torch.cat([part.contiguous().view(torch.uint8) for part in parts])
    with heartbeat.collective("all_to_all"):
        _dist().all_to_all_single(sizes, sent, group=group)
        received = torch.empty(int(sizes.sum()), dtype=torch.uint8)
        _dist().all_to_all_single(received, given, sizes.tolist(), sent.tolist(), group=group)
    return received.view(dtype)


def gather_objects(value: T, group: Any = None) -> list[T]:
    """Return the values of all ranks, in rank order, on every rank; from a thread of its own over a `new_group`."""
    if world_size() == 1:
        return [value]
    box: list[Any] = [None] * world_size()
    with heartbeat.collective("all_gather"):
        _dist().all_gather_object(box, value, group=_patient if group is None else group)
    return box


def lost_peer(error: BaseException) -> bool:
    """Tell whether a collective failed because another rank is gone."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST_PEER)


def fail_together(failure: str | UserError, group: Any = None) -> None:
    """Raise UserError on all ranks if one of them has a failure to tell: alone it would leave the others waiting."""
    told = next(filter(None, gather_objects(failure, group)), None)
    if told is not None:
        raise told if isinstance(told, UserError) else UserError(told)


def together(work: Callable[[], T]) -> T:
    """Do what every rank does for itself and return the result; a UserError of one rank is raised on all of them."""
    if world_size() == 1:
        return work()
    join_others()  # programs look at what they are given before they open a run
    failure = ""
    try:
        result = work()
    except UserError as error:
        failure = str(error)
    fail_together(failure)
    return result


def shard(items: Iterable[T]) -> list[T]:
    """Return this rank's share of the items: every world_size-th, beginning at its rank."""
    return list(items)[rank() :: world_size()]


def leave() -> None:
    """Leave the process group, all ranks together."""
    if _joined():
        barrier()
        _dist().destroy_process_group()
