"""`llamatrain new` looks at data, writes a preset and a data file, and the pipeline goes with them as they are."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch import new, pipeline
from llamatrain.config.presets import config_folder
from llamatrain.model.config import ModelConfig
from llamatrain.tokenizer import Tokenizer
from llamatrain.yaml_files import read_yaml

from .test_fitted import CPU
from .test_roles import dialogues, pairs, texts, write

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with data/, on a machine of two cores."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(new, "this_machine", lambda: CPU)
    write(tmp_path / "data/texts.jsonl", [{"text": f"Text {n}. " * 40} for n in range(300)])
    return tmp_path


def made(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        new.main(arguments)
    return int(end.value.code or 0)


def planned(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        pipeline.main(["preset=mine", *arguments])
    return int(end.value.code or 0)


def test_from_a_folder_to_a_pipeline(here: Path, capsys: Capture) -> None:
    write(here / "data/chats.jsonl", [*dialogues(300), {"messages": 3}])
    write(here / "data/rated.jsonl", pairs(300))
    write(here / "data/shared.jsonl", [{"conversations": []}])
    (here / "data/notes.md").touch()
    assert made("mine", "from=data", "minutes=5") == 0
    said = capsys.readouterr().out
    for row in (
        r"chats\.jsonl +300 +dialogues, .* dialogues +1 in 10 held out",
        r"rated\.jsonl +300 +preferences \(150",
        r"texts\.jsonl +300 +documents, 0\.1 MB +documents +1 in 20 held out",
        r"shared\.jsonl +– +rows for the adapter",
        r"! shared\.jsonl: the adapter sharegpt can use none of its rows: there is no answer",
        r"! chats\.jsonl: 1 of 301 rows skipped, as they cannot be used:\n! .*chats\.jsonl:301: field 'messages'",
        r"! not read, as no rows: 1 \.md",
        r"A model of [^:]* 2 CPU cores:\s+about\s+\d+\s+minutes?\s+by\s+estimate",
        r"presets/mine\.yaml and presets/data/mine\.yaml are yours to change\. Then:\n  .* pipeline preset=mine\n",
    ):
        assert re.search(row, said), (row, said)
    preset, data = (
        yaml.safe_load(Path("presets", *part).read_text()) for part in (["mine.yaml"], ["data", "mine.yaml"])
    )
    assert "data=data/mine.yaml" in preset["pipeline"] and "bad_rows=skip" in preset["sft"]
    assert data["root"] == str(here / "data") and data["dialogues"] == ["@data/chats.jsonl@without0/10"]
    assert all(" # " in line for line in Path("presets/mine.yaml").read_text().splitlines() if line.startswith("  - "))
    assert planned("dry_run=true") == 0
    stages = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert stages[:4] == ["tokenizer", "corpus", "pretrain", "sft"] and {"ppo", "v1_accuracy_safety"} <= set(stages)


def test_with_texts_alone_and_what_would_come_next(here: Path, capsys: Capture) -> None:
    assert made("mine", "from=data/texts.jsonl") == 0
    said = capsys.readouterr().out
    assert "– left out: fine-tuning" in said and ": need data.dialogues\n" in said
    assert '– a row of data.dialogues: {"messages": [{"role": "user"' in said
    assert planned("dry_run=true") == 0
    said = capsys.readouterr().out
    assert [line.split()[1] for line in said.splitlines() if line[0] == "▶"] == [
        "tokenizer",
        "corpus",
        "pretrain",
        "evaluate",
    ]


def test_ratings_to_come_are_waited_for(here: Path, capsys: Capture) -> None:
    write(here / "data/chats.jsonl", dialogues(300))
    assert made("mine", "from=data") == 0
    assert (
        "– data.ratings=FOLDER: comparisons are sampled, and v1_preferences.jsonl of them is" in capsys.readouterr().out
    )
    assert planned("dry_run=true", "data.ratings=rated") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "v1_reward_helpfulness waits for rated/v1_preferences.jsonl: preferences between the responses in" in said
    assert "ppo waits for rated/v1_preferences.jsonl, through v1_rejection_sampling" in said


@pytest.mark.parametrize("again", ["presets/mine.yaml", "presets/data/mine.yaml"])
def test_nothing_is_overwritten(again: str, here: Path, capsys: Capture) -> None:
    Path(again).parent.mkdir(parents=True)
    Path(again).write_text("precious")
    assert made("mine", "from=data") == 2
    assert f"name=mine: {again} is there already, and is left as it is; need another name" in capsys.readouterr().err
    assert Path(again).read_text() == "precious"
    assert made("demo", "from=data") == 2
    assert "configs/preset/demo.yaml is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine"], "needs? a value for from|need from"),
        (["from=data"], "name"),
        (["../mine", "from=data"], r"name=\.\./mine: need a name of letters, digits, - and _"),
        (["mine.yaml", "from=data"], r"name=mine\.yaml: need a name"),
        (["mine", "from=[]"], r"from=\[\]: need folders, files or data sets"),
        (["mine", "from=absent"], "from=absent: there is no such file or folder"),
        (["mine", "from=data", "minutes=0"], "minutes=0.0: need a number above 0"),
        (["mine", "from=data", "minutes=soon"], "minutes=soon"),
        (["mine", "from=data", "model=tiny"], "model"),
        (
            ["mine", "from=prompts.jsonl"],
            "no file here holds texts, dialogues or preferences that can be read; nothing was written",
        ),
        (["mine", "from=shared.json"], "no file here holds texts, dialogues or preferences"),
    ],
)
def test_mistakes_are_one_line(arguments: Sequence[str], message: str, here: Path, capsys: Capture) -> None:
    write(here / "prompts.jsonl", [{"messages": [{"role": "user", "content": f"{n}?"}]} for n in range(30)])
    (here / "shared.json").write_text(json.dumps([{"conversations": []}]))
    assert made(*arguments) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1, error
    assert not Path("presets").exists()


def test_nothing_heavy_is_imported(repository: Path) -> None:
    code = "import sys, launch.new; assert not {'torch', 'deepspeed', 'datasets', 'wandb'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=repository)


def test_dialogues_alone_are_the_text_of_the_pieces_too(here: Path) -> None:
    write(here / "chats.jsonl", dialogues(900, "Where do the foxes and the wolves of this forest live, "))
    assert made("mine", "from=chats.jsonl") == 0
    [size] = re.findall(r"vocab_size=(\d+)", Path("presets/mine.yaml").read_text())
    assert 259 + 20 < int(size) <= 512


def test_few_pairs_are_cross_validated_where_there_is_time_and_it_is_said(here: Path, capsys: Capture) -> None:
    write(here / "data/rated.jsonl", pairs(300))
    values: list[Any] = []
    for name, minutes in (("quick", 5), ("thorough", 30)):
        assert made(name, "from=data", f"minutes={minutes}") == 0
        values.append(yaml.safe_load(Path(f"presets/{name}.yaml").read_text())["pipeline"])
    assert ["folds=5" in value for value in values] == [False, True]
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("Of 33 stages 22 train and measure reward models: of few pairs 5 of each kind") == 1


def test_a_path_with_spaces_and_a_list_of_several(here: Path, capsys: Capture) -> None:
    write(here / "my data/it's.jsonl", texts(200))
    assert made("mine", "from=my data") == 0
    assert planned("dry_run=true") == 0
    assert made("both", "from=[my data,data/texts.jsonl]") == 0
    data = yaml.safe_load(Path("presets/data/both.yaml").read_text())
    assert (data["root"], data["documents"]) == (
        str(here),
        ["@data/my data/it's.jsonl@without0/20", "@data/data/texts.jsonl@without0/20"],
    )


def a_model(folder: Path, tokenizer: Tokenizer, scalar: bool = False) -> Path:
    """Make what `new` reads of a Llama folder."""
    folder.mkdir(exist_ok=True)
    values = {**read_yaml(config_folder() / "model/tiny.yaml"), "vocab_size": tokenizer.vocab_size}
    (folder / "config.json").write_text(json.dumps(ModelConfig(**values).to_hf(scalar)))
    (folder / "tokenizer.model").write_bytes(tokenizer.path.read_bytes())
    return folder


def test_from_a_model_that_is_there(here: Path, tokenizer: Tokenizer, capsys: Capture) -> None:
    write(here / "data/chats.jsonl", dialogues(300))
    a_model(here / "my llama", tokenizer)
    assert made("mine", "from=data", "checkpoint=my llama", "minutes=5") == 0
    assert f"parameters ({here}/my llama), {tokenizer.vocab_size} pieces" in " ".join(capsys.readouterr().out.split())
    assert yaml.safe_load(Path("presets/data/mine.yaml").read_text())["checkpoint"] == str(here / "my llama")
    assert planned("dry_run=true") == 0
    told = capsys.readouterr().out
    assert [line.split()[1] for line in told.splitlines() if line[0] != "–"][:3] == ["corpus", "pretrain", "sft"]
    assert made("chats", "from=data/chats.jsonl", "checkpoint=my llama") == 0
    assert "continue_pretraining" not in Path("presets/chats.yaml").read_text()


def test_what_cannot_be_started_from_is_refused(here: Path, tokenizer: Tokenizer, capsys: Capture) -> None:
    a_model(here / "scores", tokenizer, scalar=True)
    (a_model(here / "mute", tokenizer) / "tokenizer.model").unlink()
    for path, message in (
        ("absent", "absent does not exist"),
        ("data", "data is not a checkpoint: it has no config.json"),
        ("scores", "checkpoint=scores is a reward model; need a language model"),
        ("mute", "checkpoint=mute has no tokenizer.model: need"),
    ):
        assert made("mine", "from=data", f"checkpoint={path}") == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not Path("presets").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_readmes_three_commands(here: Path, repository: Path) -> None:
    """From texts, dialogues and pairs of both kinds to a conversation; no path is typed twice."""
    words = ["fox", "wolf", "bear", "river", "forest", "bread", "king", "giant", "tree", "house"]
    told = [f"The {words[n % 10]} lives near the {words[n // 10 % 10]}." for n in range(400)]
    write(here / "my_data/texts.jsonl", [{"text": " ".join(told[n : n + 40])} for n in range(0, 400, 4)])
    write(here / "my_data/chats.jsonl", dialogues(200, "Where is it, "))
    write(here / "my_data/rated.jsonl", pairs(120))
    environ = {**os.environ, "PYTHONPATH": str(repository)}
    for arguments, said in (
        (["new", "mine", "from=my_data", "minutes=0.1"], "pipeline preset=mine"),
        (["pipeline", "preset=mine"], "chat checkpoint=runs/mine/ppo/final"),
        (["chat", "checkpoint=runs/mine/ppo/final"], ""),
    ):
        command = [sys.executable, "-m", "launch", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environ, input="Where is it?\n", timeout=1500
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert said in done.stdout
