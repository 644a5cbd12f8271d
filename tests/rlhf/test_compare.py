"""The program `compare` on a tiny untrained world."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamatrain.config.compose import compose
from llamatrain.data.kinds import ComparisonRow
from llamatrain.data.rows import read_rows
from llamatrain.errors import UserError
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.tokenizer import Tokenizer
from rlhf.compare import Variant, compare, differs, draw_variants
from rlhf.config import CompareConfig

from .worlds import overrides, save_checkpoint

SMALL = ["sampling.max_new_tokens=8", "pairs_per_prompt=2", "chunk_pairs=7"]


def composed(world: dict[str, str], folder: Path, *more: str) -> CompareConfig:
    given = {"checkpoint_a": world["checkpoint"], "prompts": world["prompts"]}
    return compose("compare", CompareConfig, overrides(given, folder, "c", *SMALL, *more))


def test_two_responses_a_prompt_at_two_temperatures(world: dict[str, str], tmp_path: Path) -> None:
    cfg = composed(world, tmp_path)
    compare(cfg)
    rows = list(read_rows(tmp_path / "c" / "comparisons.jsonl", ComparisonRow))
    assert [row["id"] for row in rows] == [f"p{i}#{k}" for i in range(12) for k in range(2)]
    assert all(row["prompt_id"] == row["id"].split("#")[0] for row in rows)
    assert all(row["temperature_a"] != row["temperature_b"] for row in rows)
    assert {row["temperature_a"] for row in rows} | {row["temperature_b"] for row in rows} == set(
        cfg.sampling.temperatures
    )
    assert all(row["response_a"] != row["response_b"] for row in rows)
    assert [row["is_adversarial"] for row in rows[:6]] == [True, True, False, False, False, False]


def test_two_checkpoints_give_one_response_each_in_either_place(
    world: dict[str, str], tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    other = str(save_checkpoint(tmp_path / "other", Transformer(model_config, seed=9), tokenizer))
    compare(composed(world, tmp_path, f"checkpoint_b={other}"))
    rows = list(read_rows(tmp_path / "c" / "comparisons.jsonl", ComparisonRow))
    places = [(row["model_a"], row["model_b"]) for row in rows]
    assert set(places) == {(world["checkpoint"], other), (other, world["checkpoint"])}


def test_variants_are_a_function_of_seed_prompt_and_pair(world: dict[str, str], tmp_path: Path) -> None:
    cfg = composed(world, tmp_path)
    drawn = [draw_variants(cfg, f"p{i}", 0) for i in range(50)]
    assert drawn == [draw_variants(cfg, f"p{i}", 0) for i in range(50)]
    assert len(set(drawn)) > 5
    assert drawn != [draw_variants(cfg, f"p{i}", 1) for i in range(50)]
    other = composed(world, tmp_path, "run.seed=1")
    assert drawn != [draw_variants(other, f"p{i}", 0) for i in range(50)]
    single = draw_variants(composed(world, tmp_path, "sampling.temperatures=[0.7]"), "p0", 0)
    assert single == (Variant("checkpoint_a", 0.7), Variant("checkpoint_a", 0.7))


def test_a_later_round_draws_anew_from_the_same_model(world: dict[str, str], tmp_path: Path) -> None:
    """Planted: the model of the first round again, to the same prompts with the same seed."""

    def made(number: str) -> list[ComparisonRow]:
        compare(composed(world, tmp_path, f"run.name=c{number}", f"round={number}"))
        return list(read_rows(tmp_path / f"c{number}" / "comparisons.jsonl", ComparisonRow))

    def told(rows: list[ComparisonRow]) -> set[tuple[str, str]]:
        return {
            (row["id"].partition("#")[0], response)
            for row in rows
            for response in (row["response_a"], row["response_b"])
        }

    first, second = made("1"), made("2")
    assert first == made("null")
    assert not told(first) & told(second)
    # Annotators draw their mistakes by it.
    assert not {row["id"] for row in first} & {row["id"] for row in second}
    assert [row["prompt_id"] for row in first] == [row["prompt_id"] for row in second]  # of which some are held out


def test_pairs_of_equal_responses_are_left_out() -> None:
    assert differs({"response_a": "yes", "response_b": "no"})
    assert not differs({"response_a": "yes", "response_b": "yes"})


def test_only_equal_pairs_is_a_mistake(world: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="24 pairs are of two equal responses"):
        compare(composed(world, tmp_path, "sampling.temperatures=[0.0,0.00001]"))


@pytest.mark.parametrize(
    "override", ["sampling.temperatures=[]", "sampling.temperatures=[0]", "pairs_per_prompt=0", "sampling.top_p=2"]
)
def test_mistakes_are_named(override: str, world: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=override.split("=")[0]):
        composed(world, tmp_path, override)
