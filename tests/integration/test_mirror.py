# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The live mirror: in step while applications write, whatever they write."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import dataset
import pytest
import redis
import rig as rigs

import servers
from ansible_collections.njoy.untangle.plugins.module_utils.engine.link import Broken
from ansible_collections.njoy.untangle.plugins.module_utils.engine.mirror import Mirror

pytestmark = pytest.mark.servers
pool, split = rigs.pool, rigs.split
each_version = pytest.mark.parametrize("version", servers.MAIN)


@contextlib.contextmanager
def following(rig: Any, **options: Any) -> Iterator[Mirror]:
    mirror = Mirror(rig.login, rig.routes, **options)
    mirror.start()
    try:
        yield mirror
    finally:
        mirror.close()


def in_step(rig: Any, mirror: Mirror) -> None:
    """Everything written so far has come, and is right."""
    mirror.catch_up(rig.engine_source().offset())
    for route in rig.routes:
        assert rig.compare(route.database).summary()["differences"] == 0


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


def program(client: redis.Redis, chance: random.Random, database: int) -> None:
    """One thing that an application does, to few keys, so that commands meet."""

    def key(kind: str) -> str:
        return f"{kind}:{chance.randrange(40)}"

    def number() -> int:
        return chance.randrange(100)

    def some(kind: str) -> list[str]:
        return [key(kind) for _ in range(chance.randrange(1, 4))]

    def transaction() -> None:
        with client.pipeline(transaction=True) as pipe:
            pipe.incr(key("n")).rpush(key("l"), number()).set(key("s"), number(), px=chance.randrange(1, 5000))
            pipe.execute()

    deeds: list[Callable[[], Any]] = [
        lambda: client.incr(key("n")),
        lambda: client.incrbyfloat(key("f"), 0.5),
        lambda: client.set(key("s"), "v" * number()),
        lambda: client.set(key("s"), number(), px=chance.randrange(1, 3000)),
        lambda: client.set(key("s"), number(), keepttl=True),
        lambda: client.getdel(key("s")),
        lambda: client.append(key("s"), "x"),
        lambda: client.pexpire(key("h"), chance.randrange(1, 3000)),
        lambda: client.persist(key("h")),
        lambda: client.getex(key("s"), px=chance.randrange(1, 3000)),
        lambda: client.rpush(key("l"), *map(str, range(chance.randrange(1, 5)))),
        lambda: client.lpop(key("l"), 2),
        lambda: client.lmove(key("l"), key("l"), "LEFT", "RIGHT"),
        lambda: client.ltrim(key("l"), 0, 20),
        lambda: client.hset(key("h"), mapping={f"f{number()}": number()}),
        lambda: client.hincrbyfloat(key("h2"), "f", 0.1),
        lambda: client.hdel(key("h"), f"f{number()}"),
        lambda: client.sadd(key("t"), number(), number()),
        lambda: client.spop(key("t"), 2),
        lambda: client.smove(key("t"), key("t"), number()),
        lambda: client.sunionstore(key("t"), some("t")),
        lambda: client.zadd(key("z"), {f"m{number()}": number()}),
        lambda: client.zpopmin(key("z")),
        lambda: client.zunionstore(key("z"), some("z")),
        lambda: client.zrangestore(key("z"), key("z"), 0, 10),
        lambda: client.xadd(key("x"), {"f": number()}, maxlen=50, approximate=True),
        lambda: client.xdel(key("x"), "1-1"),
        lambda: client.sort(key("l"), alpha=True, store=key("l")),
        lambda: client.rename(key("l"), key("l")),
        lambda: client.copy(key("t"), key("t"), replace=True),
        lambda: client.delete(*some("h")),
        lambda: client.unlink(*some("t")),
        lambda: client.mset({key("s"): number(), key("n"): number()}),
        lambda: client.eval("redis.call('incr', KEYS[1]) return redis.call('rpush', KEYS[2], ARGV[1])", 2, key("n"), key("l"), 1),
        transaction,
    ]  # fmt: skip
    with contextlib.suppress(redis.ResponseError):
        chance.choice(deeds)()


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
            assert all(one["commands"] and one["dumped_again"] for one in facts.values())
    finally:
        stop.set()
