"""Documents: by seed, in the size asked for, without held-out questions."""

from toyworld.documents import Documents, documents
from toyworld.requests import TASKS, Requests
from toyworld.world import World


def texts(seed: int, megabytes: float = 0.05, stream: str = "train") -> list[str]:
    world = World(seed)
    return [row["text"] for row in documents(world, Requests(world), megabytes, stream)]


def test_the_seed_and_the_stream_decide() -> None:
    assert texts(1) == texts(1)
    assert texts(1) != texts(2)
    other = texts(1, stream="eval")
    assert len(set(texts(1)) & set(other)) < len(other) / 10  # short ones meet by chance


def test_size_on_demand_and_shape() -> None:
    world = World(1)
    rows = list(documents(world, Requests(world), 0.5, "train"))
    assert 500_000 <= sum(len(row["text"]) for row in rows) < 501_000
    assert {row["source"].removeprefix("toyworld/") for row in rows} == set(Documents(world, Requests(world)).writers)
    asked = sum("Question: " in row["text"] for row in rows) / len(rows)
    assert 0.4 < asked < 0.75


def test_shorter_than_the_context() -> None:
    assert max(len(text.split()) for text in texts(1, 0.5)) <= 90


def test_no_held_out_question(requests: Requests) -> None:
    written = "\n".join(texts(requests.world.seed, 1.0))
    for task in TASKS:
        held = requests.pools[task, True]
        assert all(f" {request.text} " not in written for request in held if not request.earlier)


def test_every_fact_is_stated_held_out_or_not(requests: Requests) -> None:
    written = "\n".join(texts(requests.world.seed, 1.0))
    for fact in requests.world.facts:
        assert written.count(fact.value) >= 10, fact
