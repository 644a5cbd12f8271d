"""The world's facts follow from the seed alone."""

from pathlib import Path

import pytest

from llamatrain.errors import MissingFileError, UserError
from toyworld.phrases import RELATIONS
from toyworld.world import WORLD_FILE, World


def test_same_seed_same_world_other_seed_another() -> None:
    assert World(3).facts == World(3).facts
    assert World(3).facts != World(4).facts


def test_a_quarter_of_every_relation_is_held_out(world: World) -> None:
    for relation in RELATIONS:
        held = [world.held_out(fact.key) for fact in world.facts if fact.relation == relation]
        assert sum(held) == len(held) // 4 > 0


def test_save_and_load(tmp_path: Path) -> None:
    World(7).save(tmp_path)
    assert World.load(tmp_path).facts == World(7).facts


def test_a_folder_without_a_world_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="toyworld"):
        World.load(tmp_path)
    (tmp_path / WORLD_FILE).write_text("{}")
    with pytest.raises(UserError, match=r"world\.json is damaged: seed is missing"):
        World.load(tmp_path)
