"""Which library multiplies float32 matrices on a CPU, MKL or oneDNN: measured once per machine, kept in the user's cache.

torch carries both, and which is faster depends on processor, shape and layout. Both compute in float32 and differ by
rounding alone. Rank 0's choice is every rank's, it stands in the run's status.json and is kept when the run resumes.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from . import atomic, distributed
from .errors import UserError
from .text_files import DamagedFileError, read_json

if TYPE_CHECKING:
    from .model.config import ModelConfig

MANY = 256  # tokens of a product from which on it is measured; in smaller ones oneDNN's calls cost more, unless it has packed the weight
FEW, SAMPLED = 16, 64  # tokens of a product: from so many on a weight is packed, so many are measured
COLD, MOST = 8 << 20, 64  # bytes of weights that are more than the nearest memory holds; weights, of a measurement
GAIN = 1.05  # how much faster oneDNN must be to be taken: less is noise
LARGEST, OPERATIONS, TRIES = 768, 10**8, 7  # of a measurement: rows or columns of a weight, of a product, how often


class Measured(TypedDict):
    """What the file in the cache holds."""

    machine: dict[str, Any]
    fastest: dict[str, str]


_choice = "mkl"  # until a run says otherwise: a library call outside a run measures nothing
_fastest: dict[str, str] = {}  # product -> library


def choose(choice: str, recorded: Mapping[str, str]) -> None:
    """Set the run's choice, run.kernels: auto, mkl or onednn; with auto what was `recorded` for it stands."""
    global _choice
    _choice = choice
    _fastest.clear()
    _fastest.update(recorded if choice == "auto" else {})


def used() -> dict[str, str]:
    """Return what the run's products use: product -> library, or all of them -> library."""
    return dict(_fastest) if _choice == "auto" else {"all": _choice}


def onednn(n_out: int, n_in: int, tokens: int) -> bool:
    """Tell whether oneDNN multiplies so many tokens, (tokens, n_in), with a weight, (n_out, n_in)."""
    if _choice != "auto":
        return _choice == "onednn"
    return tokens >= MANY and _fastest.get(product(n_out, n_in)) == "onednn"


def packs(n_out: int, n_in: int, rows: int) -> bool:
    """Tell whether oneDNN lays a weight, (n_out, n_in), out anew for many products of so few rows."""
    return rows >= FEW and (_choice == "onednn" or _fastest.get(packed(n_out, n_in)) == "onednn")


def product(n_out: int, n_in: int) -> str:
    """Return the name of the product of many tokens, (N, n_in), with a weight, (n_out, n_in)."""
    return f"{n_out}x{n_in}"


def packed(n_out: int, n_in: int) -> str:
    """Return the name of the product of few tokens with a weight that is laid out anew."""
    return f"{n_out}x{n_in} packed"


def products(config: ModelConfig) -> dict[str, Callable[[], str]]:
    """Return how to measure each product of a model: of a forward pass, of training, of the loss, of sampling.

    A weight's gradient is MKL's: oneDNN gains nothing there.
    """
    dim, hidden, head = config.dim, config.hidden_dim, config.vocab_size or 0
    joined = dim + 2 * config.n_kv_heads * config.head_dim
    found: dict[str, Callable[[], str]] = {}
    for n_out, n_in in [(joined, dim), (dim, dim), (2 * hidden, dim), (dim, hidden), (head, dim)]:
        found[product(n_out, n_in)] = functools.partial(fastest, n_out, n_in)
        found[product(n_in, n_out)] = functools.partial(fastest, n_in, n_out)  # the gradient of what came in
        found[packed(n_out, n_in)] = functools.partial(fastest_packed, n_out, n_in)
    return found


def measure(config: ModelConfig) -> None:
    """Learn what is fastest for a model's products, where the run leaves it open; every rank takes part."""
    if distributed.device().type != "cpu":
        if _choice != "auto" and distributed.is_main():
            print(f"run.kernels={_choice} has no effect here: it is for CPUs", file=sys.stderr, flush=True)
        return
    if _choice == "onednn" and not has_onednn():
        raise UserError("run.kernels=onednn: this torch was built without oneDNN; need auto or mkl")
    wanted = {name: measured for name, measured in products(config).items() if name not in _fastest}
    if _choice != "auto" or not has_onednn() or not wanted:
        return
    found: dict[str, str] = {}
    if distributed.is_main():
        known = _known()
        # What an earlier run on this machine measured stands, so that two runs of one configuration round alike.
        found = {name: known.get(name) or measured() for name, measured in wanted.items()}
        path = _cache()
        if path and not found.items() <= known.items():
            known = _known()  # another run may have measured meanwhile: what is there stands
            found |= {name: known[name] for name in found.keys() & known.keys()}
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                atomic.write_json(path, {"machine": _machine(), "fastest": known | found})
    _fastest.update(distributed.broadcast_object(found))


def has_onednn() -> bool:
    """Tell whether this torch was built with oneDNN."""
    import torch  # here and below: a program without a model does without

    return bool(torch._C._has_mkldnn) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def fastest(n_out: int, n_in: int, gain: float = GAIN) -> str:
    """Return the library, onednn where it is `gain` times as fast as mkl, else mkl, by some tries of a product each.

    Large weights are measured by a part, in some hundredths of a second.
    """
    import torch

    n_out, n_in = min(n_out, LARGEST), min(n_in, LARGEST)
    tokens = max(MANY, min(LARGEST, OPERATIONS // (2 * n_out * n_in)))  # a multiplication and an addition each
    x, weight = torch.ones(tokens, n_in), torch.ones(n_out, n_in)
    onednn = functools.partial(torch.ops.mkldnn._linear_pointwise, x, weight, None, "none", [], "")
    return _faster(functools.partial(torch.nn.functional.linear, x, weight), onednn, gain)


def fastest_packed(n_out: int, n_in: int, gain: float = GAIN) -> str:
    """Return the same of products of SAMPLED tokens, where onednn multiplies with a weight that it has laid out anew.

    In sampling each token needs all weights, so none is in the nearest memory: as many as do not fit there are multiplied.
    """
    import torch

    n_out, n_in = min(n_out, LARGEST), min(n_in, LARGEST)
    x = torch.ones(SAMPLED, n_in)
    weights = [torch.ones(n_out, n_in) for _ in range(min(MOST, -(-COLD // (4 * n_out * n_in))))]
    laid_out = [torch.ops.mkldnn._reorder_linear_weight(weight, SAMPLED) for weight in weights]

    def mkl() -> None:
        for weight in weights:
            torch.nn.functional.linear(x, weight)

    def onednn() -> None:
        for weight in laid_out:
            torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")

    return _faster(mkl, onednn, gain)


def _faster(mkl: Callable[[], object], onednn: Callable[[], object], gain: float) -> str:
    """Return which takes less time: onednn where it is `gain` times as fast."""
    import torch

    libraries, seconds = {"mkl": mkl, "onednn": onednn}, {"mkl": float("inf"), "onednn": float("inf")}
    with torch.no_grad():
        for _ in range(TRIES):  # in turn, and the best time of each: other work on the machine disturbs single tries
            for library, multiply in libraries.items():
                started = time.perf_counter()
                multiply()
                seconds[library] = min(seconds[library], time.perf_counter() - started)
    return "onednn" if seconds["onednn"] * gain < seconds["mkl"] else "mkl"


def _known() -> dict[str, str]:
    """Return what was measured on this machine."""
    path = _cache()
    # A home that is not there, or cannot be read or written, costs the measurement again, no more.
    with suppress(OSError, DamagedFileError):
        return read_json(path, Measured)["fastest"] if path else {}
    return {}


def _cache() -> Path | None:
    """Return the file of this machine; None for a user without a home, as in some containers."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llamatrain"
    except RuntimeError:
        return None
    return folder / f"kernels-{hashlib.sha256(repr(_machine()).encode()).hexdigest()[:12]}.json"


def _machine() -> dict[str, Any]:
    """Return what a measurement holds for: the processor, the threads of a rank, the libraries' version."""
    import torch

    facts = {"threads": torch.get_num_threads(), "torch": version("torch")}
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
        told = (line.partition(":") for line in lines)
        kept = ("vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "flags")
        facts |= {name.strip(): value.strip() for name, _, value in told if name.strip() in kept}
    return facts
