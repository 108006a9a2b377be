# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The live split as jobs make it: a mirror that goes on by itself, a cutover in its process, and the way back."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import mirrors
import pytest
import redis
import rig as rigs
import writers as writing
from mirrors import Live, until
from writers import add_user, switch

import servers
from ansible_collections.njoy.untangle.plugins.module_utils import engine
from ansible_collections.njoy.untangle.plugins.module_utils.engine import marks
from ansible_collections.njoy.untangle.plugins.module_utils.engine.back import Follower
from ansible_collections.njoy.untangle.plugins.module_utils.engine.live import Work
from ansible_collections.njoy.untangle.plugins.module_utils.engine.server import Server
from ansible_collections.njoy.untangle.plugins.module_utils.engine.snapshot import Limits
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

pytestmark = pytest.mark.servers
pool, split, written_to, live = rigs.pool, rigs.split, writing.written_to, mirrors.live
each_version = pytest.mark.parametrize("version", servers.MAIN)


def following_back(split: Live) -> None:
    """Wait until every old database has been compared, and is kept in step."""

    def found() -> bool:
        purposes = split.job()["progress"].get("mirror", {}).get("purposes", {})
        return len(purposes) > 0 and {one["phase"] for one in purposes.values()} == {"following back"}

    assert until(found), json.dumps(split.job())


@each_version
def test_nothing_is_lost_and_writers_wait_for_milliseconds(written_to, live, version):
    with written_to(version) as (rig, writers):
        split = live(rig)
        assert split.call("mirrored")["changed"]
        assert {one["state"] for one in split.call("mirrored")["purposes"].values()} == {"mirrored"}
        assert not split.call("mirrored")["changed"]
        assert rig.standing() == "mirrored"
        time.sleep(0.5)
        done = split.call("cut_over")
        assert done["fenced"] == ["app"]
        print("%s: writes were refused for %.1f ms" % (version, done["write_refused_seconds"] * 1000))
        switch(rig, writers, True)
        assert rig.standing() == "cut_over"
        time.sleep(0.5)
        # again, with new writes on the targets
        assert not split.call("mirrored")["changed"]
        assert not split.call("cut_over")["changed"]
        following_back(split)
        back = split.call("returned")
        print("%s: and on the way back for %.1f ms" % (version, back["write_refused_seconds"] * 1000))
        # what was written came back while it was written
        assert [one for one in back["purposes"].values() if "returned_keys" in one] == []
        switch(rig, writers, False)
        assert split.job() is None
        # and forward again
        split.call("mirrored")
        split.call("cut_over")
        switch(rig, writers, True)
    for writer, database in zip(writers, (5, 5, 10, 10)):
        writer.check(rig.new(database))
        assert set(writer.served) == {rig.source.port, rig.targets[database].port}


@pytest.mark.parametrize(("version", "to"), servers.PAIRS)
def test_on_to_a_newer_server_and_back(written_to, live, version, to):
    with written_to(version, to) as (rig, writers):
        split = live(rig)
        split.call("mirrored")
        time.sleep(0.5)
        split.call("cut_over")
        switch(rig, writers, True)
        time.sleep(0.5)
        following_back(split)
        back = split.call("returned")
        print("%s from %s: on the way back for %.1f ms" % (version, to, back["write_refused_seconds"] * 1000))
        # an older server refuses payloads, and is followed by commands as fast as it is written
        assert [one for one in back["purposes"].values() if "returned_keys" in one] == []
        switch(rig, writers, False)
    for writer, database in zip(writers, (5, 5, 10, 10)):
        writer.check(rig.old(database))
        assert set(writer.served) == {rig.source.port, rig.targets[database].port}


def test_a_mirror_that_is_killed_starts_over(written_to, live):
    with written_to("redis-7.0") as (rig, writers):
        split = live(rig)
        split.call("mirrored")
        os.kill(split.job()["pid"], signal.SIGKILL)
        # its targets wait for it, and nobody may cut over
        with pytest.raises(redis.ReadOnlyError):
            rig.new(5).set("x", 1)
        while split.job():
            time.sleep(0.01)
        with pytest.raises(UntangleError, match=r"not in step.*Run sync first"):
            split.call("cut_over")
        split.call("mirrored")
        split.call("cut_over")
        switch(rig, writers, True)
    for writer, database in zip(writers, (5, 5, 10, 10)):
        writer.check(rig.new(database))


def test_a_mirror_that_is_stopped_lets_its_targets_go(written_to, live):
    with written_to("redis-7.0") as (rig, _writers):
        split = live(rig)
        figures = Path(rig.state.directory, "metrics", "mirror.prom")
        figures.parent.mkdir(parents=True)
        split.call("mirrored")
        assert until(figures.exists)
        # as a host that goes down does it: who watches must miss it
        split.stop()
        assert split.job() is None and figures.exists()
        assert Server(rig.target.connection()).info("replication")["role"] == "master"
        assert rig.standing() == "copying"
        # another strategy may take over
        rig.copied()
        assert rig.standing() == "copied"


def test_a_cutover_that_cannot_be_made_lifts_its_fence_and_the_mirror_goes_on(written_to, live):
    with written_to("redis-7.0") as (rig, writers):
        split = live(rig)
        split.call("mirrored")
        # Keys that only the target holds: the counts will never be equal. Only the engine could write them, so it is its link.
        Server(rig.source.connection()).run("SELECT", 5)
        rig.targets[10].client().config_set("replica-read-only", "no")
        rig.targets[10].client().set("stranger", "1")
        with pytest.raises(UntangleError, match=r"holds .* keys"):
            split.call("cut_over")
        assert marks.fenced(rig.engine_source()) == []
        rig.targets[10].client().delete("stranger")
        rig.targets[10].client().config_set("replica-read-only", "yes")
        assert split.call("cut_over")["changed"]
        switch(rig, writers, True)
    for writer, database in zip(writers, (5, 5, 10, 10)):
        writer.check(rig.new(database))


def test_a_second_engine_is_refused(written_to, live, tmp_path):
    """And told who holds the target, though that one's link is down for a moment."""
    with written_to("redis-7.0") as (rig, writers):
        split = live(rig)
        split.call("mirrored")
        other = live(rig)
        other.options["state_dir"] = str(tmp_path / "elsewhere")

        def again() -> list[tuple[int, str]]:
            found = split.job()["progress"]["mirror"]["purposes"].values()
            return [(one["starts"], one["phase"]) for one in found]

        held = r"is being filled by the engine on %s, for tester since 20.*Stop that one" % socket.gethostname()
        with pytest.raises(UntangleError, match=held):
            other.call("mirrored")
        first = split.job()["pid"]
        os.kill(first, signal.SIGSTOP)
        try:
            for target in rig.targets.values():
                target.client().execute_command("REPLICAOF", "NO", "ONE")
            with pytest.raises(UntangleError, match=held):
                other.call("mirrored")
        finally:
            os.kill(first, signal.SIGCONT)
        # The first takes it again. (On a busy machine four writers can be faster than the database is read anew.)
        for writer in writers[1:]:
            writer.pause()
        assert until(lambda: again() == [(2, "following")] * 2), split.job()
        switch(rig, writers, False)
        split.call("cut_over")
        switch(rig, writers, True)
    for writer, database in zip(writers, (5, 5, 10, 10)):
        writer.check(rig.new(database))


def test_a_route_that_is_stopped_goes_on_when_asked(split, live):
    rig = split(databases=(5, 10, 12))
    mirror = live(rig)
    for database in (5, 10, 12):
        rig.old(database).mset({"n": 1, "m": 2})
    mirror.call("mirrored")
    with rig.source.client(5).pipeline() as pipe:
        pipe.incr("n").execute_command("SELECT", 10)
        pipe.incr("n").execute()
    rig.old(12).incr("n")
    assert until(lambda: rig.new(12).get("n") == b"2")
    with pytest.raises(
        UntangleError, match=r"wrote to databases 5, 10 at once.*Nothing was switched over.*run sync again"
    ):
        mirror.call("cut_over")
    # told while the job goes on, and not taken for one in step
    assert until(lambda: mirror.job()["progress"]["mirror"]["purposes"]["db5"]["phase"] == "stopped")
    assert rig.standing() == "copying"
    assert not mirror.call("mirrored").get("failed")
    assert rig.standing() == "mirrored"
    assert mirror.call("cut_over")["changed"]
    assert [rig.new(database).mget("n", "m") for database in (5, 10, 12)] == [[b"2", b"2"]] * 3


def test_two_controllers_at_once(written_to, live):
    """One of them cuts over; the other finds it done, or is told who asked for it."""
    with written_to("redis-7.0") as (rig, writers):
        split = live(rig)
        split.call("mirrored")
        with concurrent.futures.ThreadPoolExecutor(4) as several:
            asked = [several.submit(split.call, "cut_over") for _ in range(4)]
        answers = []
        for one in asked:
            try:
                answers.append(one.result()["changed"])
            except UntangleError as exc:
                assert "has just been asked for cut_over by tester" in exc.message
        assert answers.count(True) == 1
        assert split.job()
        switch(rig, writers, True)
    for writer, database in zip(writers, (5, 5, 10, 10)):
        writer.check(rig.new(database))


def test_a_mirror_outlives_what_is_done_beside_it(split, live):
    """Of jobs only the last ones are kept; a mirror is older than many a comparison."""
    rig = split()
    mirror = live(rig)
    mirror.call("mirrored")
    first = mirror.job()["job"]
    for _ in range(22):
        assert mirror.call("compare")["differences"] == 0
    assert mirror.job()["job"] == first
    rig.old().set("late", 1)
    assert mirror.call("cut_over")["changed"]
    assert rig.new().get("late") == b"1"


def test_a_target_over_its_limit_is_not_cut_over_to(split, live):
    rig = split()
    rig.old().set("large", b"x" * 10_000_000)
    rig.target.client().config_set("maxmemory", 4_000_000)
    mirror = live(rig)
    mirror.call("mirrored")
    with pytest.raises(UntangleError, match=r"more than its maxmemory of 4000000.*Nothing was switched over"):
        mirror.call("cut_over")
    assert marks.fenced(rig.engine_source()) == []
    rig.target.client().config_set("maxmemory", 0)
    assert mirror.call("cut_over")["changed"]


def cut_over(rig, mirror, **request):
    """By a mirror in this process."""
    admin = rig.engine_source()
    engine_user = engine.cutover.own_login(admin, rig.state)
    return engine.live.cut_over(mirror, engine_user, admin, rig.routes, rig.state, "a test", request)


def test_a_target_without_its_file_is_not_cut_over_to(tmp_path, monkeypatch):
    """It is rewritten behind a full synchronization, and until then one that is killed has nothing of what it was given."""
    monkeypatch.setattr(engine.live, "SETTLE_SECONDS", 0)
    becomes_ours = engine.link.Link.open

    def just_after_it_looked(link):
        # with hz 1 it sees once a second that the file is there, when it moves this clock as well
        last = link.target.info("server")["lru_clock"]
        assert until(lambda: link.target.info("server")["lru_clock"] != last)
        becomes_ours(link)

    monkeypatch.setattr(engine.link.Link, "open", just_after_it_looked)
    with servers.Server.run(repl_diskless_sync_delay=0) as source, servers.Server.run(appendonly="yes", hz=1) as target:
        rig = rigs.Rig(source, {5: target}, tmp_path)
        rig.old().set("k", 1)
        with mirrors.following(rig) as mirror:
            mirror.catch_up(rig.engine_source().offset())
            with pytest.raises(
                UntangleError, match=r"db5: .* has not written its append-only file.*Nothing was switched over"
            ):
                cut_over(rig, mirror)
            assert marks.fenced(rig.engine_source()) == []
            assert mirrors.until_it_holds(mirror, lambda: target.client().info("persistence")["aof_base_size"])
            assert cut_over(rig, mirror)["changed"]
        target.kill()
        target.start()
        assert rig.new().get("k") == b"1"


def test_routes_that_stop_under_a_cutover_hold_all_of_them_back(split, monkeypatch):
    rig = split(databases=(5, 10, 16))
    room = engine.live._demand_room

    def torn(lane):
        if lane.route.database == 16:
            with rig.source.client(5).pipeline() as pipe:
                pipe.incr("n").execute_command("SELECT", 10)
                pipe.incr("n").execute()
        room(lane)

    with mirrors.following(rig) as mirror:
        mirror.catch_up(rig.engine_source().offset())
        monkeypatch.setattr(engine.live, "_demand_room", torn)
        with pytest.raises(UntangleError, match=r"wrote to databases 5, 10 at once.*Nothing was switched over"):
            cut_over(rig, mirror)
    assert marks.fenced(rig.engine_source()) == []
    assert not set(rig.standings()) & {"cut_over"}


def test_a_target_that_comes_back_under_the_fence_ends_the_cutover(split, monkeypatch):
    """Writers wait: nothing is filled anew behind a fence, nor cut over to before its file is there."""
    rig = split()
    rig.old().mset({"k%d" % number: number for number in range(1000)})
    counts = engine.live._equal_counts

    def killed(mirror, lane):
        rig.target.kill()
        rig.target.start()
        # the feed has something to tell, and so the mirror learns of it on its way and not at its end
        rig.source.client().publish("c", "x")
        return counts(mirror, lane)

    with mirrors.following(rig) as mirror:
        mirror.catch_up(rig.engine_source().offset())
        monkeypatch.setattr(engine.live, "_equal_counts", killed)
        with pytest.raises(UntangleError, match=r"not in step: .* Nothing was switched over"):
            cut_over(rig, mirror)
        assert marks.fenced(rig.engine_source()) == []
        monkeypatch.undo()
        mirror.catch_up(rig.engine_source().offset())
        assert cut_over(rig, mirror)["changed"]
    assert rig.new().dbsize() == 1000


def test_a_rehearsal_does_all_but_the_commit(written_to, live):
    with written_to("redis-7.0") as (rig, writers):
        split = live(rig)
        split.call("mirrored")
        done = split.call("cut_over", rehearse=True)
        assert done["rehearsed"] and not done["changed"] and done["write_refused_seconds"] > 0
        assert rig.standings() == ["mirrored", "mirrored"] and marks.fenced(rig.engine_source()) == []
        time.sleep(0.3)
        assert split.call("cut_over")["changed"]
        switch(rig, writers, True)
    for writer, database in zip(writers, (5, 5, 10, 10)):
        writer.check(rig.new(database))


@each_version
def test_who_cannot_be_fenced_waits(split, live, version):
    """One user for a database that moves and one that stays: nobody is refused, and what stays is not cut off."""
    rig = split(version)
    add_user(rig.source, "app")
    moving, staying = writing.app(rig.source, 5), writing.app(rig.source, 0)
    acknowledged, slowest, cut_off = [], [0.0], []

    def move(number: int) -> None:
        if cut_off:
            time.sleep(0.1)
            return
        try:
            moving.rpush("list", number)
            acknowledged.append(number)
        except redis.ConnectionError as exc:
            cut_off.append(exc)

    def stay(number: int) -> None:
        began = time.monotonic()
        staying.incr("n")
        slowest[0] = max(slowest[0], time.monotonic() - began)

    one = live(rig)
    with rigs.busy(stay):
        with rigs.busy(move):
            one.call("mirrored")
            with pytest.raises(UntangleError, match="also work on databases that stay"):
                one.call("cut_over")
            done = one.call("cut_over", pause_max_seconds=5)
            assert until(lambda: cut_off)
        assert done["kept_off_by"] == "pause" and done["fenced"] == []
    assert rig.standing() == "cut_over"
    assert [int(word) for word in rig.new().lrange("list", 0, -1)] == acknowledged
    print(
        "%s: writes waited for %.1f ms, %.1f ms seen"
        % (version, done["write_refused_seconds"] * 1000, slowest[0] * 1000)
    )


def test_a_pause_that_is_too_short_has_done_nothing(split, live):
    rig = split("redis-7.0")
    rig.old().set("a", 1)
    add_user(rig.source, "app")
    moving, staying = writing.app(rig.source, 5), writing.app(rig.source, 0)
    moving.incr("n"), staying.incr("n")
    one = live(rig)
    one.call("mirrored")
    for seconds in (0.3, 0.50001):
        with pytest.raises(UntangleError, match="too little to commit in"):
            one.call("cut_over", pause_max_seconds=seconds)
    moving.incr("n")
    assert rig.standing() == "mirrored"


def test_a_pause_that_ends_in_the_commit_has_done_nothing(split, monkeypatch):
    """The engine is held up when its targets are masters already, and writers go on meanwhile."""
    rig = split("redis-7.0")
    add_user(rig.source, "app")
    moving, staying = writing.app(rig.source, 5), writing.app(rig.source, 0)
    moving.incr("n"), staying.incr("n")
    promote = engine.link.Link.promote

    def held_up(link: engine.link.Link) -> None:
        promote(link)
        time.sleep(2)

    Path(rig.state.directory).mkdir(exist_ok=True)
    desk = engine.desk.Desk(rig.state.directory)
    request = {"what": "cut_over", "purposes": [rig.purpose], "pause_max_seconds": 1.5}
    job = threading.Thread(
        target=lambda: rig._do(engine.live.mirrored, limits=engine.snapshot.Limits(), desk=desk), daemon=True
    )
    job.start()
    assert until(desk.ready)
    monkeypatch.setattr(engine.link.Link, "promote", held_up)
    answer = desk.ask(request, job.is_alive, 60)
    monkeypatch.undo()
    assert "too little to commit in" in answer["msg"]
    assert rig.standing() in ("copying", "mirrored")
    moving.incr("n")
    # and it goes on from there
    assert desk.ask(request, job.is_alive, 60)["changed"]
    assert rig.standing() == "cut_over" and rig.new().get("n") == b"2"
    assert desk.ask({"what": "returned", "purposes": [rig.purpose]}, job.is_alive, 60)["ends"]
    job.join(10)


def test_an_old_server_that_lost_what_was_brought_is_compared_anew(split, live):
    """It restarts without what came since its last save: the way back must not take that for brought."""
    rig = split("redis-7.0")
    add_user(rig.source, "app")
    rig.old().mset({f"k{i}": i for i in range(1000)})
    rig.source.client().save()
    one = live(rig)
    one.call("mirrored")
    one.call("cut_over", fence=["app"])
    following_back(one)
    rig.new().mset({f"k{i}": "new" for i in range(500)})
    assert until(lambda: rig.old().get("k499") == b"new")
    rig.source.kill()
    rig.source.start()
    assert rig.old().get("k499") == b"499"
    rig.new().set("after", 1)
    assert until(lambda: rig.old().get("k499") == b"new")
    one.call("returned")
    assert rig.old().get("after") == b"1" and rig.old().dbsize() == 1001


def test_who_watches_the_way_back_hears_of_it_at_any_time(split):
    rig = split("redis-7.0")
    for number in range(3000):
        rig.old().set(f"k{number}", number)
    rig.copied()
    rig.cut_over(writers_stopped=True)
    said: list[float] = []
    follower = Follower(
        rig.routes[0], rig.engine_source, Limits(), lambda: said.append(follower.facts()["lag_seconds"])
    )
    while not follower.feed.attached:
        follower.step()
    said.clear()
    follower.step()
    # while it compared, and not only when it was done
    assert not follower.everything and len(said) > 5
    rig.source.kill()
    # more than are brought at once
    with rig.new().pipeline() as many:
        for number in range(600):
            many.set(f"k{number}", "new")
        many.execute()
    assert until(lambda: follower.step() or follower.away)  # type: ignore[func-returns-value]
    time.sleep(0.5)
    # a batch that could not be brought keeps its time, and its place
    assert follower.facts()["lag_seconds"] >= 0.5 and next(iter(follower.dirty)) == b"k0"
    rig.source.start()
    assert until(lambda: follower.step() or not (follower.dirty or follower.away))  # type: ignore[func-returns-value]
    assert follower.facts()["lag_seconds"] == 0
    follower.close()
    # and while a return compares everything
    figures = Path(rig.state.directory, "metrics", "mirror.prom")
    figures.parent.mkdir()
    admin, desk = rig.engine_source(), engine.desk.Desk(rig.state.directory)
    work = Work(rig.login, admin, admin, rig.routes, rig.state, "a test", rigs.silent, Limits(), desk, 0)
    work._returned({"purposes": [rig.purpose]})
    assert figures.exists()


def test_a_target_that_hides_what_it_refuses_is_no_target(split, live):
    rig = split("redis-6.0")
    rig.old().set("a", 1)
    with pytest.raises(UntangleError, match=r"redis 6\.0.*Use Redis 7\.0 or later, or redis_split_strategy: copy"):
        live(rig).call("mirrored")
    assert rig.new().dbsize() == 0 and rig.mark() is None
