"""Tokenized sources hold what reading and encoding each row gives, whoever made them and whatever share is meant."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llamatrain.chat import encode_dialogue
from llamatrain.data import tokenized
from llamatrain.data.cache import Cache
from llamatrain.data.encoding import Encoding
from llamatrain.data.kinds import DialogueRow
from llamatrain.data.rows import placed_rows
from llamatrain.data.skipped import BadRows
from llamatrain.data.tokenized import Rows, of_sources
from llamatrain.errors import UserError
from llamatrain.tokenizer import Tokenizer

QUESTION = "Where does the red fox live?"


def write_dialogues(path: Path, count: int, bad: tuple[int, ...] = (), first: str = "") -> Path:
    """Write dialogues of which those with these numbers, from 1, are no JSON; every fifth one is long."""
    lines = []
    for number in range(1, count + 1):
        question = {"role": "user", "content": f"{first}{number} {QUESTION * (8 if number % 5 == 0 else 1)}"}
        answer = {"role": "assistant", "content": f"In forest {number}."}
        lines.append("{" if number in bad else json.dumps({"messages": [question, answer]}))
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture
def how(tokenizer: Tokenizer) -> Encoding:
    return Encoding("dialogue", tokenizer, max_length=64)


def read(rows: Rows) -> list[tuple[str, list[int], list[bool]]]:
    found = []
    for number in range(len(rows)):
        table, span = rows.span(number)
        found.append((rows.where(number), table["ids"][span].tolist(), table["mask"][span].tolist()))
    return found


def expected(source: str, how: Encoding, bad: BadRows | None = None) -> list[tuple[str, list[int], list[bool]]]:
    found = []
    for where, row in placed_rows(source, DialogueRow, bad):
        tokens, mask = encode_dialogue(row["messages"], how.tokenizer, row.get("loss", how.loss))
        fits = len(tokens) <= how.max_length
        found.append((where, tokens if fits else [], mask if fits else []))
    return found


def counted(bad: BadRows) -> dict[str, Any]:
    return {**bad.content(), "good": bad.good}


@pytest.fixture
def on_two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of some hundred bytes, for two processes."""
    monkeypatch.setattr(tokenized, "PART_BYTES", 700)
    monkeypatch.setattr(tokenized.os, "sched_getaffinity", lambda _: {0, 1})


@pytest.mark.usefixtures("on_two_cores")
def test_processes_make_what_one_makes(
    tmp_path: Path, how: Encoding, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(write_dialogues(tmp_path / "rows.jsonl", 60, bad=(9, 31, 32, 58)))
    for share in ("", "@fold1/3", "@without1/3"):
        bad, plain = BadRows("skip"), BadRows("skip")
        rows = of_sources([path + share], how, bad, Cache(tmp_path / ".cache"))
        assert read(rows) == expected(path + share, how, plain)
        assert counted(bad) == counted(plain)
    assert len(list((tmp_path / ".cache").iterdir())) == 1  # the folds share one table
    said = capfd.readouterr().err
    assert "tokenizing" in said and "Fatal" not in said
    monkeypatch.setattr(tokenized.os, "sched_getaffinity", lambda _: {0})
    alone = of_sources([path], how, BadRows("skip"), Cache(tmp_path / "other"))
    assert all((rows.tables[0][name] == alone.tables[0][name]).all() for name in alone.tables[0].columns)


@pytest.mark.usefixtures("on_two_cores")
@pytest.mark.parametrize("policy", ["stop", None])
def test_the_first_bad_row_stops_as_it_does_when_rows_are_read(tmp_path: Path, how: Encoding, policy: str) -> None:
    path = str(write_dialogues(tmp_path / "rows.jsonl", 60, bad=(31, 45)))
    with pytest.raises(UserError, match=r"rows\.jsonl:31: not JSON") as read_row:
        expected(path, how, BadRows(policy))
    cached = Cache(tmp_path / ".cache", show=False)
    for skipped_before in (False, True):
        if skipped_before:
            of_sources([path], how, BadRows("skip"), cached)
        with pytest.raises(UserError) as tokenized_row:
            of_sources([path], how, BadRows(policy), cached)
        assert str(tokenized_row.value) == str(read_row.value)


@pytest.mark.usefixtures("on_two_cores")
def test_a_process_that_is_killed_is_told_and_ends_with_its_parent(
    tmp_path: Path, how: Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Killed(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            started.append(self)
            if len(started) == 2:
                self.kill()

    monkeypatch.setattr(tokenized.subprocess, "Popen", Killed)
    path = str(write_dialogues(tmp_path / "rows.jsonl", 60))
    with pytest.raises(RuntimeError, match="a process that tokenizes has ended"):
        of_sources([path], how, BadRows("skip"), Cache(tmp_path / ".cache", show=False))
    assert [process.poll() is not None for process in started] == [True, True]
    assert [file.name for file in (tmp_path / ".cache").glob("*/*")] == [".lock"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_source_without_a_good_row_is_an_error(tmp_path: Path, how: Encoding, name: str) -> None:
    path = str(write_dialogues(tmp_path / name, 3, bad=(1, 2, 3)))
    with pytest.raises(UserError, match=r"holds no dialogue rows, need at least one \(.*:1: not JSON"):
        of_sources([path], how, BadRows("skip"), Cache(tmp_path / ".cache"))
    good = str(write_dialogues(tmp_path / f"good_{name}", 1))
    shares = [f"{good}@fold{number}/2" for number in range(2)]
    with pytest.raises(UserError, match="of 1 dialogue rows none has a prompt of this part"):
        of_sources(shares, how, BadRows("skip"), Cache(tmp_path / ".cache"))


def test_another_content_tokenizer_or_length_makes_another_table(tmp_path: Path, how: Encoding) -> None:
    cached, path = Cache(tmp_path / ".cache"), tmp_path / "rows.jsonl"

    def key(how: Encoding = how) -> str:
        return of_sources([str(write_dialogues(path, 4))], how, BadRows(), cached).tables[0].key

    first = key()
    assert key() == first
    assert key(Encoding("dialogue", how.tokenizer, 65)) != first
    assert key(Encoding("dialogue", how.tokenizer, 64, "last")) != first
    assert key(Encoding("dialogue", how.tokenizer, 64, drop_turns=True)) != first
    write_dialogues(path, 4, first="x")
    assert of_sources([str(path)], how, BadRows(), cached).tables[0].key != first
    made = len(list(cached.folder.iterdir()))
    assert made == 5


def test_other_code_or_another_sentencepiece_makes_another_table(
    tmp_path: Path, how: Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(write_dialogues(tmp_path / "rows.jsonl", 4))

    def key() -> str:
        tokenized._code.cache_clear()
        return of_sources([path], how, BadRows()).tables[0].key

    keys = [key()]
    for module in (tokenized.tokenizer, tokenized.chat):
        changed = tmp_path / "changed.py"
        changed.write_text(Path(str(module.__file__)).read_text() + "# changed")
        with monkeypatch.context() as patched:
            patched.setattr(module, "__file__", str(changed))
            keys.append(key())
    with monkeypatch.context() as patched:
        patched.setattr(tokenized.sentencepiece, "__version__", "0.0.0")
        keys.append(key())
    assert len(set(keys)) == 4
    assert key() == keys[0]


def test_a_local_data_set_of_the_hub_goes_the_same_way(
    tmp_path: Path, how: Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenized, "PART_ROWS", 7)
    monkeypatch.setattr(tokenized.os, "sched_getaffinity", lambda _: {0})
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(2):
        write_dialogues(folder / f"{number}.jsonl", 10, first=f"{number}-")
    name = f"hf:{folder}"
    rows = of_sources([name], how, BadRows(), Cache(tmp_path / ".cache", show=False))
    assert read(rows) == expected(name, how)
    assert len(rows) == 20


def test_rows_are_joined_and_taken_by_number(tmp_path: Path, how: Encoding) -> None:
    paths = [str(write_dialogues(tmp_path / f"{name}.jsonl", 4, first=name)) for name in "ab"]
    one, two = (of_sources([path], how, BadRows(), Cache(tmp_path / ".cache")) for path in paths)
    both = one + two
    assert read(both) == read(one) + read(two)
    chosen = [6, 1, 1, 2, 3, 4]
    taken = both.take(tokenized.np.array(chosen))
    assert read(taken) == [read(both)[number] for number in chosen]
    ids = [token for table, span in taken.spans() for token in table["ids"][span].tolist()]
    assert ids == [token for _, tokens, _ in read(taken) for token in tokens]
    assert len({one.key, two.key, both.key, taken.key, (two + one).key}) == 5


def test_processes_that_tokenize_load_no_torch() -> None:
    code = "import sys, llamatrain.data.tokenized; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_share_of_the_adversarial_dialogues_is_what_reading_them_gives(how: Encoding, tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    rows = [json.loads(line) for line in write_dialogues(path, 60).read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "is_adversarial": i % 3 == 0}) + "\n" for i, row in enumerate(rows)))
    for source in (f"{path}@adversarial0%", f"{path}@adversarial40%", f"{path}@fold0/2@adversarial40%"):
        assert read(of_sources([source], how, BadRows())) == expected(source, how)
    assert len(of_sources([f"{path}@adversarial0%"], how, BadRows())) == 40
    pairs = Encoding("preference", how.tokenizer, max_length=64)
    with pytest.raises(UserError, match="a share of adversarial rows is for dialogues and prompts"):
        of_sources([f"{path}@adversarial40%"], pairs, BadRows())
