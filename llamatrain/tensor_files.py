"""Safetensors files written tensor by tensor: none waits in memory for the others.

A file is 8 bytes of header length (little endian), a JSON header that says where every tensor lies, and the tensors'
bytes. Shapes are known beforehand, so the header goes first and the rest streams after it, hashed on its way.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from . import heartbeat
from .manifest import Entry

Shapes = Mapping[str, torch.Size]
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class Parts:
    """What this rank holds of tensors, by name: all of each (`whole`), or a flat part that the other ranks' complete.

    Put one after the other in the order of the ranks, the parts are the flat tensor.
    """

    shapes: Shapes  # of the tensors in full
    dtype: torch.dtype
    whole: bool
    part: Callable[[str], torch.Tensor]
    take: Callable[[str], torch.Tensor]  # as `part`; a copy is then gone

    def bytes(self) -> int:
        """Return the size of all tensors."""
        return sum(math.prod(shape) for shape in self.shapes.values()) * self.dtype.itemsize

    def largest(self) -> int:
        """Return the size of the largest tensor."""
        return max((math.prod(shape) for shape in self.shapes.values()), default=0) * self.dtype.itemsize

    def bytes_held(self, names: Iterable[str]) -> int:
        """Return the size of what this rank holds of these."""
        return sum(self.part(name).numel() for name in names) * self.dtype.itemsize

    def copied(self, names: Iterable[str]) -> Parts:
        """Return copies of these in host memory; those of a GPU's are there once it is waited for."""
        copies: dict[str, torch.Tensor] = {}
        for name in names:
            part = self.part(name).detach()
            pinned = part.device.type == "cuda"
            copy = torch.empty(part.shape, dtype=part.dtype, pin_memory=pinned)
            copies[name] = copy.copy_(part, non_blocking=pinned)
        return replace(self, part=copies.__getitem__, take=copies.pop)


class TensorFile:
    """A file being written. A failed write is kept until `close`: the other ranks need this one in every gather."""

    def __init__(self, path: Path, shapes: Shapes, dtype: torch.dtype) -> None:
        self.path, self.dtype = path, dtype
        self._left = list(shapes)[::-1]  # from the end: `pop` takes the next one
        self._hash, self._size = hashlib.sha256(), 0
        self._failure: OSError | None = None
        header = json.dumps(_header(shapes, dtype), separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)  # readers map the tensors: these begin at a multiple of their size
        try:
            path.parent.mkdir(exist_ok=True)  # not its parents: a run's folder that is gone stays so
            self._file = path.open("wb")
        except OSError as error:
            self._failure = error
        self._put(len(header).to_bytes(8, "little") + header)

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Write the next tensor: they come in the order of the shapes."""
        assert self._left and name == self._left.pop(), name
        tensor = tensor.detach().to("cpu", self.dtype).contiguous()
        self._put(tensor.view(-1).view(torch.uint8).numpy().data)

    def _put(self, data: bytes | memoryview) -> None:
        if self._failure is not None:  # kept, not raised: this rank must go on gathering with the others
            return
        try:
            self._file.write(data)
        except OSError as error:
            self._failure = error
        self._hash.update(data)
        self._size += len(data)

    def close(self) -> Entry:
        """Bring the file to the disk; return its entry for the manifest, or raise the OSError that came up before."""
        if self._failure is not None:
            raise self._failure
        assert not self._left, self._left
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        return {"size": self._size, "sha256": self._hash.hexdigest()}


def _header(shapes: Shapes, dtype: torch.dtype) -> dict[str, object]:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, shape in shapes.items():
        end = place + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [place, end]}
        place = end
    return header


def write_tensors(
    files: Mapping[Path, Shapes], dtype: torch.dtype, tensors: Iterable[tuple[str, torch.Tensor]]
) -> dict[Path, Entry]:
    """Write those of the tensors that `files` (file -> names and shapes) ask for; return the files' manifest entries.

    Takes all tensors, though a disk fails, and holds one at a time. Raises OSError at the end.
    """
    open_ = [TensorFile(path, shapes, dtype) for path, shapes in files.items()]
    where = {name: file for file in open_ for name in files[file.path]}
    for name, tensor in tensors:
        heartbeat.beat("write")
        if name in where:
            where[name].write(name, tensor)
        del tensor  # before the next one is made
    return {file.path: file.close() for file in open_}
