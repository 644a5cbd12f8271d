"""What stands in the way of publishing a checkpoint, each in a line."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from llamatrain import manifest
from llamatrain.errors import UserError
from llamatrain.hf_folder import OTHER_WEIGHTS, empty_model, load_tokenizer, load_weights, matched, shapes_of
from llamatrain.replaced import bytes_of, size
from llamatrain.text_files import read_text

from .__main__ import MADE
from .secrets import found_in
from .sections import NOT_STATED
from .words import REQUIRED

PICKLES = (*OTHER_WEIGHTS, ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack", ".npy", ".npz", ".joblib")
CODE = (".py", ".sh", ".so", ".exe")


def problems(folder: Path, repo: str) -> list[str]:
    """Return everything that stands in the way of publishing a checkpoint as `repo`."""
    return [*_name(repo), *_files(folder), *_loads(folder), *_card(folder), *_license(folder), *_secrets(folder)]


def _name(repo: str) -> Iterator[str]:
    if not re.fullmatch(r"[^/]+/[^/]+", repo):
        yield f"repo={repo}: need owner/name"
        return
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        yield f"repo={repo}: {str(error).splitlines()[0]}"


def _files(folder: Path) -> Iterator[str]:
    trainer = folder / "trainer"
    if trainer.exists():
        yield f"{trainer} is the trainer's state ({size(bytes_of(trainer))}): need to=FOLDER, a copy without it"
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and trainer not in path.parents):
        if path.suffix in PICKLES:
            yield f"{path}: need safetensors alone, and no file that runs code when it is read"
        elif path.suffix in CODE:
            yield f"{path}: need no code beside the weights"
    try:
        manifest.verify(folder, [name for name in manifest.read(folder) if not name.startswith("trainer/")])
    except UserError as error:
        yield str(error)


def _loads(folder: Path) -> Iterator[str]:
    """Load the weights, one after the other, and the tokenizer; then as transformers does, where that is installed."""
    try:
        for _ in matched(load_weights(folder), shapes_of(empty_model(folder)), str(folder)):
            pass
        load_tokenizer(folder)
    except (UserError, OSError) as error:
        yield str(error)
        return
    if importlib.util.find_spec("transformers") is None:
        return
    import transformers

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    told: dict[str, Any]
    try:
        auto: Any = transformers.AutoModelForCausalLM
        _, told = auto.from_pretrained(folder, output_loading_info=True, local_files_only=True, dtype="auto")
        transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # of whichever library: what it says is what the model's users would see
        yield f"{folder}: transformers cannot load it ({type(error).__name__}: {str(error).splitlines()[0]})"
        return
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if told.get(what):
            yield f"{folder}: transformers finds {what.replace('_', ' ')}: {sorted(map(str, told[what]))[0]}"


def _card(folder: Path) -> Iterator[str]:
    """Hold the card against the checkpoint: there, of these weights, its metadata readable, and nothing needed unsaid."""
    path = folder / "README.md"
    make = "`llamatrain card` makes it"
    if not path.is_file():
        yield f"{path} is missing: {make}"
        return
    try:
        text = read_text(path)
        card = ModelCard(text)
    except Exception as error:  # a UserError, or one of YAML's or the hub's
        yield f"{path}: its metadata cannot be read ({str(error).splitlines()[0]})"
        return
    made = MADE.search(text)
    if made is None:
        yield f"{path} is no model card of these weights: {make}"
    elif made["checkpoint"] != manifest.fingerprint(folder):
        yield f"{path} is the card of another checkpoint ({str(made['checkpoint'])[:12]}): {make}"
    if not card.data.get("license"):
        yield f"{path}: its metadata lack a licence; need license=NAME or `license` in card.yaml"
    for name, key in REQUIRED.items():
        if f"**{name}** {NOT_STATED}" in text:
            yield f"{path}: {name} is not stated; need `{key}` in card.yaml"
        elif f"**{name}**" not in text:
            yield f"{path}: {name} is missing"


def _license(folder: Path) -> Iterator[str]:
    path = folder / "LICENSE"
    if not path.is_file() or not path.read_bytes().strip():
        yield f"{path} is missing: need the licence's text, license_file=FILE of `llamatrain card`"


def _secrets(folder: Path) -> Iterator[str]:
    trainer = folder / "trainer"
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and trainer not in path.parents):
        if path.suffix != ".safetensors":
            for line, what, shown in found_in(path):
                mend = (
                    "; to=FOLDER writes a copy without it" if path.name == "llamatrain.json" and "path" in what else ""
                )
                yield f"{path}:{line}: {what} ({shown}): need it taken out{mend}"
