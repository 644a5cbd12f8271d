"""Training a reward model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from llamatrain import checkpoint, hf_folder
from llamatrain.config.compose import compose
from llamatrain.data.rows import write_rows
from llamatrain.errors import UserError
from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import Transformer
from llamatrain.responses.pairs import scores_at_ends
from llamatrain.tokenizer import Tokenizer
from reward.__main__ import centering, load, pair_loss, train
from reward.config import RewardConfig
from reward.data import load_pairs, training_batch
from tests.checkpoints import quiet, read_jsonl, save_checkpoint
from tests.responses.test_pairs import make_pairs

ANSWERS = ("The red fox lives in the forest.", "I am sorry, I cannot help with that.", "A whale.", "She has 7 apples.")


def write_preferences(path: Path, count: int, kind: str, labels: bool = False) -> Path:
    def row(i: int) -> dict[str, Any]:
        question = [{"role": "user", "content": f"Question: where does the red fox live? {i}"}]
        made = {"messages": question, "chosen": ANSWERS[i % 4], "rejected": ANSWERS[(i + 1) % 4], "kind": kind}
        return {**made, "rating": "better"} | ({"chosen_safe": True, "rejected_safe": i % 2 == 0} if labels else {})

    write_rows(path, [row(i) for i in range(count)])
    return path


@pytest.fixture
def chat(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> Path:
    """A chat checkpoint."""
    return save_checkpoint(tmp_path / "chat", Transformer(model_config, seed=0), tokenizer)


def configure(folder: Path, start: Path, kind: str, *more: str, labels: bool = False) -> RewardConfig:
    pairs = write_preferences(folder / f"{kind}.jsonl", 8, kind, labels)
    small = ["batch_pairs=8", "micro_batch_size=4", "optim.lr=1e-2"]
    paths = [f"kind={kind}", f"checkpoint={start}", f"train=[{pairs}]"]
    return compose("reward", RewardConfig, [*quiet(folder, kind), *paths, *small, *more])


def test_learns_a_batch_of_pairs_and_goes_on_from_itself(tmp_path: Path, chat: Path) -> None:
    held_out = f"eval=[{tmp_path / 'helpfulness.jsonl'}]"
    train(configure(tmp_path, chat, "helpfulness", "epochs=25", held_out))
    rows = read_jsonl(tmp_path / "helpfulness" / "metrics.jsonl")
    assert rows[-1]["train/accuracy"] == rows[-1]["eval/accuracy"] == 1.0
    assert rows[-1]["train/loss"] < 0.3 < rows[0]["train/loss"]
    assert rows[-1]["train/margin"] > 1
    assert "train/auxiliary" not in rows[-1]
    folder = checkpoint.resolve(tmp_path / "helpfulness" / "final")
    assert isinstance(hf_folder.load_model(folder), ScalarModel)
    train(configure(tmp_path / "again", folder, "helpfulness"))
    again = read_jsonl(tmp_path / "again" / "helpfulness" / "metrics.jsonl")
    assert again[0]["train/accuracy"] == 1.0


def test_safety_learns_the_labels_too(tmp_path: Path, chat: Path) -> None:
    held_out = f"eval=[{tmp_path / 'safety.jsonl'}]"
    train(configure(tmp_path, chat, "safety", "epochs=40", held_out, labels=True))
    last = read_jsonl(tmp_path / "safety" / "metrics.jsonl")[-1]
    assert last["eval/unsafe_recall"] == 1.0
    assert last["train/loss"] == pytest.approx(last["train/ranking"] + last["train/auxiliary"])
    assert {"eval/accuracy_safe_unsafe", "eval/accuracy_both_safe"} <= last.keys()


def test_pair_loss_is_the_sum_of_its_parts(model_config: ModelConfig) -> None:
    pairs = make_pairs(6)
    model = ScalarModel(model_config, seed=0)
    batch = training_batch(pairs, 128, "small")
    with torch.no_grad():
        plain, sums = pair_loss(model, batch, 0.0, 0.0)
        weighted, parts = pair_loss(model, batch, 0.5, 0.02)
        halves = [pair_loss(model, training_batch(part, 128, "small"), 0.5, 0.02)[0] for part in (pairs[:2], pairs[2:])]
    assert float(plain) == pytest.approx(float(parts["ranking"]))
    assert float(weighted) == pytest.approx(
        float(parts["ranking"] + 0.5 * parts["auxiliary"] + 0.02 * parts["centring"])
    )
    assert 0 <= float(sums["accuracy"]) <= 6
    assert float(sum(halves)) == pytest.approx(float(weighted), rel=1e-5)


def test_unlabelled_pairs_have_no_auxiliary_gradient(model_config: ModelConfig) -> None:
    model = ScalarModel(model_config, seed=0)
    pairs = [dataclasses.replace(pair, chosen_safe=None) for pair in make_pairs(6)]
    _, sums = pair_loss(model, training_batch(pairs, 128, "none"), 1.0, 0.0)
    assert float(sums["auxiliary"].detach()) == 0
    sums["auxiliary"].backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_what_follows_from_the_kind(tmp_path: Path, chat: Path) -> None:
    helpfulness, safety = (configure(tmp_path, chat, kind) for kind in ("helpfulness", "safety"))
    assert (helpfulness.margin, helpfulness.auxiliary_weight) == ("small", 0.0)
    assert (safety.margin, safety.auxiliary_weight) == ("none", 1.0)
    own = configure(tmp_path, chat, "safety", "margin=large", "auxiliary_weight=0.5")
    assert (own.margin, own.auxiliary_weight) == ("large", 0.5)
    assert (helpfulness.mix_share, safety.mix_share) == (0.0, 0.0)
    mixed = [configure(tmp_path, chat, kind, "mix=[x]").mix_share for kind in ("helpfulness", "safety")]
    assert mixed == [0.5, 0.1]  # the paper's
    assert configure(tmp_path, chat, "safety", "mix=[x]", "mix_share=0.3").mix_share == 0.3


def test_centring_is_for_models_that_no_label_gives_a_zero(tmp_path: Path, chat: Path) -> None:
    helpfulness, safety = (configure(tmp_path, chat, kind) for kind in ("helpfulness", "safety"))
    assert (centering(helpfulness, 0), centering(helpfulness, 8)) == (0.01, 0.01)  # it does not look at labels
    assert (centering(safety, 0), centering(safety, 8)) == (0.01, 0.0)
    for weight in (0.0, 0.5):
        chosen = configure(tmp_path, chat, "safety", f"center_weight={weight}")
        assert (centering(chosen, 0), centering(chosen, 8)) == (weight, weight)


def test_a_shift_of_all_scores_is_drawn_back_to_zero(tmp_path: Path, chat: Path) -> None:
    """Planted: a reward model whose every score lies far from 0, by a head that reads what all answers share."""
    model = hf_folder.load_model(checkpoint.resolve(chat))
    assert isinstance(model, Transformer)
    shifted = ScalarModel(model.config, seed=0, model=model.model)
    tokenizer = hf_folder.load_tokenizer(chat)
    pairs, _ = load_pairs(str(write_preferences(tmp_path / "p.jsonl", 8, "helpfulness")), tokenizer, 128, "skip")
    batch, read = training_batch(pairs, 128, "none"), list[torch.Tensor]()
    hook = shifted.score.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    with torch.no_grad():
        scores_at_ends(shifted, batch)
        hidden = read[0].mean(0)
        shifted.score.weight.copy_((-6 * hidden / hidden.square().sum())[None])
    hook.remove()
    start = save_checkpoint(tmp_path / "shifted", shifted, tokenizer)
    means = {}
    for weight in ("null", "0"):
        folder = tmp_path / f"weight_{weight}"
        held_out = f"eval=[{tmp_path / 'p.jsonl'}]"
        train(
            configure(folder, start, "helpfulness", "epochs=25", held_out, f"center_weight={weight}", "optim.lr=3e-3")
        )
        last = read_jsonl(folder / "helpfulness" / "metrics.jsonl")[-1]
        means[weight] = (last["eval/score_chosen"] + last["eval/score_rejected"]) / 2
        lineage = checkpoint.lineage(folder / "helpfulness" / "final")
        assert lineage["evaluated"]["eval/score_harmless"] == pytest.approx(means[weight])
        assert not (set(lineage["evaluated"]) - set(last))
        distribution = lineage["scores"]["harmless"]
        assert (lineage["scores"]["of"], distribution["responses"]) == ("held-out pairs", 16)
        assert distribution["mean"] == pytest.approx(means[weight])
        assert distribution["q05"] <= distribution["q50"] <= distribution["q95"]
        assert distribution["deviation"] > 0
    assert abs(means["null"]) < 0.5 < 1 < abs(means["0"]), means


def test_labels_that_are_not_there_are_said_and_the_model_is_centred(
    tmp_path: Path, chat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(configure(tmp_path, chat, "safety", "run.progress=true"))
    said = capsys.readouterr().err
    assert "warning: auxiliary_weight=1 has no effect: no pair has chosen_safe or rejected_safe" in said
    assert "centering weight 0.01" in said
    assert read_jsonl(tmp_path / "safety" / "metrics.jsonl")[-1]["train/centring"] >= 0
    assert checkpoint.lineage(tmp_path / "safety" / "final")["config"]["center_weight"] == 0.01


def test_a_half_trained_run_keeps_its_loss(tmp_path: Path, chat: Path) -> None:
    train(configure(tmp_path, chat, "helpfulness", "epochs=2"))
    for override in ("margin=large", "auxiliary_weight=0.5", "center_weight=0.1"):
        key = override.split("=")[0]
        with pytest.raises(UserError, match=rf"{key}=.* was trained with .*its loss halfway"):
            train(configure(tmp_path, chat, "helpfulness", "epochs=4", override))


def test_defaults_are_the_papers(chat: Path) -> None:
    cfg = compose("reward", RewardConfig, ["run.name=x", "kind=safety", f"checkpoint={chat}", "train=[x]"])
    assert (cfg.epochs, cfg.batch_pairs, cfg.optim.lr) == (1, 512, 1e-5)
    assert (cfg.optim.warmup(100), cfg.optim.warmup(1000), cfg.optim.final_lr_fraction) == (5, 30, 0.1)


def test_ninety_to_ten(tmp_path: Path, chat: Path, tokenizer: Tokenizer) -> None:
    other = write_preferences(tmp_path / "other.jsonl", 20, "helpfulness")
    cfg = configure(tmp_path, chat, "safety", f"mix=[{other}]", "mix_share=0.2")
    data = load(cfg, tokenizer, 128)
    assert [Path(pair.source).name for pair in data.pairs] == ["safety.jsonl"] * 8 + ["other.jsonl"] * 2
    assert not data.held_out
    assert (data.counts["reward/own_pairs"], data.counts["reward/mixed_pairs"]) == (8, 2)
    assert data.notes == ["8 safety pairs and 2 drawn from 20 others (20% of the total)"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["kind=other"], "kind=other: need one of helpfulness, safety"),
        (["margin=huge"], "margin=huge: need one of none, small, large"),
        (["auxiliary_weight=-1"], r"auxiliary_weight=-1\.0: need 0 or more"),
        (["epochs=0"], r"epochs=0\.0"),
        (["train=[]"], r"train=\[\]: need at least one preferences file"),
        (["mix_share=0.5"], r"mix_share=0\.5: need files in mix"),
        (["mix_share=1", "mix=[x]"], r"mix_share=1\.0: need a number in \[0, 1\)"),
        (["center_weight=-1"], r"center_weight=-1\.0: need 0 or more, or null"),
        (["max_length=4096"], "max_length=4096: need 2 to 128"),
        (["batch_pairs=64"], "batch_pairs=64: one epoch has 8 training pairs"),
        (["kind=safety"], "is a helpfulness preference, but kind=safety"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, chat: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(configure(tmp_path, chat, "helpfulness", *overrides))


def test_padding_and_neighbours_do_not_matter(model_config: ModelConfig) -> None:
    pairs = make_pairs(5)
    model = ScalarModel(model_config, seed=0)
    together = pair_loss(model, training_batch(pairs, 128, "small"), 1.0, 0.01)[0]
    together.backward()  # type: ignore[no-untyped-call]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for pair in pairs:
        pair_loss(model, training_batch([pair], 64, "small"), 1.0, 0.01)[0].backward()  # type: ignore[no-untyped-call]
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        assert p.grad is not None
        assert torch.allclose(p.grad, gradient, atol=1e-4, rtol=1e-3)
