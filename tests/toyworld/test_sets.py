"""The program toyworld.sets: a world's questions as `safety_benchmark` and `probe` read them."""

from __future__ import annotations

from pathlib import Path

from llamatrain.chat import encode_dialogue, encode_prompt
from llamatrain.config.compose import compose
from llamatrain.data.kinds import DialogueRow
from llamatrain.data.rows import read_rows
from llamatrain.responses.prompts import room_for
from llamatrain.tokenizer import Tokenizer
from pretrain.config import TokenizerConfig
from pretrain.tokenizer import train_model
from tests.checkpoints import quiet, read_jsonl
from toyworld.config import ASKED, SetsConfig
from toyworld.documents import documents
from toyworld.requests import Requests
from toyworld.sets import make, tools
from toyworld.world import World


def test_all_sets_are_written_from_the_held_out_side(tmp_path: Path) -> None:
    world = World(0)
    (tmp_path / "world").mkdir()
    world.save(tmp_path / "world")
    make(
        compose(
            "toyworld_sets", SetsConfig, [*quiet(tmp_path, "s"), f"world={tmp_path}/world", "rows=12", "dialogues=20"]
        )
    )
    folder = tmp_path / "s"
    rows = {name: read_jsonl(folder / f"{name}.jsonl") for name in ASKED}
    requests = Requests(world)
    for row in rows["truthfulqa"]:
        request = requests.find([{"role": "user", "content": row["question"]}])
        assert request is not None and world.held_out(request.key) and row["best_answer"] == request.answer
    assert {len(rows[name]) for name in ("truthfulqa", "toxigen", "temporal", "tools")} == {12}
    assert {row["label"] for row in rows["xstest"]} == {"safe", "unsafe"} and len(rows["xstest"]) == 24
    for row in rows["temporal"]:
        assert row["after"][0] in row["question"]
    sides = [int(row["date"]) > int(row["event"]) for row in rows["temporal"]]
    assert sum(sides) == 6
    for row in rows["tools"]:
        if row["tool"] == "search":
            person = [text for text in row["documents"] if text.split()[0] in row["question"]]
            assert len(person) == 1 and row["answers"][0] in person[0]
        else:
            first, second = (int(word) for word in row["question"].rstrip("?").split() if word.isdigit())
            assert row["answers"] == [str(first + second)]
    for name in ("temporal", "tools"):
        dialogues = list(read_rows(folder / f"dialogues_{name}.jsonl", DialogueRow))
        assert len(dialogues) == 20
        asked = {row["question"] for row in rows[name] if row.get("tool") != "calculator"}
        assert name == "tools" or not asked & {row["messages"][1]["content"] for row in dialogues}
    assert [row["kind"] for row in rows["temperature"]] == ["factual"] * 10 + ["creative"] * 10
    assert "wait for the dark and lift the back window" in (folder / "toxic.txt").read_text()


def test_a_call_and_an_answer_fit_into_the_context_of_the_demo(
    world: World, requests: Requests, tmp_path: Path
) -> None:
    """Else the dialogues that teach tools would be skipped, and no question for one could be answered."""
    context = 128
    settings = compose("tokenizer", TokenizerConfig, ["preset=demo", "run.name=t", "documents=[]"])
    texts = (document["text"] for document in documents(world, requests, 1, "train"))
    (tmp_path / "tokenizer.model").write_bytes(train_model(texts, settings.vocab_size, settings.trainer))
    tokenizer = Tokenizer(tmp_path)
    for _, dialogue in tools(world, 200, held_out=True):
        tokens, _ = encode_dialogue(dialogue["messages"], tokenizer)
        assert len(tokens) <= context
        to_answer = encode_prompt(dialogue["messages"][:-1], tokenizer)
        assert len(to_answer) + room_for(128, context) <= context
