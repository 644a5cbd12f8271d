"""stories260K, a real small Llama, as a Hugging Face folder; and the six real sets in the form of their hub sets."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2 as proto

from llamatrain.tokenizer import Tokenizer
from tests.checkpoints import save_checkpoint
from tests.model import stories260k

SPACE = "▁"
SETS = ("piqa", "arc_easy", "arc_challenge", "openbook_qa", "gsm8k", "human_eval")


def save_stories(data: Path, folder: Path) -> Path:
    """Write the model of `data`/stories260K with its tokenizer as a checkpoint folder."""
    path = folder.with_suffix(".model")
    path.write_bytes(_tokenizer((data / "stories260K" / "tok512.bin").read_bytes()))
    return save_checkpoint(folder, stories260k.read(data / "stories260K").model, Tokenizer(path))


def _tokenizer(raw: bytes) -> bytes:
    """Return llama2.c's vocabulary as a SentencePiece model with Llama 2's settings."""
    model: Any = proto.ModelProto()  # type: ignore[attr-defined]
    at, number, kinds = 4, 0, model.SentencePiece
    while at < len(raw):
        score, length = struct.unpack_from("fi", raw, at)
        piece = raw[at + 8 : at + 8 + length].decode()
        at += 8 + length
        control = {0: ("<unk>", kinds.UNKNOWN), 1: ("<s>", kinds.CONTROL), 2: ("</s>", kinds.CONTROL)}
        plain = (piece, kinds.BYTE) if piece.startswith("<0x") else (piece.replace(" ", SPACE), kinds.NORMAL)
        name, kind = control.get(number, plain)
        model.pieces.add(piece=name, score=score, type=kind)
        number += 1
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.vocab_size, trainer.byte_fallback = trainer.BPE, number, True
    normalizer.name, normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces = "identity", True, False
    normalizer.escape_whitespaces = True
    content: bytes = model.SerializeToString()
    return content


def write_sets(data: Path, root: Path) -> Path:
    """Write the rows of `data`/benchmarks in the published form of their hub sets."""
    rows = {name: _rows(data / "benchmarks" / f"{name}.jsonl") for name in SETS}
    for name, config in (("arc_easy", "ARC-Easy"), ("arc_challenge", "ARC-Challenge")):
        write(root / "allenai/ai2_arc" / config, "test", [_arc(row) for row in rows[name]])
    write(root / "baber/piqa", "validation", [_piqa(row) for row in rows["piqa"]])
    write(root / "allenai/openbookqa/main", "test", [_openbook(row) for row in rows["openbook_qa"]])
    write(root / "openai/gsm8k/main", "test", [_gsm8k(row) for row in rows["gsm8k"]])
    write(root / "openai/openai_humaneval", "test", rows["human_eval"])
    return root


def write(folder: Path, split: str, rows: list[dict[str, Any]]) -> None:
    """Write a split of a data set."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def _lettered(choices: list[str]) -> dict[str, list[str]]:
    return {"text": choices, "label": list("ABCDEFGH"[: len(choices)])}


def _arc(row: dict[str, Any]) -> dict[str, Any]:
    question = row["query"].removeprefix("Question: ")
    return {"question": question, "choices": _lettered(row["choices"]), "answerKey": "ABCDEFGH"[row["gold"]]}


def _openbook(row: dict[str, Any]) -> dict[str, Any]:
    letters = _lettered(row["choices"])
    return {"question_stem": row["query"], "choices": letters, "answerKey": "ABCDEFGH"[row["gold"]]}


def _piqa(row: dict[str, Any]) -> dict[str, Any]:
    first, second = row["choices"]
    goal = row["query"].removeprefix("Question: ").strip()
    return {"goal": goal, "sol1": first, "sol2": second, "label": row["gold"]}


def _gsm8k(row: dict[str, Any]) -> dict[str, Any]:
    return {"question": row["context"], "answer": f"{row['chain_of_thought']}\n#### {row['answer']}"}
