"""Runs the commands of README and docs one after the other, as their readers would, on little data and for few steps."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamatrain.data.rows import write_rows
from tests.checkpoints import read_jsonl as read_json_lines

from .test_readme import PAGES, ROOT, START

pytestmark = pytest.mark.slow

# What makes a program's command small; a key that the command gives, too, has this value here.
MODEL = ["model=tiny", "model.dim=32", "model.hidden_dim=64", "model.n_layers=2"]
TINY: dict[str, list[str]] = {
    "toyworld": ["documents_mb=0.1", "dialogues=60", "prompts=24", "prompts_eval=8"],
    "toyworld.sets": ["rows=8", "dialogues=20"],
    "tokenizer": ["vocab_size=320"],
    "corpus": ["chunk_mb=1"],
    "pretrain": [*MODEL, "tokens=null", "steps=4", "batch_tokens=512"],
    "sft": ["epochs=1", "batch_sequences=2"],
    "reward": ["batch_pairs=2", "epochs=1"],
    "compare": ["max_prompts=8", "sampling.max_new_tokens=8"],
    "rejection_sampling": [
        "max_prompts=8",
        "samples_per_prompt=4",
        "sampling.max_new_tokens=24",  # some must end, of a model that has hardly learned to
        "steps=2",
        "batch_sequences=2",
    ],
    "ppo": [
        "iterations=2",
        "rollout_prompts=4",
        "mini_batch_prompts=2",
        "sampling.max_new_tokens=8",
        "critic_warmup=0",
    ],
    "sample": ["max_prompts=4", "samples_per_prompt=2", "sampling.max_new_tokens=8"],
    "experience": ["ranks=1", "step=2"],  # of ppo's two
    "safety_benchmark": ["max_prompts=4", "sampling.max_new_tokens=8"],
    "probe": [
        *("max_probes=4", "sampling.max_new_tokens=8"),
        *("diversity.samples_per_prompt=2", "diversity.temperatures=[0.5,1.0]"),
    ],
}
APART = ("toyworld.sets", "safety_benchmark", "probe", "experience")  # no stages of the pages' pipelines
FILES = {  # a file of the world -> its names on the pages
    "documents": ("my_texts", "wiki"),
    "documents_eval": ("my_held_out",),
    "prompts": ("my_prompts",),
    "dialogues": (
        "my_dialogues",
        "dialogues",
        "a",
        "b",
        "d",
        "runs/attention/gatt",
        "runs/distilled/distilled",
    ),  # "a" and "c" are documents, too, on another page
    "dialogues_eval": ("my_dialogues_eval", "c"),
}
MIXTURE = "ours: {paths: [my_texts.jsonl], eval: [my_held_out.jsonl], epochs: 1, licence: our own}\n"
SETS = '{"query": "Where does the fox live?", "choices": "forest"}\n' * 5
PROBLEM = '{"prompt": "def f():\\n", "test": "def check(f): f()", "entry_point": "f", "canonical_solution": "pass"}\n'
PREPARED = [  # what the pages' commands go on from
    "llamatrain toyworld run.name=world seed=7",
    "llamatrain tokenizer run.name=tokenizer documents=my_texts.jsonl",
    "llamatrain corpus run.name=corpus documents=my_texts.jsonl eval_documents=my_held_out.jsonl tokenizer=runs/tokenizer",
    "llamatrain pretrain run.name=base corpus=runs/corpus tokenizer=runs/tokenizer",
    "llamatrain sft run.name=chat checkpoint=runs/base/final train=my_dialogues.jsonl",
    "llamatrain compare run.name=pairs checkpoint_a=runs/chat/final prompts=runs/world/prompts.jsonl",
    "llamatrain pipeline preset=demo",
    "llamatrain toyworld.sets world=runs/demo/world run.name=sets",
    "llamatrain sft run.name=taught checkpoint=runs/demo/pretrain/final train=runs/demo/world/dialogues.jsonl",
]
ELSEWHERE = {  # what is left out -> why
    "...": "the reader fills it in",
    "srun": "needs Slurm",
    "llamatrain slurm": "needs Slurm (tests/slurm)",
    "llamatrain collect": "waits for people (tests/evaluation/people)",
    "people_from=": "the same",
    "llamatrain ratings": "reads what people rated (the same)",
    "ratings/red_team.jsonl": "people write it",
    "runs/llama2_7b": "nobody has trained it here",
    "deepspeed": "its launcher needs GPUs",
    "fairytales": "reads files that the project does not carry",
    "hh_rlhf:": "reads the hub",
    "run.name=bench checkpoint=runs/demo/ppo/final": "reads the hub, or rows as those of the command that runs code",
    "judges/truth": "reads sets and classifiers that the project does not carry",
    "llamatrain gatt": "needs a model that ends its answers (tests/sft/test_gatt.py)",
    "llamatrain distill": "needs a model that follows preprompts (tests/sft/test_distill.py)",
    "distill=1": "the same",
    "report runs/a runs/b": "needs pipelines that have finished (tests/launch/report)",
    "llamatrain publish": "needs a card that people filled in (tests/evaluation/card)",
    "mine from=": "with the two that follow it a test of its own (tests/launch/test_new.py)",
    "preset=mine": "the same",
    "runs/mine/ppo": "the same",
}
REFUSED = ("plan pipeline preset=llama2_70b", "plan ppo preset=llama2_70b")  # the page says so: they do not fit
QUIET = {"WANDB_MODE": "disabled", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def shown() -> Iterator[tuple[str, str]]:
    """Yield (page, command) of the pages' fenced blocks, but for those that need other machines or data."""
    for page in PAGES:
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.M | re.S):
            for line in block.splitlines() if not language else ():
                command = re.sub(r"\s+# .*", "", line).strip()
                if START.fullmatch(command) and not any(word in command for word in ELSEWHERE):
                    yield page.name, command


def chain(given: list[str]) -> list[str]:
    """Return what makes the stages of a pipeline small; without people's preferences it ends with SFT."""
    own_data = any(word.startswith("data.dialogues=") for word in given)
    further = "continue_pretraining=true" in given  # then there is no tokenizer, and the shape is the checkpoint's
    programs = ("tokenizer", "corpus", "pretrain", "sft")[further:] if own_data else tuple(TINY)
    left_out = [*APART, *(("rejection_sampling", "ppo") if "method=safety_scaling" in given else ())]
    programs = tuple(one for one in programs if one not in left_out)
    small = [f"{program}.{setting}" for program in programs for setting in TINY[program]]
    return ["ranks=1", *(one for one in small if not (further and one.startswith("pretrain.model")))]


def tiny(command: str) -> list[str]:
    """Return the words of a pages' command as they are started here, made small."""
    words = shlex.split(command)
    if words[0] == "llamatrain":
        start, program, given = [sys.executable, "-m", "launch", words[1]], words[1], words[2:]
    else:  # a launcher, and a module of the installed package
        place = next(i for i, word in enumerate(words) if word.startswith("llamatrain."))
        program = words[place].removeprefix("llamatrain.")
        start, given = [*words[:place], program], words[place + 1 :]
        start[0] = str(Path(sys.executable).parent / start[0])
    small = chain(given) if program == "pipeline" else TINY.get(program, [])
    if any(word.startswith("-") for word in given):  # it only shows something
        return [*start, *given]
    if program == "pretrain" and any(word.startswith("checkpoint=") for word in given):
        small = small[len(MODEL) :]  # its shape is the checkpoint's
    keys = {setting.split("=")[0] for setting in small}
    return [*start, *(word for word in given if word.split("=")[0] not in keys), *small]


def start(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with a question for whatever asks for one."""
    return subprocess.run(
        tiny(command), cwd=folder, env={**os.environ, **QUIET}, input="hello\n", capture_output=True, text=True
    )


def said(row: dict[str, Any]) -> str:
    """Return what is said in a dialogue, as a text."""
    return " ".join(message["content"] for message in row.get("messages", ()))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files and runs that the pages name."""
    folder = tmp_path_factory.mktemp("workspace")
    for number, command in enumerate(PREPARED):
        done = start(folder, command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if number == 0:
            for kind, names in FILES.items():
                for name in names:
                    rows = read_json_lines(folder / "runs" / "world" / f"{kind}.jsonl")
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    write_rows(folder / f"{name}.jsonl", ({"text": said(row), **row} for row in rows))
    shutil.copytree(folder / "runs" / "base" / "final", folder / "path" / "to" / "Llama-2-7b-hf")
    shutil.copytree(folder / "runs" / "corpus", folder / "runs" / "law")
    (folder / "mixture.yaml").write_text(MIXTURE)
    (folder / "b.txt").write_text("The fox lives in the forest.\n" * 50)
    (folder / "piqa.jsonl").write_text(SETS)
    (folder / "rows/openai/openai_humaneval").mkdir(parents=True)
    (folder / "rows/openai/openai_humaneval/test.jsonl").write_text(PROBLEM)
    shutil.copytree(ROOT / "tests/evaluation/card", folder / "tests/evaluation/card")
    (folder / "piqa_7b.jsonl").write_text("".join(f'{{"sample": {n}, "score": {n % 2}}}\n' for n in range(5)))
    return folder


@pytest.mark.parametrize(("page", "command"), list(shown()), ids=lambda value: value[:70])
def test_a_command_runs(page: str, command: str, workspace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    shutil.copytree(workspace, folder, symlinks=True)
    own = re.search(r"run\.name=(\S+)", command)
    if own is not None:  # otherwise it would find its work done
        shutil.rmtree(folder / "runs" / own[1], ignore_errors=True)
    done = start(folder, command)
    refused = any(word in command for word in REFUSED)
    assert done.returncode == (2 if refused else 0), f"{page}: {command}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr
