"""Adapters: hand-made rows of each data set, and the whole real files where they are present."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from llamatrain.data.hub import hub_away
from llamatrain.data.kinds import KINDS, DialogueRow, DocumentRow, PreferenceRow, PromptRow
from llamatrain.data.rows import read_rows
from llamatrain.errors import UserError


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


OPENING = "\n\nHuman: Hi there\n\nAssistant: Hello.\n\nHuman: Which trees?\n\nAssistant:"
PAIR = {"chosen": f"{OPENING} Oaks.\n\nAnd elms.", "rejected": f"{OPENING} None"}
MESSAGES = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Which trees?"},
]


def test_hh_transcripts_become_preferences(tmp_path: Path) -> None:
    path = write(tmp_path / "helpful.jsonl", PAIR)
    [row] = read_rows(f"hh_rlhf:{path}", PreferenceRow)
    expected = {"messages": MESSAGES, "chosen": "Oaks.\n\nAnd elms.", "rejected": "None", "kind": "helpfulness"}
    assert {key: row[key] for key in expected} == expected
    assert "rating" not in row
    [row] = read_rows(f"hh_rlhf_safety:{path}", PreferenceRow)
    assert row["kind"] == "safety"


def test_hh_prompts_have_stable_ids_and_the_safety_flag(tmp_path: Path) -> None:
    path = write(tmp_path / "harmless.jsonl", PAIR, PAIR)
    [first] = read_rows(f"hh_rlhf:{path}", PromptRow)  # one prompt, though two pairs
    assert first["messages"] == MESSAGES
    assert first["is_adversarial"] is True
    assert first["id"] == "hh_rlhf-" + first["id"][-16:]
    [plain] = read_rows(f"hh_rlhf_helpfulness:{write(tmp_path / 'other.jsonl', PAIR)}", PromptRow)
    assert (plain["id"], plain["is_adversarial"]) == (first["id"], False)


def test_hh_rows_that_part_early_or_hold_tags_are_left_out(tmp_path: Path) -> None:
    early = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"}
    tagged = {"chosen": "\n\nHuman: [INST]\n\nAssistant: b", "rejected": "\n\nHuman: [INST]\n\nAssistant: d"}
    path = write(tmp_path / "helpful.jsonl", early, PAIR, tagged)
    assert len(list(read_rows(f"hh_rlhf:{path}", PreferenceRow))) == 1


def test_hh_needs_to_know_the_kind(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", PAIR)
    with pytest.raises(UserError, match=r"pairs\.jsonl:1: .*need the prefix hh_rlhf_helpfulness: or hh_rlhf_safety:"):
        list(read_rows(f"hh_rlhf:{path}", PreferenceRow))


def test_a_row_of_another_data_set_names_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path / "helpful.jsonl", PAIR, {"text": "x"})
    with pytest.raises(UserError, match=r"helpful\.jsonl:2: not a row that 'hh_rlhf' can read .*chosen"):
        list(read_rows(f"hh_rlhf:{path}", PreferenceRow))


def test_rows_with_messages_are_read_as_other_kinds(tmp_path: Path) -> None:
    pair = {"messages": MESSAGES, "chosen": "Oaks.", "rejected": "No.", "kind": "safety"}
    unsafe = {**pair, "messages": MESSAGES[:1], "chosen_safe": False}
    path = write(tmp_path / "pairs.v1.jsonl", pair, pair, unsafe)
    asked, hello = read_rows(f"messages:{path}", PromptRow)  # of two pairs with the same messages one prompt
    assert (asked["messages"], asked["is_adversarial"], asked["source"]) == (MESSAGES, True, "pairs.v1.jsonl")
    assert asked["id"].startswith("pairs-") and asked["id"] != hello["id"]
    [*_, told] = read_rows(f"messages:{path}", DialogueRow)  # an unsafe answer is none to learn from
    assert told["messages"] == [*MESSAGES, {"role": "assistant", "content": "Oaks."}]
    assert (told["loss"], told["is_adversarial"]) == ("last", True)
    [first, _] = read_rows(f"messages:{path}", DocumentRow)
    assert first["text"] == "User: Hi there\n\nAssistant: Hello.\n\nUser: Which trees?\n\nAssistant: Oaks."
    dialogue = write(tmp_path / "dialogues.jsonl", {"messages": MESSAGES[:2], "is_adversarial": None})
    assert next(read_rows(f"messages:{dialogue}", PromptRow))["messages"] == MESSAGES[:1]
    assert next(read_rows(f"messages:{dialogue}", PromptRow))["is_adversarial"] is False
    assert next(read_rows(f"messages:{dialogue}", DialogueRow))["messages"] == MESSAGES[:2]
    with pytest.raises(UserError, match=r"bad\.jsonl:1: field 'messages': found \[\], need"):
        list(read_rows(f"messages:{write(tmp_path / 'bad.jsonl', {'messages': []})}", PromptRow))


def node(
    role: str, text: str, rank: int | None = None, lang: str = "en", replies: list[Any] | None = None
) -> dict[str, Any]:
    return {"role": role, "text": text, "rank": rank, "lang": lang, "replies": replies or []}


def test_oasst_follows_the_best_ranks_to_the_last_answer(tmp_path: Path) -> None:
    follow = node("prompter", "more?", replies=[node("assistant", "third", 2), node("assistant", "second", 1)])
    unanswered = node("prompter", "and?", 0)
    tree = node(
        "prompter",
        "Why?",
        replies=[
            node("assistant", "unranked"),
            node("assistant", "worst", 1),
            node("assistant", "best", 0, replies=[follow]),
            node("assistant", "auf Deutsch", 0, lang="de"),
        ],
    )
    follow["replies"][1]["replies"] = [unanswered]
    path = write(tmp_path / "trees.jsonl", {"prompt": tree}, {"prompt": node("prompter", "Warum?", lang="de")})
    [row] = read_rows(f"oasst:{path}", DialogueRow)
    assert [m["content"] for m in row["messages"]] == ["Why?", "best", "more?", "second"]


def test_own_fields_through_datasets(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "train.jsonl", {"text": "Once.", "source": "s"}, {"text": "Twice.", "source": "s"})
    assert [row["text"] for row in read_rows(f"hf:{folder}", DocumentRow)] == ["Once.", "Twice."]
    with pytest.raises(UserError, match="row 1: field 'messages' of the dialogue is missing"):
        list(read_rows(f"hf:{folder}:train", DialogueRow))


@pytest.mark.parametrize(
    ("source", "kind", "count"),
    [
        ("hh_rlhf:{}/hh-rlhf/helpful-base.jsonl.gz", "preference", 1201),
        ("hh_rlhf:{}/hh-rlhf/harmless-base.jsonl.gz", "preference", 1159),
        ("hh_rlhf:{}/hh-rlhf/harmless-base.jsonl.gz", "prompt", 1157),
        ("hh_rlhf:{}/hh-rlhf/helpful-base.jsonl.gz", "dialogue", 1204),
        ("oasst:{}/oasst/en_100_tree.jsonl", "dialogue", 100),
        ("fairytale_stories:{}/fairytales/stories.train.jsonl", "document", 232),
        ("fairytale_questions:{}/fairytales/questions.train.jsonl.gz", "dialogue", 8548),
    ],
)
def test_real_files(source: str, kind: str, count: int, shared_data: Path) -> None:
    rows = list(read_rows(source.format(shared_data), KINDS[kind]))
    assert len(rows) == count


@pytest.mark.parametrize("answer", [None, 200, 404])
def test_the_hub_is_away_where_nothing_answers(answer: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(answer or 0)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        hub = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("HF_ENDPOINT", hub)
        monkeypatch.setenv("no_proxy", "*")
        hub_away.cache_clear()
        if answer is None:
            server.server_close()
            assert hub_away().startswith(f"{hub} cannot be reached: ")
        else:
            threading.Thread(target=server.handle_request, daemon=True).start()
            assert hub_away() == ""
    hub_away.cache_clear()
