"""The gradient's norm before clipping, overall and by kind of tensor, at any ZeRO stage; clipping where DeepSpeed does none."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch

from llamatrain import distributed
from llamatrain.optim import kind_of
from llamatrain.settings import ZeroConfig


class GradNorms:
    """Looks at every gradient between DeepSpeed's reduction and AdamW's update."""

    def __init__(self, ds: Any, zero: ZeroConfig, grad_clip: float) -> None:
        self._ds, self._zero, self._grad_clip = ds, zero, grad_clip
        self._adamw: torch.optim.Optimizer = ds.basic_optimizer
        self._kinds = {parameter: kind_of(name) for name, parameter in ds.module.named_parameters()}
        self._norm = 0.0
        self._detailed = False
        self.by_kind: dict[str, float] = {}  # of the last step, where it was asked for
        # DeepSpeed reports no norm at stage 0; after its reduction and before the update is the place to clip.
        self._adamw.register_step_pre_hook(self._clip if zero.stage == 0 else self._square)

    def expect(self, detailed: bool) -> None:
        """Prepare for a step; `detailed` fills `by_kind`."""
        self._detailed, self.by_kind = detailed, {}
        if detailed and self._zero.stage > 0:
            self._pieces, self._squares = self._own_pieces(), dict.fromkeys(self._kinds.values(), 0.0)

    def read(self) -> float:
        """Return the norm of the step that was just made, which is not finite where it changed no weight."""
        if self._zero.stage == 0:
            return self._norm
        norm = float(self._ds.get_global_grad_norm())
        if not math.isfinite(norm) and self._zero.offload_optimizer and self._zero.stage < 3:
            # DeepSpeed would add the next gradients to these: in bfloat16 no later norm would be finite again.
            self._ds.optimizer.averaged_gradients.clear()
        if self._detailed and math.isfinite(norm):
            # `_square` saw the gradients after DeepSpeed's clipping: undone here, by the factor it clips with.
            clipped = max(1.0, (norm + 1e-6) / self._grad_clip) if self._grad_clip else 1.0
            squares = distributed.all_reduce_sum(torch.tensor(list(self._squares.values()), dtype=torch.float64))
            self.by_kind = dict(zip(self._squares, (squares.sqrt() * clipped).tolist(), strict=True))
        return norm

    def _clip(self, *_: Any) -> None:
        """Clip at stage 0; a gradient that is not finite is dropped, as DeepSpeed does at the other stages."""
        trained = [p for p in self._kinds if p.grad is not None]
        gradients = [p.grad for p in trained]
        norms = torch.stack(torch._foreach_norm(gradients))  # in one call: hundreds of small ones take longer
        total = torch.linalg.vector_norm(norms)
        self._norm = float(total)
        if not math.isfinite(self._norm):
            for parameter in trained:
                parameter.grad = None
            return
        if self._grad_clip and self._norm + 1e-6 > self._grad_clip:
            torch._foreach_mul_(gradients, self._grad_clip / (total + 1e-6))
        if self._detailed:
            squares = dict.fromkeys(self._kinds.values(), 0.0)
            for parameter, norm in zip(trained, norms.tolist(), strict=True):
                squares[self._kinds[parameter]] += norm * norm
            self.by_kind = {kind: math.sqrt(square) for kind, square in squares.items()}

    def _own_pieces(self) -> dict[int, list[tuple[str, int, int]]]:
        """Return, for each of this rank's flat gradients (by id), the kind, start and length of what lies in it."""
        pieces: dict[int, list[tuple[str, int, int]]] = {}
        zero, kinds = self._ds.optimizer, self._kinds
        if self._zero.stage == 3:
            # This rank's part of every parameter of a group lies in one flat tensor, in the group's order.
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
