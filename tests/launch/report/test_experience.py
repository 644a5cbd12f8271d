"""The pages of PPO's iterations: from the report to a step, its samples and their tokens, with the numbers that are stored."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from launch.report import experience
from launch.report import page as report
from llamatrain.data.rows import write_rows
from llamatrain.responses import stored
from llamatrain.tokenizer import Tokenizer

from ..synthetic import make
from .test_page import Page

COUNT, CLIP = 10, 0.2


@pytest.fixture
def demo(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """A finished pipeline's folder, whose PPO has stored iterations 5 and 6."""
    folder = make(tmp_path / "demo")
    for step in (5, 6):
        stored.write(stored.path_of(folder / "ppo", step), iteration(step, tokenizer))
    final = folder / "ppo" / "checkpoints" / "step_00000006"
    final.mkdir(parents=True)
    shutil.copy(tokenizer.path, final / "tokenizer.model")
    return folder


def iteration(step: int, tokenizer: Tokenizer) -> stored.Stored:
    """Return an iteration of ten responses of three tokens; in step 5 only the critic learned."""
    answer, n = [*tokenizer.encode("a fox")[:2], tokenizer.eos_id], 3 * COUNT
    draw = np.random.default_rng(step)
    arrays = {
        "lengths": np.full(COUNT, 3, np.int32),
        "prompt_lengths": np.full(COUNT, 4, np.int32),
        "prompt_tokens": np.array((tokenizer.encode("<b>Who</b> & where?") * 4)[:4] * COUNT, np.int32),
        "tokens": np.array(answer * COUNT, np.int32),
        **{name: np.arange(COUNT) % 2 == 1 for name in ("finished", "is_answer", "is_adversarial", "gated")},
        **{
            name: np.linspace(-3, 3, COUNT, dtype=np.float32) for name in ("helpfulness", "safety", "score", "whitened")
        },
        **{name: draw.normal(size=n).astype(np.float32) for name in ("logprobs", "reference", "values", "rewards")},
        "advantages": np.tile(np.array([0.7, -2.5, 0.1], np.float32), COUNT),
    }
    if step == 6:
        arrays["log_ratios"] = np.tile(np.log(np.array([1.5, 1.5, 1.1], np.float32)), COUNT)
    facts = {"step": step, "prompts": [["p", 0]] * COUNT, "kl_coef": 0.05, "held": step == 5, "clip": CLIP}
    return stored.Stored(facts, arrays)


def test_from_the_report_to_a_token(demo: Path) -> None:
    text = report.write(demo).read_text()
    assert "report/ppo/index.html" in Page(text).links
    folder = demo / "report" / "ppo"
    index = Page((folder / "index.html").read_text())
    assert {"step_00000005.html", "step_00000006.html", "../../report.html#course"} == index.links
    for step, other in ((5, 6), (6, 5)):
        page = (folder / f"step_{step:08d}.html").read_text()
        assert f"step_{other:08d}.html" in Page(page).links and not Page(page).fetched
        assert page.count("card token-card") == experience.SAMPLES == 8
        assert "http" not in page and "<b>Who" not in page
    held, learned = ((folder / f"step_{step:08d}.html").read_text() for step in (5, 6))
    assert "Only the critic learned in this iteration" in held and "Ratio" not in held
    # The best scored response is the last one; its first token's probability went up as its advantage asks, too far.
    first = re.sub(r"\s*<[^>]+>\s*", "|", learned[learned.index("<tbody>") : learned.index("</tbody>")])
    rows = [[cell for cell in row.split("|") if cell] for row in first.split("||||") if row.strip("|")]
    arrays = iteration(6, Tokenizer(demo / "ppo" / "checkpoints" / "step_00000006")).arrays
    place = 3 * (COUNT - 1)
    reward, kl = arrays["rewards"][place], arrays["logprobs"][place] - arrays["reference"][place]
    told = " ".join(cell for row in rows for cell in row).replace("−", "-")
    assert f"{reward:.3f} {kl:.3f} {arrays['values'][place]:.2f} +0.70 1.500 clipped" in told
    assert "-2.50 1.500 outside" in told and "+0.10 1.100" in told
    assert 'class="up1"' in learned and 'class="down3"' in learned
    assert "<td><b>1.500</b></td>" in learned and "<td><b>" not in held
    assert "every token pays 0.05 times its KL" in learned


def test_what_the_policy_did_not_do_is_marked(demo: Path) -> None:
    """In an iteration in which only the critic learned nothing can be clipped: no empty cell, and why."""
    path = demo / "ppo" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["step"] == 5:
            row.pop("ppo/clip_fraction", None)
    write_rows(path, rows)
    report.write(demo)
    index = (demo / "report" / "ppo" / "index.html").read_text()
    assert index.count('<td class="n">–</td>') == 1 and "the policy was not updated" in index


def test_the_pages_are_bounded(demo: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experience, "STEPS", 3)
    monkeypatch.setattr(experience, "SAMPLES", 2)
    monkeypatch.setattr(experience, "TOKENS", 2)
    for step in range(7, 60):
        shutil.copy(stored.path_of(demo / "ppo", 6), stored.path_of(demo / "ppo", step))
    report.write(demo)
    pages = sorted(path.name for path in (demo / "report" / "ppo").iterdir())
    assert pages == ["index.html", "step_00000005.html", "step_00000032.html", "step_00000059.html"]
    text = (demo / "report" / "ppo" / "step_00000032.html").read_text()
    assert text.count("card token-card") == 2 and "The first 2 of 3 tokens" in text


def test_a_damaged_iteration_is_left_out(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored.path_of(demo / "ppo", 5).write_bytes(b"nothing")
    report.write(demo)
    assert not (demo / "report" / "ppo" / "step_00000005.html").exists()
    assert "step_00000005.safetensors is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ratio", "advantage", "told"),
    [
        (1.1, 1.0, ""),
        (1.3, 1.0, "clipped"),
        (1.3, -1.0, "outside"),
        (0.7, -1.0, "clipped"),
        (0.7, 1.0, "outside"),
        (None, 1.0, ""),
    ],
)
def test_clipping_is_what_the_loss_does(ratio: float | None, advantage: float, told: str) -> None:
    """By the loss itself: where its gradient is 0 the token is clipped."""
    torch = pytest.importorskip("torch")
    from rlhf.losses import policy_loss

    assert experience._clipping(ratio, advantage, stored.Stored({"clip": CLIP}, {})) == told
    if ratio is not None:
        log_ratio = torch.tensor([math.log(ratio)], requires_grad=True)
        policy_loss(log_ratio, torch.tensor([advantage]), CLIP).sum().backward()
        assert (float(log_ratio.grad) == 0) is (told == "clipped")
