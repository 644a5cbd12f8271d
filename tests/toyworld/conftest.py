"""One world for all tests of the folder."""

import pytest

from toyworld.judge import Judge, judge_of
from toyworld.requests import Requests
from toyworld.world import World


@pytest.fixture(scope="session")
def world() -> World:
    return World(1)


@pytest.fixture(scope="session")
def requests(world: World) -> Requests:
    return Requests(world)


@pytest.fixture(scope="session")
def judge(world: World) -> Judge:
    return judge_of(world.seed)
