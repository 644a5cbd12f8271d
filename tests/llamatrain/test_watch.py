"""The watch over ranks: who is said to hang, by what their files show for how long."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from llamatrain import heartbeat, watch
from llamatrain.errors import LostRankError, UserError
from llamatrain.run_files import BEATS, HANGS
from llamatrain.watch import EXIT_HUNG, Watch

WAITS, WORKS = "collective barrier", "forward"


class World:
    """Rank 0 of three and the files of the others, in minutes that a test tells."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.now, self.told = 0.0, list[str]()
        patch.setattr("time.monotonic", lambda: 60 * self.now)
        patch.setattr(heartbeat, "here", heartbeat.Place())
        (folder / BEATS).mkdir()
        self.folder, self.watch = folder, Watch(folder, 4)
        self.watch.begin(self.told.append)
        self.signs = [replace(self.watch._sign, rank=rank, host=f"host{rank}", pid=0) for rank in range(3)]

    def minute(self, own: str, *others: tuple[str, bool, bool]) -> tuple[str, list[int]]:
        """A minute goes by: rank 0 is at `own`; each other rank's (doing, does its file count, does it move)."""
        self.now += 1
        heartbeat.here.doing = own
        for rank, (doing, counts, moves) in enumerate(others, 1):
            old = self.signs[rank]
            self.signs[rank] = new = replace(old, doing=doing, count=old.count + counts, beats=old.beats + moves)
            (self.folder / BEATS / f"rank_{rank:05d}.json").write_text(json.dumps(asdict(new)))
        self.watch._show()
        self.watch._look()
        why, signs = self.watch._hung()
        return why, [sign.rank for sign in signs]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def last(world: World, minutes: int, own: str, *others: tuple[str, bool, bool]) -> tuple[str, list[int]]:
    return [world.minute(own, *others) for _ in range(minutes)][-1]


def test_a_rank_without_a_sign_of_life_is_named_also_where_others_work(world: World) -> None:
    asleep, works = (WORKS, False, False), (WORKS, True, True)
    assert last(world, 2, WAITS, asleep, works) == ("", [])
    assert last(world, 1, WAITS, asleep, works) == ("no sign of life since then", [1])
    assert last(world, 1, WORKS, asleep, works) == ("no sign of life since then", [1])


def test_a_rank_that_moves_is_waited_for(world: World) -> None:
    assert last(world, 60, WAITS, (WORKS, True, True), (WAITS, True, False)) == ("", [])


def test_a_rank_that_does_not_move_is_named_by_itself_first(world: World) -> None:
    stuck, waits = (WORKS, True, False), (WAITS, True, False)
    assert last(world, 4, WAITS, stuck, waits) == ("", [])
    assert last(world, 1, WAITS, stuck, waits) == ("no progress since then", [1])
    assert world.minute(WORKS, stuck, waits) == ("no progress since then", [0])


def test_ranks_that_wait_for_one_another_are_all_named(world: World) -> None:
    waits = (WAITS, True, False)
    assert last(world, 2, WAITS, waits, waits) == ("", [])
    assert last(world, 1, WAITS, waits, waits) == ("all ranks wait for one another", [0, 1, 2])


def test_a_rank_that_is_done_is_nobody_to_wait_for(world: World) -> None:
    last(world, 2, WAITS, (WORKS, True, True), (WORKS, True, True))
    (world.folder / BEATS / "rank_00002.json").unlink()
    assert last(world, 3, WAITS, (WORKS, True, True)) == ("", [])


def test_a_job_that_was_suspended_does_not_hang_as_it_wakes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    monkeypatch.setattr(world.watch, "_end", lambda hang, found: ended.append(hang))
    monkeypatch.setattr(heartbeat, "_moved", 0.0)
    waits = (WAITS, True, False)
    last(world, 2, WAITS, waits, waits)
    world.now += 60
    world.watch._turn(3600)
    for _ in range(3):  # minutes in which nobody has moved yet
        world.minute(WAITS, waits, waits)
        world.watch._turn(60)
    assert not ended
    world.minute(WAITS, waits, waits)
    world.watch._turn(60)
    assert "all ranks wait for one another" in ended[0]


def test_what_is_written_down_before_the_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("os._exit", ended.append)
    heartbeat.at_step(7)
    with heartbeat.phase("train"), heartbeat.collective("all_reduce"):
        last(world, 3, heartbeat.here.doing, (WORKS, False, False), (WAITS, True, False))
        _, signs = world.watch._hung()
        world.watch._end(f"{signs[0]}: no sign of life since then", found=True)
    found = (world.folder / HANGS / "rank_00000.txt").read_text()
    assert "hang: rank 1 (pid 0 on host host1), last seen at step 0, start, in forward since " in found
    assert "last seen at step 7, train, in collective all_reduce since " in found and "test_watch.py" in found
    assert world.told[0].startswith("hang: rank 1 (pid 0 on host host1)") and ended == [EXIT_HUNG]
    assert watch.read_signs(world.folder, world.signs[0].launch)[0].hang  # so that the others end, too


def test_a_rank_that_was_torn_away_is_told_from_one_that_ended_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch.distributed, "world_size", lambda: 2)
    closed = RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error [10.0.0.2]:2224: Connection reset by peer")
    other = tmp_path / BEATS / "rank_00001.json"
    for torn in (True, False):
        own = Watch(tmp_path, 20)
        other.write_text(json.dumps(asdict(replace(own._sign, rank=1))))
        if not torn:  # it took its sign away, as it told what was wrong
            other.unlink()
        assert own.lost_rank(None) is None and own.lost_rank(ValueError("Connection reset by peer")) is None
        lost = own.lost_rank(closed)
        assert (lost is not None) is torn and "gone without a word" in str(lost or "gone without a word")
        own.close()
        assert own.path.exists() is torn  # so that a third rank, which looks later, sees the same


def test_one_rank_is_not_watched(tmp_path: Path) -> None:
    alone = Watch(tmp_path, 1e-6)
    assert alone._thread is None
    alone.close()
    assert not list(tmp_path.iterdir())


def test_before_a_run_begins_only_sleep_is_a_hang(world: World) -> None:
    """What ranks do until then has no beats everywhere, and one of them may do it for long."""
    world.watch._failed = None
    stuck, waits, asleep = (WORKS, True, False), (WAITS, True, False), (WORKS, False, False)
    assert last(world, 60, WAITS, stuck, waits) == ("", [])
    assert last(world, 3, WORKS, waits, asleep) == ("no sign of life since then", [2])


def test_signs_of_a_launch_that_was_killed_are_nobodys(world: World) -> None:
    world.watch._failed = None  # before the ranks of this one have shown theirs
    for sign in world.signs:
        sign.launch = "node1 1234 7 0"
    assert last(world, 3, WAITS, (WORKS, False, False), (WORKS, False, False)) == ("", [])


def test_a_watch_that_no_run_takes_over_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch.distributed, "world_size", lambda: 2)
    folder = tmp_path / "run"

    def program(error: Exception, others: int) -> None:
        with watch.early(folder, 20):
            (path,) = (folder / BEATS).glob("rank_*.json")
            sign = json.loads(path.read_text())
            for rank in range(1, 1 + others):
                (folder / BEATS / f"rank_{rank:05d}.json").write_text(json.dumps({**sign, "rank": rank}))
            raise error

    with pytest.raises(UserError, match="a mistake"):
        program(UserError("a mistake"), others=0)
    assert not folder.exists()
    with pytest.raises(LostRankError):  # it was torn away before the run began
        program(RuntimeError("Connection closed by peer"), others=1)
    with watch.early(folder, 20):
        watch.begin(folder, 20, print).close()
        assert not list((folder / BEATS).glob("rank_00000*"))


def test_a_second_start_leaves_the_signs_of_the_run_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them a rank that waits long for another that works would take that for a hang."""
    monkeypatch.setattr(watch.distributed, "world_size", lambda: 2)
    first = Watch(tmp_path, 20)
    first.begin(print)
    (path,) = (tmp_path / BEATS).iterdir()
    shown = path.read_bytes()
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    with watch.early(tmp_path, 20):
        assert len(list((tmp_path / BEATS).iterdir())) == 2 and path.read_bytes() == shown
    assert list((tmp_path / BEATS).iterdir()) == [path] and path.read_bytes() == shown
    killed = Watch(tmp_path, 20)  # before it could take its sign away
    killed._closed.set()
    with watch.early(tmp_path, 20):
        taken = watch.begin(tmp_path, 20, print)
        assert list((tmp_path / BEATS).iterdir()) == [path]
        assert json.loads(path.read_text())["launch"] == taken._sign.launch
        taken.close()
    first.close()


def test_the_newest_sign_of_a_rank_counts(world: World) -> None:
    """An earlier launch at the same port was killed."""
    last(world, 1, WAITS, (WORKS, True, True), (WORKS, True, True))
    for rank, host in ((1, "a"), (2, "z")):  # their names come before the old ones' and after them
        newer = world.folder / BEATS / f"rank_{rank:05d}.{host}.7.json"
        newer.write_text(json.dumps(asdict(replace(world.signs[rank], pid=7))))
        os.utime(newer, (2e9, 2e9))
    signs = watch.read_signs(world.folder, world.signs[0].launch)
    assert [(sign.rank, sign.pid) for sign in signs[1:]] == [(1, 7), (2, 7)] and len(signs) == 3
