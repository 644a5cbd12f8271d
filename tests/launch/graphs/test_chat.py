"""The method's graph: rounds, what each reads, and what is left out for want of data."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from launch import pipeline
from launch.graph import DATA, REFERENCE, Graph, references
from launch.graphs.chat import KINDS, Chat, chat
from launch.measure.stages import measuring
from launch.pipeline import PipelineConfig
from launch.programs import PROGRAMS
from llamatrain.config.compose import compose as composed
from llamatrain.data.kinds import PreferenceRow, PromptRow
from llamatrain.data.rows import read_rows, write_rows
from llamatrain.errors import UserError
from llamatrain.keys import flatten

ROLES = ("documents", "documents_eval", "dialogues", "dialogues_eval", "prompts", "prompts_eval")
OWN = {role: f"{role}.jsonl" for role in ROLES}
PAIRS = {"preferences.helpfulness": "p.jsonl@helpfulness", "preferences.safety": "p.jsonl@safety"}


def graph(*overrides: str, **data: str) -> Graph:
    """Return the graph of some settings and roles."""
    roles = [f"data.{role}={value}" for role, value in data.items()]
    cfg: Chat = composed("pipeline", PipelineConfig, [*overrides, *roles])
    built = Graph()
    chat(built, cfg, cfg.data)  # type: ignore[attr-defined]
    return built


def settings(built: Graph, stage: str) -> dict[str, Any]:
    return dict(built.stages[stage].settings)


def test_every_stage_reads_only_what_was_added_before_it() -> None:
    for overrides in (["preset=demo"], ["preset=fairytales"], ["preset=demo", "rounds=3", "folds=2"]):
        before: set[str] = set()
        for stage in graph(*overrides).stages.values():
            assert set(references(stage.settings)) <= before
            before.add(stage.name)


def test_a_second_round_leaves_the_stages_of_the_first_as_they_were() -> None:
    one, two = graph("preset=demo"), graph("preset=demo", "rounds=2")
    first = [name for name in one.stages if name.startswith("v1_")]
    assert len(first) == 8 and all(one.stages[name] == two.stages[name] for name in first)
    assert {name.replace("v1_", "v2_") for name in first} == {name for name in two.stages if name.startswith("v2_")}


def test_rounds_are_measured_against_sft() -> None:
    assert settings(graph("preset=demo", "rounds=2"), "evaluate")["baseline"] == "sft"
    assert "baseline" not in settings(graph("preset=demo"), "evaluate")


def test_distillation_feeds_the_fine_tuning_of_its_round_and_of_all_later_ones() -> None:
    assert not any("distill" in name for name in graph("preset=demo").stages)
    built = graph("preset=demo", "rounds=3", "distill=2")
    assert [name for name in built.stages if "distill" in name] == ["v2_distill", "v3_distill"]
    own, tuned = settings(built, "v2_distill"), settings(built, "v2_rejection_sampling")
    assert (own["checkpoint"], own["safety"]) == (tuned["checkpoint"], tuned["safety"])
    assert tuned["earlier"] == ["@v1_rejection_sampling/best.jsonl", "@v2_distill/distilled.jsonl"]
    assert settings(built, "v3_rejection_sampling")["earlier"][2:] == [f"@v{n}_distill/distilled.jsonl" for n in (2, 3)]


def test_ghost_attention_is_learned_from_after_v3_and_measured() -> None:
    assert not any("gatt" in name or "recall" in name for name in graph("preset=demo", "rounds=5").stages)
    assert "v4_gatt" in graph("rounds=4", **OWN, **PAIRS).stages  # by default as in the paper
    built = graph("preset=demo", "rounds=5", "gatt=4")  # the paper's rounds
    assert [name for name in built.stages if "gatt" in name] == ["v4_gatt", "v5_gatt"]
    own = settings(built, "v4_gatt")
    assert (own["checkpoint"], own["round"]) == ("@v3_rejection_sampling/final", 4)
    assert (own["dialogues"], own["constraints"]) == (["@world/dialogues.jsonl"], "@world/constraints.json")
    tuned = settings(built, "v5_rejection_sampling")["earlier"]
    assert tuned[-2:] == ["@v4_gatt/gatt.jsonl", "@v5_gatt/gatt.jsonl"] and len(tuned) == 6
    compared = settings(built, "evaluate")["models"]
    assert {name for name, of in compared.items() if "recall" in of} == set(compared) - {"base"}
    assert settings(built, "recall_rs_v5")["checkpoint"] == compared["rs_v5"]["checkpoint"]
    people = graph("rounds=1", "gatt=1", **OWN, **PAIRS)
    assert "constraints" not in settings(people, "v1_gatt")  # our own lists
    without = graph("rounds=1", "gatt=1", **{role: f for role, f in OWN.items() if role != "dialogues_eval"}, **PAIRS)
    assert not any("recall" in name for name in without.stages)
    assert "how long the models keep to an instruction: need data.dialogues_eval" in without.left_out
    assert "v1_gatt" not in graph("rounds=1", "gatt=null", **OWN, **PAIRS).stages


def test_a_later_round_remembers_the_best_samples_and_all_preferences_so_far() -> None:
    built = graph("preset=demo", "rounds=3")
    third = settings(built, "v3_rejection_sampling")
    assert third["earlier"] == ["@v1_rejection_sampling/best.jsonl", "@v2_rejection_sampling/best.jsonl"]
    assert (third["checkpoint"], third["base"]) == ("@v2_rejection_sampling/final", "@sft/final")
    assert (settings(built, "v3_compare")["round"], third["round"]) == (3, 3)  # else their noise would be the first's
    reward = settings(built, "v3_reward_safety")
    assert reward["train"] == [f"@v{n}_rate/preferences_safety.jsonl" for n in (1, 2, 3)]
    held_out = [f"@v{n}_rate/preferences_safety_eval.jsonl" for n in (1, 2, 3)]
    assert settings(built, "v3_accuracy_safety")["preferences"] == held_out  # so that rounds compare
    assert reward["eval"] == held_out[-1:]  # its best checkpoint and its zero follow what the newest policy writes
    compared = settings(built, "v2_compare")
    assert (compared["checkpoint_a"], compared["checkpoint_b"]) == ("@v1_rejection_sampling/final", "@sft/final")
    assert settings(built, "ppo")["checkpoint"] == "@v3_rejection_sampling/final"
    assert list(settings(built, "evaluate")["models"]) == ["base", "sft", "rs_v1", "rs_v2", "rs_v3", "ppo"]


def test_the_method_leaves_some_things_open() -> None:
    assert settings(graph("preset=demo", "rejection_base=base"), "v1_rejection_sampling")["base"] == "@pretrain/final"
    assert "ppo" not in graph("preset=demo", "ppo=false").stages
    mixed = graph("preset=demo", "mix_share.safety=0", "mix_share.helpfulness=0.3")
    assert "mix" not in settings(mixed, "v1_reward_safety")
    assert settings(mixed, "v1_reward_helpfulness")["mix_share"] == 0.3
    with pytest.raises(UserError, match="rejection_base=stf: need one of base, sft"):
        graph("preset=demo", "rejection_base=stf")
    with pytest.raises(UserError, match="rounds=0: need 1 or more"):
        graph("preset=demo", "rounds=0")


@pytest.mark.parametrize(
    ("data", "stages", "left_out"),
    [
        ({"documents": "a.jsonl"}, ["tokenizer", "corpus", "pretrain"], "data.dialogues"),
        ({"documents": "a.jsonl", "documents_eval": "b.jsonl", "dialogues": "d.jsonl"},
         ["tokenizer", "corpus", "pretrain", "sft", "evaluate"], "data.preferences.helpfulness (or data.ratings)"),
        ({"checkpoint": "llama", "dialogues": "d.jsonl"}, ["sft"], "data.documents, data.documents_eval"),
        ({"checkpoint": "llama", "dialogues": "d.jsonl", "preferences.safety": "p.jsonl"}, ["sft", "v1_reward_safety"],
         "data.preferences_eval.safety, or folds=5"),
        ({"checkpoint": "llama", "dialogues": "d.jsonl", **PAIRS, "prompts": "q.jsonl"},
         ["sft", "v1_reward_helpfulness", "v1_reward_safety", "v1_rejection_sampling", "ppo"], "data.prompts_eval"),
        ({"checkpoint": "llama", "dialogues": "d.jsonl", "ratings": "r"}, ["sft"], "data.prompts"),
    ],
)  # fmt: skip
def test_what_is_absent_is_left_out_and_said(data: dict[str, str], stages: list[str], left_out: str) -> None:
    built = graph(**data)
    assert list(built.stages) == stages
    assert any(line.endswith(f"need {left_out}") or left_out in line for line in built.left_out)


def test_without_anything_to_begin_with_there_is_no_chain() -> None:
    with pytest.raises(UserError, match=r"need data\.documents"):
        graph(dialogues="d.jsonl")


def test_a_released_model_is_pretrained_further_where_asked() -> None:
    built = graph("continue_pretraining=true", checkpoint="llama", documents="a.jsonl", dialogues="d.jsonl")
    assert list(built.stages)[:3] == [
        "corpus",
        "pretrain",
        "sft",
    ]  # with the model's tokenizer, of which none is trained
    assert settings(built, "corpus")["tokenizer"] == "llama"
    assert settings(built, "pretrain") == {"checkpoint": "llama", "corpus": "@corpus"}
    assert settings(built, "sft")["checkpoint"] == "@pretrain/final"
    with pytest.raises(UserError, match=r"continue_pretraining=true: need data\.checkpoint"):
        graph("continue_pretraining=true", documents="a.jsonl")
    with pytest.raises(UserError, match=r"continue_pretraining=true: need data\.documents"):
        graph("continue_pretraining=true", checkpoint="llama", dialogues="d.jsonl")


def test_another_way_to_start_from_a_model_is_refused_with_the_one_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("pretrain: [checkpoint=llama]")
    for preset, more in (("llama2_7b", ["pretrain.checkpoint=llama"]), ("own.yaml", [])):
        assert started(f"preset={preset}", "data.documents=a.jsonl", *more) == 2
        need = "need data.checkpoint=llama continue_pretraining=true"
        assert "pretrain.checkpoint=llama: the tokenizer and the corpus have to be" in (
            error := capsys.readouterr().err
        )
        assert need in error


def test_peoples_ratings_come_round_by_round_with_some_of_the_prompts_held_out() -> None:
    built = graph("rounds=2", "rejection_base=sft", **OWN, ratings="rated")
    assert list(built.awaited) == ["rated/v1_preferences.jsonl", "rated/v2_preferences.jsonl"]
    awaited, folder = built.awaited["rated/v2_preferences.jsonl"], Path("my runs/it's")
    assert "the responses in my runs/it's/v2_compare/comparisons.jsonl, rows of" in awaited.told(folder)
    assert shlex.split(awaited.command(folder))[-3:] == [
        "collect",
        r"comparisons='my runs/it\'s/v2_compare/comparisons.jsonl'",
        "out=rated/v2_preferences.jsonl",
    ]
    reward = settings(built, "v2_reward_safety")
    assert reward["train"] == [f"rated/v{n}_preferences.jsonl@safety@without0/11" for n in (1, 2)]
    assert reward["eval"] == ["rated/v2_preferences.jsonl@safety@fold0/11"]
    measured = settings(built, "v2_accuracy_safety")["preferences"]
    assert measured == [f"rated/v{n}_preferences.jsonl@safety@fold0/11" for n in (1, 2)]
    assert "v1_rate" not in built.stages


def test_some_ratings_are_held_out_of_prompts_from_which_another_share_is(tmp_path: Path) -> None:
    """Every reward model has pairs to train on and to measure, however `new` divides prompts."""
    prompts, ratings = tmp_path / "prompts.jsonl", tmp_path / "rated/v1_preferences.jsonl"
    messages = [[{"role": "user", "content": f"{n}?"}] for n in range(200)]
    write_rows(prompts, [{"id": str(n), "messages": one, "is_adversarial": False} for n, one in enumerate(messages)])
    for divided, folds, parts in (
        ("@without0/10", 1, 11), ("@without0/5", 5, 6), ("@without0/10", 5, 7), ("@without0/11", 1, 12), ("", 5, 5)
    ):  # fmt: skip
        asked = [row["messages"] for row in read_rows(f"{prompts}{divided}", PromptRow)]
        pair = {"chosen": "a", "rejected": "b"}
        write_rows(ratings, [{"messages": one, "kind": kind, **pair} for one in asked for kind in KINDS])
        own = {**OWN, "prompts": f"{prompts}{divided}", "ratings": f"{ratings.parent}"}
        built = graph(f"folds={folds}", **own)
        reward = [stage.settings for stage in built.stages.values() if stage.program == "reward"]
        assert len(reward) == 2 * folds and reward[0]["eval"] == [f"{ratings}@helpfulness@fold0/{parts}"]
        for one in reward:
            train, held_out = (
                {json.dumps(r) for r in read_rows(one[key][0], PreferenceRow)} for key in ("train", "eval")
            )
            assert train and held_out and not train & held_out


def test_folds_of_ratings_leave_those_of_earlier_preferences_as_they_are() -> None:
    built = graph("folds=5", **OWN | {"prompts": "p.jsonl@without0/5"}, **PAIRS, ratings="rated")
    reward = settings(built, "v1_reward_safety_3")
    assert reward["train"] == ["p.jsonl@safety@without3/5", "rated/v1_preferences.jsonl@safety@without3/6"]
    assert reward["eval"] == ["rated/v1_preferences.jsonl@safety@fold3/6"]


def test_with_folds_models_are_measured_by_reward_models_that_nothing_learned_from() -> None:
    built = graph("preset=demo", "rounds=2", "folds=3")
    for kind in KINDS:
        for stage in ("v2_rejection_sampling", "ppo"):
            assert settings(built, stage)[kind] == f"@v2_reward_{kind}_0/final"
        for stage in ("sample_sft", "sample_ppo"):
            assert settings(built, stage)[kind] == f"@v2_reward_{kind}_1/final"
        assert settings(built, "ppo")[f"eval_{kind}"] == f"@v2_reward_{kind}_1/final"
        assert f"eval_{kind}" not in settings(graph("preset=demo"), "ppo")


def test_preferences_that_do_not_change_train_reward_models_once() -> None:
    built = graph("rounds=2", **OWN, **PAIRS)
    assert [name for name in built.stages if "reward" in name] == ["v1_reward_helpfulness", "v1_reward_safety"]
    assert settings(built, "v2_rejection_sampling")["helpfulness"] == "@v1_reward_helpfulness/final"


def test_what_is_given_stands_in_for_the_worlds() -> None:
    built = graph("preset=demo", dialogues="mine.jsonl")
    assert settings(built, "sft")["train"] == ["mine.jsonl"]
    assert settings(built, "sft")["eval"] == ["@world/dialogues_eval.jsonl"]


def started(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        pipeline.main(arguments)
    return int(end.value.code or 0)


@pytest.mark.parametrize("size", ["7b", "13b", "34b", "70b"])
def test_the_whole_chain_is_planned_at_any_size_before_there_are_data(
    size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    preset = f"preset=llama2_{size}"
    assert started(preset, "data=mine", "dry_run=true") == 0
    said = capsys.readouterr().out.splitlines()
    nameless = [line.partition("no file yet: data.")[2].partition(":")[0] for line in said if "no file yet" in line]
    either = ["preferences (or data.ratings)", "preferences_eval", "ratings (or data.preferences)"]
    assert nameless == [*ROLES, *either]
    stages = {line.split()[1]: line.split()[2] for line in said if line[0] in "▶◇"}
    assert [name for name, word in stages.items() if word == "new"] == [
        "tokenizer", "corpus", "pretrain", "sft", "v1_compare"
    ]  # fmt: skip
    assert {"v1_reward_safety", "v1_accuracy_safety", "ppo", "sample_ppo", "evaluate"} <= set(stages)
    assert started(preset, "graph=true", "continue_pretraining=true") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("# no file yet: data.checkpoint: a base model to start from")
    assert {"corpus:", "ppo:"} <= set(said) and "tokenizer:" not in said
    assert started(preset, "data=mine") == 2
    assert "need data.documents (texts to pretrain on), or data.checkpoint" in capsys.readouterr().err
    assert started(preset, "data.dialogues=d.jsonl", "dry_run=true") == 2  # with any file named, the others count
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("preset", ["demo", "fairytales"])
def test_stages_read_what_the_programs_make(preset: str) -> None:
    built = graph(f"preset={preset}")
    for stage in built.stages.values():
        for value in flatten(stage.settings).values():
            for match in REFERENCE.finditer(str(value)):
                if match[1] != DATA:
                    assert match[2].lstrip("/") in PROGRAMS[built.stages[match[1]].program].makes


def test_kept_checkpoints_are_measured_by_what_measures_the_last_one() -> None:
    built = graph("preset=demo", "measure_kept=[ppo,v1_reward_safety]")
    *_, ppo, reward = built.stages.values()
    assert (ppo.name, ppo.program, ppo.settings["checkpoints"]) == ("measure_ppo", "measure", "@ppo/checkpoints")
    assert {"sample_ppo", "judge_ppo", "corpus"} < set(references(ppo.settings))
    assert "evaluate" not in references(ppo.settings)  # which reads all models: it would be waited for
    assert reward.settings["checkpoints"] == "@v1_reward_safety/checkpoints"
    with pytest.raises(UserError, match=r"measure_kept: there is no stage 'pop' that trains; did you mean 'ppo'\?"):
        graph("preset=demo", "measure_kept=[pop]")
    with pytest.raises(UserError, match="no stage 'world' that trains"):
        graph("preset=demo", "measure_kept=[world]")


@pytest.mark.parametrize(
    ("program", "key", "value"), [("benchmark", "suite", "llama2"), ("safety_benchmark", "root", "my_sets")]
)
def test_benchmarks_measure_every_model_and_what_was_kept_of_it(program: str, key: str, value: str) -> None:
    """And no stage waits for them."""
    built = graph("preset=demo", f"{program}={value}", "measure_kept=[ppo]")
    own = {name: stage.settings for name, stage in built.stages.items() if stage.program == program}
    assert {name: settings["checkpoint"] for name, settings in own.items()} == {
        f"{program}_base": "@pretrain/final",
        f"{program}_sft": "@sft/final",
        f"{program}_rs_v1": "@v1_rejection_sampling/final",
        f"{program}_ppo": "@ppo/final",
    }
    assert {settings[key] for settings in own.values()} == {value}
    read = {name for stage in built.stages.values() for name in references(stage.settings)}
    assert not read & set(own)
    values = ((stage.name, stage.program, stage.settings) for stage in built.stages.values())
    assert f"{program}_ppo" in measuring(values, "@ppo/final")
