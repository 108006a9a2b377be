# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The live mirror: in step while applications write, whatever they write."""

from __future__ import annotations

import contextlib
import os
import random
import re
import threading
import time
from collections.abc import Iterator

import dataset
import pytest
import redis
import rig as rigs
from mirrors import following, in_step, program, until, until_it_holds, until_raised

import servers
from ansible_collections.njoy.untangle.plugins.module_utils.engine.link import Broken
from ansible_collections.njoy.untangle.plugins.module_utils.engine.mirror import Mirror
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

pytestmark = pytest.mark.servers
pool, split = rigs.pool, rigs.split
each_version = pytest.mark.parametrize("version", servers.MAIN)


@each_version
def test_a_database_and_what_is_written_to_it(split, version):
    rig = split(version)
    dataset.fill(rig.old(), version, int(time.time() * 1000))
    with following(rig) as mirror:
        in_step(rig, mirror)
        old = rig.old()
        old.incr("counter")
        old.rpush("new", "a", "b")
        old.rename("new", "newer")
        old.set("short", "x", px=60000)
        old.delete("int")
        in_step(rig, mirror)
        assert rig.new().lrange("newer", 0, -1) == [b"a", b"b"]


def test_a_target_that_is_known_by_an_ipv6_address(split):
    rig = split()
    rig.target.client().config_set("bind", "127.0.0.1 ::1")
    rig.routes[0].target["host"] = "::1"
    rig.old().set("k", 1)
    with following(rig) as mirror:
        in_step(rig, mirror)
        assert rig.new().info("replication")["master_host"] == "::1"


@each_version
def test_what_the_target_refuses_is_found(split, version):
    """Nothing is answered on a link: the target counts, and what other clients do wrong there is not its business."""
    rig = split(version)
    rig.old().set("string", "x")
    with following(rig) as mirror:
        in_step(rig, mirror)
        with pytest.raises(redis.ResponseError):
            rig.new().execute_command("NONSENSE")
        in_step(rig, mirror)
        mirror.lanes[0].link.send(b"*3\r\n$5\r\nLPUSH\r\n$6\r\nstring\r\n$1\r\na\r\n")
        with pytest.raises(Broken, match="has refused a command"):
            mirror.catch_up(rig.engine_source().offset())
        mirror.mend()
        in_step(rig, mirror)


def test_what_the_target_refuses_is_found_without_a_cutover_too(split):
    rig = split()
    rig.old().set("string", "x")
    with following(rig) as mirror:
        in_step(rig, mirror)
        (lane,) = mirror.lanes
        lane.link.send(b"*3\r\n$5\r\nLPUSH\r\n$6\r\nstring\r\n$1\r\na\r\n")
        assert until_it_holds(mirror, lambda: lane.lost) and "has refused a command" in lane.lost
        assert until_it_holds(mirror, lambda: lane.starts == 2 and mirror.in_step())
        in_step(rig, mirror)


@contextlib.contextmanager
def turning(mirror: Mirror) -> Iterator[None]:
    """The mirror at work beside the test."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            mirror.step(0.01)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join(20)


@each_version
def test_a_key_that_is_never_level_is_compared_all_the_same(split, version):
    """A copy that is what the source held a moment ago is right, one element that it never held is not."""
    rig = split(version)
    writer = rig.source.client(5)

    def push(number: int) -> None:
        writer.rpush("hot", number)
        time.sleep(0.001)

    with following(rig) as mirror:
        in_step(rig, mirror)
        with turning(mirror), rigs.busy(push):
            while not rig.new().exists("hot"):
                time.sleep(0.01)
            assert rig.compare().kinds == {}
            mirror.lanes[0].link.send(b"*3\r\n$5\r\nLPUSH\r\n$3\r\nhot\r\n$5\r\nextra\r\n")
            time.sleep(0.1)
            assert rig.compare().kinds == {"value": 1}


def test_a_big_key_that_is_never_level_is_told(split):
    """Nobody can catch it in one state: it is neither called equal nor different."""
    rig = split("redis-7.0")
    writer = rig.source.client(5)
    writer.rpush("hot", *["x" * 50] * 10000)

    def push(number: int) -> None:
        writer.rpush("hot", number)
        time.sleep(0.001)

    with following(rig) as mirror:
        in_step(rig, mirror)
        with turning(mirror), rigs.busy(push):
            found = rig.compare()
        assert (found.kinds, found.moving) == ({}, 1)
        # nobody follows any more
        with rigs.busy(push):
            found = rig.compare()
        assert (found.kinds, found.moving) == ({"value": 1}, 0)


@each_version
def test_a_copy_that_stands_still_is_a_difference(split, version):
    rig = split(version)
    rig.copied()
    rig.old().rpush("hot", 0)
    with rigs.busy(lambda number: rig.old().rpush("hot", number)):
        assert rig.compare().kinds == {"missing": 1}


@each_version
def test_in_step_while_applications_write(split, version):
    """Writers of every kind on three databases, from before the snapshot to after it; what nobody mirrors is written as well."""
    seed = int(os.environ.get("UNTANGLE_SEED") or random.randrange(1 << 30))
    print("UNTANGLE_SEED=%d" % seed)
    rig = split(version, databases=(0, 5, 17))
    for number in (0, 5, 17):
        with rig.source.client(number).pipeline(transaction=False) as pipe:
            for i in range(20000):
                pipe.set(f"still:{i}", i)
            pipe.execute()
    stop = threading.Event()

    def write(number: int) -> None:
        client, chance = rig.source.client(number), random.Random(seed + number)
        while not stop.is_set():
            program(client, chance, number)

    writers = [threading.Thread(target=write, args=(number,), daemon=True) for number in (0, 5, 17, 3)]
    for writer in writers:
        writer.start()
    try:
        with following(rig) as mirror:
            end = time.monotonic() + 4
            while time.monotonic() < end or not mirror.in_step():
                mirror.step()
                assert time.monotonic() < end + 60, mirror.facts()
            stop.set()
            for writer in writers:
                writer.join()
            in_step(rig, mirror)
            facts = mirror.facts()["purposes"]
            print(facts)
            # both ways were taken: applied as it came, and dumped again
            for way in ("commands", "dumped_again"):
                assert any(one[way] for one in facts.values()), way
    finally:
        stop.set()


def torn(rig, databases) -> None:
    """One transaction over several databases."""
    with rig.source.client(databases[0]).pipeline() as pipe:
        pipe.incr("n")
        for number in databases[1:]:
            pipe.execute_command("SELECT", number)
            pipe.incr("n")
        pipe.execute()


@pytest.mark.parametrize("others", [(16,), (3,), (16, 3)])
@each_version
def test_a_transaction_that_the_split_would_tear_stops_its_routes(split, version, others):
    """Its other half goes to another instance, or to a database that stays where it is. The third route goes on."""
    rig = split(version, databases=(5, 16, 17))
    with following(rig) as mirror:
        in_step(rig, mirror)
        # one database alone, though others were selected
        with rig.source.client(5).pipeline() as pipe:
            pipe.incr("n").incr("n").execute()
        in_step(rig, mirror)
        torn(rig, (5, *others))
        rig.source.client(17).set("a", 1)
        mirror.catch_up(rig.engine_source().offset())
        numbers = ", ".join(map(str, sorted({5, *others})))
        assert re.search(f"wrote to databases {numbers} at once.*serves as before", mirror.why_stopped)
        assert {lane.route.database for lane in mirror.stopped} == {5, *others} - {3}
        assert rig.compare(17).differences == 0
        assert {mirror.facts()["purposes"][lane.route.purpose]["phase"] for lane in mirror.stopped} == {"stopped"}
        # left to itself, and not taken for one that is in step
        assert rig.new(5).info("replication")["role"] == "master"
        mirror.go_on()
        in_step(rig, mirror)
        with pytest.raises(UntangleError, match=r"at once.*serves as before"):
            torn(rig, (5, 16, 17))
            until_raised(mirror)


@pytest.mark.parametrize("version", ("redis-8.0", "valkey-9.1"))
def test_big_keys_come_in_chunks(split, version):
    """None is dumped whole, which would hold the source up; one that is written to without end is, at last."""
    rig = split(version, databases=(0, 5))
    old = rig.old()
    old.set("string", os.urandom(3_000_000))
    for start in range(0, 20000, 1000):
        items = [f"item:{number}:{'x' * 40}" for number in range(start, start + 1000)]
        old.rpush("list", *items)
        old.sadd("set", *items)
        old.hset("hash", mapping=dict.fromkeys(items, "v"))
        old.zadd("zset", {item: number for number, item in enumerate(items)})
        with old.pipeline(transaction=False) as pipe:
            for item in items:
                pipe.xadd("stream", {"f": item})
            pipe.execute()
    old.execute_command("HPEXPIRE", "hash", 10**9, "FIELDS", 1, items[0])
    old.xgroup_create("stream", "g", "0")
    old.xreadgroup("g", "c", {"stream": ">"}, count=100)
    old.pexpire("zset", 10**9)

    def dumped() -> int:
        return int((old.info("commandstats").get("cmdstat_dump") or {}).get("calls") or 0)

    before = dumped()
    with following(rig) as mirror:
        mirror.catch_up(rig.engine_source().offset())
        assert dumped() == before
        in_step(rig, mirror)
        # dumped again, now one by one, now under a writer that never rests
        old.getex("string", ex=1000)
        old.hincrbyfloat("hash", "n", 0.5)
        before = dumped()
        mirror.catch_up(rig.engine_source().offset())
        assert dumped() == before
        with turning(mirror), rigs.busy(lambda number: rig.source.client(5).rpush("list", number)):
            assert until(lambda: old.sort("list", by="nosort", store="list") and dumped() > before)
        in_step(rig, mirror)
        assert not list(rig.new().scan_iter("untangle:*"))


@each_version
def test_a_transaction_on_what_stays_is_none_of_ours(split, version):
    rig = split(version)
    with following(rig) as mirror:
        with rig.source.client(3).pipeline() as pipe:
            pipe.incr("n").execute_command("SELECT", 2)
            pipe.incr("n").execute()
        rig.old().set("a", 1)
        in_step(rig, mirror)
