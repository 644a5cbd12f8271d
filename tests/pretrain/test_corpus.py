"""Program `corpus`, whole: what becomes of documents, whatever the number of processes, chunks and kills."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from llamatrain.config.compose import compose
from llamatrain.data import shards
from llamatrain.data.rows import write_rows
from llamatrain.data.sequences import TokenBatches
from llamatrain.errors import MissingFileError, UserError
from llamatrain.tokenizer import Tokenizer
from pretrain.corpus.build import build
from pretrain.corpus.config import CorpusConfig
from pretrain.corpus.steps import Corpus
from tests.corpora import folder_hash

TEXTS = ["The red fox.", "12 apples\n\nand a  river", "🙂"]
WORDS = [
    "the",
    "red",
    "fox",
    "lives",
    "in",
    "a",
    "forest",
    "near",
    "river",
    "and",
    "bakes",
    "bread",
    "for",
    "kind",
    "bear",
    "who",
    "sings",
    "old",
    "songs",
    "every",
    "morning",
]


def story(seed: int, words: int = 60) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words))


def write(path: Path, documents: Iterable[str | dict[str, Any]]) -> str:
    write_rows(path, ({"source": "s", **({"text": d} if isinstance(d, str) else d)} for d in documents))
    return str(path)


def composed(tmp_path: Path, *overrides: str) -> CorpusConfig:
    common = ["run.name=c", f"run.dir={tmp_path}", "run.progress=false", "run.wandb.mode=disabled", "num_workers=1"]
    return compose("corpus", CorpusConfig, [*common, *overrides])


def kept(folder: Path, tokenizer: Tokenizer, part: str = "train") -> dict[str, list[str]]:
    """Return the documents of a corpus by source, decoded."""
    manifest = shards.read_manifest(folder / part)
    found = {}
    for source in manifest.sources:
        stream = shards.TokenStream(folder / part, source, manifest.dtype)
        ids = stream.read(0, len(stream)).tolist()
        ends = [i for i, token in enumerate(ids) if token == tokenizer.eos_id]
        starts = [0, *(end + 1 for end in ends)]
        assert all(ids[start] == tokenizer.bos_id for start in starts[:-1])
        found[source.name] = [tokenizer.decode(ids[a:b]) for a, b in zip(starts, ends, strict=False)]
    return found


def report(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "report" / "report.json").read_text())["sources"]
    return rows


def listed(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_stream_is_the_documents_between_bos_and_eos(tmp_path: Path, tokenizer: Tokenizer) -> None:
    train, held_out = write(tmp_path / "d.jsonl", TEXTS), write(tmp_path / "e.jsonl", ["The kind bear."])
    build(composed(tmp_path, f"documents=[{train}]", f"eval_documents=[{held_out}]", f"tokenizer={tokenizer.path}"))
    manifest = shards.read_manifest(tmp_path / "c" / "train", tokenizer)
    [source] = manifest.sources
    stream = shards.TokenStream(tmp_path / "c" / "train", source, manifest.dtype)
    encoded = [tokenizer.encode(text, bos=True, eos=True) for text in TEXTS]
    assert stream.read(0, len(stream)).tolist() == [token for ids in encoded for token in ids]
    assert (source.name, source.share, source.documents, source.words) == ("documents", 1.0, 3, 9)
    assert source.text_bytes == sum(len(text.encode()) for text in TEXTS)
    assert kept(tmp_path / "c", tokenizer, "eval") == {"documents": ["The kind bear."]}
    [first, second] = listed(tmp_path / "c" / "metrics.jsonl")
    assert first["corpus/train_documents"] == 3
    assert second["corpus/eval_tokens"] == shards.read_manifest(tmp_path / "c" / "eval").tokens
    assert not (tmp_path / "c" / "work").exists()
    assert all(fault == "" for _, fault in shards.verify(tmp_path / "c" / "train"))


def test_a_rerun_without_held_out_documents_leaves_none(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source, held_out = write(tmp_path / "d.jsonl", TEXTS), write(tmp_path / "e.jsonl", ["A bear."])
    common = [f"documents=[{source}]", f"tokenizer={tokenizer.path}"]
    build(composed(tmp_path, *common, f"eval_documents=[{held_out}]"))
    with pytest.raises(
        UserError,
        match=r"made with another eval_documents.*: undo the change, or start from scratch with run\.resume=never",
    ):
        build(composed(tmp_path, *common))
    assert (tmp_path / "c" / "eval" / "manifest.json").is_file()
    build(composed(tmp_path, *common, "run.resume=never"))
    assert not (tmp_path / "c" / "eval").exists()
    (former,) = tmp_path.glob("c.replaced-*")
    assert (former / "eval" / "manifest.json").is_file()


def test_a_failed_rebuild_leaves_no_corpus(tmp_path: Path, tokenizer: Tokenizer) -> None:
    common = [f"documents=[{write(tmp_path / 'd.jsonl', TEXTS)}]", f"tokenizer={tokenizer.path}"]
    build(composed(tmp_path, *common))
    with (tmp_path / "d.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(UserError, match="is finished and was made with other inputs"):
        build(composed(tmp_path, *common))
    with pytest.raises(UserError, match=r"d\.jsonl:4: not JSON"):
        build(composed(tmp_path, *common, "run.resume=never"))
    assert not (tmp_path / "c" / "train" / "manifest.json").exists()
    build(composed(tmp_path, *common, "bad_rows=skip"))
    [row] = report(tmp_path / "c")
    assert (row["rows"], row["bad_rows"], row["kept"]) == (4, 1, 3)


def mixture(tmp_path: Path) -> list[str]:
    """Write a mixture with planted duplicates, sites and held-out text; return the overrides that name it."""
    own = [story(i) for i in range(40)]
    near = own[0].replace("the", "the", 1).split()
    near[30] = "unlike"
    own[7:7] = [own[3].upper() + " ", " ".join(near)]
    held_out = [story(1000 + i) for i in range(4)]
    person = "Write to {0}@example.org or call (212) 555-01{0} now. "
    web = [{"text": story(2000 + i), "url": "https://www.clean.org/a"} for i in range(10)]
    web += [{"text": person.format(i + 10) + story(3000 + i, 20), "url": "http://People.example/x"} for i in range(12)]
    web += [{"text": person.format(i + 10) + story(4000 + i, 20), "url": "http://few.example/x"} for i in range(2)]
    web += [{"text": held_out[1]}, {"text": own[5]}]
    content = {
        "own": {
            "paths": write(tmp_path / "own.jsonl", own),
            "eval": [write(tmp_path / "e.jsonl", held_out)],
            "epochs": 2,
        },
        "web": {"paths": [write(tmp_path / "web.jsonl.gz", web)], "epochs": 0.5},
    }
    for entry in content.values():
        entry["licence"] = "CC0"
    (tmp_path / "mixture.yaml").write_text(yaml.safe_dump(content))
    return [f"mixture={tmp_path / 'mixture.yaml'}"]


def test_planted_duplicates_and_sites_go_and_counts_add_up(tmp_path: Path, tokenizer: Tokenizer) -> None:
    build(composed(tmp_path, *mixture(tmp_path), f"tokenizer={tokenizer.path}", "chunk_mb=0.002"))
    rows = {(row["source"], row["part"]): row for row in report(tmp_path / "c")}
    own, web = rows["own", "train"], rows["web", "train"]
    assert (own["rows"], own["kept"], own["exact"], own["near"]) == (42, 40, 1, 1)
    assert (web["rows"], web["kept"], web["site"], web["exact"]) == (26, 12, 12, 2)
    assert rows["own", "eval"]["kept"] == 4
    for row in rows.values():
        assert row["rows"] == row["bad_rows"] + sum(
            row[why] for why in ("kept", "empty", "short", "language", "site", "exact", "near")
        )
    here = f"{tmp_path}/"
    removed = {
        row.pop("document").removeprefix(here): row for row in listed(tmp_path / "c" / "report" / "removed.jsonl")
    }
    assert {name: row["kept"].removeprefix(here) for name, row in removed.items()} == {
        "own.jsonl:8": "own.jsonl:4",
        "own.jsonl:9": "own.jsonl:1",
        "web.jsonl.gz:25": "e.jsonl:2",
        "web.jsonl.gz:26": "own.jsonl:6",
    }
    assert removed["own.jsonl:9"]["similarity"] == pytest.approx(51 / 61, abs=1e-6)
    [site] = listed(tmp_path / "c" / "report" / "dropped_sites.jsonl")
    assert (site["source"], site["host"], site["documents"]) == ("web", "people.example", 12)
    assert (site["found"]["emails"], site["found"]["phones"]) == (12, 12)
    manifest = shards.read_manifest(tmp_path / "c" / "train")
    tokens = {source.name: source.tokens for source in manifest.sources}
    total = 2 * tokens["own"] + 0.5 * tokens["web"]
    assert [source.share for source in manifest.sources] == pytest.approx(
        [2 * tokens["own"] / total, 0.5 * tokens["web"] / total]
    )
    TokenBatches(tmp_path / "c" / "train", seq_len=32, batch_size=2, micro_batch_size=1, seed=0).batch_at(3)


def result(folder: Path) -> str:
    """Return one hash of all that a run made, but for times."""
    lists = [
        (folder / "report" / name).read_text() for name in ("removed.jsonl", "dropped_sites.jsonl", "data_card.json")
    ]
    counts = json.dumps(report(folder))
    return " ".join([folder_hash(folder / "train"), folder_hash(folder / "eval"), *lists, counts])


def test_chunks_do_not_change_the_result(tmp_path: Path, tokenizer: Tokenizer) -> None:
    common = [*mixture(tmp_path), f"tokenizer={tokenizer.path}", "shard_tokens=600", "cleaning.repeated_lines=0.5"]
    build(composed(tmp_path, *common, "run.name=whole"))
    build(composed(tmp_path, *common, "run.name=cut", "chunk_mb=0.001"))
    assert result(tmp_path / "whole") == result(tmp_path / "cut")
    for source in shards.read_manifest(tmp_path / "cut" / "train").sources:
        entries = list(shards.shard_entries(tmp_path / "cut" / "train", source))
        assert len(entries) > 2
        assert all(entry["tokens"] <= 600 for entry in entries)


def test_finished_work_is_kept_and_other_work_is_not(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = [*mixture(tmp_path), f"tokenizer={tokenizer.path}", "chunk_mb=0.002", "keep_work=true"]
    build(composed(tmp_path, *common, "run.name=whole"))
    plain = Corpus._tokenize

    def fails(corpus: Corpus) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Corpus, "_tokenize", fails)
    with pytest.raises(KeyboardInterrupt):
        build(composed(tmp_path, *common))
    monkeypatch.setattr(Corpus, "_tokenize", plain)
    work = tmp_path / "c" / "work"
    read = {path: path.stat().st_mtime_ns for path in (work / "read").iterdir() if path.is_dir()}
    (work / "near" / "03" / "000000" / "found.npz").unlink()
    (work / "near" / "03" / "000000").rmdir()  # as if killed before it
    (work / "seconds").write_text("1000")
    build(composed(tmp_path, *common, "num_workers=1"))
    assert result(tmp_path / "whole") == result(tmp_path / "c")
    speed = json.loads((tmp_path / "c" / "report" / "report.json").read_text())
    assert speed["seconds"] > 1000  # over both attempts
    assert speed["parts"]["train"]["megabytes_per_second"] < 1e-3
    assert read == {path: path.stat().st_mtime_ns for path in (work / "read").iterdir() if path.is_dir()}
    build(composed(tmp_path, *common))  # all is done: nothing changes
    assert result(tmp_path / "whole") == result(tmp_path / "c")
    with pytest.raises(UserError, match="is finished and was made"):
        build(composed(tmp_path, *common, "cleaning.min_characters=2"))
    build(composed(tmp_path, *common, "cleaning.min_characters=2", "run.resume=never"))
    assert not any(path.exists() and path.stat().st_mtime_ns == number for path, number in read.items())


def test_a_kill_while_work_is_deleted_leaves_none_of_it(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = [*mixture(tmp_path), f"tokenizer={tokenizer.path}", "chunk_mb=0.002"]
    build(composed(tmp_path, *common, "run.name=whole"))
    folder, remove = tmp_path / "c", shutil.rmtree

    def killed(path: Path, *arguments: Any, **named: Any) -> None:
        if "work" in Path(path).name:
            remove(next((path / "read").glob("0*")))
            raise KeyboardInterrupt
        remove(path, *arguments, **named)

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        build(composed(tmp_path, *common))
    monkeypatch.setattr(shutil, "rmtree", remove)
    assert not (folder / "work").exists()
    (folder / "finished.json").unlink()
    build(composed(tmp_path, *common))
    assert result(tmp_path / "whole") == result(folder)
    assert not (folder / ".work.doomed").exists()


def test_a_finished_corpus_is_left_alone(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "d.jsonl", TEXTS)
    common = [f"documents=[{source}]", f"tokenizer={tokenizer.path}", "run.progress=true"]
    part = tmp_path / "c" / "train"

    def damage() -> None:
        with (part / "documents" / "00000000.tokens").open("ab") as file:
            file.write(b"x")

    def made_anew(*more: str) -> bool:
        before = part.stat().st_ino, part.stat().st_mtime_ns
        build(composed(tmp_path, *common, *more))
        anew = (part.stat().st_ino, part.stat().st_mtime_ns) != before
        assert ("nothing to do" in capsys.readouterr().err) != anew
        assert all(fault == "" for _, fault in shards.verify(part))
        return anew

    build(composed(tmp_path, *common))
    assert not made_anew()
    assert not made_anew("num_workers=2")
    assert made_anew("run.resume=never")
    damage()
    assert made_anew("keep_work=true")
    damage()
    assert made_anew("keep_work=true")
    damage()
    assert made_anew()
    (part / "documents" / "shards.bin").unlink()
    assert made_anew()
    (part / "manifest.json").unlink()
    assert made_anew()
    write(tmp_path / "d.jsonl", TEXTS[:2])
    assert made_anew("run.resume=never")
    assert kept(tmp_path / "c", tokenizer) == {"documents": TEXTS[:2]}


def test_an_input_that_changes_while_it_is_read_is_told(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Corpus._tokenize

    def slow(corpus: Corpus) -> None:
        plain(corpus)
        write(tmp_path / "d.jsonl", TEXTS[:1])

    monkeypatch.setattr(Corpus, "_tokenize", slow)
    source = write(tmp_path / "d.jsonl", TEXTS)
    with pytest.raises(UserError, match="an input changed while it was read"):
        build(composed(tmp_path, f"documents=[{source}]", f"tokenizer={tokenizer.path}"))
    assert not (tmp_path / "c" / "train").exists()


def test_the_field_with_the_text_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for name, texts in (("a", TEXTS[:2]), ("b", TEXTS[2:])):
        write_rows(tmp_path / f"{name}.jsonl", ({"content": text, "text": 3} for text in texts))
    folder = tmp_path / "set"
    folder.mkdir()
    (tmp_path / "b.jsonl").rename(folder / "b.jsonl")
    entry = {"text": "content", "epochs": 1, "licence": "CC0"}
    content = {"file": {"paths": str(tmp_path / "a.jsonl"), **entry}, "set": {"paths": f"hf:{folder}", **entry}}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(content))
    build(composed(tmp_path, f"mixture={tmp_path / 'm.yaml'}", f"tokenizer={tokenizer.path}"))
    assert kept(tmp_path / "c", tokenizer) == {"file": TEXTS[:2], "set": TEXTS[2:]}


@pytest.mark.slow
def test_processes_and_kills_do_not_change_the_result(tmp_path: Path, tokenizer: Tokenizer, repository: Path) -> None:
    common = [*mixture(tmp_path), f"tokenizer={tokenizer.path}", "chunk_mb=0.002", "keep_work=true"]
    build(composed(tmp_path, *common, "run.name=alone"))
    command = [sys.executable, "-m", "pretrain.corpus", *common, "num_workers=2", "run.name=killed"]
    command += [f"run.dir={tmp_path}", "run.progress=false", "run.wandb.mode=disabled"]
    inherited = {name: value for name, value in os.environ.items() if "RANK" not in name}  # of runs in this process
    environment = {**inherited, "PYTHONPATH": str(repository)}
    process = subprocess.Popen(command, env=environment, cwd=tmp_path)
    while process.poll() is None and not (tmp_path / "killed" / "work" / "near").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "train").exists()
    subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    assert result(tmp_path / "alone") == result(tmp_path / "killed")


def test_cleaning_steps_can_be_turned_off(tmp_path: Path, tokenizer: Tokenizer) -> None:
    texts = [
        "The red fox.\nWe use cookies to improve your visit.\nA bear\u200b sings.",
        "THE RED fox",
        "x",
        "schÃ¶n ist es",
    ]
    common = [f"documents=[{write(tmp_path / 'd.jsonl', texts)}]", f"tokenizer={tokenizer.path}"]
    build(composed(tmp_path, *common, "cleaning.min_characters=2"))
    assert kept(tmp_path / "c", tokenizer) == {
        "documents": ["The red fox.\nA bear sings.", "THE RED fox", "schön ist es"]
    }
    [row] = report(tmp_path / "c")
    assert row["cleaned"] == {"unicode": 1, "control_characters": 1, "boilerplate": 1, "repeated_lines": 0}
    assert row["short"] == 1
    off = ["unicode", "control_characters", "boilerplate"]
    build(composed(tmp_path, *common, *(f"cleaning.{step}=false" for step in off), "run.resume=never"))
    assert kept(tmp_path / "c", tokenizer) == {"documents": texts}


def test_lines_that_many_documents_repeat_are_dropped(tmp_path: Path, tokenizer: Tokenizer) -> None:
    texts = [f"{story(i)}\n  Our shop is open." if i % 2 else f"{story(i)}\nOnly {i}." for i in range(20)]
    common = [f"documents=[{write(tmp_path / 'd.jsonl', texts)}]", f"tokenizer={tokenizer.path}", "chunk_mb=0.001"]
    lines = ["cleaning.repeated_lines=0.5", "cleaning.repeated_lines_documents=10"]
    build(composed(tmp_path, *common, *lines))
    expected = [text.replace("\n  Our shop is open.", "") for text in texts]
    assert kept(tmp_path / "c", tokenizer) == {"documents": expected}
    [row] = report(tmp_path / "c")
    assert (row["cleaned"]["repeated_lines"], row["lines_dropped"]) == (10, 10)
    build(composed(tmp_path, *common, lines[0], "cleaning.repeated_lines_documents=11", "run.resume=never"))
    assert kept(tmp_path / "c", tokenizer) == {"documents": texts}


def test_a_source_without_rows_repeats_no_lines(tmp_path: Path, tokenizer: Tokenizer) -> None:
    texts = [f"{story(i)}\nOur shop is open." for i in range(10)]
    bad, good = tmp_path / "bad.jsonl", write(tmp_path / "good.jsonl", texts)
    bad.write_text("")
    sources = {
        name: {"paths": [str(path)], "epochs": 1, "licence": "CC0"} for name, path in (("bad", bad), ("good", good))
    }
    (tmp_path / "mixture.yaml").write_text(json.dumps(sources))
    common = [f"mixture={tmp_path / 'mixture.yaml'}", f"tokenizer={tokenizer.path}", "bad_rows=skip"]
    build(composed(tmp_path, *common, "cleaning.repeated_lines=0.5", "cleaning.repeated_lines_documents=5"))
    assert kept(tmp_path / "c", tokenizer) == {"good": [text.partition("\n")[0] for text in texts]}


def test_bad_rows_are_counted_by_reason_and_named_and_a_file_of_them_alone_is_refused(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    path, nope = tmp_path / "d.jsonl", json.dumps({"nope": "x" * 2_000})
    good = [json.dumps({"text": story(i)}) for i in range(8)]
    path.write_text("\n".join([*good[:4], nope, "{broken", *good[4:], *[nope] * 12]) + "\n")
    common = [f"tokenizer={tokenizer.path}", "bad_rows=skip", "chunk_mb=0.004", "run.progress=true", "num_workers=1"]
    build(composed(tmp_path, f"documents=[{path}]", *common))
    said = capsys.readouterr().err
    assert "warning: 14 of 22 rows skipped, as they cannot be used:" in said
    assert f"13 like {path}:5: field 'text' of the document is missing" in said  # in several parts of the file
    assert (
        f"at {path}:5, 11, 12, 13, 14, 15, 16, 17, 18, 19 and 3 more" in said and f"1 like {path}:6: not JSON" in said
    )
    [row] = report(tmp_path / "c")
    assert (row["rows"], row["bad_rows"], row["kept"]) == (22, 14, 8)
    bad = tmp_path / "bad.jsonl"
    bad.write_text(f"{nope}\n")
    with pytest.raises(UserError, match=rf"{bad}: holds no document rows, need at least one \({bad}:1: field 'text'"):
        build(composed(tmp_path, f"documents=[{path},{bad}]", *common, "run.name=other"))


def test_nothing_left_is_said(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = write(tmp_path / "d.jsonl", ["a", "b"])
    common = [f"documents=[{source}]", f"tokenizer={tokenizer.path}"]
    with pytest.raises(UserError, match=r"none of the 2 training documents is left \(too short: 2\); need"):
        build(composed(tmp_path, *common, "cleaning.min_characters=9"))
    told = r"is left \(exact duplicate: 2, 2 of them like held-out documents\); need at least one"
    with pytest.raises(UserError, match=told):
        build(composed(tmp_path, *common, f"eval_documents=[{source}]", "run.name=copied"))


def test_a_source_of_which_nothing_is_left_is_left_out_and_weights_redo_the_last_steps_alone(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = {
        name: {"paths": write(tmp_path / f"{name}.jsonl", texts), "weight": 1, "licence": "CC0"}
        for name, texts in (("copied", TEXTS), ("own", [*TEXTS, "A bear."]), ("again", TEXTS[:2]))
    }
    folder, path = tmp_path / "c", tmp_path / "m.yaml"
    common = [f"mixture={path}", f"tokenizer={tokenizer.path}", "keep_work=true", "run.progress=true"]

    def made() -> tuple[list[tuple[str, float, str]], list[int]]:
        path.write_text(yaml.safe_dump(entries, sort_keys=False))
        build(composed(tmp_path, *common))
        sources = shards.read_manifest(folder / "train").sources
        early = [(folder / "work" / step / "000000").stat().st_mtime_ns for step in ("read", "near/00", "tokenize")]
        return [(s.name, s.share, s.licence) for s in sources], early

    first, early = made()
    assert first == [("copied", 0.5, "CC0"), ("own", 0.5, "CC0")]
    warning = "warning: source again is left out: none of its 2 training documents was kept"
    assert warning in capsys.readouterr().err
    assert warning in (folder / "report" / "report.md").read_text()
    assert report(folder)[2]["kept"] == 0
    entries["own"].update(weight=3, licence="MIT")
    assert made() == ([("copied", 0.25, "CC0"), ("own", 0.75, "MIT")], early)
    assert kept(folder, tokenizer) == {"copied": TEXTS, "own": ["A bear."]}


def test_folds_are_spelled_without_quotes_on_the_command_line(tmp_path: Path) -> None:
    cfg = composed(tmp_path, "documents=[fairytale_stories:/data/d.jsonl@without0/5,e.jsonl.gz]", "tokenizer=t")
    assert cfg.documents == ["fairytale_stories:/data/d.jsonl@without0/5", "e.jsonl.gz"]


def test_missing_things_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(MissingFileError, match="llamatrain tokenizer"):
        build(composed(tmp_path, "documents=[d.jsonl]", f"tokenizer={tmp_path}"))
    with pytest.raises(MissingFileError, match=r"d\.jsonl does not exist"):
        build(composed(tmp_path, "documents=[d.jsonl]", f"tokenizer={tokenizer.path}"))
    with pytest.raises(UserError, match=r"documents=\[\], mixture=None: need a list of files"):
        composed(tmp_path, "tokenizer=t")
    assert compose("corpus", CorpusConfig, ["run.name=c", "documents=[d]", "tokenizer=t"]).num_workers is None
    with pytest.raises(UserError, match=r"num_workers=0: need 1 or more"):
        composed(tmp_path, "documents=[d]", "tokenizer=t", "num_workers=0")
    with pytest.raises(UserError, match=r"duplicates\.similarity=1\.5: need a number in \[0\.1, 1\]"):
        composed(tmp_path, "documents=[d]", "tokenizer=t", "duplicates.similarity=1.5")
    with pytest.raises(UserError, match=r"languages\.keep=\['en'\]: need languages\.identify=true"):
        composed(tmp_path, "documents=[d]", "tokenizer=t", "languages.keep=[en]")


def test_shares_of_a_stream_of_documents_are_exact(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """The words' cache gives what SentencePiece gives for whole texts: spaces, lines, other scripts."""
    from pretrain.corpus.tokens import WordEncoder

    rng = random.Random(0)
    alphabet = [
        "a",
        "the",
        "fox",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        " \n",
        "7",
        "é",
        "🙂",
        "▁",
        ".",
        "river",
        "\u3000",
        "\x00",
    ]
    texts = ["".join(rng.choices(alphabet, k=rng.randrange(30))) for _ in range(3000)] + TEXTS
    encoder = WordEncoder(tokenizer)
    assert encoder.by_word
    ids, lengths = encoder.encode(texts)
    expected = [tokenizer.encode(text, bos=True, eos=True) for text in texts]
    assert lengths == [len(one) for one in expected]
    assert np.frombuffer(ids, np.uint16).tolist() == [token for one in expected for token in one]


def test_other_languages_are_dropped_and_told_by_the_card(tmp_path: Path, tokenizer: Tokenizer) -> None:
    english = "The quick brown fox jumps over the lazy dog near the river, and he is glad of it."
    texts = [english, "Der schnelle braune Fuchs springt heute über den faulen Hund am Ufer des Flusses.", "12 34"]
    common = [f"documents=[{write(tmp_path / 'd.jsonl', texts)}]", f"tokenizer={tokenizer.path}", "card.sample=1"]
    build(composed(tmp_path, *common, "languages.identify=true", "languages.keep=[en]"))
    assert kept(tmp_path / "c", tokenizer) == {"documents": [english]}
    [row] = report(tmp_path / "c")
    assert (row["language"], row["kept"]) == (2, 1)
    card = json.loads((tmp_path / "c" / "report" / "data_card.json").read_text())
    assert (card["documents"], card["english_only"], card["languages"]) == (1, True, {"en": 1.0})
    assert card["pronouns"]["he"] == 1.0
