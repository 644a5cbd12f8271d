"""A checkpoint's files, written by all ranks at once (checkpoint.py says what they are).

A rank holds of each tensor all, or a part that the other ranks' parts complete (`Parts`). Every file belongs to one rank. The
ranks go through their tensors in rounds: in each the parts of one tensor per rank change hands, and each writes its own, hashed
on its way. So a rank holds the parts and a tensor at a time, and nothing goes through rank 0.

Training changes what is written, so that it waits, unless a `snapshot` copies this rank's parts first: then a thread may write.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import atomic, distributed, hf_tokenizer, manifest
from .errors import DiskError, UserError, no_space
from .hf_folder import INDEX, WEIGHTS
from .manifest import Entry
from .model.scalar_head import ScalarModel
from .replaced import size
from .tensor_files import Parts, Shapes, write_tensors
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .engine.learning import Engine

SHARD_BYTES = 5_000_000_000


def save(
    target: Path, engines: Mapping[str, Engine], tokenizer: Tokenizer, lineage: dict[str, Any], state: dict[str, Any]
) -> None:
    """Write a checkpoint while training waits (see `Saving`). Called by all ranks together."""
    saving = Saving(target, engines, tokenizer, lineage, state)
    saving.prepare()
    saving.write()


class Files:
    """Files of one engine's weights or optimizer state, and which rank writes which."""

    def __init__(self, parts: Parts, files: Mapping[Path, Sequence[str]]) -> None:
        """Assign the files, path -> names of tensors, to the ranks round-robin."""
        self.parts, self.files = parts, files
        ranks, paths = range(distributed.world_size()), list(files)
        self._of_ranks = [[name for path in paths[rank :: len(ranks)] for name in files[path]] for rank in ranks]
        self._own = {path: {name: parts.shapes[name] for name in files[path]} for path in distributed.shard(paths)}

    @property
    def held(self) -> list[str]:
        """Return the names of the tensors that this rank has to give something of."""
        own = self._of_ranks[distributed.rank()]
        return own if self.parts.whole else [name for names in self._of_ranks for name in names]

    def snapshot(self) -> None:
        """Copy what this rank has to give into host memory: it is written as it was, whatever training does next."""
        self.parts = self.parts.copied(self.held)

    def write(self, group: Any) -> dict[Path, Entry]:
        """Write this rank's files; return their entries in the manifest. OSError at the end, after all rounds."""
        return write_tensors(self._own, self.parts.dtype, self._whole(group))

    def _whole(self, group: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield this rank's tensors in full, in the order of its files, giving the other ranks their parts of theirs."""
        own = self._of_ranks[distributed.rank()]
        for place in range(max(map(len, self._of_ranks))):
            name = own[place] if place < len(own) else None
            if self.parts.whole:
                tensor = None if name is None else self.parts.take(name)
            else:
                nothing = torch.empty(0, dtype=self.parts.dtype)
                given = [self.parts.take(names[place]) if place < len(names) else nothing for names in self._of_ranks]
                tensor = distributed.exchange([part.cpu() for part in given], group)
                del given
            if name is not None and tensor is not None:
                yield name, tensor.view(self.parts.shapes[name])
            del tensor  # before the next one is made


class Saving:
    """A checkpoint to be written; the first engine's model is the published one. All ranks call alike."""

    def __init__(
        self,
        target: Path,
        engines: Mapping[str, Engine],
        tokenizer: Tokenizer,
        lineage: dict[str, Any],
        state: dict[str, Any],
    ) -> None:
        self.target, self._temporary = target, target.with_name(target.name + ".tmp")
        self._primary = engines[next(iter(engines))]
        self._tokenizer, self._lineage, self._state = tokenizer, lineage, state
        trainer, self._files = self._temporary / "trainer", list[Files]()
        for name, engine in engines.items():
            weights, optimizer = engine.state.weights(), engine.state.optimizer_state()
            folder = self._temporary if engine is self._primary else trainer / name
            self._files.append(Files(weights, _model_files(folder, weights)))
            self._files.append(Files(optimizer, _optimizer_files(trainer / name, optimizer, engine.state.shapes())))
        self._bytes = sum(files.parts.bytes() for files in self._files)  # all ranks' together

    def snapshot_bytes(self) -> int:
        """Return what a snapshot, and writing from it, takes of this rank's host memory."""
        held = sum(files.parts.bytes_held(files.held) for files in self._files)
        largest = max(files.parts.largest() for files in self._files)
        # What a GPU can be copied into fast comes in powers of two. A tensor is once given, and once put together.
        return (2 if self._primary.device.type == "cuda" else 1) * held + 2 * largest

    def snapshot(self) -> None:
        """Copy this rank's parts into host memory, so that another thread may `write` while training goes on."""
        for files in self._files:
            files.snapshot()
        if self._primary.device.type == "cuda":
            torch.cuda.synchronize()

    def prepare(self) -> None:
        """Make room; raises DiskError on all ranks as `write` does."""
        failure = ""
        try:
            if distributed.is_main():
                shutil.rmtree(self._temporary, ignore_errors=True)
                (self._temporary / "trainer").mkdir(parents=True)
        except OSError as error:
            failure = _why(error)
        self._agree(failure, None)

    def write(self, group: Any = None) -> None:
        """Write, verify and publish; a thread does so over a `group` of ranks of its own.

        Raises DiskError on all ranks when it cannot be written; older checkpoints are untouched then.
        """
        failure = ""  # of this rank; before each next part the ranks agree that none has one
        written: dict[str, Entry] = {}
        for files in self._files:
            # Every rank goes through all of it even after its own disk failed, so that none waits for ever.
            try:
                entries = files.write(group)
                written |= {str(path.relative_to(self._temporary)): entry for path, entry in entries.items()}
            except OSError as error:
                failure = failure or _why(error)
        if distributed.is_main() and not failure:
            try:
                self._describe()
            except OSError as error:
                failure = _why(error)
        self._agree(failure, group)
        entries_of_all = distributed.gather_objects(written, group)
        if distributed.is_main():
            try:
                self._publish({name: entry for part in entries_of_all for name, entry in part.items()})
            except OSError as error:
                failure = _why(error)
        self._agree(failure, group)

    def _publish(self, entries: Mapping[str, Entry]) -> None:
        """Complete the checkpoint with its manifest and give it its name, in place of a former one of the same step."""
        manifest.write(self._temporary, entries)
        former = self.target.with_name(f"{self.target.name}.old.tmp")
        if self.target.is_symlink():  # moved to another disk: it stays there
            self.target.unlink()
        elif self.target.exists():  # never deleted under its published name: a kill would leave half of it
            os.replace(self.target, former)
        atomic.publish(self._temporary, self.target)
        shutil.rmtree(former, ignore_errors=True)

    def _agree(self, failure: str, group: Any) -> None:
        """Raise a failure of one rank on all of them, once what was written is deleted."""
        try:
            distributed.fail_together(failure, group)
        except UserError as error:
            if distributed.is_main():
                shutil.rmtree(self._temporary, ignore_errors=True)
            distributed.gather_objects(None, group)  # the folder is gone
            free = size(shutil.disk_usage(next(path for path in self.target.parents if path.exists())).free)
            raise DiskError(
                f"checkpoint {self.target} could not be saved: {error}, need {size(self._bytes)}, {free} free; "
                "older checkpoints are untouched"
            ) from None

    def _describe(self) -> None:
        """Write all files but the tensors'."""
        model, tokenizer, folder = self._primary.module, self._tokenizer, self._temporary
        for weights in self._files[::2]:
            if len(weights.files) > 1:
                total = {"total_size": weights.parts.bytes()}
                weight_map = {name: path.name for path, names in weights.files.items() for name in names}
                _write_json(next(iter(weights.files)).parent / INDEX, {"metadata": total, "weight_map": weight_map})
        scalar = isinstance(model, ScalarModel)
        hf = model.config.to_hf(scalar_head=scalar)
        hf["dtype"] = hf["torch_dtype"] = str(self._primary.dtype).removeprefix("torch.")
        hf |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
        if scalar:  # transformers finds each row's last token by it
            hf["pad_token_id"] = tokenizer.unk_id  # what tokenizer_config.json pads with
        _write_json(folder / "config.json", hf)
        if not scalar:
            # The sampling defaults of the released chat models.
            generation = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "do_sample": True}
            _write_json(folder / "generation_config.json", {**generation, "temperature": 0.6, "top_p": 0.9})
        hf_tokenizer.save(tokenizer, folder)
        _write_json(folder / "llamatrain.json", self._lineage)
        _write_json(folder / "trainer" / "state.json", self._state)


def _why(error: OSError) -> str:
    return "no space left on the disk" if no_space(error) or "No space left" in str(error) else str(error)


def _model_files(folder: Path, weights: Parts) -> dict[Path, list[str]]:
    """Return path -> weights: files of SHARD_BYTES at most, named as transformers looks for them."""
    shards = _shards(weights.shapes, weights.dtype.itemsize)
    if len(shards) == 1:
        return {folder / WEIGHTS: shards[0]}
    total = len(shards)
    return {folder / f"model-{number:05d}-of-{total:05d}.safetensors": shard for number, shard in enumerate(shards, 1)}


def _shards(shapes: Shapes, itemsize: int) -> list[list[str]]:
    """Assign the weights, in order, to files of SHARD_BYTES at most; a larger weight has its own."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        bytes_ = shape.numel() * itemsize
        if shards[-1] and size + bytes_ > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += bytes_
    return shards


def _optimizer_files(folder: Path, state: Parts, parameters: Shapes) -> dict[Path, list[str]]:
    """Return path -> tensors of the optimizer state, a file per rank: parameters are assigned to them round-robin."""
    world, names = distributed.world_size(), list(parameters)
    keys = list(dict.fromkeys(name.partition(".")[0] for name in state.shapes))
    return {
        folder / f"optimizer-{rank + 1:05d}-of-{world:05d}.safetensors": [
            f"{key}.{name}" for name in names[rank::world] for key in keys
        ]
        for rank in range(world)
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, default=str) + "\n")
