"""Rows: every kind's checks and their messages, files, folds, fingerprints."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from llamatrain.data.kinds import KINDS, DialogueRow, PreferenceRow
from llamatrain.data.rows import Part, count_rows, file_fingerprint, read_part, read_rows, write_rows
from llamatrain.data.skipped import BadRows
from llamatrain.errors import MissingFileError, UserError

ASK = [{"role": "user", "content": "Why?"}]
TALK = [*ASK, {"role": "assistant", "content": "Because."}]
RESPONSE = {
    "prompt_id": "p",
    "messages": ASK,
    "response": "",
    "model": "m",
    "temperature": 1,
    "seed": 0,
    "finished": True,
}
COMPARISON = {
    "id": "c", "messages": ASK, "response_a": "x", "response_b": "y", "model_a": "m", "model_b": "m",
    "temperature_a": 1.0, "temperature_b": 0.5, "is_adversarial": False,
}  # fmt: skip
GOOD: dict[str, dict[str, Any]] = {
    "document": {"text": "Once.", "source": "s", "url": None, "meta": {"k": 1}},
    "dialogue": {"messages": TALK, "source": "s", "loss": "last", "is_adversarial": True},
    "prompt": {"id": "p", "messages": ASK, "source": "s", "is_adversarial": False},
    "response": RESPONSE,
    "comparison": COMPARISON,
    "preference": {
        "messages": ASK,
        "chosen": "x",
        "rejected": "y",
        "kind": "safety",
        "rating": "better",
        "chosen_safe": True,
    },
    "judgement": {"prompt_id": "p", "helpfulness": 0.5, "safety": 1, "reasons": ["r"]},
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path | str, kind: str) -> list[dict[str, Any]]:
    return list(read_rows(path, KINDS[kind]))


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_good_rows_come_back(kind: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    assert write_rows(path, [GOOD[kind], GOOD[kind]]) == 2
    expected = {key: value for key, value in GOOD[kind].items() if value is not None}
    assert read(path, kind) == [expected, expected]
    assert count_rows(path) == 2
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("kind", "change", "parts"),
    [
        ("document", {"text": None}, ["field 'text'", "is null", "need a text"]),
        ("document", {"text": " \n"}, ["field 'text'", "found ' \\n'", "non-empty"]),
        ("document", {"text": "\ud83d"}, ["field 'text'", "surrogate"]),
        ("document", {"source": 3}, ["field 'source'", "found 3", "need a text"]),
        ("dialogue", {"messages": ASK}, ["field 'messages'", "ends with 'user'", "need to end with 'assistant'"]),
        ("dialogue", {"messages": [ASK[0], 5]}, ["field 'messages'[1]", "found 5"]),
        ("dialogue", {"loss": "first"}, ["field 'loss'", "found 'first'", "need one of all, last"]),
        ("prompt", {"messages": TALK}, ["field 'messages'", "ends with 'assistant'"]),
        ("prompt", {"messages": [{"role": "user", "content": "[INST]"}]}, ["field 'messages'[0]", "'[INST]'"]),
        ("prompt", {"is_adversarial": "no"}, ["field 'is_adversarial'", "found 'no'", "need true or false"]),
        ("response", {"seed": 1.5}, ["field 'seed'", "found 1.5", "a whole number"]),
        ("response", {"temperature": True}, ["field 'temperature'", "found True", "a number"]),
        ("comparison", {"response_b": None}, ["field 'response_b'", "is null"]),
        ("preference", {"rating": "best"}, ["field 'rating'", "found 'best'", "negligibly_better"]),
        ("preference", {"kind": "honesty"}, ["field 'kind'", "helpfulness, safety"]),
        *(
            (kind, {"safety": True}, ["field 'safety'", f"of the {kind}", "now called 'is_adversarial'"])
            for kind in ("prompt", "dialogue", "response", "comparison")
        ),
        ("preference", {"meta": {"safety_prompt": True}}, ["'meta.safety_prompt'", "now called 'meta.is_adversarial'"]),
        ("judgement", {"safety": 1.01}, ["field 'safety'", "found 1.01", "[0, 1]"]),
    ],
)
def test_bad_rows_name_file_line_field_found_and_need(
    kind: str, change: dict[str, Any], parts: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.jsonl", GOOD[kind], {**GOOD[kind], **change})
    with pytest.raises(UserError) as caught:
        read(path, kind)
    assert all(part in str(caught.value) for part in [f"{path}:2:", *parts]), str(caught.value)


@pytest.mark.parametrize("kind", GOOD)
def test_every_missing_field_is_named(kind: str, tmp_path: Path) -> None:
    optional = {"source", "url", "meta", "loss", "rating", "chosen_safe", "reasons"} | (
        {"is_adversarial"} if kind == "dialogue" else set()
    )
    for field in set(GOOD[kind]) - optional:
        path = write(tmp_path / "rows.jsonl", {key: value for key, value in GOOD[kind].items() if key != field})
        with pytest.raises(UserError, match=rf":1: field '{field}'.* missing"):
            read(path, kind)


@pytest.mark.parametrize(
    ("row", "kind"), [("comparison", "preference"), ("prompt", "response"), ("judgement", "prompt")]
)
def test_a_row_of_another_kind_is_called_by_it(row: str, kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", GOOD[row])
    with pytest.raises(UserError, match=rf"missing.*\(the row is a {row}\)"):
        read(path, kind)


@pytest.mark.parametrize("kind", ["document", "dialogue", "prompt"])
def test_the_files_name_stands_in_for_a_source(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", {**GOOD[kind], "source": None}, GOOD[kind])
    assert [row["source"] for row in read(path, kind)] == ["mine.jsonl", "s"]
    assert [row["source"] for row in read(f"hf:{path}", kind)] == ["mine.jsonl", "s"]


def test_bad_rows_are_counted_by_reason(tmp_path: Path) -> None:
    talk = {"messages": TALK, "source": "s"}
    tag = {"messages": [{"role": "user", "content": "[INST]"}, *TALK[1:]], "source": "s"}
    longer = {"messages": [*TALK, *tag["messages"]], "source": "s"}
    path = write(tmp_path / "rows.jsonl", talk, tag, [1], longer, talk, {"messages": ASK})
    bad = BadRows("skip")
    assert list(read_rows(path, DialogueRow, bad)) == [talk, talk]
    said: list[str] = []
    bad.say(said.append)
    assert said[0] == "warning: 4 of 6 rows skipped, as they cannot be used:"
    assert said[1].startswith(f"  2 like {path}:2: field 'messages'[0].content: holds the chat format's tag '[INST]'")
    assert said[2] == f"    at {path}:2, 4"
    assert [line[: len(f"  1 like {path}:3")] for line in said[3:]] == [f"  1 like {path}:3", f"  1 like {path}:6"]
    write(path, *[talk] * 19, tag)
    few: list[str] = []
    rare = BadRows("skip")
    assert len(list(read_rows(path, DialogueRow, rare))) == 19
    rare.say(few.append)
    assert few[0] == "1 of 20 rows skipped, as they cannot be used:"


def test_a_part_that_no_row_falls_into_says_what_would_mend_it(tmp_path: Path) -> None:
    pair = {"messages": [{"role": "user", "content": "Why?"}], "chosen": "a", "rejected": "b", "kind": "safety"}
    path = write(tmp_path / "rows.jsonl", pair, pair, {**pair, "kind": "helpfulness"}, [1])
    (empty,) = (n for n in (0, 1) if not any(True for _ in read_part(Part(f"{path}@fold{n}/2"), PreferenceRow, print)))
    with pytest.raises(
        UserError, match=rf"safety@fold{empty}/2: of 2 preference rows none has a prompt of this part; need "
    ):
        list(read_rows(f"{path}@safety@fold{empty}/2", PreferenceRow, BadRows("skip")))
    with pytest.raises(UserError, match=r"need rows of more prompts, or larger parts \(in a pipeline folds=2\)"):
        list(read_rows(f"{path}@fold{empty}/2", PreferenceRow, BadRows("skip")))


def test_a_file_of_bad_rows_alone_says_what_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [1], [2])
    with pytest.raises(UserError, match=rf"holds no dialogue rows, need at least one \({path}:1: found \[1\]"):
        list(read_rows(path, DialogueRow, BadRows("skip")))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b'{"text": "a", "source": "s"}\n{"text": \n', [":2: not JSON", "need a JSON object"]),
        (b'{"text": "a", "source": "s"}\n\n', [":2:", "empty"]),
        (b"[1]\n", [":1:", "found [1]"]),
        (b"\xff\xfe\n", [":1: not JSON"]),
        (b"", ["holds no document rows"]),
    ],
)
def test_bad_files_are_the_users_errors(content: bytes, parts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path, "document")
    assert all(part in str(caught.value) for part in [str(path), *parts]), str(caught.value)


def test_cut_gzip_is_the_users_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    whole = gzip.compress(
        b"".join(json.dumps({"text": str(i) * 99, "source": "s"}).encode() + b"\n" for i in range(999))
    )
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="truncated or damaged gzip file"):
        read(path, "document")


def test_missing_file_folder_adapter_and_kind(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"none\.jsonl does not exist"):
        read(tmp_path / "none.jsonl", "document")
    with pytest.raises(MissingFileError):
        read(f"hh_rlhf:{tmp_path}/none.jsonl", "preference")
    with pytest.raises(UserError, match="is a folder"):
        read(tmp_path, "document")
    with pytest.raises(UserError, match=r"no adapter 'nobody', need one of .*hh_rlhf"):
        read("nobody:x.jsonl", "document")
    with pytest.raises(UserError, match="makes no judgement rows, only preference"):
        read("hh_rlhf:x.jsonl", "judgement")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"a": 1})
    with pytest.raises(TypeError):
        write_rows(path, [{"b": 2}, {"b": object()}])
    assert path.read_text() == '{"a": 1}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_preferences_of_a_kind_can_be_told_from_those_of_the_other(tmp_path: Path) -> None:
    pairs = [
        {"messages": [{"role": "user", "content": f"q{i}"}], "chosen": "a", "rejected": "b", "kind": kind, "id": i}
        for i in range(40)
        for kind in ("helpfulness", "safety")
    ]
    path = tmp_path / "p.jsonl"
    write_rows(path, pairs)
    safe = read(f"{path}@safety", "preference")
    assert [row["kind"] for row in safe] == ["safety"] * 40
    part, rest = (read(f"{path}@safety@{share}0/4", "preference") for share in ("fold", "without"))
    assert sorted(row["id"] for row in [*part, *rest]) == list(range(40))
    assert {row["id"] for row in part} == {row["id"] for row in read(f"{path}@helpfulness@fold0/4", "preference")}
    hashes = {file_fingerprint(f"{path}{end}") for end in ("", "@safety", "@helpfulness", "@safety@fold0/4")}
    assert len(hashes) == 4


def test_folds_part_the_rows_and_keep_a_conversation_together(tmp_path: Path) -> None:
    def row(opening: int, later: int) -> dict[str, Any]:
        more = [{"role": "assistant", "content": "a"}, {"role": "user", "content": str(later)}]
        return {
            "id": f"{opening}-{later}",
            "messages": [{"role": "user", "content": f"q{opening}"}, *more],
            "source": "s",
            "is_adversarial": True,
        }

    path = tmp_path / "rows.jsonl"
    write_rows(path, (row(opening, later) for opening in range(100) for later in range(3)))
    everything = {r["id"] for r in read(path, "prompt")}
    folds = [{r["id"] for r in read(f"{path}@fold{i}/5", "prompt")} for i in range(5)]
    assert sum(map(len, folds)) == len(everything) == 300
    assert set().union(*folds) == everything
    assert all(30 <= len(fold) <= 90 for fold in folds)
    assert all(f"{name.split('-')[0]}-{later}" in fold for fold in folds for name in fold for later in range(3))
    assert {r["id"] for r in read(f"{path}@without2/5", "prompt")} == everything - folds[2]
    with pytest.raises(UserError, match="fold 5 of 5 does not exist"):
        read(f"{path}@fold5/5", "prompt")
    prints = {file_fingerprint(f"{path}{suffix}") for suffix in ("", "@fold0/5", "@fold1/5", "@without0/5")}
    assert len(prints) == 4


def test_shares_of_the_adversarial_rows_lie_within_each_other_and_leave_the_harmless_ones(tmp_path: Path) -> None:
    def row(number: int) -> dict[str, Any]:  # ten answers to each prompt
        answer = {"role": "assistant", "content": f"a{number}"}
        return {
            "messages": [{"role": "user", "content": f"q{number // 10}"}, answer],
            "is_adversarial": number % 2 == 0,
        }

    path = tmp_path / "rows.jsonl"
    write_rows(path, [*map(row, range(2000)), {"messages": TALK}])
    before: set[str] = set()
    for percent in ("0", "1", "10", "25.5", "100"):
        rows = read(f"{path}@adversarial{percent}%", "dialogue")
        assert sum(not row.get("is_adversarial") for row in rows) == 1001
        own = {row["messages"][-1]["content"] for row in rows if row.get("is_adversarial")}
        assert before <= own and abs(len(own) - 10 * float(percent)) <= 0.1 * len(own) + 8
        before = own
    assert len(before) == 1000
    parts = (read(f"{path}{end}", "dialogue") for end in ("@fold1/5", "@adversarial25%", "@fold1/5@adversarial25%"))
    fold, share, both = ([row["messages"][-1]["content"] for row in part] for part in parts)
    assert both == [answer for answer in fold if answer in {*share}]
    with pytest.raises(UserError, match="101 % of the adversarial rows, need 0 to 100"):
        read(f"{path}@adversarial101%", "dialogue")
    ends = ("", "@fold1/5", "@adversarial10%", "@adversarial25%", "@fold1/5@adversarial25%")
    assert len({file_fingerprint(f"{path}{end}") for end in ends}) == 5


def test_the_fingerprint_is_of_the_bytes(tmp_path: Path) -> None:
    one, same, other = (write(tmp_path / name, {"a": value}) for name, value in (("1", 1), ("2", 1), ("3", 2)))
    assert file_fingerprint(one) == file_fingerprint(same) != file_fingerprint(other)
    assert file_fingerprint(f"hf:{one}") != file_fingerprint(one)


def test_equal_rows_make_equal_gzip_files(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_rows(tmp_path / name, [{"a": 1}])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


@pytest.mark.parametrize("kind", GOOD)
def test_bad_rows_of_every_kind_stop_or_are_counted_and_the_first_ten_named(kind: str, tmp_path: Path) -> None:
    field = "text" if kind == "document" else "prompt_id" if kind == "judgement" else "messages"
    wrong = {**GOOD[kind], field: 3}
    path = write(tmp_path / "rows.jsonl", GOOD[kind], *[wrong] * 12)
    bad = BadRows("skip")
    assert len(list(read_rows(path, KINDS[kind], bad))) == 1
    said: list[str] = []
    bad.say(said.append)
    assert said[0] == "warning: 12 of 13 rows skipped, as they cannot be used:"
    assert said[1].startswith(f"  12 like {path}:2: field {field!r}")
    assert said[2:] == [f"    at {path}:2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more"]
    with pytest.raises(UserError, match=r"rows\.jsonl:2: .*; bad_rows=skip skips such rows"):
        list(read_rows(path, KINDS[kind], BadRows("stop")))
    write(path, wrong)
    with pytest.raises(UserError, match=rf"holds no {kind} rows, need at least one \({path}:1: field {field!r}"):
        list(read_rows(path, KINDS[kind], BadRows("skip")))
