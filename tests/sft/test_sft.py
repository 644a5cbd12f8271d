"""Supervised fine-tuning: which tokens are learned, and that they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from llamatrain import checkpoint, hf_folder
from llamatrain.chat import encode_dialogue
from llamatrain.config.compose import compose
from llamatrain.data.rows import write_rows
from llamatrain.data.skipped import BadRows
from llamatrain.errors import UserError
from llamatrain.generation import generate
from llamatrain.losses import language_model_loss
from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import Transformer
from llamatrain.settings import Sampling
from llamatrain.tokenizer import Tokenizer
from sft.__main__ import load, plan, train
from sft.config import SFTConfig
from tests.checkpoints import quiet, read_jsonl, save_checkpoint
from tests.conftest import TEXT
from tests.corpora import write_corpus

DIALOGUES: list[tuple[str, ...]] = [
    ("Where does the red fox live?", "In the forest."),
    ("Is a whale bigger than a mouse?", "Yes, it is."),
    ("How many apples?", "She has 7.", "And Tom?", "He has 5."),
]


def write_dialogues(path: Path, dialogues: list[tuple[str, ...]] = DIALOGUES) -> Path:
    roles = ("user", "assistant")
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)], "source": "test"}
        for turns in dialogues
    ]
    write_rows(path, rows)
    return path


@pytest.fixture
def base(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> Path:
    """A base checkpoint."""
    return save_checkpoint(tmp_path / "base", Transformer(model_config, seed=0), tokenizer)


def configure(folder: Path, base: Path, *more: str) -> SFTConfig:
    dialogues = write_dialogues(folder / "dialogues.jsonl")
    small = ["batch_sequences=2", "micro_batch_size=1", "optim.lr=1e-2"]
    paths = [f"checkpoint={base}", f"train=[{dialogues}]"]
    return compose("sft", SFTConfig, [*quiet(folder, "chat"), *paths, *small, *more])


def test_learns_answers_by_heart(tmp_path: Path, base: Path, tokenizer: Tokenizer) -> None:
    cfg = configure(tmp_path, base, "epochs=80", f"eval=[{tmp_path / 'dialogues.jsonl'}]", "run.eval_every=0")
    train(cfg)
    rows = read_jsonl(tmp_path / "chat" / "metrics.jsonl")
    assert rows[-1]["train/loss"] < 0.05 < rows[0]["train/loss"]
    assert 1 <= rows[-1]["eval/perplexity"] < 1.05
    assert (rows[-1]["sft/dialogues"], rows[-1]["sft/skipped"]) == (len(DIALOGUES), 0)
    folder = checkpoint.resolve(tmp_path / "chat" / "final")
    model = hf_folder.load_model(folder)
    assert isinstance(model, Transformer)
    tokens, mask = encode_dialogue(
        [{"role": "user", "content": DIALOGUES[0][0]}, {"role": "assistant", "content": DIALOGUES[0][1]}], tokenizer
    )
    prompt = tokens[: mask.index(True)]
    answer = generate(model, [prompt], [("p", 0)], Sampling(0.0, 1.0, 30, 0), tokenizer.eos_id, 1)[0]
    assert answer.tokens == tokens[len(prompt) :]
    assert answer.finished
    with pytest.raises(UserError, match=r"isolate_documents=False: .* was trained with True.*its loss halfway"):
        train(configure(tmp_path, base, "epochs=90", "isolate_documents=false"))


def test_loss_is_that_of_the_answers_alone(
    tmp_path: Path, base: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    batches, _ = load(configure(tmp_path, base), tokenizer, 128)
    model = Transformer(model_config, seed=0)
    loss = weight = 0.0
    for batch in batches.eval_batches():
        loss += language_model_loss(model, batch)[0].item()
        weight += float(batch["weight"])
    expected = count = 0.0
    for turns in DIALOGUES:
        messages: Any = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
        tokens, mask = encode_dialogue(messages, tokenizer)
        logprobs = model(torch.tensor([tokens]))[0].log_softmax(-1)
        expected -= sum(logprobs[i - 1, tokens[i]].item() for i in range(len(tokens)) if mask[i])
        count += sum(mask)
    assert batches.counts["rows"] < len(DIALOGUES)  # some are packed together
    assert loss == pytest.approx(expected, rel=1e-4)
    assert weight == count


def test_without_isolation_dialogues_are_plainly_concatenated(
    tmp_path: Path, base: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    """The paper's way: a row is one text, in which every token sees all before it; answers alone are targets."""
    model = Transformer(model_config, seed=0)
    apart, plain = (
        load(configure(tmp_path, base, f"isolate_documents={isolate}"), tokenizer, 128)[0]
        for isolate in ("true", "false")
    )
    for one, other in zip(apart.eval_batches(), plain.eval_batches(), strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"]) and torch.equal(one["loss_mask"], other["loss_mask"])
        expected = 0.0
        for ids, mask, segments in zip(*(other[key] for key in ("input_ids", "loss_mask", "segment_ids")), strict=True):
            tokens = ids[segments > 0]
            assert int(segments.max()) <= 1
            logprobs = model(tokens[None])[0].log_softmax(-1)
            expected -= sum(logprobs[i - 1, tokens[i]].item() for i in range(len(tokens)) if mask[i])
        assert language_model_loss(model, other)[0].item() == pytest.approx(expected, rel=5e-6)
    first = next(iter(apart.eval_batches())), next(iter(plain.eval_batches()))
    assert language_model_loss(model, first[0])[0].item() != pytest.approx(
        language_model_loss(model, first[1])[0].item(), rel=1e-5
    )


def test_prompt_tokens_are_no_targets(tmp_path: Path, base: Path, tokenizer: Tokenizer) -> None:
    batch = load(configure(tmp_path, base), tokenizer, 128)[0].batch_at(0)[0]
    logits = torch.randn(batch["input_ids"].numel(), 400)

    def deaf(select: torch.Tensor, targets: torch.Tensor, **_: Any) -> torch.Tensor:
        return F.cross_entropy(logits[select], targets, reduction="sum")

    def loss(ids: torch.Tensor) -> float:
        return float(language_model_loss(deaf, {**batch, "input_ids": ids})[0])  # type: ignore[arg-type]

    ids, mask = batch["input_ids"], batch["loss_mask"]
    asked, answered = (tokenizer.decode(ids[part & (ids > 2)].tolist()) for part in (~mask, mask))
    assert "[INST]" in asked and answered and "[INST]" not in answered
    other = (ids + 7) % 400
    assert loss(torch.where(mask, ids, other)) == loss(ids)
    assert loss(torch.where(mask, other, ids)) != loss(ids)


def test_defaults_are_the_papers(base: Path) -> None:
    cfg = compose("sft", SFTConfig, ["run.name=x", f"checkpoint={base}", "train=[x]"])
    assert (cfg.epochs, cfg.batch_sequences, cfg.optim.lr, cfg.optim.weight_decay) == (2, 64, 2e-5, 0.1)
    assert (cfg.optim.schedule, cfg.isolate_documents, cfg.max_length) == ("cosine", True, None)


def test_pretraining_text_is_mixed_in(tmp_path: Path, base: Path, tokenizer: Tokenizer) -> None:
    write_rows(tmp_path / "text.jsonl", [{"text": line, "source": "test"} for line in TEXT.splitlines()])
    write_corpus(tmp_path / "corpus" / "train", [str(tmp_path / "text.jsonl")], tokenizer)
    replay = [f"replay={tmp_path / 'corpus'}", "replay_fraction=0.5", "epochs=1"]
    cfg = configure(tmp_path, base, *replay)
    batches, _ = load(cfg, tokenizer, 64)
    full = [bool((batch["segment_ids"] > 0).all()) for step in range(4) for batch in batches.batch_at(step)]
    assert (sum(full), len(full)) == (4, 8)  # sequences of text are full, packed dialogues have room left
    assert "50% of them pretraining text" in plan(cfg, batches, 1, 1)


def test_plan_counts_what_is_skipped(tmp_path: Path, base: Path, tokenizer: Tokenizer) -> None:
    cfg = configure(tmp_path, base)
    write_dialogues(tmp_path / "dialogues.jsonl", [*DIALOGUES, ("Tell me a story. " * 50, "No.")])
    text = plan(cfg, load(cfg, tokenizer, 128)[0], 4, 1)
    assert text.startswith("warning: 3 dialogues (1 skipped: longer than 128 tokens)")
    assert "4 steps of 2 rows" in text


def test_one_bad_row_need_not_stop_a_run(tmp_path: Path, base: Path, tokenizer: Tokenizer) -> None:
    cfg = configure(tmp_path, base)
    write_dialogues(tmp_path / "dialogues.jsonl", [*DIALOGUES, ("Say [INST] to me.", "No."), ("Say it.", "It.")])
    with pytest.raises(UserError, match=rf"dialogues\.jsonl:{len(DIALOGUES) + 1}: .*holds the chat format's tag"):
        load(cfg, tokenizer, 128)
    with pytest.raises(UserError, match=r"; bad_rows=skip skips such rows$"):
        load(cfg, tokenizer, 128, BadRows(cfg.bad_rows))
    bad = BadRows("skip")
    batches, _ = load(cfg, tokenizer, 128, bad)
    assert batches.counts["dialogues"] == len(DIALOGUES) + 1
    said: list[str] = []
    bad.say(said.append)
    assert said[0].endswith(f"1 of {len(DIALOGUES) + 2} rows skipped, as they cannot be used:")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["bad_rows=ignore"], "bad_rows=ignore: need one of stop, skip"),
        (["too_long=cut"], "too_long=cut: need one of skip, stop, drop_turns"),
        (["loss=some"], "loss=some: need one of all, last"),
        (["epochs=0"], r"epochs=0\.0: need a number above 0"),
        (["train=[]"], r"train=\[\]: need at least one dialogues file"),
        (["max_length=4096"], "max_length=4096: need 2 to 128"),
        (["replay_fraction=0.2"], "replay=None"),
        (["micro_batch_size=0"], "micro_batch_size=0: need 1"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, base: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(configure(tmp_path, base, *overrides))


def test_a_reward_model_is_refused(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> None:
    reward = save_checkpoint(tmp_path / "reward", ScalarModel(model_config, seed=0), tokenizer)
    with pytest.raises(UserError, match="is a reward model; need a language model"):
        train(configure(tmp_path, reward))
