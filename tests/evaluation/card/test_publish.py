"""What may be published is checked, all at once; nothing is uploaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from evaluation.card.__main__ import write
from evaluation.card.checks import problems
from evaluation.card.config import PublishConfig
from evaluation.card.copying import without_paths
from evaluation.card.publish import publish
from evaluation.card.secrets import found_in
from llamatrain import manifest

from .conftest import SAID
from .test_card import config

TOKEN = "hf_" + "a1" * 17  # no real one


@pytest.fixture
def final(run: Path) -> Path:
    """Return a checkpoint with its card and with what a run leaves beside it."""
    folder = run / "ppo" / "final"
    (folder / "trainer").mkdir()
    (folder / "trainer" / "state.json").write_text("{}")
    parents = {"checkpoint": {"path": "/home/anna/runs/demo/rs/checkpoints/step_00000001", "sha256": "ab"}}
    (folder / "llamatrain.json").write_text(json.dumps({"program": "ppo", "parents": parents}))
    manifest.write(folder)
    write(config(run))
    return folder


def test_a_copy_can_be_published(final: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "published"
    for _ in range(2):  # again, over its own copy
        publish(PublishConfig(str(final.parent), "lab/demo", str(to)))
        assert capsys.readouterr().out == f"hf upload lab/demo {to} . --repo-type model\n"
    assert not (to / "trainer").exists() and (final / "trainer").exists()
    lineage = json.loads((to / "llamatrain.json").read_text())
    assert lineage["parents"]["checkpoint"]["path"] == ".../rs/checkpoints/step_00000001"
    assert manifest.fingerprint(to) == manifest.fingerprint(final)


def test_everything_that_is_wrong_is_listed_a_line_each(final: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(final / "config.json", final / "old.bin")
    (final / "notes.txt").write_text(f"token: {TOKEN}\n")
    (final / "LICENSE").unlink()
    with pytest.raises(SystemExit) as left:
        publish(PublishConfig(str(final), "demo", None))
    assert left.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    expected = [
        "error: repo=demo: need owner/name",
        f"error: {final.resolve()}/trainer is the trainer's state (2 bytes): need to=FOLDER, a copy without it",
        f"error: {final.resolve()}/old.bin: need safetensors alone, and no file that runs code when it is read",
        f"error: {final.resolve()}/LICENSE is missing: need the licence's text, license_file=FILE of `llamatrain card`",
        f"error: {final.resolve()}/llamatrain.json:1: a path of somebody's home (/home/anna/runs/demo/rs/checkpoints/step_00000001): "
        "need it taken out; to=FOLDER writes a copy without it",
        f"error: {final.resolve()}/notes.txt:1: a Hugging Face token (hf_a1a...): need it taken out",
    ]
    assert lines == expected


def test_a_card_must_be_complete_and_of_these_weights(run: Path) -> None:
    (run / "card.yaml").write_text(SAID.replace("contact: models@example.org\n", ""))
    write(config(run))
    final = run / "ppo" / "final"
    assert problems(final, "lab/demo") == [f"{final}/README.md: Contact is not stated; need `contact` in card.yaml"]
    shutil.copy(final / "README.md", run / "sft" / "final" / "README.md")
    (run / "sft" / "final" / "config.json").write_text((final / "config.json").read_text() + " ")
    manifest.write(run / "sft" / "final")
    found = problems(run / "sft" / "final", "lab/demo")
    assert any("is the card of another checkpoint" in one for one in found)
    (final / "README.md").unlink()
    assert problems(final, "lab/demo") == [f"{final}/README.md is missing: `llamatrain card` makes it"]


def test_a_model_that_does_not_load_is_refused(run: Path) -> None:
    write(config(run))
    final = run / "ppo" / "final"
    content = json.loads((final / "config.json").read_text())
    (final / "config.json").write_text(json.dumps(content | {"num_hidden_layers": 3}))
    manifest.write(final)
    assert any("is missing" in one and "layers.2" in one for one in problems(final, "lab/demo"))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (f'"token": "{TOKEN}"', "a Hugging Face token"),
        ("OPENAI=sk-proj-" + "Ab3" * 10, "an OpenAI or Anthropic key"),
        ("AKIA" + "ABCD" * 4, "an AWS access key"),
        ("ghp_" + "a1B2" * 9, "a GitHub token"),
        ("WANDB_API_KEY=" + "0123456789" * 4, "a wandb key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "a private key"),
        ("password: hunter22", "a password"),
        ("https://anna:secret@example.org/data", "a password in an address"),
        ("see /Users/anna/models", "a path of somebody's home"),
    ],
)
def test_secrets_are_found(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(f"first\n{text}\n")
    assert [(line, found) for line, found, _ in found_in(path)] == [(2, what)]


def test_plain_texts_and_hashes_are_no_secrets(run: Path, tmp_path: Path) -> None:
    for path in (run / "ppo" / "final").glob("*.json"):
        assert not list(found_in(path)), path
    path = tmp_path / "notes.txt"
    path.write_text(
        f"sha256 {'0123456789abcdef' * 4}, the commit {'0123456789' * 4}, a password is needed, risk-averse\n"
    )
    assert not list(found_in(path))


def test_paths_of_this_machine_keep_their_end_alone() -> None:
    found = without_paths({"a": ["/home/anna/runs/demo/ppo/final", "runs/demo"], "b": {"c": "~/x/y"}, "d": 3})
    assert found == {"a": [".../demo/ppo/final", "runs/demo"], "b": {"c": ".../~/x/y"}, "d": 3}
