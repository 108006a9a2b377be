# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random programs on few keys, with the mirror's turns at random places between them, and a feed that lags as told.

The feed's units are held back and handed out by count, so that a program is played the same way every time: what has been
dumped may be far ahead of what has been told, and the other way round.
"""

from __future__ import annotations

import collections
import contextlib
import json
import select
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import rig as rigs
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ansible_collections.njoy.untangle.plugins.module_utils.engine import lane as engine_lane
from ansible_collections.njoy.untangle.plugins.module_utils.engine import values
from ansible_collections.njoy.untangle.plugins.module_utils.engine.feed import Feed, Unit
from ansible_collections.njoy.untangle.plugins.module_utils.engine.mirror import Mirror
from ansible_collections.njoy.untangle.plugins.module_utils.engine.snapshot import Limits

pytestmark = pytest.mark.servers
pool, split = rigs.pool, rigs.split

#: Two databases are mirrored, the third is not: keys come from there and go there.
MIRRORED, BESIDE = (5, 12), 3

#: `@s` is one of few strings, `@a` a key of any kind, `@v` a small number, `@e` a time to live that is long. What meets a key of
#: the wrong type is refused by the source, and nothing comes of it.
COMMANDS = """
SET @s @v|SET @s @v EX @e|SET @s @v KEEPTTL|SET @s @v XX GET|APPEND @s @v|INCR @s|INCRBYFLOAT @s 0.5|SETRANGE @s @v xy
GETDEL @s|GETEX @s EX @e|GETEX @s PERSIST|GETSET @s @v|MSET @s @v @s @v|MSETNX @s @v @s @v|BITOP XOR @s @s @s|SETBIT @s @v 1
PFADD p1 @v|PFADD p2 @v|PFMERGE p1 p2|PFCOUNT p1
RPUSH @l @v @v|LPUSH @l @v|LPOP @l|RPOP @l 2|LTRIM @l 0 2|LMOVE @l @l LEFT RIGHT|RPOPLPUSH @l @l|LREM @l 1 @v|LSET @l 0 @v
LINSERT @l BEFORE @v @v|LMPOP 2 @l @l RIGHT COUNT 2|BLPOP @l 0.001|SORT @l STORE @l|SORT @t ALPHA STORE @l
SADD @t @v @v|SREM @t @v|SPOP @t|SPOP @t 2|SMOVE @t @t @v|SUNIONSTORE @t @t @t|SDIFFSTORE @t @t @t|SINTERSTORE @t @t @t
HSET @h @v @v|HDEL @h @v|HINCRBY @h @v 1|HINCRBYFLOAT @h @v 0.5|HSETNX @h @v @v
ZADD @z @v @v @v @v|ZADD @z GT CH @v @v|ZINCRBY @z 0.1 @v|ZPOPMIN @z|ZPOPMAX @z 2|ZREM @z @v|ZREMRANGEBYRANK @z 0 0
ZUNIONSTORE @z 2 @z @z|ZINTERSTORE @z 2 @z @t WEIGHTS 2 3|ZDIFFSTORE @z 2 @z @z|ZRANGESTORE @z @z 0 1|ZMPOP 2 @z @z MIN
XADD @x * f @v|XADD @x MAXLEN 2 * f @v|XGROUP CREATE @x g 0 MKSTREAM|XREADGROUP GROUP g c COUNT 1 STREAMS @x >|XTRIM @x MAXLEN 1
XAUTOCLAIM @x g d 0 0|XGROUP DELCONSUMER @x g c|XGROUP DESTROY @x g|XREADGROUP GROUP g c NOACK STREAMS @x >
GEOADD @z 13 38 @v|GEOSEARCHSTORE @z @z FROMLONLAT 13 38 BYRADIUS 1 km
DEL @a|DEL @a @a|UNLINK @a @a|RENAME @a @a|RENAME @a @a|RENAMENX @a @a|COPY @a @a|COPY @a @a REPLACE|COPY @a @a DB @d REPLACE
MOVE @a @d|EXPIRE @a @e|EXPIRE @a @e GT|PEXPIREAT @a 1|EXPIRE @a @e NX|PERSIST @a
"""
FIELD_EXPIRY = """
HEXPIRE @h @e FIELDS 1 @v|HEXPIRE @h @e GT FIELDS 2 @v @v|HPERSIST @h FIELDS 1 @v|HSETEX @h EX @e FIELDS 1 @v @v
HGETEX @h EX @e FIELDS 1 @v|HSETEX @h KEEPTTL FIELDS 1 @v @v
"""
#: The same are all the databases in which these may be: rare, or nothing would ever be there.
WHOLE = ("FLUSHDB", "FLUSHDB", "FLUSHALL", "SWAPDB 3 5", "SWAPDB 5 12")

_KEYS = {kind: st.sampled_from([kind + "1", kind + "2"]) for kind in "slhtzx"}
_WORDS: dict[str, st.SearchStrategy[str]] = {
    **{"@" + kind: keys for kind, keys in _KEYS.items()},
    "@a": st.one_of(*_KEYS.values()),
    "@v": st.integers(0, 3).map(str),
    "@e": st.sampled_from(["1000", "100000"]),
    "@d": st.sampled_from(["3", "5", "12"]),
}
DEEDS = (
    "nothing",
    "again",
    "spoil",
    "transaction",
    "transaction",
    "script",
    *["step"] * 4,
    *["do"] * 7,
    *["meanwhile"] * 3,
)
_DATABASE = st.sampled_from([5, 5, 5, 12, 12, 3])


@st.composite
def command(draw: st.DrawFn, lines: list[str]) -> list[str]:
    return [draw(_WORDS[word]) if word in _WORDS else word for word in draw(st.sampled_from(lines)).split()]


@st.composite
def programs(draw: st.DrawFn, version: str) -> list[Any]:
    lines = COMMANDS.replace("|", "\n").split("\n")
    if version in ("redis-8.0", "valkey-9.1"):
        lines += FIELD_EXPIRY.replace("|", "\n").split("\n")
    one = command([line for line in lines if line])
    whole = st.sampled_from(WHOLE).map(str.split)

    def now_and_then() -> bool:
        return draw(st.integers(0, 19)) == 19

    def deed() -> tuple[Any, ...]:
        # the first is what a program shrinks to
        what = draw(st.sampled_from(DEEDS))
        if what in ("do", "meanwhile"):
            return what, draw(_DATABASE), draw(whole if now_and_then() else one)
        if what == "step":
            return what, draw(st.sampled_from([1, 1, 2, 6])), draw(st.sampled_from([0, 0, 1, 2, 3, 99]))
        if what in ("transaction", "script"):
            number = draw(st.integers(1, 4))
            return what, draw(_DATABASE), [draw(whole if now_and_then() else one) for _ in range(number)]
        if what == "spoil":
            return what, draw(st.sampled_from(MIRRORED)), draw(_WORDS["@a"])
        return (what, draw(st.sampled_from(MIRRORED))) if what == "again" and now_and_then() else ("nothing",)

    # far from none: a short program does nothing worth the while
    return [deed() for _ in range(draw(st.integers(1, 4)) * 15)]


class Lagging:
    """The feed, whose units are handed out as many at a time as told."""

    def __init__(self, feed: Feed, source: Any) -> None:
        self._feed, self._source = feed, source
        self._held: collections.deque[Unit] = collections.deque()
        self.position = feed.position
        self.most = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._feed, name)

    def read(self) -> list[Unit]:
        # all that was written is here, so that only the count decides
        written = self._source.offset()
        self._held += self._feed.read()
        while self._feed.position < written:
            if not select.select([self._feed.socket], [], [], 0.05)[0]:
                # a source sends nothing to a replica that it has not heard of yet
                self._feed.acknowledge(self._feed.position)
            self._held += self._feed.read()
        units = [self._held.popleft() for _ in range(min(self.most, len(self._held)))]
        self.position = units[-1].end if units and self._held else self.position if self._held else self._feed.position
        return units


def fill(client: redis.Redis) -> None:
    with client.pipeline(transaction=False) as pipe:
        for i in "12":
            pipe.set("s" + i, i).rpush("l" + i, 3, 1, 2, i).sadd("t" + i, 0, 1, i).hset(
                "h" + i, mapping={"0": 5, i: "x" * 40}
            )
            pipe.zadd("z" + i, {"0": 1.5, "1": 2, "2": 3}).xadd("x" + i, {"f": i}).xgroup_create("x" + i, "g", "0")
        pipe.execute()


ALL_OF = "for _, words in ipairs(cjson.decode(ARGV[1])) do redis.pcall(unpack(words)) end"


def play(mirror: Mirror, feed: Lagging, clients: dict[int, redis.Redis], program: list[Any]) -> None:
    lanes = {lane.route.database: lane for lane in mirror.lanes}
    #: Done while a big key is put together: one whenever a chunk of it is on its way.
    waiting: collections.deque[tuple[int, list[str]]] = collections.deque()

    def breathe() -> None:
        if waiting:
            number, words = waiting.popleft()
            with contextlib.suppress(redis.ResponseError):
                clients[number].execute_command(*words)

    for lane in mirror.lanes:
        lane.breathe = breathe
    for what, *rest in program:
        if what == "nothing":
            continue
        if what == "meanwhile":
            waiting.append((rest[0], rest[1]))
        elif what == "step":
            turns, feed.most = rest
            for _ in range(turns):
                mirror.step(0)
                feed.most = 0
        elif what == "spoil":
            lanes[rest[0]].spoil([rest[1].encode()], feed.position)
        elif what == "again":
            lanes[rest[0]].start_over()
        else:
            client, words = clients[rest[0]], rest[1]
            with contextlib.suppress(redis.ResponseError):
                if what == "do":
                    client.execute_command(*words)
                elif what == "script":
                    client.eval(ALL_OF, 0, json.dumps(words))
                else:
                    with client.pipeline(transaction=True) as pipe:
                        for one in words:
                            pipe.execute_command(*one)
                        pipe.execute(raise_on_error=False)
    waiting.clear()


# Programs that chance takes long to find.
#: What is pushed while a big list is read comes with its last chunk, and again with the feed.
WRITTEN_MEANWHILE = [
    ("meanwhile", 5, ["RPUSH", "l1", "7"]),
    ("spoil", 5, "l1"),
    ("step", 6, 0),
    ("step", 6, 99),
]
#: Redis 8 feeds HINCRBYFLOAT as HSET, which is not exact once a field has an expiry: here one comes from another database.
_FIELD = [("do", 3, ["HSET", "m", "0", "5"]), ("do", 3, ["HEXPIRE", "m", "1000", "FIELDS", "1", "0"])]
_THEN = [("step", 1, 99), *[("step", 6, 0)] * 4, ("do", 12, ["HINCRBYFLOAT", "m", "0", "0.5"])]
MOVED_IN = [*_FIELD, ("do", 3, ["MOVE", "m", "12"]), *_THEN]
SWAPPED_IN = [*_FIELD, ("do", 3, ["SWAPDB", "3", "12"]), *_THEN]
READS_WHAT_IS_AHEAD = [
    ("spoil", 5, "t2"),
    ("do", 5, ["SUNIONSTORE", "t1", "t2"]),
    ("do", 5, ["SADD", "t2", "7"]),
    ("step", 1, 0),
]


@contextlib.contextmanager
def following(rig: rigs.Rig) -> Iterator[tuple[Mirror, Lagging]]:
    rig.old().config_set("repl-diskless-sync-delay", 0)
    mirror = Mirror(rig.login, rig.routes)
    mirror.start()
    try:
        feed = Lagging(mirror.feed, rig.engine_source())
        mirror.feed = feed  # type: ignore[assignment]
        yield mirror, feed
    finally:
        mirror.close()


@pytest.mark.parametrize("version", ("redis-7.0", "redis-8.0", "valkey-9.1"))
def test_any_program_is_mirrored(split, monkeypatch, version):
    rig = split(version, databases=MIRRORED)
    source = rig.engine_source()
    clients = {number: rig.source.client(number) for number in (*MIRRORED, BESIDE)}
    # a few of many dirty keys at a time
    monkeypatch.setattr(engine_lane, "_BATCH", 2)
    for name in ("CHUNK_BYTES", "FIRST_ITEMS"):
        monkeypatch.setattr(values, name, 1)

    def level(mirror: Mirror, feed: Lagging) -> None:
        feed.most = 1 << 30
        mirror.catch_up(source.offset())

    with following(rig) as (mirror, feed):

        @settings(max_examples=100, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))
        @given(
            program=programs(version),
            fresh=st.booleans(),
            page=st.sampled_from([1, 200]),
            big=st.sampled_from([80, 1 << 18]),
            queue=st.sampled_from([60, 64 << 20]),
        )
        @example(MOVED_IN, False, 200, 1 << 18, 64 << 20)
        @example(SWAPPED_IN, False, 200, 1 << 18, 64 << 20)
        @example(WRITTEN_MEANWHILE, False, 200, 80, 64 << 20)
        @example(READS_WHAT_IS_AHEAD, False, 200, 1 << 18, 64 << 20)
        def check(program, fresh, page, big, queue):
            clients[BESIDE].flushall()
            level(mirror, feed)
            for client in clients.values():
                fill(client)
            if not fresh:
                level(mirror, feed)
            for lane in mirror.lanes:
                # time must not cut pages short, or no program would be played twice the same way
                lane.limits = Limits(max_latency_ms=10000.0, page_bytes=page, big_key_bytes=big, scan_count=1)
                lane.queue_bytes = queue
                lane.hang_up()
                if fresh:
                    lane.start_over()
            play(mirror, feed, clients, program)
            level(mirror, feed)
            for route in rig.routes:
                assert rig.compare(route.database).examples == []

        check()
