"""What each program is given that is malformed: one file or one word wrong in each case."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launch.completion import ASKED
from launch.programs import PROGRAMS
from launch.stage import PLAN
from llamatrain import manifest
from llamatrain.run_files import Incident
from tests.distributed.worker import MODEL
from tests.distributed.worlds import QUIET

from .mutations import FORMS, NO_JSON, WRONG, YAML, Broken, lines, objects, packed, values
from .world import Worlds, readers

INCIDENT = Incident(
    incident=1, step=4, first_step=4, back_to=3, threshold=1.0, norm_before=1.0, samples=[{"sample": 3, "source": "x"}]
)


@dataclass(frozen=True)
class Case:
    """A program with one thing wrong; `run` is a run folder that is there already, of one that makes one (`whole`: its
    arguments name it).
    """

    group: str
    program: str
    name: str
    arguments: tuple[str, ...]
    run: Path | None = None
    whole: bool = False


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
    yield from settings(worlds, runs["sft"])
    yield from run_folders(worlds, runs)
    yield from pipelines(worlds)
    yield from unreadable(worlds, runs)


def command_lines(worlds: Worlds) -> Iterator[Case]:
    for program in PROGRAMS:
        for form in FORMS:
            yield Case("command line", program, form[:60], (*worlds.fine[program], form))
    for form in FORMS:
        yield Case("asked by a shell", "completion", form[:60], (ASKED, "llamatrain", "sft", form))


def presets(worlds: Worlds) -> Iterator[Case]:
    for name, content in YAML.items():
        path = worlds.file(content, ".yaml")
        for program in ("sft", "toyworld"):
            yield Case("preset", program, name, (f"preset={path}", *worlds.fine[program]))
        fine = worlds.fine["pipeline"]
        yield Case("preset", "pipeline", name, changed(fine, preset=path, **{"run.name": "x"}))
        yield Case("data", "pipeline", name, (*fine, f"data={path}"))
        yield Case("settings", "sft", name, (f"--config={path}",), whole=True)
        mixture = (*worlds.fine["corpus"], "documents=[]")
        yield Case("mixture", "corpus", name, (*mixture, f"mixture={path}"))
    source = {"paths": [str(worlds.here / "train.jsonl")], "weight": 1.0, "licence": "none", "text": "text"}
    for name, content in objects(source):
        path = worlds.file(b'{"a": ' + content + b"}", ".yaml")
        yield Case("mixture", "corpus", name, (*mixture, f"mixture={path}"))


def rows(worlds: Worlds) -> Iterator[Case]:
    """Yield a file of rows that is wrong, for each key that reads such rows."""
    for kind, fine in worlds.rows.items():
        wrong = [(name, worlds.file(content, ".jsonl")) for name, content in lines(fine)]
        wrong += [(name, worlds.file(content, suffix)) for name, suffix, content in packed(fine)]
        nowhere, long_name = worlds.world / "nowhere.jsonl", worlds.world / ("x" * 300)
        wrong += [("a folder", worlds.world), ("nowhere", nowhere), ("a long name", long_name)]
        if "messages" in fine:
            wrong += [(name, worlds.file(content, ".jsonl")) for name, content in conversations(fine)]
        others = [("new", "from"), *([("corpus.contamination", "sets.a.path")] if kind == "document" else [])]
        for number, (program, key) in enumerate([*readers(kind), *others]):
            for name, path in wrong[number % 4 :: 4] if number else wrong:  # the same reader is behind them all
                yield Case(f"{kind} rows", program, name, (*worlds.fine[program], f"{key}={path}"))


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
        yield Case("llamatrain.json", "evaluate", name, (*worlds.fine["evaluate"], f"models.a.checkpoint={folder}"))
    for program, key in [*readers("checkpoint"), ("chat", "checkpoint")]:
        for value in ("nowhere", "meta-llama/Llama-2-7b-hf", worlds.here, worlds.policy / "config.json", "x" * 300):
            own = (*worlds.fine[program], f"{key}={value}")
            yield Case("checkpoint", program, str(value)[-40:], own)


def _names(folder: Path) -> list[str]:
    content = (folder / "model.safetensors").read_bytes()
    return list(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]))


def _inside(key: str, entries: Mapping[str, Any]) -> Broken:
    """Yield an object whose `key` holds entries, the first of which is wrong."""
    first, *_ = entries
    for name, value in values(entries[first]):
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
    documents = "train/documents"
    shard = json.loads((worlds.corpus / documents / "shards.jsonl").read_text().splitlines()[0])
    for file, programs, contents in (
        ("shards.jsonl", ("corpus.verify",), lines(shard)),
        ("shards.bin", ("pretrain", "corpus.verify", "corpus.contamination"), iter(NO_JSON.items())),
        ("00000000.tokens", ("pretrain", "corpus.verify", "corpus.contamination"), iter(NO_JSON.items())),
        ("00000000.documents", ("corpus.verify", "corpus.contamination"), iter(NO_JSON.items())),
    ):
        for name, content in contents:
            for program in programs:
                folder = worlds.copy(worlds.corpus, f"{documents}/{file}", content)
                yield Case(file, program, name, changed(worlds.fine[program], corpus=folder))
    for name, content in objects({"seed": 1}, wrong=len(WRONG)):
        folder = worlds.copy(worlds.here / "world", "world.json", content)
        for program in ("judge", "rate"):
            yield Case("world.json", program, name, changed(worlds.fine[program], world=folder))


def settings(worlds: Worlds, run: Path) -> Iterator[Case]:
    """Yield whole configurations that are wrong, as a pipeline gives them to its stages."""
    fine = yaml.safe_load((run / "config.yaml").read_text())
    for number, (name, value) in enumerate(values(fine, wrong=1)):
        own = {"dir": str(worlds.here / "runs"), "name": f"settings{number}"}
        if isinstance(value, dict) and value.get("run") == fine["run"]:
            value = {**value, "run": {**fine["run"], **own, "given": []}}  # with a length given, it trains as long
        path = worlds.file(_dump(value), ".yaml")
        yield Case("settings", "sft", name, (f"--config={path}",), whole=True)


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
        ("corpus", "config.yaml", iter(YAML.items())),
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


def pipelines(worlds: Worlds) -> Iterator[Case]:
    """Yield a pipeline's folders with a file that is wrong, for those who read them."""
    demo = worlds.demo
    for file, wrong in (
        ("pipeline.json", 5),
        ("ppo/status.json", 2),
        ("ppo/stage.json", 1),
        ("evaluate/evaluation.json", 5),
        ("accuracy_safety/accuracy.json", 5),
    ):
        for name, content in objects(json.loads((demo / file).read_text()), wrong):
            yield from shown(worlds.copy(demo, file, content), file, name)
    for file in ("ppo/metrics.jsonl", "sample_ppo/responses.jsonl", "judge_ppo/judgements.jsonl"):
        for name, content in lines(json.loads((demo / file).read_text().splitlines()[0]), 2):
            yield from shown(worlds.copy(demo, file, content), file, name)
    for name, content in objects(json.loads((demo / "ppo/stage.json").read_text()), wrong=0):
        marked = worlds.copy(demo / "ppo", "stage.json", content)
        beside = worlds.here / "wrong" / f"clean{worlds.made}"
        beside.mkdir()
        marked.rename(beside / "ppo.replaced-0123456789ab")
        yield Case("stage.json", "clean", name, (f"folder={beside}",))
    plan = json.loads((worlds.planned / PLAN).read_text())
    first, *others = plan["stages"]
    stages = [(f"stage: {name}", _dump({**plan, "stages": [value, *others]})) for name, value in values(first, 1)]
    for name, content in [*objects(plan), *stages]:
        folder = worlds.copy(worlds.planned, PLAN, content)
        yield Case(PLAN, "stage", name, (f"pipeline={folder}", f"stage={worlds.last}"))


def shown(folder: Path, file: str, name: str, group: str = "") -> Iterator[Case]:
    """Yield a pipeline's folder with a file that is wrong for those who show it."""
    yield Case(group or Path(file).name, "report", name, (f"folder={folder}",))
    if file in ("pipeline.json", "ppo/status.json", "ppo/stage.json", "ppo/metrics.jsonl"):
        yield Case(group or Path(file).name, "runs", name, (f"folder={folder}",))


def unreadable(worlds: Worlds, runs: Mapping[str, Path]) -> Iterator[Case]:
    """Yield files that are fine and may not be read, for every key that names one, in runs that go on and in pipelines."""
    inside = {
        "checkpoint": ("config.json", "model.safetensors", "tokenizer.model", manifest.NAME),
        "corpus": ("train/manifest.json", "train/documents/shards.bin", "train/documents/00000000.tokens"),
        "world": ("world.json",),
    }
    for what, path in worlds.read.items():
        for file in inside.get(what, ("",)):
            locked = worlds.locked(path, file)
            for program, key in [*readers(what), ("new", "from")]:
                yield Case("unreadable", program, f"{key} {file}", (*worlds.fine[program], f"{key}={locked}"))
    preset = worlds.locked(worlds.file(b"sft: [epochs=1]\n", ".yaml"))
    yield Case("unreadable", "sft", "preset", (f"preset={preset}", *worlds.fine["sft"]))
    yield Case("unreadable", "pipeline", "preset", changed(worlds.fine["pipeline"], preset=preset))
    for program, files in {
        "sft": ("status.json", "metrics.jsonl", "config.yaml", ".lock"),
        "ppo": ("samples.jsonl",),
        "corpus": ("finished.json",),
    }.items():
        for file in files:
            yield Case("unreadable", program, file, tuple(worlds.fine[program]), worlds.locked(runs[program], file))
    for file in ("pipeline.json", "ppo/status.json", "ppo/stage.json", "ppo/metrics.jsonl"):
        yield from shown(worlds.locked(worlds.demo, file), file, file, "unreadable")
    folder = worlds.locked(worlds.planned, PLAN)
    yield Case("unreadable", "stage", PLAN, (f"pipeline={folder}", f"stage={worlds.last}"))


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()
