# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cutover and the way back on real servers: whole or not at all, killed at any moment, and no acknowledged write lost."""

from __future__ import annotations

import contextlib
import itertools
import time

import dataset
import pytest
import redis
import rig as rigs
import writers as writing
from rig import busy, killed, killed_apart
from writers import add_user, app, switch

import servers
from ansible_collections.njoy.untangle.plugins.module_utils import engine
from ansible_collections.njoy.untangle.plugins.module_utils.engine import marks
from ansible_collections.njoy.untangle.plugins.module_utils.engine.snapshot import Limits
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

pytestmark = pytest.mark.servers
pool, split, written_to = rigs.pool, rigs.split, writing.written_to
main_versions = pytest.mark.parametrize("version", servers.MAIN)


def now_ms() -> int:
    return int(time.time() * 1000)


def may_write(server, database=0, name="app"):
    try:
        app(server, database, name).set("may write", 1)
        app(server, database, name).delete("may write")
        return True
    except redis.ResponseError as exc:
        assert "permission" in str(exc) or "NOPERM" in str(exc)
        return False


def same(rig, database=None, version="redis-7.0"):
    one, other = dataset.read(rig.old(database), version, False), dataset.read(rig.new(database), version, False)
    assert dataset.difference(one, other) == {}


# -- in one go ---------------------------------------------------------------------------------------------------------


@main_versions
def test_all_databases_move_and_the_default_user_is_fenced(split, version):
    """The worked example: three databases, nobody has a user of their own."""
    rig = split(version, databases=(0, 5, 10))
    for database in (0, 5, 10):
        dataset.fill(rig.old(database), version, now_ms())
    rig.copied()
    for database in (0, 5, 10):
        client = rig.old(database)
        client.set("embstr", "changed since the copy")
        client.delete("int")
        client.rpush("new", 1, 2)
        client.expire("raw", 5000)
    wanted = {database: dataset.read(rig.old(database), version, False) for database in (0, 5, 10)}

    result = rig.cut_over()

    assert result["changed"] and result["fenced"] == ["default"] and 0 < result["write_refused_seconds"] < 20
    for database in (0, 5, 10):
        assert dataset.difference(wanted[database], dataset.read(rig.new(database), version, False)) == {}
        with pytest.raises(redis.exceptions.NoPermissionError):
            rig.old(database).set("late", 1)
        noted = rig.state.purpose("db%d" % database)
        assert noted["state"] == "cut_over" and noted["differences"] == 0 and noted["fence"] == ["default"]
        assert noted["keys_before"] == noted["keys_after"] == len(wanted[database])
        assert noted["last_pass_keys"] >= 4 and noted["compared"] == len(wanted[database])
        assert marks.is_moved(rig.engine_source(), database) == "db%d@%s" % (database, rig.targets[database].address)


@main_versions
def test_only_the_users_of_what_moves_are_fenced(split, version):
    rig = split(version)
    add_user(rig.source, "app")
    add_user(rig.source, "other")
    rig.old().set("a", 1)
    before = rig.users()
    other = app(rig.source, 6, "other")
    other.set("a", 1)
    mine = app(rig.source, 5)
    mine.set("a", 2)
    for client in rig.source._clients:
        if client not in (mine, other):
            client.close()
    rig.copied()

    with busy(lambda number: other.incr("served throughout")):
        assert rig.cut_over()["fenced"] == ["app"]
    assert not may_write(rig.source, 5) and may_write(rig.source, 6, "other")
    assert rig.new().get("a") == b"2"
    rig.returned()
    assert may_write(rig.source, 5)
    assert rig.users() == before


@main_versions
def test_the_way_back_brings_what_changed(split, version):
    rig = split(version)
    dataset.fill(rig.old(), version, now_ms())
    before = rig.users(), rig.users(rig.target)
    rig.copied()
    rig.cut_over()
    client = rig.new()
    client.flushall()
    dataset.fill(client, version, now_ms() + 5000)
    client.delete("raw", "zset:big")
    client.set("hash:small", "another type")
    client.hset("hash:big", "f7", "changed")
    client.xadd("stream", {"new": 1})
    wanted = dataset.read(client, version, False)

    result = rig.returned(big=5000)

    assert result["changed"] and result["purposes"]["db5"]["returned_keys"] > 3
    assert dataset.difference(wanted, dataset.read(rig.old(), version, False)) == {}
    assert rig.users() == before[0] and rig.old().set("a", 1)
    # the instance takes no writes any more, until it is filled anew
    with pytest.raises(redis.exceptions.NoPermissionError):
        rig.new().set("a", 1)
    rig.copied()
    assert rig.users(rig.target) == before[1] and rig.new().set("a", 1)


@pytest.mark.parametrize(
    ("version", "to"), [("redis-6.0", "redis-7.0"), ("redis-7.0", "redis-8.0"), ("valkey-8.1", "valkey-9.1")]
)
def test_there_and_back_between_versions(split, version, to):
    """The older server refuses the newer one's payloads; what changed goes back all the same."""
    rig = split(version, to=to)
    dataset.fill(rig.old(), version, now_ms())
    rig.copied()
    rig.old().set("embstr", "changed since")
    rig.cut_over()
    same(rig, version=version)
    with pytest.raises(redis.ResponseError, match="permission"):
        rig.old().set("a", 1)
    rig.new().flushall()
    dataset.fill(rig.new(), version, now_ms() + 1000)
    rig.new().zrem("zset:small", "b")
    rig.new().delete("raw")
    rig.returned()
    same(rig, version=version)
    assert rig.old().set("a", 1)


@main_versions
def test_an_instance_at_its_limit_can_still_go_back(split, version):
    """A queue that is full refuses writes: the mark that says so is one as well."""
    rig = split(version)
    rig.old().set("a", "x" * 1000)
    rig.copied()
    rig.cut_over()
    with rig.new().pipeline(transaction=False) as pipe:
        for i in range(3000):
            pipe.set(f"k{i}", "x" * 1000)
        pipe.execute()
    rig.new().config_set("maxmemory", rig.new().info("memory")["used_memory"] - 500_000)
    with pytest.raises(redis.ResponseError, match="maxmemory"):
        rig.new().set("b", 1)
    limit = rig.memory()
    assert not rig.cut_over()["changed"]
    rig.returned()
    assert rig.old().dbsize() == 3001 and rig.standing() == "returned" and rig.memory() == limit


@pytest.mark.parametrize(("version", "to"), [*((v, v) for v in servers.MAIN), ("redis-6.0", "redis-7.0")])
def test_a_source_at_its_limit_can_be_left(split, version, to):
    """A queue that has filled its server up is why somebody splits it. Up to 7.0 such a server refuses transactions."""
    rig = split(version, to=to)
    dataset.fill(rig.old(), version, now_ms())
    rig.old().config_set("maxmemory", rig.old().info("memory")["used_memory"] - 500_000)
    with pytest.raises(redis.ResponseError, match="maxmemory"):
        rig.old().set("b", 1)
    limit = rig.old().config_get("maxmemory")
    rig.copied()
    # read element by element as well: times and pending entries
    assert rig.compare(limits=Limits(big_key_bytes=1)).differences == 0
    rig.old().delete("raw", "stream")
    assert rig.cut_over()["changed"]
    same(rig, version=version)
    assert rig.old().config_get("maxmemory") == limit
    if version == to:
        # (between versions more would have to be written than was deleted)
        rig.new().delete("embstr")
        rig.returned()
        same(rig, version=version)
        assert rig.old().config_get("maxmemory") == limit and not marks.fenced(rig.engine_source())


@main_versions
def test_what_is_left_on_the_source_may_go_on(split, version):
    """Purposes move one after the other; what has moved already holds nobody back, and its fence stays up."""
    rig = split(version, databases=(0, 5))
    for name in ("app", "queue"):
        add_user(rig.source, name)
    rig.old(0).set("a", 1)
    rig.old(5).set("a", 1)
    for client in list(rig.source._clients):
        client.close()
    app(rig.source, 5, "queue").ping()
    rig.copied()
    first, second = ([route] for route in (rig.routes[1], rig.routes[0]))

    assert rig.cut_over(routes=first)["fenced"] == ["queue"]
    # the second fails in its last pass: what it fenced is let go, what the first needs is not
    rig.new(0).config_set("maxmemory", 1_000_000)
    with pytest.raises(UntangleError, match="holds more than its maxmemory"):
        rig.cut_over(routes=second)
    assert marks.fenced(rig.engine_source()) == ["queue"] and may_write(rig.source, 0)
    rig.new(0).config_set("maxmemory", 100_000_000)
    assert rig.cut_over(routes=second)["fenced"] == ["app", "default", "queue"]

    # one of them back alone would open the other's old database to the users that both have
    with pytest.raises(UntangleError, match=r"db5 cannot go back alone: users queue of .* one fence holds both"):
        rig.returned(routes=first)
    assert rig.standing() == "cut_over" and not may_write(rig.source, 5, "queue")
    rig.returned()
    assert marks.fenced(rig.engine_source()) == [] and may_write(rig.source, 5, "queue") and may_write(rig.source, 0)


@main_versions
def test_one_of_two_goes_back_where_users_are_apart(split, version):
    rig = split(version, databases=(0, 5))
    for name in ("app", "queue"):
        add_user(rig.source, name)
    rig.old(0).set("a", 1)
    rig.old(5).set("a", 1)
    rig.source.client(9).set("stays", 1)
    for client in list(rig.source._clients):
        client.close()
    rig.copied()
    rig.cut_over(fence=["queue"], routes=rig.routes[1:])
    rig.cut_over(fence=["app"], routes=rig.routes[:1])
    rig.returned(routes=rig.routes[1:])
    assert may_write(rig.source, 5, "queue") and not may_write(rig.source, 0, "app")
    rig.returned(routes=rig.routes[:1])
    assert may_write(rig.source, 0, "app")


# -- refused and undone ------------------------------------------------------------------------------------------------


@main_versions
@pytest.mark.parametrize(
    "failure", [UntangleError("it failed"), KeyboardInterrupt(), SystemExit(143), MemoryError()], ids=repr
)
def test_a_failure_before_the_commit_lifts_the_fence(split, version, failure, monkeypatch):
    rig = split(version)
    add_user(rig.source, "app")
    dataset.fill(rig.old(), version, now_ms())
    rig.copied()
    users, mark = rig.users(), rig.mark()
    real = marks.put

    def put_and_fail(server, users):
        real(server, users)
        raise failure

    def fail(*arguments, **options):
        assert marks.fenced(rig.engine_source()) == ["app", "default"]
        raise failure

    for where, stand_in in (("marks.put", put_and_fail), ("cutover._pass", fail), ("cutover.demand_equal", fail)):
        with monkeypatch.context() as patch:
            owner, _, name = where.partition(".")
            patch.setattr(getattr(engine, owner), name, stand_in)
            with pytest.raises(type(failure)):
                rig.cut_over()
        assert rig.users() == users and rig.standing() == "copied", where
        assert rig.mark() == mark and may_write(rig.source, 5)
    rig.cut_over()
    same(rig, version=version)
    # and likewise on the way back
    users = rig.users(rig.target)
    for where, stand_in in (
        ("marks.put", put_and_fail),
        ("cutover._back", lambda *a, **o: (_ for _ in ()).throw(failure)),
    ):
        with monkeypatch.context() as patch:
            owner, _, name = where.partition(".")
            patch.setattr(getattr(engine, owner), name, stand_in)
            with pytest.raises(type(failure)):
                rig.returned()
        assert rig.users(rig.target) == users and rig.standing() == "cut_over", where
        assert rig.new().set("a", 1)


@main_versions
def test_a_difference_that_stays_stops_the_cutover(split, version):
    """Somebody writes to the target, where nobody should: the proof fails and nothing is switched."""
    rig = split(version)
    rig.old().mset({f"k{i}": i for i in range(100)})
    rig.copied()
    users = rig.users()
    other = rig.target.client().pipeline(transaction=False)

    def written_elsewhere(_number: int) -> None:
        # without a pause: it has to come between the last pass and the proof
        for _ in range(20):
            other.set("k5", "from elsewhere")
        other.execute()

    with (
        busy(written_elsewhere),
        pytest.raises(UntangleError, match=r"differs from database 5 .* \(value: 1\)\. Nothing was switched over"),
    ):
        rig.cut_over()
    assert rig.users() == users and rig.standing() == "copied" and rig.old().set("a", 1)


@main_versions
def test_a_user_that_serves_what_stays_cannot_be_fenced(split, version):
    rig = split(version)
    add_user(rig.source, "app")
    rig.old().set("a", 1)
    rig.source.client(6).set("a", 1)
    rig.copied()
    for client in list(rig.source._clients):
        client.close()
    held = [app(rig.source, 5), app(rig.source, 6)]
    assert all(client.ping() for client in held)
    users = rig.users()
    with pytest.raises(
        UntangleError, match=r"cannot be fenced: these users also work on databases that stay: app \(database 6\)"
    ):
        rig.cut_over()
    with pytest.raises(UntangleError, match=r"cannot be fenced.*default \(databases 6 hold data\)"):
        rig.cut_over(fence=["default"])
    assert rig.users() == users and rig.standing() == "copied" and all(client.ping() for client in held)


@main_versions
def test_a_replica_can_be_copied_but_not_fenced(split, server, version):
    rig = split(version)
    master = server(version)
    master.client(5).set("a", 1)
    rig.old().execute_command("REPLICAOF", master.host, master.port)
    try:
        while rig.old().get("a") != b"1":
            time.sleep(0.02)
        rig.copied()
        users = rig.users()
        for options in ({}, {"writers_stopped": True}):
            with pytest.raises(UntangleError, match=r"is a replica.*Name the master as source; nothing was changed"):
                rig.cut_over(**options)
        assert rig.users() == users and rig.standing() == "copied"
    finally:
        rig.old().execute_command("REPLICAOF", "NO", "ONE")


@main_versions
def test_stopped_writers_need_no_fence(split, version):
    rig = split(version)
    dataset.fill(rig.old(), version, now_ms())
    rig.copied()
    rig.old().set("embstr", "changed before they were stopped")
    users = rig.users()
    # another database may go on
    with busy(lambda number: rig.source.client(6).incr("n") and time.sleep(0.01)):
        result = rig.cut_over(writers_stopped=True)
    assert result["fenced"] == [] and rig.state.purpose("db5")["fence"] == []
    same(rig, version=version)
    assert [line for line in rig.users() if marks.MOVED % 5 not in line] == users
    rig.new().set("embstr", "new")
    rig.returned()
    assert rig.old().get("embstr") == b"new" and rig.users() == users


@main_versions
def test_stopped_writers_that_write_all_the_same_are_found(split, version):
    rig = split(version)
    rig.old().mset({f"k{i}": "x" * 100 for i in range(5000)})
    rig.copied()
    writer = rig.source.client(5)
    with (
        busy(lambda number: writer.set("k%d" % (number % 5000), number) and time.sleep(0.0005)),
        pytest.raises(UntangleError, match=r"Nothing was switched over"),
    ):
        rig.cut_over(writers_stopped=True)
    assert rig.standing() == "copied" and not marks.is_moved(rig.engine_source(), 5)
    # stopped at last
    assert rig.cut_over(writers_stopped=True)["changed"]
    same(rig)


@main_versions
def test_a_write_between_last_pass_and_commit_is_found(split, version, monkeypatch):
    rig = split(version)
    rig.old().mset({f"k{i}": "x" for i in range(10)})
    rig.copied()
    real = engine.cutover._pass

    def last_pass(*arguments, **options):
        result = real(*arguments, **options)
        rig.old().set("k3", "late")
        return result

    monkeypatch.setattr(engine.cutover, "_pass", last_pass)
    with pytest.raises(UntangleError, match=r"was written to during the last pass.*Nothing was switched over"):
        rig.cut_over(writers_stopped=True)
    assert rig.standing() == "copied"


def after_pass(rig, monkeypatch, nth, work):
    """Do this work when the nth pass over the old database has returned."""
    real, calls = engine.cutover._pass, [0]

    def last_pass(*arguments, **options):
        result = real(*arguments, **options)
        calls[0] += 1
        if calls[0] in nth:
            work(calls[0])
        return result

    monkeypatch.setattr(engine.cutover, "_pass", last_pass)


@main_versions
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "beside others"])
def test_a_write_behind_the_second_look_is_found(split, version, alone, monkeypatch):
    """By its first write the counters moved; by its second, to a key that was looked at already, they move again."""
    rig = split(version)
    rig.old().mset({f"k{i}": "x" for i in range(10)})
    other = rig.source.client(6)
    if not alone:
        other.set("n", 1)
    rig.copied()
    # the first goes to where it changes nothing: a key that is gone before it is looked for
    late = {1: lambda: rig.old().set("gone", 1) and rig.old().delete("gone"), 2: lambda: rig.old().set("k3", "late")}
    after_pass(rig, monkeypatch, late, lambda nth: late[nth]())
    with (
        contextlib.nullcontext() if alone else busy(lambda number: other.incr("n") and time.sleep(0.001)),
        pytest.raises(UntangleError, match=r"was written to during the last pass.*Nothing was switched over"),
    ):
        rig.cut_over(writers_stopped=True)
    assert rig.standing() == "copied" and not marks.is_moved(rig.engine_source(), 5)


@main_versions
def test_a_source_that_is_written_to_all_the_time_is_refused(split, version, monkeypatch):
    """Nothing is different whenever all is compared, but nobody has said that nothing will be."""
    rig = split(version)
    rig.old().mset({f"k{i}": "x" for i in range(10)})
    rig.copied()
    with monkeypatch.context() as patch:
        after_pass(rig, patch, range(1, 9), lambda nth: rig.old().set("k3", "x"))
        with pytest.raises(
            UntangleError, match=r"is written to all the time.*no database stays.*Nothing was switched over"
        ):
            rig.cut_over(writers_stopped=True)
        assert rig.standing() == "copied" and not marks.is_moved(rig.engine_source(), 5)
        # another database explains it
        rig.source.client(6).set("a", 1)
        assert rig.cut_over(writers_stopped=True)["changed"]


@main_versions
def test_expiry_is_not_taken_for_a_writer(split, server, version, monkeypatch):
    """It moves the replication offset of a source that has a replica, during every look."""
    rig = split(version)
    replica = server(version).client()
    replica.execute_command("REPLICAOF", rig.source.host, rig.source.port)
    while replica.info("replication")["master_link_status"] != "up":
        time.sleep(0.02)
    rig.old().mset({f"k{i}": "x" for i in range(10)})
    for i in range(1, 9):
        rig.old().set(f"v{i}", 1, px=3000 + 200 * i)
    rig.copied()

    def expire(nth):
        # the copy is gone as well, so that the next look has nothing to find
        while rig.old().exists(f"v{nth}") or rig.new().exists(f"v{nth}"):
            time.sleep(0.005)

    after_pass(rig, monkeypatch, range(1, 9), expire)
    before = rig.old().info()["expired_keys"]
    assert rig.cut_over(writers_stopped=True)["changed"]
    assert rig.old().info()["expired_keys"] - before > engine.cutover.SECOND_LOOKS


# -- killed ------------------------------------------------------------------------------------------------------------

# With two routes the mark is written twice in each last pass; the fifth and sixth time are the commits.
THERE = [
    ("marks.put", 1, False),
    ("marks.put", 1, True),
    ("route.restore_limits", 1, False),
    ("cutover._pass", 1, True),
    ("cutover._pass", 2, True),
    ("marks.write_target", 5, False),
    ("marks.write_target", 5, True),
    ("marks.set_moved", 1, True),
    ("marks.write_target", 6, True),
    ("marks.set_moved", 2, True),
    ("state.State.update", 1, False),
    ("state.State.update", 1, True),
]
BACK = [
    ("marks.put", 1, True),
    ("marks.put", 2, True),
    ("cutover._back", 1, True),
    ("cutover._back", 2, True),
    ("marks.write_target", 1, True),
    ("marks.write_target", 2, True),
    ("state.State.update", 1, True),
    ("marks.clear_moved", 1, True),
    ("marks.clear_moved", 2, True),
    ("marks.lift", 1, True),
]


def turns(moments):
    """Every moment once, the servers in turn."""
    return pytest.mark.parametrize(
        ("moment", "version"),
        list(zip(moments, itertools.cycle(servers.MAIN))),
        ids=lambda x: x if isinstance(x, str) else "-".join(map(str, x)),
    )


@pytest.fixture
def two(split):
    """Two databases with an application, and a third that stays with one of its own."""

    def make(version):
        rig = split(version, databases=(5, 10))
        for server in (rig.source, *rig.targets.values()):
            add_user(server, "app")
        add_user(rig.source, "other")
        rig.source.client(0).set("stays", 1)
        for database in (5, 10):
            client = rig.old(database)
            client.mset({f"k{i}": i for i in range(200)})
            client.hset("h", mapping={"a": 1})
            client.expire("h", 1000)
        rig.new(5).config_set("maxmemory", "100mb")
        rig.copied()
        for database in (5, 10):
            rig.old(database).set("k7", "changed since")
            rig.old(database).delete("k8")
        for server in (rig.source, *rig.targets.values()):
            for client in server._clients:
                client.close()
        rig._clients.clear()
        return rig

    return make


def places(rig):
    return [engine.route.standing(rig.engine_source(r.database), r.open(), r, rig.state) for r in rig.routes]


def serves_there(rig):
    assert places(rig) == ["cut_over", "cut_over"]
    assert not may_write(rig.source, 5) and not may_write(rig.source, 10) and may_write(rig.source, 0, "other")
    for database in (5, 10):
        assert may_write(rig.targets[database])
        assert marks.is_moved(rig.engine_source(), database)
        assert rig.state.purpose("db%d" % database)["state"] == "cut_over"
        assert rig.new(database).get("k7") == b"changed since" and not rig.new(database).exists("k8")
        assert dataset.read(rig.new(database)).keys() == dataset.read(rig.old(database)).keys()
    assert rig.memory(5) == ("104857600", "noeviction")


@turns(THERE)
def test_a_cutover_that_was_killed_is_finished(two, moment, version):
    rig = two(version)
    path, nth, after = moment
    fence = ["app"]
    killed(path, lambda: rig.cut_over(fence=fence), nth, after)
    # never do both sides take writes of the application
    assert not (may_write(rig.source, 5) and "cut_over" in places(rig))
    assert not (may_write(rig.source, 10) and places(rig)[1] == "cut_over")
    assert rig.copied()["db5"]["changed"] is False
    rig.cut_over(fence=fence)
    serves_there(rig)
    assert not rig.cut_over(fence=fence)["changed"]
    serves_there(rig)


@main_versions
def test_a_killed_cutover_goes_on_with_the_users_it_had_fenced(two, version):
    """Nobody of them may be connected any more, so nothing but the fence itself says who they were."""
    rig = two(version)
    held = [app(rig.source, database) for database in (5, 10)]
    assert all(client.ping() for client in held)
    killed("marks.put", rig.cut_over, after=True)
    for client in held:
        client.close()
    assert marks.fenced(rig.engine_source()) == ["app"]
    assert rig.cut_over()["fenced"] == ["app"]
    serves_there(rig)


@turns(THERE)
def test_a_cutover_that_was_killed_is_taken_back(two, moment, version):
    rig = two(version)
    users = rig.users()
    path, nth, after = moment
    killed(path, lambda: rig.cut_over(fence=["app"]), nth, after)
    rig.returned()
    assert rig.users() == users and may_write(rig.source, 5) and may_write(rig.source, 10)
    assert not {"cut_over", "retired"} & set(places(rig))
    assert [rig.old(n).get("k7") for n in (5, 10)] == [b"changed since"] * 2
    assert not rig.returned()["changed"]
    # from there on everything goes its ordinary way
    rig.copied()
    rig.cut_over(fence=["app"])
    serves_there(rig)


@turns(BACK)
def test_a_way_back_that_was_killed_is_finished(two, moment, version):
    rig = two(version)
    users = rig.users()
    rig.cut_over(fence=["app"])
    for database in (5, 10):
        app(rig.targets[database]).mset({"k1": "new", "k300": "new"})
        app(rig.targets[database]).delete("k2")
    path, nth, after = moment
    killed(path, rig.returned, nth, after)
    for database, place in zip((5, 10), places(rig)):
        # the side that serves may be fenced; the other one always is
        assert not (may_write(rig.source, database) and place == "cut_over")
        assert not (may_write(rig.targets[database]) and place == "returned")
    with contextlib.suppress(UntangleError):
        # refused where the way back is half done; never is an instance that serves copied over
        rig.copied()
    rig.returned()
    for database in (5, 10):
        client = rig.old(database)
        assert client.mget("k1", "k2", "k300", "k7") == [b"new", None, b"new", b"changed since"]
        assert not marks.is_moved(rig.engine_source(), database)
        assert rig.state.purpose("db%d" % database)["state"] in ("returned", "copied")
    assert rig.users() == users and may_write(rig.source, 5)
    assert not rig.returned()["changed"]
    # a new copy that is broken off is not taken for an instance that serves
    rig.old(5).set("k1", "newer")
    if "returned" in places(rig):
        killed("target.Writer.send", rig.copied, after=True)
        assert "cut_over" not in places(rig)
    rig.copied()
    rig.cut_over(fence=["app"])
    serves_there(rig)
    assert rig.new(5).get("k1") == b"newer"


@turns(BACK[:4])
def test_a_way_back_that_was_killed_is_given_up(two, moment, version):
    """Before its commit the instances serve: the cutover, run again, lets their users write again."""
    rig = two(version)
    rig.cut_over(fence=["app"])
    for database in (5, 10):
        app(rig.targets[database]).set("k1", "new")
    killed(moment[0], rig.returned, *moment[1:])
    rig.cut_over(fence=["app"])
    serves_there(rig)
    assert [rig.new(n).get("k1") for n in (5, 10)] == [b"new", b"new"]
    assert not rig.cut_over(fence=["app"])["changed"]


@turns([("marks.write_target", 1, True), ("marks.write_target", 2, True), ("state.State.update", 1, True)])
def test_a_copy_waits_for_a_way_back_to_be_finished(two, moment, version):
    rig = two(version)
    rig.cut_over(fence=["app"])
    app(rig.targets[5]).set("k1", "new")
    killed(moment[0], rig.returned, *moment[1:])
    with pytest.raises(
        UntangleError, match=r"the way back to database 5 of .* was broken off before its end\. Run rollback again"
    ):
        rig.copied()
    rig.returned()
    rig.copied()
    assert rig.new(5).get("k1") == b"new"


# -- nothing acknowledged is lost --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "to"), [*((v, v) for v in servers.MAIN), ("redis-6.0", "redis-7.0")])
def test_no_acknowledged_write_is_lost(written_to, version, to):
    with written_to(version, to) as (rig, writers):
        rig.copied(limits=Limits(max_latency_ms=1))
        time.sleep(0.2)
        assert rig.cut_over()["fenced"] == ["app"]
        switch(rig, writers, True)
        time.sleep(0.5)
        rig.returned()
        switch(rig, writers, False)
    for writer, database in zip(writers, (5, 5, 10, 10)):
        writer.check(rig.old(database))
        # it was served by both, in turn
        assert set(writer.served) == {rig.source.port, rig.targets[database].port}


@turns([("marks.put", 1, True), ("cutover._pass", 1, True), ("marks.write_target", 5, True)])
def test_no_acknowledged_write_is_lost_to_a_killed_cutover(written_to, moment, version):
    path, nth, after = moment
    with written_to(version) as (rig, writers):
        rig.copied()
        killed_apart(rig, "cut_over", path, nth, after)
        time.sleep(0.1)
        rig.cut_over()
        switch(rig, writers, True)
    for writer, database in zip(writers, (5, 5, 10, 10)):
        writer.check(rig.new(database))
        assert set(writer.served) == {rig.source.port, rig.targets[database].port}


@turns([("marks.put", 2, True), ("cutover._back", 1, True), ("marks.write_target", 1, True)])
def test_no_acknowledged_write_is_lost_to_a_killed_return(written_to, moment, version):
    path, nth, after = moment
    with written_to(version) as (rig, writers):
        rig.copied()
        rig.cut_over()
        switch(rig, writers, True)
        time.sleep(0.3)
        killed_apart(rig, "returned", path, nth, after)
        time.sleep(0.1)
        rig.returned()
        switch(rig, writers, False)
    for writer, database in zip(writers, (5, 5, 10, 10)):
        writer.check(rig.old(database))
        assert set(writer.served) == {rig.source.port, rig.targets[database].port}
