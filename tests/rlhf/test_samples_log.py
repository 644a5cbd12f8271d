"""samples.jsonl at a resume: what was written up to the step stays as it is, whatever is in the texts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from llamatrain.errors import UserError
from llamatrain.run import Run
from llamatrain.tokenizer import Tokenizer
from rlhf.samples_log import SamplesLog

SETTINGS = {"checkpoint": "c", "sampling": {"temperature": 1.0}, "run": {"seed": 0}}


def resume(folder: Path, step: int, tokenizer: Tokenizer) -> None:
    run = SimpleNamespace(folder=folder, is_main=True, settings=SETTINGS)
    SamplesLog(cast(Run, run), step, every=1, kept=1, tokenizer=tokenizer)


ROW = {"prompt_id": "p", "messages": [], "model": "c", "temperature": 1.0, "seed": 0, "finished": True, "kl": 0.5}


def line(step: int, text: str) -> str:
    return json.dumps({"step": step, **ROW, "response": text}, ensure_ascii=False) + "\n"


def test_rows_up_to_the_step_are_kept_byte_for_byte(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "samples.jsonl"
    breaks = "".join(map(chr, (0x2028, 0x2029, 0x85, 0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x0D, 0x0A)))
    kept = line(1, f"one{breaks}two") + line(2, f"{breaks}three")
    path.write_bytes((kept + line(3, f"four{breaks}") + '{"step": 3, "respo').encode())  # cut short by a kill
    resume(tmp_path, 2, tokenizer)
    assert path.read_bytes() == kept.encode()


def test_a_damaged_file_is_said(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "samples.jsonl").write_text(line(1, "one") + json.dumps({**ROW, "response": "no step"}) + "\n")
    with pytest.raises(UserError, match=r"samples\.jsonl:2 is damaged: step is missing; move it away"):
        resume(tmp_path, 2, tokenizer)
