# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys of every kind for tests, and a reading of a database that owes nothing to the engine under test."""

from __future__ import annotations

import random
import struct
from typing import Any

import redis

#: Servers on which a field of a hash can expire.
FIELD_EXPIRY = ("redis-8.0", "valkey-9.1")
DAY = 86_400_000


def fill(client: redis.Redis, version: str, now: int) -> None:
    """Some 60 keys: every type and encoding, binary names and values, expiries relative to `now` (ms since the epoch)."""
    put = client.execute_command
    put("SET", b"", "the empty name")
    put("SET", b"\x00\xff\r\n\xc3\x28", bytes(range(256)))
    put("SET", "empty", "")
    put("SET", "int", 12345)
    put("SET", "int:negative", -1)
    put("SET", "int:shared", 7)
    put("SET", "int:not", "007")
    put("SET", "embstr", "short")
    put("SET", "raw", "r" * 100)
    put("SET", "raw:random", random.Random(1).randbytes(5000))
    put("SET", "raw:bits", b"\x01")
    put("SETBIT", "raw:bits", 4000, 1)
    put("PFADD", "hyperloglog", *range(500))
    put("RPUSH", "list:small", 1, -2, "", "x", b"\r\n", "y" * 60)
    put("RPUSH", "list:long", *range(3000))
    put("RPUSH", "list:wide", *["w%d" % i * 900 for i in range(40)])
    put("SADD", "set:int", *range(-50, 50), 2**40)
    put("SADD", "set:small", "a", "", b"\x00")
    put("SADD", "set:big", *["member %d" % i for i in range(2000)])
    put("HSET", "hash:small", "f", "v", "", "", b"\x00", b"\xff")
    put("HSET", "hash:big", *[w for i in range(1500) for w in ("f%d" % i, "v%d" % i)])
    put("HSET", "hash:wide", "f", "v" * 20000)
    put("ZADD", "zset:small", 1, "a", "-0", "b", "inf", "c", "-inf", "d", 1e-310, "e", 0.1, "f", -5, "")
    put("ZADD", "zset:big", *[w for i in range(1200) for w in (i / 3, "m%d" % i)])
    put("ZADD", "zset:big", "-0", "minus nought")
    put("GEOADD", "zset:geo", 13.361389, 38.115556, "Palermo")
    for number, at in enumerate((now + DAY, now + DAY + 1, now + 3_600_123, now + 20 * 365 * DAY)):
        for kind, words in _VOLATILE.items():
            put(*[w if w != "KEY" else "volatile:%s:%d" % (kind, number) for w in words])
            put("PEXPIREAT", "volatile:%s:%d" % (kind, number), at)
    _streams(put)
    if version in FIELD_EXPIRY:
        put("HSET", "field:small", "a", 1, "b", 2, "c", 3)
        put("HPEXPIREAT", "field:small", now + DAY + 1, "FIELDS", 1, "a")
        put("HPEXPIREAT", "field:small", now + DAY + 2, "FIELDS", 1, "b")
        put("HSET", "field:big", *[w for i in range(900) for w in ("f%d" % i, i)])
        for i in range(0, 900, 7):
            put("HPEXPIREAT", "field:big", now + DAY + i, "FIELDS", 1, "f%d" % i)
        put("PEXPIREAT", "field:big", now + 2 * DAY)


_VOLATILE: dict[str, tuple[Any, ...]] = {
    "string": ("SET", "KEY", "v"),
    "list": ("RPUSH", "KEY", 1, 2),
    "hash": ("HSET", "KEY", "f", "v"),
}


def _streams(put: Any) -> None:
    for i in range(1, 701):
        put("XADD", "stream", "%d-1" % i, "field", i, b"\x00", "")
    put("XGROUP", "CREATE", "stream", "g1", "0")
    put("XREADGROUP", "GROUP", "g1", "c1", "COUNT", 300, "STREAMS", "stream", ">")
    put("XREADGROUP", "GROUP", "g1", "c2", "COUNT", 5, "STREAMS", "stream", ">")
    put("XACK", "stream", "g1", "3-1", "4-1")
    put("XCLAIM", "stream", "g1", "c3", 0, "5-1", "RETRYCOUNT", 9)
    # pending entries whose entries are gone: one deleted, some trimmed away, one behind the last that is left
    put("XDEL", "stream", "7-1", "301-1")
    put("XGROUP", "CREATE", "stream", "g2", "$")
    put("XGROUP", "CREATE", "stream", b"\xffempty", "350-1")
    put("XADD", "stream:trimmed", "1-1", "a", 1)
    for i in range(2, 30):
        put("XADD", "stream:trimmed", "%d-0" % i, "a", i)
    put("XGROUP", "CREATE", "stream:trimmed", "g", "0")
    put("XREADGROUP", "GROUP", "g", "c", "COUNT", 28, "STREAMS", "stream:trimmed", ">")
    put("XTRIM", "stream:trimmed", "MAXLEN", 10)
    put("XADD", "stream:emptied", "5-5", "a", 1)
    put("XGROUP", "CREATE", "stream:emptied", "g", "0")
    put("XREADGROUP", "GROUP", "g", "c", "STREAMS", "stream:emptied", ">")
    put("XDEL", "stream:emptied", "5-5")
    put("XGROUP", "CREATE", "stream:never", "g", "$", "MKSTREAM")
    put("XGROUP", "CREATE", "stream:bare", "g", "$", "MKSTREAM")
    put("XGROUP", "DESTROY", "stream:bare", "g")
    put("XADD", "stream:one", "1-0", "a", 1)
    put("XGROUP", "CREATE", "stream:one", "g", "0")
    put("XREADGROUP", "GROUP", "g", "c", "STREAMS", "stream:one", ">")
    put("XADD", "stream:last", "1-18446744073709551615", "a", 1, "a", 2)


def encodings(client: redis.Redis) -> set[str]:
    return {client.object("encoding", key).decode() for key in client.keys("*")}


def read(client: redis.Redis, version: str = "redis-7.0", delivery: bool = True) -> dict[bytes, tuple[Any, ...]]:
    """Name to (type, value, expiry in ms or 0, expiries of fields), by plain commands.

    `version` is the older of the servers that are compared: what 6.0 cannot say is left out. Without `delivery` so are the
    times at which pending entries were delivered.
    """
    found: dict[bytes, tuple[Any, ...]] = {}
    keys = list(client.scan_iter(count=1000))
    for start in range(0, len(keys), 1000):
        page = keys[start : start + 1000]
        with client.pipeline(transaction=False) as pipe:
            for key in page:
                pipe.type(key)
            kinds = [kind.decode() for kind in pipe.execute()]
            for key, kind in zip(page, kinds):
                if kind in _PLAIN:
                    pipe.execute_command(*[key if word == "KEY" else word for word in _PLAIN[kind]])
                else:
                    pipe.echo("")
                pipe.execute_command(*(("ECHO", "0") if version == "redis-6.0" else ("PEXPIRETIME", key)))
            replies = pipe.execute()
        for key, kind, value, at in zip(page, kinds, replies[::2], replies[1::2]):
            fields: list[int] = []
            if kind == "zset":
                # scores bit for bit: -0 is not 0
                value = sorted(
                    (member, struct.pack(">d", float(score))) for member, score in zip(value[::2], value[1::2])
                )
            elif kind == "set":
                value = set(value)
            elif kind == "hash":
                value = _pairs(value)
                fields = _field_expiries(client, key, sorted(value)) if version in FIELD_EXPIRY else []
            elif kind == "stream":
                value = _stream(client, key, version != "redis-6.0", delivery)
            found[key] = kind, value, max(int(at), 0), fields
    return found


# As bytes, redis-py leaves a reply alone.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "string": (b"GET", "KEY"),
    "list": (b"LRANGE", "KEY", 0, -1),
    "set": (b"SMEMBERS", "KEY"),
    "hash": (b"HGETALL", "KEY"),
    "zset": (b"ZRANGE", "KEY", 0, -1, "WITHSCORES"),
}


def _field_expiries(client: redis.Redis, key: bytes, names: list[bytes]) -> list[int]:
    return client.execute_command("HPEXPIRETIME", key, "FIELDS", len(names), *names)


def _stream(client: redis.Redis, key: bytes, counters: bool, delivery: bool) -> Any:
    full = _pairs(client.execute_command("XINFO", "STREAM", key, "FULL", "COUNT", 0))
    groups = {}
    for group in map(_pairs, full[b"groups"]):
        # pel (pending on 6.0): [id, consumer, time of delivery, deliveries]; consumers that own nothing are no state
        pending = sorted(
            (entry, owner, at if delivery else 0, count)
            for entry, owner, at, count in group.get(b"pel", group.get(b"pending"))
        )
        groups[group[b"name"]] = (group[b"last-delivered-id"], group[b"entries-read"] if counters else None, pending)
    names = [b"length", b"last-generated-id"] + ([b"entries-added", b"max-deleted-entry-id"] if counters else [])
    # (a dict of fields would hide one that is there twice)
    return [full[name] for name in names], client.execute_command(b"XRANGE", key, "-", "+"), groups


def _pairs(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2]))


def difference(one: dict[bytes, Any], other: dict[bytes, Any]) -> dict[bytes, Any]:
    """What two readings do not share, so that a failing test prints that alone."""
    return {k: (one.get(k), other.get(k)) for k in one.keys() | other.keys() if one.get(k) != other.get(k)}
