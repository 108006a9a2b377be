# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The copy, on real servers: what arrives, what is refused, and what is left when it is killed.

Whether two databases are equal is judged by plain reads (`dataset.read`), never by the engine's own comparer alone.
"""

from __future__ import annotations

import itertools
import random
import shutil
import time

import dataset
import pytest
import redis
import rig as rigs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig import busy, killed, killed_after

import servers
from ansible_collections.njoy.untangle.plugins.module_utils import engine
from ansible_collections.njoy.untangle.plugins.module_utils.engine.compare import excluded
from ansible_collections.njoy.untangle.plugins.module_utils.engine.server import Server
from ansible_collections.njoy.untangle.plugins.module_utils.engine.snapshot import Limits, Reader
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

pytestmark = pytest.mark.servers
pool, split = rigs.pool, rigs.split
main_versions = pytest.mark.parametrize("version", servers.MAIN)
later_versions = pytest.mark.parametrize("version", [*servers.MAIN, "valkey-9.1"])

ALWAYS = {"int", "embstr", "raw", "quicklist", "intset", "hashtable", "skiplist", "stream", "listpack"}
#: Hashes whose fields expire, where they have an encoding of their own.
MORE = {"redis-8.0": {"listpackex"}}


def now_ms() -> int:
    return int(time.time() * 1000)


def equal(rig, database=None, version="redis-7.0", delivery=True) -> None:
    one = dataset.read(rig.old(database), version, delivery)
    other = dataset.read(rig.new(database), version, delivery)
    assert dataset.difference(one, other) == {}


# -- what arrives ------------------------------------------------------------------------------------------------------


@later_versions
def test_everything_arrives_exactly(split, version):
    rig = split(version)
    dataset.fill(rig.old(), version, now_ms())
    assert dataset.encodings(rig.old()) >= ALWAYS | MORE.get(version, set())
    before = dataset.read(rig.old(), version)

    facts = rig.copied()["db5"]

    assert facts["changed"] and facts["state"] == "copied"
    assert facts["keys_before"] == facts["keys_copied"] == len(before) == rig.new().dbsize()
    equal(rig, version=version)
    assert dataset.read(rig.old(), version) == before
    assert dataset.encodings(rig.new()) == dataset.encodings(rig.old())
    assert rig.state.purpose("db5")["state"] == "copied"


@later_versions
@pytest.mark.parametrize("big", [1, 500])
def test_everything_arrives_in_chunks_too(split, version, big):
    rig = split(version)
    dataset.fill(rig.old(), version, now_ms())

    rig.copied(big=big)

    equal(rig, version=version, delivery=False)
    one, other = dataset.read(rig.old()), dataset.read(rig.new())
    for key in (key for key in one if one[key][0] == "stream"):
        for name, (_last, _read, pending) in one[key][1][2].items():
            # a server does not tell the time of a delivery but how long ago it was
            assert [row[2] for row in pending] == pytest.approx([row[2] for row in other[key][1][2][name][2]], abs=5)


@pytest.mark.parametrize("big", [1, 262144])
@pytest.mark.parametrize("to", ["redis-7.0", "valkey-8.1"])
def test_redis_6_0_can_be_left(split, to, big):
    rig, now = split("redis-6.0", to=to), now_ms()
    dataset.fill(rig.old(), "redis-6.0", now)
    assert dataset.encodings(rig.old()) >= ALWAYS - {"listpack"} | {"ziplist"}

    rig.copied(big=big)

    equal(rig, version="redis-6.0", delivery=big > 1)
    ends = {key: rig.new().pexpiretime(key) - now for key in rig.new().scan_iter("volatile:*", count=1000)}
    assert ends == {
        b"volatile:%s:%d" % (kind, number): after
        for kind in (b"string", b"list", b"hash")
        for number, after in enumerate((dataset.DAY, dataset.DAY + 1, 3_600_123, 20 * 365 * dataset.DAY))
    }


@main_versions
def test_any_database_number(split, version):
    numbers = (0, 1, 9, 10, 15, 16, 31)
    for number in numbers:
        rig = split(version, databases=(number,))
        for other in numbers:
            client = rig.source.client(other)
            client.set("number", other)
            client.set("volatile", other, px=10_000_000)
        rig.copied()
        assert rig.new().get("number") == b"%d" % number
        equal(rig)


@main_versions
def test_expiry_beyond_what_lua_can_count(split, version):
    rig = split(version)
    for at in (2**53 - 1, 2**53 + 1, 2**63 - 1):
        rig.old().set(at, "never")
        rig.old().pexpireat(at, at)
    rig.copied()
    assert {int(key): rig.new().pexpiretime(key) for key in rig.new().scan_iter()} == {
        at: at for at in (2**53 - 1, 2**53 + 1, 2**63 - 1)
    }
    assert rig.compare().differences == 0


@main_versions
def test_big_keys_come_in_bounded_chunks(split, version):
    """Items of 1 MB come one by one once the first few are seen: no server ever has many of them in a reply."""
    rig, client = split(version), split(version).old()
    noise = random.Random(2)
    client.set("string", noise.randbytes(4_000_000))
    for _ in range(9):
        client.rpush("list", noise.randbytes(1_000_000))
    client.rpush("list", *range(600))
    client.hset("hash", mapping={str(i): i for i in range(20_000)})
    for i in range(3):
        client.hset("hash", "wide%d" % i, noise.randbytes(1_000_000))
    client.sadd("set", *range(20_000))
    client.zadd("zset", {str(i): i / 7 for i in range(20_000)})
    for i in range(600):
        client.xadd("stream", {"n": i if i > 8 else noise.randbytes(1_000_000)})

    rig.copied()

    assert client.info("clients")["client_recent_max_output_buffer"] < 8_000_000
    equal(rig)


@main_versions
def test_a_user_without_scripting(split, version):
    rig = split(version)
    dataset.fill(rig.old(), version, now_ms())
    rig.old().execute_command("ACL", "SETUSER", "reader", "on", ">x", "~*", "+@all", "-@scripting")
    rig.login = rig.source.connection(username="reader", password="x")

    rig.copied()

    equal(rig, version=version)
    assert rig.compare().differences == 0


def test_a_user_without_scripting_on_6_0(split):
    rig, now = split("redis-6.0", to="redis-7.0"), now_ms()
    dataset.fill(rig.old(), "redis-6.0", now)
    rig.old().execute_command("ACL", "SETUSER", "reader", "on", ">x", "~*", "+@all", "-@scripting")
    rig.login = rig.source.connection(username="reader", password="x")
    rig.copied()
    equal(rig, version="redis-6.0")
    assert rig.new().pexpiretime("volatile:hash:2") - now == 3_600_123


# -- how it is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scripting", [True, False])
@main_versions
def test_a_page_ends_at_its_bytes(split, version, scripting, monkeypatch):
    if not scripting:
        monkeypatch.setattr(Reader, "_load", lambda self: None)
    rig = split(version)
    values = {b"k%d" % i: random.Random(i).randbytes(3000) for i in range(200)}
    rig.old().mset(values)
    reader = Reader(rig.engine_source(), Limits(page_bytes=10_000, max_latency_ms=10_000))

    pages = list(reader.pages())
    reader.close()

    assert max(sum(len(payload) for _key, payload, _at in page.keys) for page in pages) < 10_000 + 3100
    assert sorted(key for page in pages for key, _payload, _at in page.keys) == sorted(values)


@pytest.mark.parametrize("clock", ["in the script", "from outside"])
@main_versions
def test_a_page_ends_at_its_time(split, version, clock):
    """TIME stands still inside a script from Redis 7.2 and Valkey 7.2 on; some of these have os.clock, some nothing."""
    rig = split(version)
    with rig.old().pipeline(transaction=False) as pipe:
        for i in range(20_000):
            pipe.set(f"k{i}", "x" * 100)
        pipe.execute()
    reader = Reader(rig.engine_source(), Limits(max_latency_ms=1.0, page_bytes=10**9))
    if clock == "from outside":
        reader._clocked, reader._most = False, 500
    pages = list(reader.pages())
    reader.close()
    assert sum(len(page.keys) for page in pages) >= 20_000
    # no server reads 20,000 keys in ten times half a millisecond
    assert len(pages) > 10 and max(len(page.keys) for page in pages[5:]) < 5000
    assert reader.slowest_us > 0


@pytest.mark.parametrize(("version", "big"), [*((v, 262144) for v in servers.MAIN), ("redis-7.0", 0)])
def test_a_source_near_its_limit_evicts_nothing(server, tmp_path, version, big):
    """300 keys of 1 MB and 60 MB to spare: replies are memory of the source too."""
    source, target = server(version, rdbcompression="no"), server(version)
    client = source.client()
    client.execute_command("DEBUG", "POPULATE", 300, "key", 1_000_000)
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 60_000_000)

    routes = engine.route.routes([{"purpose": "cache", "database": 0, "target": target.connection()}])
    facts = engine.copy.copied(
        source.connection(),
        routes,
        engine.state.State(str(tmp_path)),
        "a test",
        lambda f: None,
        Limits(big_key_bytes=big),
    )

    assert facts["cache"]["keys_copied"] == target.client().dbsize() == client.dbsize() == 300
    assert client.info("stats")["evicted_keys"] == 0


@main_versions
def test_scripts_flushed_meanwhile(split, version):
    rig = split(version)
    rig.old().mset({f"k{i}": "x" * 3000 for i in range(2000)})
    flushed = []
    rig.copied(
        report=lambda facts: flushed.append(rig.source.client().script_flush()), limits=Limits(page_bytes=20_000)
    )
    assert len(flushed) > 2
    equal(rig)


@main_versions
def test_expired_on_the_way(split, version):
    rig = split(version)
    for i in range(300):
        rig.old().set(f"soon{i}", "x", px=1 + i // 3)
        rig.old().rpush(f"soon:list{i}", *["x"] * 50)
        rig.old().pexpire(f"soon:list{i}", 1 + i // 3)
    rig.old().set("stays", 1)
    rig.copied(big=300)
    time.sleep(0.15)
    assert rig.new().keys() == [b"stays"]


# -- while it is written to --------------------------------------------------------------------------------------------


def churn(client, seed):
    """One random change among a few hundred keys: types come and go under the same names."""
    rnd = random.Random(seed)
    key = "k%d" % rnd.randrange(250)
    what = rnd.randrange(12)
    try:
        if what == 0:
            client.delete(key)
        elif what == 1:
            client.set(key, "v" * rnd.randrange(4000))
        elif what == 2:
            client.append(key, "v" * 700)
        elif what == 3:
            client.rpush(key, *["i%d" % i * 9 for i in range(rnd.randrange(1, 90))])
        elif what == 4:
            client.sadd(key, *range(rnd.randrange(1, 200)))
        elif what == 5:
            client.hset(key, mapping={"f%d" % i: "v" * 30 for i in range(rnd.randrange(1, 60))})
        elif what == 6:
            client.zadd(key, {"m%d" % i: i / 3 for i in range(rnd.randrange(1, 80))})
        elif what == 7:
            for _ in range(rnd.randrange(1, 30)):
                client.xadd(key, {"f": "v" * 60})
            client.xgroup_create(key, "g", "0")
            client.xreadgroup("g", "c", {key: ">"}, count=9)
        elif what == 8:
            client.pexpire(key, rnd.randrange(1, 20_000_000))
        elif what == 9:
            client.rename(key, "k%d" % rnd.randrange(250))
        elif what == 10:
            client.xgroup_destroy(key, "g")
        else:
            client.execute_command("UNLINK", key)
            client.set(key, "again")
    except redis.ResponseError:
        pass


@main_versions
def test_keys_that_change_type_and_vanish_meanwhile(split, version):
    rig = split(version)
    client = rig.old()
    for i in range(2000):
        churn(client, i)
    for i in range(4000):
        client.set(f"still{i}", "x" * 300)

    with busy(lambda number: churn(client, 10_000 + number)):
        # small enough that many keys go in chunks, and slow enough that every page meets changes
        rig.copied(big=1500, report=lambda facts: time.sleep(0.004))
        rig.compare(limits=Limits(big_key_bytes=1500))

    rig.cut_over(writers_stopped=True, big=1500)
    equal(rig, delivery=False)


# -- conflicts and choices ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("big", [1, 262144])
@main_versions
def test_skip_keeps_what_the_application_wrote(split, version, big):
    rig = split(version)
    dataset.fill(rig.old(), version, now_ms())
    rig.new().set("raw", "newer")
    rig.new().set("list:long", "another type")
    rig.new().set("only here", 1)

    facts = rig.copied(on_conflict="skip", big=big)["db5"]

    assert facts["keys_copied"] == facts["keys_before"] - 2
    one, other = dataset.read(rig.old(), version, big > 1), dataset.read(rig.new(), version, big > 1)
    assert set(dataset.difference(one, other)) == {b"raw", b"list:long", b"only here"}
    assert rig.new().mget("raw", "list:long", "only here") == [b"newer", b"another type", b"1"]


@main_versions
def test_match_and_exclude(split, version):
    rig = split(version)
    names = ["user:1", "user:2", "user:tmp:1", "user:ключ", "order:1", "user:[x]"]
    rig.old().mset(dict.fromkeys(names, "v"))

    rig.copied(match="user:*", exclude=["user:tmp:*", "user:\\[x]", "*ключ"])

    assert sorted(rig.new().keys()) == [b"user:1", b"user:2"]
    # what was left out stays out of the last pass and is not taken for a key to delete on the way back
    rig.old().set("user:3", "late")
    rig.cut_over()
    assert sorted(rig.new().keys()) == [b"user:1", b"user:2", b"user:3"]
    rig.new().delete("user:1")
    rig.returned()
    assert set(rig.old().keys()) == {name.encode() for name in [*names, "user:3"]} - {b"user:1"}


@pytest.mark.parametrize("version", ["redis-7.0", "valkey-8.1"])
def test_exclude_reads_patterns_as_the_server_does(split, version):
    client, rnd = split(version).old(), random.Random(5)
    signs = b"ab-]^[*?\\c\n"
    # not the empty name: to Redis ** does not match it, to Valkey it does
    names = {bytes(rnd.choice(signs) for _ in range(rnd.randint(1, 4))) for _ in range(1500)}
    client.mset(dict.fromkeys(names, "v"))
    for _ in range(400):
        pattern = bytes(rnd.choice(signs) for _ in range(rnd.randint(0, 6))).decode()
        assert {name for name in names if excluded(name, [pattern])} == set(client.keys(pattern)), pattern


# -- the target's own limits -------------------------------------------------------------------------------------------


@main_versions
def test_no_limit_while_filled_and_its_own_after(split, version):
    rig = split(version)
    rig.old().mset({f"k{i}": "x" * 2000 for i in range(1500)})
    rig.new().config_set("maxmemory-policy", "allkeys-lru")
    rig.new().config_set("maxmemory", "100mb")
    seen = set()

    rig.copied(report=lambda facts: seen.add(rig.memory()))

    assert seen == {("0", "noeviction")}
    assert rig.memory() == ("104857600", "allkeys-lru")


@main_versions
def test_what_does_not_fit_is_said_and_can_be_mended(split, version):
    rig = split(version)
    rig.old().mset({f"k{i}": "x" * 1000 for i in range(5000)})
    rig.new().config_set("maxmemory-policy", "allkeys-lru")
    rig.new().config_set("maxmemory", "4mb")

    with pytest.raises(UntangleError, match=r"holds more than its maxmemory of 4194304 bytes. Raise maxmemory"):
        rig.copied()
    # nothing was evicted, and it is not taken for whole
    assert rig.new().dbsize() == 5000 and rig.standing() == "copying"
    with pytest.raises(UntangleError, match="not in step"):
        rig.cut_over()

    rig.new().config_set("maxmemory", "64mb")
    rig.new().config_set("maxmemory-policy", "volatile-lru")
    rig.copied()
    assert rig.memory() == ("67108864", "volatile-lru")
    equal(rig)


# -- killed ------------------------------------------------------------------------------------------------------------

MOMENTS = [
    ("marks.write_target", 1, True),
    ("route.restore_limits", 1, False),
    ("route.restore_limits", 1, True),
    ("target.Writer.send", 4, True),
    ("values._field_expiry", 1, False),
    ("values.expiry", 1, False),
    ("marks.write_target", 3, False),
    ("marks.write_target", 3, True),
    ("state.State.update", 1, False),
]


@pytest.mark.parametrize(("moment", "version"), list(zip(MOMENTS, itertools.cycle(servers.MAIN))))
def test_killed_and_run_again(split, version, moment):
    path, nth, after = moment
    rig = split(version)
    dataset.fill(rig.old(), version, now_ms())
    rig.new().config_set("maxmemory-policy", "allkeys-lru")
    rig.new().config_set("maxmemory", "100mb")

    killed(path, lambda: rig.copied(limits=Limits(page_bytes=300, big_key_bytes=5000)), nth, after)
    rig.old().delete("set:big")
    rig.old().set("embstr", "changed since")
    rig.copied(big=5000)
    if rig.compare().differences:
        # it was whole when it was killed: the changes since are for the last pass
        assert moment in MOMENTS[-2:]
    rig.cut_over()

    equal(rig, version=version, delivery=False)
    assert rig.memory() == ("104857600", "allkeys-lru")
    assert rig.new().keys("untangle*") == []


@main_versions
def test_killed_at_any_time(split, version):
    rig, rnd = split(version), random.Random(3)
    dataset.fill(rig.old(), version, now_ms())
    with rig.old().pipeline(transaction=False) as pipe:
        for i in range(6_000):
            pipe.set(f"k{i}", "x" * 200, px=10_000_000 if i % 3 else None)
        pipe.execute()
    rig.new().config_set("maxmemory", "200mb")
    kills = 0
    for _ in range(4):
        kills += killed_after(rnd.uniform(0.02, 0.2), lambda: rig.copied(big=5000))
        rig.old().delete(*[f"k{rnd.randrange(6_000)}" for _ in range(100)])
        rig.old().set(f"k{rnd.randrange(6_000)}", "changed")
    assert kills
    rig.copied(big=5000)
    rig.cut_over()
    equal(rig, version=version, delivery=False)
    assert rig.memory() == ("209715200", "noeviction")


@main_versions
def test_a_killed_copy_with_skip_leaves_no_half_keys(split, version):
    rig = split(version)
    dataset.fill(rig.old(), version, now_ms())
    killed("values.expiry", lambda: rig.copied(big=5000, match="hash*", on_conflict="skip"))
    assert rig.new().keys("untangle:part:*")
    rig.copied(match="hash*", on_conflict="skip")
    assert set(rig.new().keys()) == set(rig.old().keys("hash*"))


@main_versions
def test_run_twice_it_changes_nothing(split, version):
    rig = split(version)
    dataset.fill(rig.old(), version, now_ms())
    rig.copied()
    changes = rig.new().info("persistence")["rdb_changes_since_last_save"]
    noted = rig.state.read()
    assert rig.copied() == {"db5": {"state": "copied", "changed": False}}
    assert rig.new().info("persistence")["rdb_changes_since_last_save"] == changes
    assert rig.state.read() == noted


# -- refused -----------------------------------------------------------------------------------------------------------


def untouched(server: servers.Server):
    """What a refusal must leave as it is."""
    client = server.client()
    modern = server.version != "redis-6.0"
    facts = client.info("persistence")["rdb_changes_since_last_save"], client.config_get("maxmemory*")
    return facts, client.execute_command("ACL", "LIST"), client.execute_command("FUNCTION", "LIST") if modern else None


@pytest.mark.parametrize("work", ["copied", "mirrored"])
@pytest.mark.parametrize(
    ("version", "to"),
    [("redis-8.0", "redis-7.0"), ("redis-8.0", "valkey-8.1"), ("valkey-9.1", "valkey-8.1"), ("redis-7.0", "redis-6.0")],
)
def test_a_target_too_old_is_named_before_anything_is_copied(split, version, to, work):
    rig = split(version, to=to)
    dataset.fill(rig.old(), version, now_ms())
    before = rig.memory(), rig.users(rig.target)
    with pytest.raises(UntangleError) as refusal:
        rig.copied() if work == "copied" else rig.mirrored_and_cut_over()
    # a mirror's target is 7.0 or later, whatever its source
    for name in (version, to) if (work, to) != ("mirrored", "redis-6.0") else (to,):
        flavour, _, number = name.partition("-")
        assert "%s %s" % (flavour, number) in refusal.value.message
    assert rig.new().dbsize() == 0 and rig.mark() is None
    assert before == (rig.memory(), rig.users(rig.target))


def test_the_key_that_tries_the_data_format_is_never_seen(split):
    """Whoever is killed beside it leaves nothing that a second run would take for somebody's."""
    rig, seen = split(), []
    rig.old().set("k", "v")
    source, target, watching = rig.engine_source(), rig.routes[0].open(), rig.target.client()
    with busy(lambda number: seen.append(watching.dbsize())):
        for _ in range(300):
            engine.route.canary(source, target, rig.routes[0])
    assert len(seen) > 100 and set(seen) == {0}


def test_what_fails_within_a_transaction_is_raised(split):
    rig = split()
    rig.old().set("text", "v")
    with pytest.raises(UntangleError, match="WRONGTYPE"):
        rig.engine_source().batch([("MULTI",), ("LPUSH", "text", 1), ("SET", "after", 1), ("EXEC",)])
    assert rig.old().get("after") == b"1"


@main_versions
def test_foreign_keys_are_refused_and_stay(split, version):
    rig = split(version)
    dataset.fill(rig.old(), version, now_ms())
    rig.new().set("somebody's", "key")
    before = untouched(rig.target)
    with pytest.raises(UntangleError, match=r"db5: .* holds 1 keys that are not ours. Nothing was changed. Empty it"):
        rig.copied()
    assert untouched(rig.target) == before and rig.new().keys() == [b"somebody's"]


@main_versions
def test_all_is_checked_before_anything_is_changed(split, version):
    rig = split(version, databases=(5, 6))
    rig.old(5).set("k", 1)
    rig.old(6).set("k", 1)
    rig.new(6).set("somebody's", "key")
    before = rig.memory(5), rig.users(rig.targets[5])
    with pytest.raises(UntangleError, match="db6"):
        rig.copied()
    assert rig.mark(5) is None and rig.new(5).dbsize() == 0
    assert (rig.memory(5), rig.users(rig.targets[5])) == before and rig.state.read()["log"] == []


@main_versions
def test_a_target_that_equals_its_source_is_adopted(split, version):
    rig = split(version)
    dataset.fill(rig.old(), version, now_ms())
    rig.copied()
    rig.new().function_flush()
    shutil.rmtree(rig.state.directory)

    assert rig.copied()["db5"]["changed"] and rig.mark()["state"] == "copied"
    equal(rig, version=version)

    rig.new().function_flush()
    shutil.rmtree(rig.state.directory)
    rig.new().set("raw", "not what the source has")
    with pytest.raises(UntangleError, match="not ours"):
        rig.copied()
    assert rig.mark() is None


@main_versions
def test_impossible_routes(split, server, version):
    rig = split(version, databases=(5, 6))
    rig.old().set("k", 1)
    here = rig.source.connection()

    def copied(**route):
        routes = engine.route.routes([{"purpose": "p", "database": 5, "target": rig.target.connection(), **route}])
        rig.copied(routes=routes)

    with pytest.raises(UntangleError, match=r"is the source itself\. Give the purpose a port of its own"):
        copied(target=here)
    with pytest.raises(UntangleError, match="is the source itself"):
        copied(target={**here, "host": "localhost"}, target_database=3)
    with pytest.raises(UntangleError, match=r"does not have this database number"):
        copied(database=32)
    with pytest.raises(UntangleError, match="cannot be reached"):
        copied(target={"host": "127.0.0.1", "port": servers.free_port()})
    with pytest.raises(UntangleError, match="is a Redis Cluster"):
        copied(target=server(version, cluster_enabled="yes").connection())
    replica = server(version, replicaof="127.0.0.1 %d" % rig.targets[6].port)
    with pytest.raises(UntangleError, match=r"is a replica and takes no writes\. Name its master"):
        copied(target=replica.connection())
    for one, other, what in (
        ({"purpose": "a", "database": 5}, {"purpose": "b", "database": 5, "target": here}, "database: 5"),
        ({"purpose": "a", "database": 5}, {"purpose": "a", "database": 6, "target": here}, "purpose: a"),
        ({"purpose": "a", "database": 5}, {"purpose": "b", "database": 6}, "target: "),
    ):
        with pytest.raises(UntangleError, match="Two routes have the same " + what):
            engine.route.routes([{"target": rig.target.connection(), **route} for route in (one, other)])
    assert rig.new().dbsize() == 0 and rig.mark() is None


@main_versions
def test_the_target_of_another_split_is_refused(split, version):
    rig = split(version, databases=(5, 6))
    rig.old(5).set("k", 5)
    rig.old(6).set("k", 6)
    rig.copied(routes=rig.routes[:1])
    wrong = engine.route.routes([{"purpose": "db6", "database": 6, "target": rig.targets[5].connection()}])
    for state in ("copied", "serving", "returned"):
        target = Server(rig.targets[5].connection())
        engine.marks.write_target(target, {**rig.mark(), "state": state})
        for work in (rig.copied, rig.cut_over, rig.returned):
            with pytest.raises(UntangleError, match=r"is marked as the target of database 5 of .*\(%s\)" % state):
                work(routes=wrong)
    assert rig.new(5).get("k") == b"5" and not engine.marks.is_moved(rig.engine_source(), 6)


# -- any program -------------------------------------------------------------------------------------------------------

KEYS = st.sampled_from([b"a", b"b", b"\x00\xff", b"", b"d" * 40, b"e"])
WORDS = st.one_of(
    st.sampled_from([b"", b"0", b"-1", b"x" * 70, b"12345678901234567890", b"\r\n", b"m", b"n"]), st.binary(max_size=9)
)
SCORES = st.sampled_from(["-0", "0", "inf", "-inf", "1.5", "1e-310", "3", "0.1"])
IDS = st.sampled_from(["0-1", "1-1", "1-2", "5-0", "9-18446744073709551615", "10-0", "*"])
COMMANDS = st.one_of(
    st.tuples(st.just("SET"), KEYS, WORDS),
    st.tuples(st.just("APPEND"), KEYS, WORDS),
    st.tuples(st.just("SETRANGE"), KEYS, st.integers(0, 400), WORDS),
    st.tuples(st.sampled_from(["RPUSH", "LPUSH"]), KEYS, WORDS, WORDS),
    st.tuples(st.just("LTRIM"), KEYS, st.integers(-3, 3), st.integers(-3, 3)),
    st.tuples(st.sampled_from(["SADD", "SREM"]), KEYS, WORDS, WORDS),
    st.tuples(st.just("SADD"), KEYS, st.integers(-(2**40), 2**40), st.integers(0, 9)),
    st.tuples(st.just("HSET"), KEYS, WORDS, WORDS, WORDS, WORDS),
    st.tuples(st.just("HDEL"), KEYS, WORDS),
    st.tuples(st.just("HPEXPIRE"), KEYS, st.integers(10**7, 10**9), st.just("FIELDS"), st.just(1), WORDS),
    st.tuples(st.just("ZADD"), KEYS, SCORES, WORDS, SCORES, WORDS),
    st.tuples(st.just("ZREM"), KEYS, WORDS),
    st.tuples(st.just("XADD"), KEYS, IDS, WORDS, WORDS),
    st.tuples(st.just("XDEL"), KEYS, IDS),
    st.tuples(st.just("XTRIM"), KEYS, st.just("MAXLEN"), st.integers(0, 3)),
    st.tuples(st.just("XSETID"), KEYS, st.sampled_from(["20-0", "30-5"])),
    st.tuples(
        st.just("XGROUP"),
        st.just("CREATE"),
        KEYS,
        st.sampled_from("gh"),
        st.sampled_from(["0", "$", "1-1"]),
        st.just("MKSTREAM"),
    ),
    st.tuples(st.just("XGROUP"), st.just("DESTROY"), KEYS, st.sampled_from("gh")),
    st.tuples(
        st.just("XREADGROUP"),
        st.just("GROUP"),
        st.sampled_from("gh"),
        st.sampled_from("cd"),
        st.just("COUNT"),
        st.integers(1, 3),
        st.just("STREAMS"),
        KEYS,
        st.just(">"),
    ),
    st.tuples(st.just("XACK"), KEYS, st.sampled_from("gh"), st.sampled_from(["0-1", "1-1", "1-2", "5-0"])),
    st.tuples(st.just("PEXPIRE"), KEYS, st.integers(10**7, 10**12)),
    st.tuples(st.just("PERSIST"), KEYS),
    st.tuples(st.just("DEL"), KEYS),
    st.tuples(st.sampled_from(["RENAME", "SUNIONSTORE", "LMOVE"]), KEYS, KEYS, st.just("LEFT"), st.just("LEFT")),
)


def run(client, program) -> None:
    for command in program:
        words = command[:3] if command[0] in ("RENAME", "SUNIONSTORE") else command
        try:
            client.execute_command(bytes(words[0], "ascii"), *words[1:])
        except redis.ResponseError:
            # the wrong type, a stream's order, a command that this server lacks: then it did nothing
            pass


@later_versions
def test_any_program(split, version):
    rig = split(version)

    @settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(COMMANDS, max_size=40), st.sampled_from([1, 150, 262144]))
    def check(program, big):
        rig.old().flushdb()
        rig.new().flushall()
        rig.new().function_flush()
        shutil.rmtree(rig.state.directory, ignore_errors=True)
        run(rig.old(), program)
        rig.copied(big=big)
        equal(rig, version=version, delivery=big == 262144)
        assert rig.compare().differences == 0

    check()
