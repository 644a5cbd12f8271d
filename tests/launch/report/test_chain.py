"""The chain's boxes: folds as one, their names and sizes in lines that fit."""

from __future__ import annotations

from launch.report.chain import Box, chain, folded


def box(name: str, *parents: str, size: str = "", state: str = "done") -> Box:
    return Box(name, parents, size, state, None, name)


FOLDS = [
    box("sft"),
    *(one for k in range(5) for one in (box(f"reward_{k}", "sft"), box(f"accuracy_{k}", f"reward_{k}"))),
    box("accuracy", *(f"accuracy_{k}" for k in range(5))),
    box("ppo", "reward_0", "sft"),
]


def test_folds_are_one_box_with_the_state_of_what_is_not_done() -> None:
    found = {one.name: one for one in folded([*FOLDS[:-2], box("accuracy", *(f"accuracy_{k}" for k in range(5)))])}
    assert list(found) == ["sft", "reward_0…4", "accuracy_0…4", "accuracy"]
    assert found["accuracy_0…4"].parents == ["reward_0…4"] and found["reward_0…4"].size == "5 runs"
    failed = [one if one.name != "reward_3" else box("reward_3", "sft", state="failed") for one in FOLDS]
    assert {one.name: one.state for one in folded(failed)}["reward_0…4"] == "failed"


def test_numbered_stages_that_need_each_other_stay_apart() -> None:
    found = folded([box("step_1"), box("step_2", "step_1"), box("step_3", "step_2")])
    assert [one.name for one in found] == ["step_1", "step_2", "step_3"]


def test_names_and_sizes_are_broken_where_they_may_be() -> None:
    boxes = [box("v1_rejection_sampling", size="best 400 of 4,000 responses"), box("x" * 40, "v1_rejection_sampling")]
    drawing = chain(boxes, columns=3, width=340.0, letter=6.7)
    texts = [shape.text for shape in drawing.shapes if shape.tag == "text"]
    assert texts == ["v1_", "rejection_", "sampling", "best 400 of", "4,000", "responses", f"{'x' * 10}…"]
    assert [shape.title for shape in drawing.shapes if shape.title] == ["v1_rejection_sampling", "x" * 40]
