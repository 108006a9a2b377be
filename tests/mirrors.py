# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mirrors, for tests that drive one in their own process (`following`) or as the modules do (`live`)."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from ansible_collections.njoy.untangle.plugins.module_utils.engine import jobs
from ansible_collections.njoy.untangle.plugins.module_utils.engine.mirror import Mirror
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError


@contextlib.contextmanager
def following(rig: Any, wait: Callable[[float], None] = lambda seconds: None, **options: Any) -> Iterator[Mirror]:
    mirror = Mirror(rig.login, rig.routes, **options)
    try:
        mirror.start(wait)
        yield mirror
    finally:
        mirror.close()


def in_step(rig: Any, mirror: Mirror) -> None:
    """Everything written so far has come, and is right."""
    mirror.catch_up(rig.engine_source().offset())
    for route in rig.routes:
        assert rig.compare(route.database).summary()["differences"] == 0


def until_raised(mirror: Mirror, seconds: float = 10) -> None:
    """Follow until something is wrong."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        mirror.step()


def until_it_holds(mirror: Mirror, holds: Callable[[], Any], seconds: float = 30) -> Any:
    """Follow until something is so."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        mirror.step()
    return holds()


def until(holds: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


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


class Live:
    """The modules' calls for one rig."""

    def __init__(self, rig: Any):
        self.rig = rig
        routes = [dataclasses.asdict(route) for route in rig.routes]
        self.options = {"source": rig.login, "routes": routes, "state_dir": rig.state.directory, "max_latency_ms": 5.0}

    def call(self, kind: str, **options: Any) -> dict[str, Any]:
        answer = jobs.call({"by": "tester"}, kind, {**self.options, **options}, None)
        if answer.get("failed"):
            raise UntangleError(answer["msg"])
        return answer

    def job(self) -> dict[str, Any] | None:
        return jobs.running(self.rig.state.directory, "mirrored")

    def stop(self) -> None:
        jobs.stop(self.rig.state.directory)


@pytest.fixture
def live() -> Iterator[Any]:
    made: list[Live] = []

    def make(rig: Any) -> Live:
        made.append(Live(rig))
        return made[-1]

    yield make
    for one in made:
        one.stop()
