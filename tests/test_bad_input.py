"""What a user can get wrong ends in one clear line and exit code 2, also on two ranks; never in a traceback."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from llamatrain import manifest
from llamatrain.model.transformer import Transformer
from llamatrain.tokenizer import Tokenizer
from tests.checkpoints import save_checkpoint
from tests.distributed.driver import Hit, Job, Result, run
from tests.distributed.worker import MODEL
from tests.distributed.worlds import make_programs

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

DIALOGUE = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "source": "x"}
PROMPT = {"id": "p", "messages": [{"role": "user", "content": "fox " * 300}], "source": "x", "is_adversarial": False}

# program, overrides, what the message says; HERE is the folder that `prepare` fills
ALONE = [
    ("ppo", ["+kl_coeff=1"], ["unknown key 'kl_coeff'", "the nearest is 'kl_coef'"]),
    ("sft", ["epochs=many"], ["epochs=many: need a number"]),
    (
        "sft",
        ["train=dialogues.jsonl"],
        ["train: dialogues.jsonl does not exist", "need a file (.jsonl, .parquet or .txt"],
    ),
    ("sft", ["train=[a"], ["'train=[a' cannot be parsed as an override"]),
    ("sft", ["checkpoint=null"], ["checkpoint=null: need a value"]),
    ("pretrain", ["tokens=inf", "steps=null"], ["tokens=inf: need a finite number"]),
    ("pretrain", ["eval_sequences=0"], ["eval_sequences=0: need 1 or more"]),
    ("pretrain", ["seq_len=0"], ["seq_len=0: need 2 to model.max_seq_len=128"]),
    ("rejection_sampling", ["max_length=0"], ["max_length=0: need 2 to 128"]),
    ("sft", ["micro_batch_size=0"], ["micro_batch_size=0: need 1 or more"]),
    ("reward", ["zero=stage9"], ["zero=stage9: no such choice; there are stage0, stage1"]),
    # files that are not there
    ("sft", ["checkpoint=HERE/nowhere"], ["HERE/nowhere does not exist", "`llamatrain pretrain`"]),
    ("ppo", ["helpfulness=HERE/nowhere"], ["HERE/nowhere does not exist", "`llamatrain reward`"]),
    ("pretrain", ["corpus=HERE/nowhere"], ["HERE/nowhere does not exist", "`llamatrain corpus`"]),
    ("pretrain", ["tokenizer=HERE/nowhere"], ["HERE/nowhere does not exist", "`llamatrain tokenizer`"]),
    ("reward", ["train=[HERE/preferences_safety.jsonl]"], ["preferences_safety.jsonl does not", "`llamatrain rate`"]),
    # rows
    ("sft", ["train=[HERE/cut.jsonl]"], ["HERE/cut.jsonl:2: not JSON"]),
    ("sft", ["train=[HERE/empty.jsonl]"], ["HERE/empty.jsonl: holds no dialogue rows"]),
    ("sft", ["eval=[HERE/empty.jsonl]"], ["HERE/empty.jsonl: holds no dialogue rows"]),
    ("ppo", ["prompts=[HERE/long.jsonl]", "too_long=stop"], ["prompt 'p' has 31", "the context is 128"]),
    # checkpoints and tokenizers
    ("sft", ["checkpoint=HERE/missing"], ["HERE/missing is damaged: model.safetensors is missing"]),
    ("sft", ["checkpoint=HERE/unreadable"], ["HERE/unreadable/config.json is damaged: not JSON"]),
    ("sft", ["checkpoint=HERE/few"], ["tokenizer.model has 400 pieces", "but the model in HERE/few knows 300"]),
    ("sft", ["checkpoint=HERE/world/safety"], ["is a reward model; need a language model"]),
    ("pretrain", ["tokenizer=HERE/cut.jsonl"], ["HERE/cut.jsonl is not a SentencePiece model"]),
    ("pretrain", ["model.vocab_size=100"], ["model.vocab_size=100: need 400 or more"]),
]
SHARED = [
    ("sft", ["optim.lrr=1"], ["unknown key 'optim.lrr'", "the nearest is 'optim.lr'"]),
    ("sft", ["run.resume=required"], ["run.resume=required", "holds no checkpoint"]),  # rank 0 alone looks
    (
        "sft",
        ["train=[HERE/field.jsonl]"],
        ["HERE/field.jsonl:2: field 'source' of the dialogue: found 3, need a text"],
    ),
    (
        "rejection_sampling",
        ["prompts=[HERE/long.jsonl]"],
        ["long.jsonl", "no prompt leaves room for 16 tokens of a response in the context of 128"],
    ),
    ("sft", ["checkpoint=HERE/altered"], ["HERE/altered is damaged: model.safetensors was altered"]),
    ("sft", ["checkpoint=HERE/misshapen"], ["weight has shape (400, 32)", "(500, 32)"]),
    ("pretrain", ["corpus=HERE/other"], ["HERE/other/train was made with another tokenizer"]),
]
CASES = [(1, *case) for case in ALONE] + [(2, *case) for case in SHARED]
BYTES = 150_000  # more than a step's metrics, less than a file of the model's optimizer


def prepare(here: Path, tokenizer: Tokenizer) -> dict[str, list[str]]:
    """Write a world and what is wrong with it; return the programs' overrides."""
    programs = make_programs(here, tokenizer)
    fine = json.dumps(DIALOGUE)
    for name, text in {
        "cut": fine + '\n{"mess',
        "field": f"{fine}\n{json.dumps(DIALOGUE | {'source': 3})}",
        "empty": "",
        "long": json.dumps(PROMPT),
    }.items():
        (here / f"{name}.jsonl").write_text(text + "\n" * bool(text))
    for name in ("missing", "altered", "unreadable", "misshapen"):
        shutil.copytree(here / "world" / "policy", here / name)
    (here / "missing" / "model.safetensors").unlink()
    with (here / "altered" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\1")
    (here / "unreadable" / "config.json").write_text("{no")
    (here / "misshapen" / "config.json").write_text(json.dumps(replace(MODEL, vocab_size=500).to_hf(False)))
    for name in ("unreadable", "misshapen"):
        (here / name / manifest.NAME).unlink()  # as a folder from elsewhere has none
    save_checkpoint(here / "few", Transformer(replace(MODEL, vocab_size=300), seed=0), tokenizer)
    shutil.copytree(here / "corpus", here / "other")
    described = here / "other" / "train" / "manifest.json"
    described.write_text(described.read_text().replace(tokenizer.fingerprint, "0" * 64))
    return programs


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad_input")


@pytest.fixture(scope="module")
def results(here: Path, tokenizer: Tokenizer, repository: Path) -> dict[str, list[Result]]:
    """The results of all cases; and of a full disk, after one checkpoint on an empty one."""
    programs = prepare(here, tokenizer)
    chains: dict[str, list[Job]] = {}
    for ranks, program, overrides, _ in CASES:
        more = [o.replace("HERE", str(here)) for o in overrides]
        own = str(here / "runs" / str(len(chains)))
        chains[label(program, overrides)] = [Job(program, own, [*programs[program], *more], ranks)]
    for ranks in (1, 2):
        job = Job("sft", str(here / "runs" / f"full{ranks}"), programs["sft"], ranks)
        killed = replace(job, hits=[Hit("llamatrain.saving.Saving.snapshot", 2)])  # the first one is published by then
        chains[f"full {ranks}"] = [killed, replace(job, file_limit=BYTES), job]
    return dict(zip(chains, run(list(chains.values()), repository), strict=True))


def label(program: str, overrides: list[str]) -> str:
    return f"{program} {' '.join(overrides)}"


@pytest.mark.parametrize(("ranks", "program", "overrides", "parts"), CASES, ids=[label(p, o) for _, p, o, _ in CASES])
def test_one_line(
    ranks: int, program: str, overrides: list[str], parts: list[str], results: dict[str, list[Result]], here: Path
) -> None:
    (result,) = results[label(program, overrides)]
    assert result.codes == [2] * ranks, result.output
    assert result.output.startswith("error: ")
    assert result.output.count("\n") == 1, result.output
    for part in parts:
        assert part.replace("HERE", str(here)) in result.output


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_full_disk_leaves_the_older_checkpoint_good(ranks: int, results: dict[str, list[Result]], here: Path) -> None:
    _, full, again = results[f"full {ranks}"]
    folder = here / "runs" / f"full{ranks}"
    assert full.codes == [1] * ranks
    assert full.output.startswith(f"error: checkpoint {folder}/checkpoints/step_00000004 could not be saved: ")
    assert full.output.endswith("older checkpoints are untouched\n") and full.output.count("\n") == 1
    assert full.status["state"] == "failed"
    assert again.codes == [0] * ranks, again.output
    assert not list(folder.rglob("*.tmp"))
