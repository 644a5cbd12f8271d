"""Files written tensor by tensor are safetensors files, hashed as they are written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llamatrain.manifest import sha256
from llamatrain.tensor_files import TensorFile, write_tensors
from tests.memory import Held


def some_tensors() -> dict[str, torch.Tensor]:
    shapes = {"b": (5, 3), "a": (7,), "scalar": (), "empty": (0, 4), "é": (1, 1, 2)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_safetensors_reads_what_is_written(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = some_tensors()
    tensors["b"] = tensors["b"].T.contiguous().T  # need not lie in order
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    one, two = tmp_path / "new" / "one.safetensors", tmp_path / "new" / "two.safetensors"
    files = {one: {k: shapes[k] for k in ("b", "scalar", "é")}, two: {k: shapes[k] for k in ("a", "empty")}}
    entries = write_tensors(files, dtype, tensors.items())
    found = load_file(one) | load_file(two)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor.to(dtype)), name
    for path in files:
        assert entries[path] == {"size": path.stat().st_size, "sha256": sha256(path)}
        assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_no_tensors(tmp_path: Path) -> None:
    write_tensors({tmp_path / "none": {}}, torch.float32, iter(()))
    assert load_file(tmp_path / "none") == {}


def test_one_tensor_is_held_at_a_time(tmp_path: Path) -> None:
    held, tensors = Held(), {str(n): torch.randn(1000 + n) for n in range(5)}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    write_tensors({tmp_path / "file": shapes}, torch.float32, ((n, held.copy(t)) for n, t in tensors.items()))
    assert (held.now, held.peak) == (0, 4 * 1004)


def test_a_full_disk_is_told_at_the_end(tmp_path: Path) -> None:
    tensor = torch.randn(100_000)
    full = TensorFile(Path("/dev/full"), {"a": tensor.shape, "b": tensor.shape}, torch.float32)
    taken = TensorFile(tmp_path, {"a": tensor.shape}, torch.float32)  # a folder
    for name in ("a", "b"):
        full.write(name, tensor)
    taken.write("a", tensor)
    with pytest.raises(OSError, match="No space left") as told:
        full.close()
    assert told.value.errno == errno.ENOSPC
    with pytest.raises(IsADirectoryError):
        taken.close()
