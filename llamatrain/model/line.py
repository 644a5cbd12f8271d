"""A batch's tokens as one line without padding, and its segments in groups of about one length, for attention.

What looks at each token alone (products with weights, norms, the feed-forward) then computes no padding, and attention no
scores between segments. Shapes: B rows, T positions, N tokens of the line, S slots of all groups, R rows and L positions
of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A segment id may name a branch of a segment, `id + BRANCH * n` with n from 1: its tokens see those of segment `id` that
# stand outside any branch, and those of their own branch. So two answers share a prompt without seeing each other.
BRANCH = 1 << 20
_CLASS = 32  # the segments of a group differ by fewer tokens
_WORTH = 0.05  # the share of padding from which a line pays, where rows are single segments


def several_segments(segment_ids: Tensor | None) -> Tensor | None:
    """Return the segment ids (B, T), or None where plain causal attention does without them.

    It does where every row is a single segment, alone or followed by padding.
    """
    if segment_ids is None:
        return None
    # Never rising from 1 on: one segment, then padding, which comes later and so is never seen.
    single = (segment_ids <= 1).all() & (segment_ids.diff(dim=1) <= 0).all()
    if bool(single):
        return None
    return segment_ids


def worth_a_line(segment_ids: Tensor) -> bool:
    """Tell whether a batch gains by a line: on a CPU, with several segments in a row or enough padding.

    On a GPU a kernel of its own takes segments (varlen.py), and what a line would bring there is not measured.
    """
    if segment_ids.device.type != "cpu":
        return False
    padding = int((segment_ids == 0).sum())
    if padding == segment_ids.numel():
        return False  # a rank without rows passes through the model all the same
    return padding >= _WORTH * segment_ids.numel() or several_segments(segment_ids) is not None


class Line:
    """Where the tokens of a batch stand in its line, and in the slots of the groups.

    `tokens` (N,): the position in the flattened batch of each token of the line; `slots` (S,): the token in each slot, the
    first one where there is none (`empty`, the numbers of these slots); `slot_of` (N,): the slot of each token. `groups`:
    rows and length of each. A segment is a row of a group, with its branches.
    """

    def __init__(self, segment_ids: Tensor) -> None:
        self.shape, base = segment_ids.shape, segment_ids % BRANCH
        self.tokens = segment_ids.flatten().nonzero().squeeze(1)
        owner = (torch.arange(len(base))[:, None] * (int(base.max()) + 1) + base).flatten()[self.tokens]
        # Of each token its segment, counted through the batch (N,), and of each segment its tokens.
        segment, lengths = owner.unique(return_inverse=True, return_counts=True)[1:]  # type: ignore[no-untyped-call]
        order = segment.argsort(stable=True)  # a segment's tokens together, as `segment` counts them
        within = torch.empty_like(order)
        within[order] = torch.arange(len(order)) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        self.groups: list[tuple[int, int]] = []
        first = torch.empty_like(lengths)  # the first slot of each segment
        size = 0
        classes = (lengths - 1) // _CLASS
        for number in classes.unique().tolist():
            members = (classes == number).nonzero().squeeze(1)
            rows, length = len(members), int(lengths[members].max())
            first[members] = size + length * torch.arange(rows)
            self.groups.append((rows, length))
            size += rows * length
        self.slot_of = first[segment] + within
        self.slots = torch.zeros(size, dtype=torch.int64)
        self.slots[self.slot_of] = torch.arange(len(order))
        taken = torch.zeros(size, dtype=torch.bool)
        taken[self.slot_of] = True
        self.empty = (~taken).nonzero().squeeze(1)

    def pick(self, values: Tensor) -> Tensor:
        """Return what a batch's values (B, T, ...) are at the tokens of the line, (N, ...)."""
        return values.flatten(0, 1).index_select(0, self.tokens)

    def places_of(self, positions: Tensor) -> Tensor:
        """Return where in the line flattened positions of the batch stand; -1, which selects nothing, for one of padding."""
        line = torch.full((self.shape.numel(),), -1)
        line[self.tokens] = torch.arange(len(self.tokens))
        return line[positions]

    def lay_out(self, values: Tensor) -> Tensor:
        """Return values of the line, (N, C), at their positions in the batch, (B, T, C), with 0 at padding."""
        whole = values.new_zeros(self.shape.numel(), values.shape[-1])
        return whole.index_copy(0, self.tokens, values).view(*self.shape, -1)

    def by_group(self, values: Tensor) -> list[Tensor]:
        """Return values in slots, (S, ...), a group at a time: (R, L, ...) each."""
        parts = torch.split(values, [rows * length for rows, length in self.groups])
        return [part.view(*group, *part.shape[1:]) for part, group in zip(parts, self.groups, strict=True)]

    def positions(self, position_ids: Tensor) -> list[Tensor]:
        """Return each group's positions (R, L), counted on where a row is empty."""
        # So that rows which count from 0 are alike: they then share one table of angles.
        columns = torch.cat([torch.arange(length).repeat(rows) for rows, length in self.groups])
        columns[self.slot_of] = self.pick(position_ids.expand(self.shape)).long()
        return self.by_group(columns)

    def segments(self, segment_ids: Tensor) -> list[Tensor]:
        """Return each group's segment ids (R, L): 1 of every row with its branches, 0 where it is empty."""
        ids = torch.zeros(len(self.slots), dtype=torch.int64)
        picked = self.pick(segment_ids).long()
        ids[self.slot_of] = picked - picked % BRANCH + 1
        return self.by_group(ids)
