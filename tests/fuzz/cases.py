"""What each program is given that is malformed: a world in which all of them run, and the cases, one file wrong in each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.programs import PROGRAMS
from llamatrain import manifest
from llamatrain.data.kinds import DialogueRow, DocumentRow, PreferenceRow, PromptRow
from llamatrain.data.rows import read_rows, write_rows
from llamatrain.run_files import Incident
from llamatrain.tokenizer import Tokenizer
from tests.distributed.worker import MODEL
from tests.distributed.worlds import QUIET, make_programs
from tests.launch import synthetic
from toyworld.dialogues import prompts
from toyworld.requests import Requests
from toyworld.world import World

from .mutations import FORMS, NO_JSON, WRONG, YAML, Broken, lines, objects, packed

BARE = ("pipeline", "stage", "report", "clean", "chat", "corpus.verify")  # they have no run folder of their own
INCIDENT = Incident(
    incident=1, step=4, first_step=4, back_to=3, threshold=1.0, norm_before=1.0, samples=[{"sample": 3, "source": "x"}]
)


@dataclass(frozen=True)
class Case:
    """A program with one thing wrong; `run` is a run folder that is there already."""

    group: str
    program: str
    name: str
    arguments: tuple[str, ...]
    run: Path | None = None


class Worlds:
    """A folder in which every program runs on files that are fine, and damaged copies of them."""

    def __init__(self, here: Path, tokenizer: Tokenizer) -> None:
        self.here, self.tokenizer = here, tokenizer
        self.made = 0
        made = make_programs(here, tokenizer)
        world = here / "world"
        self.policy, self.helpfulness, self.corpus = world / "policy", world / "helpfulness", here / "corpus"
        self.rows = self._write_rows(world)
        files = {kind: f"{world / kind}.jsonl" for kind in self.rows}
        rest = [*QUIET[:2], "sampling.max_new_tokens=8"]
        judged = [f"helpfulness={self.helpfulness}", f"safety={world / 'safety'}"]
        models = f"models={{a: {{responses: {files['response']}, judgements: {files['judgement']}}}}}"
        self.fine: dict[str, list[str]] = {
            **made,
            "pipeline": ["preset=demo", f"run.dir={here / 'runs'}", "dry_run=true"],
            "stage": [f"pipeline={here / 'demo'}", "stage=ppo"],
            "report": [f"run.dir={here}", "run.name=demo"],
            "clean": [f"folder={here / 'demo'}"],
            "chat": [f"checkpoint={self.policy}"],
            "toyworld": [*QUIET[:2], "documents_mb=0.01", "documents_eval_mb=0.01", "prompts=20", "prompts_eval=10",
                         "dialogues=20", "dialogues_eval=10"],
            "tokenizer": [*QUIET[:2], f"documents=[{here / 'train.jsonl'}]", "vocab_size=400"],
            "corpus": [*QUIET[:2], f"documents=[{here / 'train.jsonl'}]", f"tokenizer={tokenizer.path}", "num_workers=1",
                       "duplicates.near=false"],
            "corpus.verify": [f"corpus={self.corpus}"],
            "corpus.contamination": [*QUIET[:2], f"corpus={self.corpus}", f"tokenizer={tokenizer.path}",
                                     "num_workers=1", f"sets={{a: {{path: {files['document']}}}}}"],
            "compare": [*rest, f"checkpoint_a={self.policy}", f"prompts=[{files['prompt']}]", "max_prompts=4"],
            "rate": [*QUIET[:2], f"world={world}", f"comparisons=[{files['comparison']}]"],
            "sample": [*rest, f"checkpoint={self.policy}", *judged, f"prompts=[{files['prompt']}]", "max_prompts=4"],
            "judge": [*QUIET[:2], f"world={world}", f"responses={files['response']}"],
            "reward.evaluate": [*QUIET[:2], f"checkpoint={self.helpfulness}", f"preferences=[{files['preference']}]"],
            "evaluate": [*QUIET[:2], models],
        }  # fmt: skip

    def _write_rows(self, world: Path) -> dict[str, dict[str, Any]]:
        """Write a file of each kind of rows, and of a toy world; return a row of each."""
        known = World(1)
        known.save(world)
        prompt = next(prompts(Requests(known), 1, 0.0, 0.0, False))
        messages = prompt["messages"]
        response = {"prompt_id": "p", "messages": messages, "response": "No.", "model": "m", "temperature": 1.0,
                    "seed": 0, "finished": True, "helpfulness": 0.5, "safety_score": 0.5, "combined": 0.5}  # fmt: skip
        comparison = {"id": "c", "messages": messages, "response_a": "Yes.", "response_b": "No.", "model_a": "m",
                      "model_b": "m", "temperature_a": 1.0, "temperature_b": 1.0, "is_adversarial": False}  # fmt: skip
        rows = {
            "document": next(read_rows(self.here / "train.jsonl", DocumentRow)),
            "dialogue": next(read_rows(world / "sft.jsonl", DialogueRow)),
            "prompt": next(read_rows(world / "prompts.jsonl", PromptRow)),
            "response": response,
            "comparison": comparison,
            "preference": {**next(read_rows(self.here / "pairs.jsonl", PreferenceRow)), "rating": "better",
                           "chosen_safe": True, "rejected_safe": True},
            "judgement": {"prompt_id": "p", "helpfulness": 0.5, "safety": 0.5, "reasons": []},
        }  # fmt: skip
        for kind, row in rows.items():
            write_rows(world / f"{kind}.jsonl", [row])
        return rows

    def file(self, content: bytes, suffix: str) -> Path:
        """Write a file under a new name."""
        self.made += 1
        path = self.here / "wrong" / f"{self.made}{suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    def copy(self, folder: Path, name: str, content: bytes | None, without: Iterable[str] = ()) -> Path:
        """Return a copy of a folder in which the file `name` has this content (None: is gone)."""
        self.made += 1
        target = self.here / "wrong" / str(self.made)
        shutil.copytree(folder, target, symlinks=True, copy_function=os.link)
        for path in (name, *without):
            (target / path).unlink(missing_ok=True)
        if content is not None:
            (target / name).write_bytes(content)
        return target


def changed(overrides: Iterable[str], **values: object) -> tuple[str, ...]:
    """Return overrides with other values for some of their keys."""
    named = {key: value for key, _, value in (override.partition("=") for override in overrides)}
    return tuple(f"{key}={value}" for key, value in {**named, **values}.items())


def cases(worlds: Worlds, runs: Mapping[str, Path]) -> Iterator[Case]:
    """Yield all cases; `runs` are finished runs of programs."""
    yield from command_lines(worlds)
    yield from presets(worlds)
    yield from rows(worlds)
    yield from checkpoints(worlds)
    yield from corpora(worlds)
    yield from run_folders(worlds, runs)
    yield from reports(worlds)


def command_lines(worlds: Worlds) -> Iterator[Case]:
    for program in PROGRAMS:
        for form in FORMS:
            yield Case("command line", program, form[:60], (*worlds.fine[program], form))


def presets(worlds: Worlds) -> Iterator[Case]:
    for name, content in YAML.items():
        path = worlds.file(content, ".yaml")
        for program in ("sft", "toyworld"):
            yield Case("preset", program, name, (f"preset={path}", *worlds.fine[program]))
        fine = changed(worlds.fine["pipeline"], preset=path, **{"run.name": "x"})
        yield Case("preset", "pipeline", name, fine)
        mixture = worlds.fine["corpus"][:2] + worlds.fine["corpus"][3:]
        yield Case("mixture", "corpus", name, (*mixture, "documents=[]", f"mixture={path}"))
    source = {"paths": [str(worlds.here / "train.jsonl")], "weight": 1.0, "licence": "none", "text": "text"}
    for name, content in objects(source):
        path = worlds.file(b'{"a": ' + content + b"}", ".yaml")
        yield Case("mixture", "corpus", name, (*mixture, "documents=[]", f"mixture={path}"))


def rows(worlds: Worlds) -> Iterator[Case]:
    """Yield a file of rows that is wrong, for each program that reads such rows."""
    world = worlds.here / "world"
    readers: dict[str, list[tuple[str, str]]] = {
        "document": [("tokenizer", "documents=[{}]"), ("corpus", "documents=[{}]"),
                     ("corpus.contamination", "sets={{a: {{path: {}}}}}")],
        "dialogue": [("sft", "train=[{}]"), ("sft", "eval=[{}]"), ("rejection_sampling", "sft_train=[{}]")],
        "prompt": [("compare", "prompts=[{}]"), ("sample", "prompts=[{}]"), ("rejection_sampling", "prompts=[{}]"),
                   ("ppo", "prompts=[{}]")],
        "comparison": [("rate", "comparisons=[{}]")],
        "preference": [("reward", "train=[{}]"), ("reward.evaluate", "preferences=[{}]")],
        "response": [("judge", "responses={}"), ("evaluate", "models={{a: {{responses: {}}}}}")],
        "judgement": [("evaluate", f"models={{{{a: {{{{responses: {world / 'response.jsonl'}, judgements: {{}}}}}}}}}}")],
    }  # fmt: skip
    for kind, programs in readers.items():
        fine = worlds.rows[kind]
        wrong = [(name, worlds.file(content, ".jsonl")) for name, content in lines(fine)]
        wrong += [(name, worlds.file(content, suffix)) for name, suffix, content in packed(fine)]
        wrong += [("a folder", world), ("nowhere", world / "nowhere.jsonl"), ("a long name", world / ("x" * 300))]
        if "messages" in fine:
            wrong += [(name, worlds.file(content, ".jsonl")) for name, content in conversations(fine)]
        for number, (program, override) in enumerate(programs):
            for name, path in wrong[number % 3 :: 3] if number else wrong:  # the same reader is behind them all
                yield Case(f"{kind} rows", program, name, (*worlds.fine[program], override.format(path)))


def conversations(fine: Mapping[str, Any]) -> Broken:
    for value in WRONG:
        message = {"role": "user", "content": value}
        yield f"content {value!r:.20}", json.dumps({**fine, "messages": [message]}).encode()
        yield f"role {value!r:.20}", json.dumps({**fine, "messages": [{**message, "role": value}]}).encode()
    for name, messages in {
        "no message": [],
        "a message that is none": ["hello"],
        "two of the user": [{"role": "user", "content": "a"}] * 2,
        "a tag": [{"role": "user", "content": "[INST] a [/INST]"}],
        "an answer first": [{"role": "assistant", "content": "a"}],
        "very long": [{"role": "user", "content": "fox " * 20_000}],
    }.items():
        yield name, json.dumps({**fine, "messages": messages}).encode()


def checkpoints(worlds: Worlds) -> Iterator[Case]:
    """Yield checkpoints with a file that is wrong; those from elsewhere have no manifest."""
    fine = MODEL.to_hf(scalar_head=False)
    config = {**fine, "max_position_embeddings": 128}
    reward = {**MODEL.to_hf(scalar_head=True), "max_position_embeddings": 128}
    index = {"metadata": {}, "weight_map": dict.fromkeys(_names(worlds.policy), "model.safetensors")}
    header = (worlds.policy / "model.safetensors").read_bytes()
    tensors: Broken = iter(
        {
            **NO_JSON,
            "cut": header[:-100],
            "only the header": header[: 8 + int.from_bytes(header[:8], "little")],
            "huge header": b"\xff" * 7 + b"\x3f" + header[8:],
            "header that is no JSON": header[:8] + b"x" * 200 + header[208:],
            "unknown dtype": header.replace(b'"F32"', b'"F9x"', 1),
            "offsets outside": header.replace(b'"data_offsets":[0,', b'"data_offsets":[9,', 1),
        }.items()
    )
    files: list[tuple[str, Broken]] = [
        ("config.json", objects(config, wrong=2)),
        ("model.safetensors.index.json", objects(index, wrong=8)),
        ("model.safetensors", tensors),
        ("tokenizer.model", iter(NO_JSON.items())),
    ]
    for file, broken in files:
        for name, content in broken:
            folder = worlds.copy(worlds.policy, file, content, without=[manifest.NAME])
            yield Case(file, "sft", name, changed(worlds.fine["sft"], checkpoint=folder))
            if file == "tokenizer.model":
                yield Case(file, "chat", name, (f"checkpoint={folder}",))
                for program in ("corpus", "pretrain"):
                    yield Case(file, program, name, changed(worlds.fine[program], tokenizer=folder / file))
    for name, content in objects(reward, wrong=1):
        folder = worlds.copy(worlds.helpfulness, "config.json", content, without=[manifest.NAME])
        yield Case("config.json", "reward.evaluate", name, changed(worlds.fine["reward.evaluate"], checkpoint=folder))
    entries = json.loads((worlds.policy / manifest.NAME).read_text())["files"]
    broken_manifests = [*objects({"files": entries}, wrong=8), *_inside("files", entries)]
    for name, content in broken_manifests:
        folder = worlds.copy(worlds.policy, manifest.NAME, content)
        yield Case(manifest.NAME, "sft", name, changed(worlds.fine["sft"], checkpoint=folder))
    lineage = {"program": "sft", "step": 1, "config": {}, "parents": {}, "data": {}}
    for name, content in objects(lineage):
        folder = worlds.copy(worlds.policy, "llamatrain.json", content)
        models = f"models={{a: {{checkpoint: {folder}, responses: {worlds.here / 'world' / 'response.jsonl'}}}}}"
        yield Case("llamatrain.json", "evaluate", name, (*worlds.fine["evaluate"][:2], models))
    for program, key in (("sft", "checkpoint"), ("ppo", "safety"), ("chat", "checkpoint"), ("sample", "helpfulness")):
        for value in ("nowhere", "meta-llama/Llama-2-7b-hf", worlds.here, worlds.policy / "config.json", "x" * 300):
            own = changed(worlds.fine[program], **{key: value})
            yield Case("checkpoint", program, str(value)[-40:], own)


def _names(folder: Path) -> list[str]:
    content = (folder / "model.safetensors").read_bytes()
    return list(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]))


def _inside(key: str, entries: Mapping[str, Any]) -> Broken:
    """Yield an object whose `key` holds entries, the first of which is wrong."""
    first, *_ = entries
    for name, content in objects(entries[first]):
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            continue
        yield f"{first}: {name}", json.dumps({key: {**entries, first: value}}).encode()
    yield "a name outside", json.dumps({key: {**entries, "../../x": entries[first]}}).encode()


def corpora(worlds: Worlds) -> Iterator[Case]:
    described = json.loads((worlds.corpus / "train" / "manifest.json").read_text())
    source = described["sources"][0]
    broken = [*objects(described, wrong=2), *((n, b'{"sources": [' + c + b"]}") for n, c in objects(source, wrong=0))]
    broken += [
        (f"source {key} {value!r:.20}", json.dumps({**described, "sources": [{**source, key: value}]}).encode())
        for key, value in zip(source, WRONG, strict=False)
    ]
    for name, content in broken:
        for program in ("pretrain", "corpus.verify"):
            folder = worlds.copy(worlds.corpus, "train/manifest.json", content)
            yield Case("corpus manifest", program, name, changed(worlds.fine[program], corpus=folder))
    for file, programs in {
        "shards.jsonl": ("corpus.verify",),
        "shards.bin": ("pretrain", "corpus.verify", "corpus.contamination"),
        "00000000.tokens": ("pretrain", "corpus.verify", "corpus.contamination"),
        "00000000.documents": ("corpus.verify", "corpus.contamination"),
    }.items():
        for name, content in NO_JSON.items():
            for program in programs:
                folder = worlds.copy(worlds.corpus, f"train/documents/{file}", content)
                yield Case(file, program, name, changed(worlds.fine[program], corpus=folder))
    for name, content in objects({"seed": 1}, wrong=len(WRONG)):
        folder = worlds.copy(worlds.here / "world", "world.json", content)
        for program in ("judge", "rate"):
            yield Case("world.json", program, name, changed(worlds.fine[program], world=folder))


def run_folders(worlds: Worlds, runs: Mapping[str, Path]) -> Iterator[Case]:
    """Yield run folders with a file that is wrong; the same command is given again."""
    status = json.loads((runs["sft"] / "status.json").read_text())
    logged = json.loads((runs["sft"] / "metrics.jsonl").read_text().splitlines()[0])
    sample = json.loads((runs["ppo"] / "samples.jsonl").read_text().splitlines()[0])
    response = json.loads(next((runs["sample"] / "chunks").rglob("*.jsonl")).read_text().splitlines()[0])
    chunk = str(next((runs["sample"] / "chunks").rglob("*.jsonl")).relative_to(runs["sample"]))
    finished = json.loads((runs["corpus"] / "finished.json").read_text())
    for program, file, broken in (
        ("sft", "status.json", objects(status, wrong=2)),
        ("sft", "metrics.jsonl", lines(dict(list(logged.items())[:4]))),
        ("sft", "incidents.jsonl", lines({**INCIDENT})),
        ("ppo", "samples.jsonl", lines(dict(list(sample.items())[:4]))),
        ("sample", chunk, lines(dict(list(response.items())[:4]), wrong=2)),
        ("corpus", "finished.json", objects(finished)),
    ):
        for name, content in broken:
            folder = worlds.copy(runs[program], file, content)
            _unlink(folder)
            yield Case(Path(file).name, program, name, tuple(worlds.fine[program]), folder)
    scores = json.loads((runs["reward.evaluate"] / "scores.jsonl").read_text().splitlines()[0])
    for name, content in lines(scores, wrong=2):
        pool = (*QUIET[:2], f"pool=[{worlds.file(content, '.jsonl')}]")
        yield Case("scores.jsonl", "reward.evaluate", name, pool)


def _unlink(folder: Path) -> None:
    """Make real copies of what a resumed run writes into."""
    for path in folder.iterdir():
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)


def reports(worlds: Worlds) -> Iterator[Case]:
    demo = synthetic.make(worlds.here / "demo")
    for file, wrong in (
        ("pipeline.json", 5),
        ("ppo/status.json", 2),
        ("ppo/stage.json", 1),
        ("evaluate/evaluation.json", 5),
        ("accuracy_safety/accuracy.json", 5),
    ):
        for name, content in objects(json.loads((demo / file).read_text()), wrong):
            yield _report(worlds, demo, file, name, content)
    for file in ("ppo/metrics.jsonl", "sample_ppo/responses.jsonl", "judge_ppo/judgements.jsonl"):
        for name, content in lines(json.loads((demo / file).read_text().splitlines()[0]), 2):
            yield _report(worlds, demo, file, name, content)
    for name, content in objects(json.loads((demo / "ppo/stage.json").read_text()), wrong=0):
        marked = worlds.copy(demo / "ppo", "stage.json", content)
        beside = worlds.here / "wrong" / f"clean{worlds.made}"
        beside.mkdir()
        marked.rename(beside / "ppo.replaced-0123456789ab")
        yield Case("stage.json", "clean", name, (f"folder={beside}",))


def _report(worlds: Worlds, demo: Path, file: str, name: str, content: bytes) -> Case:
    folder = worlds.copy(demo, file, content)
    return Case(Path(file).name, "report", name, (f"run.dir={folder.parent}", f"run.name={folder.name}"))
