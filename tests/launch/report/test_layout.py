"""Boxes stand right of what they need, apart, and lines have room."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest

from launch.report.layout import Bend, columns_of, crossings, layout, places, reduced

DEMO = {
    "world": [],
    "tokenizer": ["world"],
    "corpus": ["world", "tokenizer"],
    "pretrain": ["corpus", "tokenizer"],
    "sft": ["pretrain", "world", "corpus"],
    "reward": ["sft", "world"],
    "accuracy": ["reward"],
    "ppo": ["sft", "reward", "world"],
    "sample_sft": ["sft", "reward", "world"],
    "sample_ppo": ["ppo", "reward", "world"],
    "evaluate": ["sft", "ppo", "sample_sft", "sample_ppo"],
}


def graph(seed: int) -> dict[str, list[str]]:
    """Return some graph, its boxes in an order in which each follows what it needs."""
    draw = random.Random(seed)
    names = [f"s{i}" for i in range(draw.randint(1, 30))]
    return {name: draw.sample(names[:i], min(i, draw.randint(0, 3))) for i, name in enumerate(names)}


def ancestors(parents: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    """Return everything that each box needs, directly or not."""
    found: dict[str, set[str]] = {}
    for name, own in parents.items():
        found[name] = set(own).union(*(found[one] for one in own))
    return found


def test_what_other_edges_imply_is_left_out() -> None:
    edges = reduced(DEMO)
    assert (
        edges["sft"] == ["pretrain"]
        and edges["ppo"] == ["reward"]
        and edges["evaluate"] == ["sample_sft", "sample_ppo"]
    )
    assert ancestors(edges) == ancestors(DEMO)


def test_what_is_measured_last_stands_beside_its_like() -> None:
    column = columns_of(DEMO)
    assert column["sample_sft"] == column["sample_ppo"] == column["evaluate"] - 1
    assert column["accuracy"] == column["reward"] + 1  # nothing waits for it


@pytest.mark.parametrize("seed", range(20))
def test_any_graph_is_laid_out_with_room_for_all(seed: int) -> None:
    parents = graph(seed)
    found = layout(parents, widest=4)
    where = {item: number for number, items in enumerate(found.columns) for item in items}
    assert {item for item in where if isinstance(item, str)} == set(parents)
    assert all(where[one] < where[name] for name, own in parents.items() for one in own)
    assert all(where[target] == where[source] + 1 for source, target in found.lines)  # through bends, never over a box
    assert [number for band in found.bands for number in band] == list(range(len(found.columns)))
    assert max(map(len, found.bands)) <= 4
    for band in found.bands:
        columns = [found.columns[number] for number in band]
        middle = places(columns, found.lines, box=50.0, bend=10.0)
        for items in columns:
            ends = [
                (middle[item] - half, middle[item] + half)
                for item in items
                if (half := 5 if isinstance(item, Bend) else 25)
            ]
            assert ends[0][0] >= -1e-9 and all(a[1] <= b[0] + 1e-9 for a, b in pairwise(ends))


def test_lines_are_untangled() -> None:
    crossed = {"a": [], "b": [], "c": [], "of_c": ["c"], "of_b": ["b"], "of_a": ["a"]}
    found = layout(crossed, widest=4)
    assert crossings(found.columns, found.lines) == 0


def test_bands_are_cut_where_few_lines_pass() -> None:
    """Two bundles of three lines to and fro, and a single one between them."""
    parents: dict[str, list[str]] = {"start": [], **{f"a{i}": ["start"] for i in range(3)}, "waist": ["a0", "a1", "a2"]}
    parents |= {"bridge": ["waist"], **{f"b{i}": ["bridge"] for i in range(3)}, "end": ["b0", "b1", "b2"]}
    assert [len(band) for band in layout(parents, widest=5).bands] == [3, 3]
    assert [len(band) for band in layout(parents, widest=6).bands] == [6]
