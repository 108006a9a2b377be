# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof: it finds what differs, by its kind, and nothing that does not. Equality is judged by meaning."""

from __future__ import annotations

import random
import time

import dataset
import pytest
import rig as rigs
from rig import busy

import servers
from ansible_collections.njoy.untangle.plugins.module_utils.engine import compare, values
from ansible_collections.njoy.untangle.plugins.module_utils.engine.compare import Comparer
from ansible_collections.njoy.untangle.plugins.module_utils.engine.server import Server
from ansible_collections.njoy.untangle.plugins.module_utils.engine.snapshot import Limits, Reader
from ansible_collections.njoy.untangle.plugins.module_utils.engine.target import TooOld

pytestmark = pytest.mark.servers
pool, split = rigs.pool, rigs.split
main_versions = pytest.mark.parametrize("version", servers.MAIN)
later_versions = pytest.mark.parametrize("version", [*servers.MAIN, "valkey-9.1"])


def now_ms() -> int:
    return int(time.time() * 1000)


@pytest.fixture(autouse=True)
def looks(request, monkeypatch):
    """Where nothing changes meanwhile there is nothing to wait for between two looks."""
    if "rewritten" not in request.node.name:
        monkeypatch.setattr(compare, "PAUSE_SECONDS", 0.0005)


@pytest.fixture
def copied(split):
    """Two databases that are equal and hold keys of every kind."""

    def make(version, to=None):
        rig = split(version, to=to)
        dataset.fill(rig.old(), version, now_ms())
        rig.copied()
        return rig

    return make


def late(key, seconds):
    return lambda c: c.pexpireat(key, c.pexpiretime(key) + seconds * 1000)


def field_late(c):
    at = c.execute_command("HPEXPIRETIME", "field:small", "FIELDS", 1, "a")[0]
    c.execute_command("HPEXPIREAT", "field:small", at + 1000, "FIELDS", 1, "a")


def positive_zero(c):
    # ZADD alone would not: to it 0 is what is there already
    c.zrem("zset:big", "minus nought")
    c.zadd("zset:big", {"minus nought": 0.0})


def other_entry(c):
    c.delete("stream:last")
    c.execute_command("XADD", "stream:last", "1-18446744073709551615", "a", 1, "a", 3)


def claim(key, group, consumer, entry, *options):
    """As long ago as it was, to the millisecond: only what is said changes."""

    def change(c):
        pending = dataset.read(c)[key.encode()][1][2][group.encode()][2]
        at = next(row[2] for row in pending if row[0] == entry.encode())
        words = (b"XCLAIM", key, group, consumer, 0, entry, "TIME", at, *options, "JUSTID")
        assert c.execute_command(*words) == [entry.encode()]

    return change


DEFECTS = {
    "a key missing": ("missing", "embstr", lambda c: c.delete("embstr")),
    "the empty name missing": ("missing", b"", lambda c: c.delete(b"")),
    "a key too many": ("extra", "extra", lambda c: c.set("extra", "v")),
    "another type": ("type", "set:small", lambda c: (c.delete("set:small"), c.rpush("set:small", "a", "", b"\x00"))),
    "a string": ("value", "raw", lambda c: c.set("raw", "s" * 100)),
    "a number": ("value", "int", lambda c: c.incr("int")),
    "an empty value": ("value", "embstr", lambda c: c.set("embstr", "")),
    "a value no longer empty": ("value", "empty", lambda c: c.set("empty", "x")),
    "the order of a list": ("value", "list:long", lambda c: (c.lset("list:long", 7, 8), c.lset("list:long", 8, 7))),
    "a list's end": ("value", "list:small", lambda c: c.rpop("list:small")),
    "a member": ("value", "set:big", lambda c: (c.srem("set:big", "member 7"), c.sadd("set:big", "member x"))),
    "a field": ("value", "hash:big", lambda c: c.hset("hash:big", "f7", "x")),
    "a field's name": ("value", "hash:small", lambda c: (c.hdel("hash:small", b"\x00"), c.hset("hash:small", "g", b"\xff"))),
    "an empty field": ("value", "hash:wide", lambda c: c.hset("hash:wide", "f", "")),
    "a score": ("value", "zset:small", lambda c: c.zadd("zset:small", {"f": 0.1 + 2**-56})),
    "minus nought": ("value", "zset:big", positive_zero),
    "an expiry a second late": ("expiry", "volatile:string:0", late("volatile:string:0", 1)),
    "an expiry a second early": ("expiry", "volatile:hash:1", late("volatile:hash:1", -1)),
    "an expiry a millisecond late": (
        "expiry",
        "volatile:list:1",
        lambda c: c.pexpireat("volatile:list:1", c.pexpiretime("volatile:list:1") + 1),
    ),
    "no expiry": ("expiry", "volatile:list:2", lambda c: c.persist("volatile:list:2")),
    "an expiry too many": ("expiry", "raw:bits", lambda c: c.expire("raw:bits", 10_000)),
    "a field's expiry": ("field_expiry", "field:small", field_late),
    "a field's expiry gone": ("field_expiry", "field:big", lambda c: c.execute_command("HPERSIST", "field:big", "FIELDS", 1, "f7")),
    "an entry": ("value", "stream:last", other_entry),
    "a stream's last id": ("value", "stream:never", lambda c: c.execute_command("XSETID", "stream:never", "9-9")),
    "a group too many": ("groups", "stream", lambda c: c.xgroup_create("stream", "g9", "0")),
    "a group's place": ("groups", "stream", lambda c: c.xgroup_setid("stream", "g2", "5-0")),
    "a pending entry's consumer": ("pending", "stream", claim("stream", "g1", "c1", "302-1")),
    "a pending entry's only consumer": ("consumers", "stream:one", claim("stream:one", "g", "d", "1-0")),
    "a pending entry's deliveries": ("pending", "stream", claim("stream", "g1", "c3", "5-1", "RETRYCOUNT", 8)),
    "the time of a delivery": ("pending", "stream", lambda c: c.xclaim("stream", "g1", "c3", 0, ["5-1"], idle=9, justid=True)),
    "an entry no longer pending": ("pending", "stream", lambda c: c.xack("stream", "g1", "2-1")),
    "a deleted entry no longer pending": ("pending", "stream", lambda c: c.xack("stream", "g1", "7-1")),
}  # fmt: skip


@pytest.mark.parametrize(("version", "big"), [*((v, 262144) for v in servers.MAIN), ("valkey-9.1", 1)])
def test_every_defect_is_found_by_its_kind(copied, version, big, monkeypatch):
    """With `big` 1 no bytes are compared at all: everything is judged by its meaning."""
    # nobody writes here, so that looking again and again finds nothing else
    monkeypatch.setattr(compare, "LOOKS", 2)
    monkeypatch.setattr(compare, "MOVING_SECONDS", 0.05)
    rig = copied(version)
    limits = Limits(big_key_bytes=big)
    assert rig.compare(limits=limits).summary()["differences"] == 0
    whole = dataset.read(rig.old(), version)
    for name, (kind, key, inject) in DEFECTS.items():
        if kind == "field_expiry" and version not in dataset.FIELD_EXPIRY:
            continue
        inject(rig.new())
        result = rig.compare(limits=limits)
        assert result.kinds == {kind: 1}, name
        assert result.examples == [(kind, key if isinstance(key, bytes) else key.encode())], name
        # the pass of differences mends exactly that
        assert rig.compare(limits=limits, repair=True).differences == 0, name
    assert dataset.read(rig.old(), version) == whole
    assert dataset.difference(dataset.read(rig.old(), version, False), dataset.read(rig.new(), version, False)) == {}


@main_versions
@pytest.mark.parametrize("at", [0, 5_000_001, 7_999_999])
def test_one_byte_of_8_mb(split, version, at):
    rig = split(version)
    rig.old().set("8 MB", random.Random(8).randbytes(8_000_000))
    rig.copied()
    assert rig.compare().differences == 0
    rig.new().setrange("8 MB", at, bytes([rig.old().getrange("8 MB", at, at)[0] ^ 1]))
    assert rig.compare().kinds == {"value": 1}
    assert rig.compare(repair=True).differences == 0
    assert rig.new().get("8 MB") == rig.old().get("8 MB")


@main_versions
def test_many_defects_are_counted_together(copied, version):
    rig = copied(version)
    rig.new().delete("raw", "int")
    rig.new().mset({f"extra{i}": i for i in range(1500)})
    rig.new().hset("hash:big", "f7", "x")
    result = rig.compare()
    assert result.kinds == {"extra": 1500, "missing": 2, "value": 1} and result.differences == 1503
    assert (result.source_keys, result.target_keys) == (rig.old().dbsize(), rig.new().dbsize())
    assert len(result.examples) == 1000
    assert rig.compare(repair=True).summary()["repaired"] == 1503
    assert rig.compare().differences == 0


@main_versions
def test_tolerance_is_for_time_alone(copied, version):
    rig = copied(version)
    late("volatile:string:0", 1)(rig.new())
    rig.new().pexpireat("volatile:hash:1", rig.new().pexpiretime("volatile:hash:1") - 999)
    if version in dataset.FIELD_EXPIRY:
        field_late(rig.new())
    assert rig.compare(tolerance_ms=1000).differences == 0
    assert rig.compare(tolerance_ms=998).differences >= 2
    rig.new().persist("volatile:string:3")
    rig.new().incr("int")
    assert rig.compare(tolerance_ms=1000).kinds == {"expiry": 1, "value": 1}


SMALL = {
    "list-max-listpack-size": "3",
    "hash-max-listpack-entries": "0",
    "set-max-intset-entries": "0",
    "zset-max-listpack-entries": "0",
}


@later_versions
def test_encodings_do_not_matter(split, version):
    """Both sides are filled by the same commands under other settings; streams apart, for they hold times."""
    rig, now = split(version), now_ms()
    before = {name: rig.new().config_get(name)[name] for name in SMALL}
    try:
        for name, value in SMALL.items():
            rig.new().config_set(name, value)
        dataset.fill(rig.new(), version, now)
    finally:
        for name, value in before.items():
            rig.new().config_set(name, value)
    dataset.fill(rig.old(), version, now)
    for client in (rig.old(), rig.new()):
        client.delete(*client.keys("stream*"))
    other = [k for k in rig.old().scan_iter() if rig.old().object("encoding", k) != rig.new().object("encoding", k)]
    assert {k.split(b":")[0] for k in other} >= {b"hash", b"set", b"zset"}
    # -0 is kept by a small sorted set of one encoding and not of the other
    for client in (rig.old(), rig.new()):
        client.zrem("zset:small", "b")
        client.zrem("zset:big", "minus nought")
    assert rig.compare().summary()["differences"] == 0


@pytest.mark.parametrize(
    ("version", "to"), [("redis-6.0", "redis-7.0"), ("redis-7.0", "redis-8.0"), ("redis-7.0", "valkey-8.1")]
)
def test_versions_do_not_matter(copied, version, to):
    rig = copied(version, to)
    assert rig.compare().summary()["differences"] == 0
    rig.new().xclaim("stream", "g1", "c1", 0, ["302-1"], justid=True)
    rig.new().lset("list:long", 7, 8)
    rig.new().pexpireat("volatile:hash:1", rig.new().pexpiretime("volatile:hash:1") + 1)
    assert rig.compare().kinds == {"pending": 1, "value": 1, "expiry": 1}


@main_versions
def test_any_database_against_any_other(split, version):
    rig = split(version)
    for database in (0, 3, 15, 16, 31):
        rig.source.client(database).set("number", database)
    target = rig.target
    for mine, other in ((0, 15), (15, 0), (31, 3), (16, 31), (3, 3)):
        target.client(other).flushdb()
        target.client(other).set("number", mine)
        target.client(9).set("number", "of another")
        one, two = Server(rig.login, mine), Server(target.connection(), other)
        assert Comparer(one, two).run().differences == 0
        target.client(other).set("number", "wrong")
        assert Comparer(one, two).run().kinds == {"value": 1}


@main_versions
def test_names_that_only_one_side_has(split, version):
    rig = split(version)
    rig.old().mset({"both": 1, "old:1": 1, "old:2": 1, "left:1": 1})
    rig.new().mset({"both": 1, "new:1": 1, "left:2": 1})
    assert rig.compare().kinds == {"missing": 3, "extra": 2}
    assert rig.compare(exclude=["left:*", "new:*"]).kinds == {"missing": 2}
    assert rig.compare(match="left:*").kinds == {"missing": 1, "extra": 1}
    assert rig.compare(match="left:*", exclude=["*:2"]).kinds == {"missing": 1}
    assert rig.compare(extras=False).kinds == {"missing": 3}
    rig.compare(match="left:*", repair=True)
    assert sorted(rig.new().keys()) == [b"both", b"left:1", b"new:1"]


@main_versions
def test_a_sample_says_how_large_it_was(split, version):
    rig = split(version)
    rig.old().mset({f"k{i}": i for i in range(20_000)})
    rig.copied()
    result = rig.compare(sample=500)
    assert result.summary()["sampled"] and 500 <= result.compared < 8000 and result.differences == 0
    rig.new().flushdb()
    assert rig.compare(sample=500).differences >= 500
    # a sample looks for names too many as well
    rig.copied(), rig.old().flushdb()
    assert rig.compare(sample=500).kinds.get("extra", 0) == 0 and rig.new().mset({f"x{i}": i for i in range(3000)})
    assert rig.compare(sample=500).kinds["extra"] >= 500


@main_versions
def test_a_key_that_is_rewritten_meanwhile_is_no_difference(split, version):
    """Each look may meet a key without its value; only what differs at every look counts."""
    rig = split(version)
    rig.old().mset({f"still{i}": "x" * 200 for i in range(3000)})
    rig.old().rpush("busy", *range(200))
    rig.old().hset("hash", mapping={str(i): i for i in range(300)})
    rig.copied()
    other = rig.source.client(5)

    def rewrite(number):
        other.delete("busy", "hash")
        other.set("busy", number)
        other.delete("busy")
        other.rpush("busy", *range(200))
        other.hset("hash", mapping={str(i): i for i in range(300)})
        time.sleep(0.02)

    with busy(rewrite):
        for _ in range(5):
            assert rig.compare(limits=Limits(big_key_bytes=1000)).summary()["differences"] == 0


@main_versions
def test_types_that_change_under_the_comparer(split, version):
    rig = split(version)
    kinds = [
        lambda c, k: c.set(k, "v" * 3000),
        lambda c, k: c.rpush(k, *range(300)),
        lambda c, k: c.sadd(k, *range(300)),
        lambda c, k: c.hset(k, mapping={str(i): i for i in range(200)}),
        lambda c, k: c.zadd(k, {str(i): i for i in range(200)}),
        lambda c, k: (c.xadd(k, {"f": "v" * 2000}), c.xgroup_create(k, "g", "0"), c.xreadgroup("g", "c", {k: ">"})),
    ]
    rnd = random.Random(4)

    def change(number):
        key, client = "k%d" % rnd.randrange(4), rnd.choice([one, two])
        client.delete(key)
        kinds[number % len(kinds)](client, key)

    one, two = rig.source.client(5), rig.target.client()
    with busy(change):
        for _ in range(6):
            rig.compare(limits=Limits(big_key_bytes=1))


@main_versions
def test_without_scripting_it_is_the_same_proof(copied, version, monkeypatch):
    rig = copied(version)
    monkeypatch.setattr(Reader, "_load", lambda self: None)
    assert rig.compare().summary()["differences"] == 0
    rig.new().delete("embstr")
    rig.new().set("extra", 1)
    rig.new().lset("list:wide", 3, "other")
    late("volatile:hash:1", 1)(rig.new())
    assert rig.compare().kinds == {"missing": 1, "extra": 1, "value": 1, "expiry": 1}
    assert rig.compare(repair=True).differences == 0
    assert dataset.difference(dataset.read(rig.old(), version), dataset.read(rig.new(), version)) == {}


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        ("redis-7.0", "redis-6.0"),
        ("redis-8.0", "redis-7.0"),
        ("valkey-9.1", "redis-7.0"),
        ("redis-8.0", "redis-8.0"),
        ("valkey-9.1", "valkey-9.1"),
    ],
)
def test_an_older_server_is_repaired_by_commands(split, newer, older, monkeypatch):
    """It refuses the newer one's payloads. Key by key only goes what no single command makes."""

    def too_old(self, keys):
        raise TooOld("")

    rig = split(newer, to=older)
    dataset.fill(rig.old(), older, now_ms())
    rig.new().mset({"extra": 1, "empty": "other", "volatile:hash:1": "of another type"})
    if newer == older:
        # what an older one would do, where fields of hashes expire on both sides
        monkeypatch.setattr(Comparer, "_send", too_old)
    chunks, copy = [], values.copy_in_chunks
    monkeypatch.setattr(values, "copy_in_chunks", lambda *args: (chunks.append(args[1]), copy(*args))[1])
    rig.compare(repair=True, limits=Limits(big_key_bytes=65536))
    assert rig.compare().summary()["differences"] == 0
    assert dataset.difference(dataset.read(rig.old(), older), dataset.read(rig.new(), older)) == {}
    hard = (b"stream", b"hash") if newer == older else (b"stream",)
    names = rig.old().keys()
    big = {name for name in names if rig.old().memory_usage(name, samples=5) > 65536 or rig.old().type(name) in hard}
    assert set(chunks) <= big


@main_versions
def test_it_writes_to_neither_side(copied, version):
    rig = copied(version)
    rig.new().delete("embstr")
    changes = [c.info("persistence")["rdb_changes_since_last_save"] for c in (rig.old(), rig.new())]
    assert rig.compare().differences == 1
    assert [c.info("persistence")["rdb_changes_since_last_save"] for c in (rig.old(), rig.new())] == changes


@main_versions
def test_a_pass_over_many_changes_is_quick(split, version, monkeypatch):
    """Under a fence every millisecond counts: keys are sent and judged by the page, not one by one.

    Hashes in hash tables are the hard case: no two servers keep their fields in the same order.
    """
    rig = split(version)
    with rig.old().pipeline(transaction=False) as pipe:
        for i in range(4000):
            pipe.set(f"k{i}", i)
            pipe.hset(f"session{i}", mapping={"a": "x" * 100, "b": i, "c": "y" * 80, "d": 1, "e": 2})
        pipe.execute()
    rig.copied()
    assert rig.new().object("encoding", "session1") == b"hashtable"
    with rig.old().pipeline(transaction=False) as pipe:
        for i in range(1000):
            pipe.set(f"k{i}", -1 - i)
            pipe.hset(f"session{i}", "d", 2)
        pipe.execute()
    asked = []
    monkeypatch.setattr(values, "differs", lambda *arguments: asked.append(arguments))

    result = rig.compare(repair=True)

    assert result.differences == 0 and result.repaired == 2000
    assert asked == []
    monkeypatch.undo()
    assert dataset.difference(dataset.read(rig.old(), version), dataset.read(rig.new(), version)) == {}


@main_versions
def test_big_keys_that_stand_still_are_not_sent_again(split, version):
    rig = split(version)
    for name in "ab":
        rig.old().hset(name, mapping={"f%d" % i: "v%d" % i for i in range(9000)})
    rig.copied()
    rig.old().hset("b", "f7", "other")
    result = rig.compare(repair=True)
    assert result.repaired == 1 and result.differences == 0
    assert rig.new().hget("b", "f7") == b"other"
