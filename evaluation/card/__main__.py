"""Writes the model card of a pipeline's model, in the form of Llama 2's own, from its run folders and what people say of it.

    llamatrain card runs/demo init=true          an example of card.yaml, to fill in
    llamatrain card runs/demo                    README.md beside the checkpoint, card.html in runs/demo
    llamatrain card folder=null words=family.yaml output=cards/family

README.md has Hugging Face's metadata: licence, results, carbon. What was not measured, or nobody said, is named there as such;
nothing is invented. A README.md that was changed by hand is not overwritten.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llamatrain import atomic, manifest
from llamatrain.config import program
from llamatrain.errors import UserError
from llamatrain.text_files import read_text

from . import markdown
from .config import CardConfig
from .contents import Source, license_file, sections
from .measured import found
from .page import page
from .pipeline import read_pipeline
from .words import EXAMPLE, NAME, Words, read_words

MADE = re.compile(
    r"\n<!-- made by llamatrain card(?: of checkpoint (?P<checkpoint>\w+))?; sha256 (?P<sha256>\w+) -->\n\Z"
)


def write(cfg: CardConfig) -> list[Path]:
    """Write the card's files and return them."""
    pipeline = read_pipeline(cfg.folder) if cfg.folder is not None else None
    beside = Path(cfg.words) if cfg.words else (Path(cfg.folder) / NAME if cfg.folder else None)
    if cfg.words is None and beside is not None and not beside.is_file():
        print(
            f"{beside} is not there: the card will say what nobody stated; init=true writes one to fill in",
            file=sys.stderr,
        )
        beside = None
    words = _with_license(read_words(beside), cfg)
    stage = pipeline.subject(cfg.stage) if pipeline else None
    source = Source(words, pipeline, stage, cfg.rates, found(pipeline, stage, list(map(Path, cfg.results))))
    license_ = license_file(words, None if cfg.license_file else beside)
    if license_ is not None and not license_.is_file():
        raise UserError(f"license_file={license_} does not exist: need the file with the licence's text")
    checkpoint = stage.folder / "final" if stage else None
    target = Path(cfg.output) if cfg.output else checkpoint
    at = Path(cfg.output) if cfg.output else Path(cfg.folder or "")
    assert target is not None, "the configuration asks for output where there is no run"
    made = sections(source)
    body = markdown.body(source.name, source.summary, made)
    text = readme(source, body, manifest.fingerprint(checkpoint) if checkpoint else "")
    refuse_changed(target / "README.md")
    target.mkdir(parents=True, exist_ok=True)
    files = [target / "README.md", at / "card.html"]
    atomic.write_text(files[0], text)
    if license_ is not None:
        files.append(target / "LICENSE")
        if not files[-1].exists() or not files[-1].samefile(license_):
            shutil.copyfile(license_, files[-1])
    shown = read_text(license_) if license_ else ""
    html = page(source.name, source.summary, made, shown, str(pipeline.folder) if pipeline else "")
    atomic.write_bytes(files[1], html.encode(errors="replace"))
    lacking = words.lacking()
    if lacking:
        print(
            f"not stated: {', '.join(lacking)} ({beside or NAME}); `llamatrain publish` asks for them", file=sys.stderr
        )
    return files


def _with_license(words: Words, cfg: CardConfig) -> Words:
    own = {name: value for name in ("license", "license_file") if (value := getattr(cfg, name)) is not None}
    return replace(words, **own)


def readme(source: Source, body: str, checkpoint: str) -> str:
    """Return README.md: metadata, the card, and a last line that knows whether it was changed by hand."""
    from huggingface_hub import ModelCard

    from .metadata import metadata  # takes a second: only where a card is made

    text = str(ModelCard(f"---\n{metadata(source).to_yaml()}\n---\n\n{body}"))
    of = f" of checkpoint {checkpoint}" if checkpoint else ""
    return f"{text}\n<!-- made by llamatrain card{of}; sha256 {_digest(text)} -->\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def refuse_changed(path: Path) -> None:
    """UserError where a README.md is not as this program wrote it."""
    if not path.is_file():
        return
    text = read_text(path)
    made = MADE.search(text)
    if made is None or made["sha256"] != _digest(text[: made.start()]):
        raise UserError(
            f"{path} was written or changed by hand: move it away, or say it in {NAME}; output=FOLDER writes elsewhere"
        )


def card(cfg: CardConfig) -> None:
    """Write the card, or an example of what people have to say."""
    if cfg.init:
        path = Path(cfg.words) if cfg.words else Path(cfg.folder or "") / NAME
        if path.exists():
            raise UserError(f"{path} exists already: move it away, or leave init out")
        if not path.parent.is_dir():
            raise UserError(f"{path.parent} does not exist: need a pipeline's folder")
        atomic.write_text(path, EXAMPLE)
        print(path)
        return
    for path in write(cfg):
        print(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Take the run without its key: `llamatrain card runs/demo`."""
    program.main("card", CardConfig, card, argv)


if __name__ == "__main__":
    main()
