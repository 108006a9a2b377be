# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who serves: the state table, the three witnesses, and what a fence keeps out and gives back."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

import dataset
import pytest
import redis
import rig as rigs
from rig import Rig, killed
from writers import app

import servers
from ansible_collections.njoy.untangle.plugins.module_utils.engine import marks
from ansible_collections.njoy.untangle.plugins.module_utils.engine.job import perform
from ansible_collections.njoy.untangle.plugins.module_utils.engine.server import Server
from ansible_collections.njoy.untangle.plugins.module_utils.errors import Away, UntangleError

pytestmark = pytest.mark.servers
pool, split = rigs.pool, rigs.split
main_versions = pytest.mark.parametrize("version", servers.MAIN)
every_version = pytest.mark.parametrize("version", servers.ALL)


def now_ms() -> int:
    return int(time.time() * 1000)


def whole(rig):
    """All that a call could change: data, users, marks, settings on both sides, and split.json."""
    found = [rig.state.read(), rig.mark(), rig.memory(), rig.users(), rig.users(rig.target)]
    for client in (rig.old(), rig.new()):
        found += [dataset.read(client), client.info("persistence")["rdb_changes_since_last_save"]]
    return found


def bring_to(rig, state):
    dataset.fill(rig.old(), rig.source.version, now_ms())
    rig.new().config_set("maxmemory", "200mb")
    if state == "copying":
        killed("target.Writer.send", rig.copied, after=True)
    if state in ("copied", "cut_over", "returned"):
        rig.copied()
    if state in ("cut_over", "returned"):
        rig.cut_over()
    if state == "returned":
        rig.returned()


REFUSED, NOTHING = "refused", "nothing"
TABLE = {
    # state: what copied, cut_over and returned do; a state is what they bring it to
    "planned": ("copied", REFUSED, NOTHING),
    "copying": ("copied", REFUSED, NOTHING),
    "copied": (NOTHING, "cut_over", NOTHING),
    "cut_over": (NOTHING, NOTHING, "returned"),
    "returned": ("copied", REFUSED, NOTHING),
}


@main_versions
@pytest.mark.parametrize("state", TABLE)
def test_the_state_table(split, tmp_path, version, state):
    for call, expected in zip(("copied", "cut_over", "returned"), TABLE[state]):
        rig = Rig.__new__(Rig)
        made = split(version)
        rig.__dict__.update(made.__dict__)
        rig.state = type(made.state)(str(tmp_path / call))
        bring_to(rig, state)
        assert rig.standing() == state
        work, before = getattr(rig, call), whole(rig)
        if expected == REFUSED:
            with pytest.raises(UntangleError, match=r"db5 is not in step \(%s\).*nothing was changed" % state):
                work()
            assert whole(rig) == before
        elif expected == NOTHING:
            assert not changed(work())
            assert whole(rig) == before
        else:
            assert changed(work())
            assert rig.standing() == expected == rig.state.purpose("db5")["state"]
            assert dataset.difference(dataset.read(rig.old(), version), dataset.read(rig.new(), version)) == {}
            assert rig.memory() == ("209715200", "noeviction")
            after = whole(rig)
            assert not changed(work())
            assert whole(rig) == after


def changed(result):
    return result["changed"] if "changed" in result else any(facts["changed"] for facts in result.values())


@main_versions
def test_a_full_round_can_be_made_again_and_again(split, version):
    rig = split(version)
    dataset.fill(rig.old(), version, now_ms())
    users = rig.users()
    for number in range(3):
        rig.copied()
        rig.cut_over()
        rig.new().incr("rounds")
        rig.new().delete("embstr")
        rig.returned()
        rig.old().set("embstr", number)
        assert int(rig.old().get("rounds")) == number + 1
        assert rig.users() == users
    assert [line["what"] for line in rig.state.read()["log"]] == ["copied", "cut over", "returned"] * 3


@main_versions
def test_after_a_cutover_stale_data_never_comes_over(split, version):
    rig = split(version)
    rig.old().mset({"a": "old", "b": "old", "c": "old"})
    rig.copied()
    rig.cut_over(writers_stopped=True)
    rig.new().set("a", "new")
    rig.new().delete("b")
    rig.new().set("d", "new")
    # nobody was fenced: a straggler writes to the old place
    rig.old().mset({"a": "stale", "e": "stale"})
    before = whole(rig)
    for work in (
        rig.copied,
        rig.cut_over,
        lambda: rig.cut_over(writers_stopped=True),
        lambda: rig.copied(on_conflict="skip"),
    ):
        assert not changed(work())
        assert whole(rig) == before
    assert {k: rig.new().get(k) for k in rig.new().scan_iter()} == {b"a": b"new", b"c": b"old", b"d": b"new"}


# -- three witnesses ---------------------------------------------------------------------------------------------------


@main_versions
@pytest.mark.parametrize("witness", ["target", "source", "split.json"])
def test_any_one_witness_is_enough(split, version, witness):
    rig = split(version)
    rig.old().mset({"a": "old", "b": "old"})
    rig.copied()
    rig.cut_over()
    rig.new().set("a", "new")
    if witness != "target":
        rig.new().function_flush()
    if witness != "source":
        rig.source.client().acl_deluser(marks.MOVED % 5)
    if witness != "split.json":
        os.unlink(rig.state.path)

    assert rig.standing() == "cut_over"
    assert rig.copied()["db5"] == {"state": "cut_over", "changed": False}
    assert rig.copied(on_conflict="skip")["db5"] == {"state": "cut_over", "changed": False}
    assert rig.new().get("a") == b"new" and rig.new().dbsize() == 2

    # the next cutover puts the other two back
    assert changed(rig.cut_over())
    assert rig.mark()["state"] == "serving" and rig.state.purpose("db5")["state"] == "cut_over"
    assert marks.is_moved(rig.engine_source(), 5) == "db5@" + rig.target.address
    assert not changed(rig.cut_over())
    assert rig.new().get("a") == b"new"


@main_versions
def test_the_mark_is_no_key_and_survives_flushall(split, version):
    rig = split(version)
    rig.old().set("a", 1)
    rig.copied()
    rig.cut_over()
    assert rig.new().keys() == [b"a"]
    rig.new().flushall()
    assert rig.mark()["state"] == "serving" and rig.new().dbsize() == 0
    assert not changed(rig.copied()) and not changed(rig.cut_over())
    assert rig.new().dbsize() == 0
    # emptied by its own users, and so the old database is empty after the way back
    rig.returned()
    assert rig.old().dbsize() == 0


@pytest.fixture
def restartable(server, tmp_path):
    def make(version):
        return Rig(server(version), {5: server(version)}, tmp_path)

    return make


@main_versions
def test_a_target_that_comes_back_empty_is_not_filled_with_old_data(restartable, version):
    rig = restartable(version)
    rig.old().mset({"a": "old", "b": "old"})
    rig.copied()
    rig.cut_over()
    rig.target.kill()
    rig.target.start()
    rig._clients.clear()
    assert rig.mark() is None and rig.new().dbsize() == 0

    for _ in range(2):
        assert rig.copied()["db5"] == {"state": "cut_over", "changed": False}
        assert rig.new().dbsize() == 0
        # what was written since the cutover is gone: that is for a person to decide, also after a cutover has marked it again
        with pytest.raises(
            UntangleError, match=r"came back empty.*name db5 in redis_split_accept_loss. Nothing was changed"
        ):
            rig.returned()
        rig.cut_over()
        assert rig.mark()["state"] == "serving"
    rig.new().mset({"b": "since", "c": "since"})

    rig.returned(accept_loss=["db5"])
    assert {k: rig.old().get(k) for k in rig.old().scan_iter()} == {b"a": b"old", b"b": b"since", b"c": b"since"}
    assert rig.standing() == "returned"


@main_versions
def test_a_target_that_comes_back_with_data_from_before_the_cutover(restartable, version):
    rig = restartable(version)
    rig.old().mset({"a": "copied", "b": "copied"})
    rig.copied()
    rig.new().save()
    rig.old().mset({"a": "last pass", "c": "last pass"})
    rig.cut_over()
    rig.target.kill()
    rig.target.start()
    rig._clients.clear()
    assert rig.mark()["state"] == "copied" and rig.new().get("a") == b"copied"

    assert rig.standing() == "cut_over"
    assert not changed(rig.copied())
    with pytest.raises(UntangleError, match=r"with data from before the cutover.*redis_split_accept_loss"):
        rig.returned()
    rig.cut_over()
    with pytest.raises(UntangleError, match="with data from before the cutover"):
        rig.returned()
    rig.returned(accept_loss=["db5"])
    assert {k: rig.old().get(k) for k in rig.old().scan_iter()} == {
        b"a": b"last pass",
        b"b": b"copied",
        b"c": b"last pass",
    }


@main_versions
def test_a_source_that_forgot_its_fence_is_fenced_again(restartable, version):
    rig = restartable(version)
    rig.old().set("a", "old")
    rig.old().save()
    rig.copied()
    rig.cut_over()
    rig.source.kill()
    rig.source.start()
    rig._clients.clear()
    assert marks.fenced(rig.engine_source()) == [] and rig.standing() == "cut_over"
    assert changed(rig.cut_over())
    with pytest.raises(redis.exceptions.NoPermissionError):
        rig.old().set("a", "stale")
    assert not changed(rig.cut_over())
    rig.returned()
    assert rig.old().set("a", "fresh")


def with_users_in_a_file(server, tmp_path, version):
    """Cut over, and the users of before."""
    acl = tmp_path / "users.acl"
    acl.write_text("user default on nopass ~* &* +@all\nuser app on >x ~* +@all\n")
    rig = Rig(server(version, aclfile=str(acl)), {5: server(version)}, tmp_path)
    rig.old().set("a", 1)
    rig.old().save()
    rig.copied()
    before = rig.users()
    rig.cut_over()
    return rig, before


@main_versions
def test_users_in_a_file_keep_fence_and_marks_over_a_restart(server, tmp_path, version):
    rig, before = with_users_in_a_file(server, tmp_path, version)
    rig.source.restart()
    rig._clients.clear()
    assert marks.fenced(rig.engine_source()) == ["app", "default"]
    assert marks.is_moved(rig.engine_source(), 5)
    assert not changed(rig.cut_over())
    rig.returned()
    rig.source.restart()
    rig._clients.clear()
    assert rig.users() == before


@main_versions
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("fault", ["the server ends", "the save is lost", "the reply is lost"])
def test_users_in_a_file_are_saved_or_the_phase_fails(server, tmp_path, monkeypatch, version, nth, fault):
    """The nth change of users on the way back: nobody may be told that it is made, and find the fence again after a restart."""
    rig, before = with_users_in_a_file(server, tmp_path, version)
    run, batch, calls = Server.run, Server.batch, []

    def saves(self, *command):
        if command == ("ACL", "SAVE"):
            calls.append(command)
            if len(calls) == nth and fault == "the server ends":
                rig.source.kill()
            elif len(calls) == nth:
                raise Away("the connection was reset")
        return run(self, *command)

    def lost(self, commands):
        replies = batch(self, commands)
        if self.address == rig.engine_source().address and any(words[0] == "ACL" for words in commands):
            calls.append(commands)
            if len(calls) == nth:
                raise Away("the connection was reset")
        return replies

    with monkeypatch.context() as patched, pytest.raises(Away):
        patched.setattr(Server, *(("batch", lost) if fault == "the reply is lost" else ("run", saves)))
        rig.returned()
    if fault == "the server ends":
        rig.source.start()
        rig._clients.clear()
    rig.returned()
    rig.source.restart()
    rig._clients.clear()
    assert rig.users() == before and not marks.is_moved(rig.engine_source(), 5)


@main_versions
def test_what_was_written_after_a_way_back_is_not_emptied(split, version):
    """A restart takes the fence of an instance away, whose users come from a file that it may not write to."""
    rig = split(version)
    rig.old().mset({"a": 1, "b": 2})
    rig.copied()
    rig.cut_over()
    rig.returned()
    rig.old().delete("b")
    assert marks.fenced(rig.routes[0].open())
    rig.new().save()
    rig.target.restart()
    rig._clients.clear()
    rig.new().set("left behind", "x")
    before = whole(rig)
    for work in (rig.copied, rig.mirrored_and_cut_over):
        with pytest.raises(UntangleError, match=r"restarted since the way back.* 2 of its keys"):
            work()
        assert whole(rig) == before
    rig.new().flushdb()
    rig.copied()
    assert rig.new().get("a") == b"1" and rig.new().dbsize() == 1


@main_versions
def test_a_mirror_that_was_killed_is_no_alarm_for_good(split, version):
    """Its figures stay until somebody says that it is not wanted any more."""
    rig = split(version)
    rig.copied()
    figures = os.path.join(rig.state.directory, "metrics", "mirror.prom")
    os.mkdir(os.path.dirname(figures))
    routes = [{"purpose": rig.purpose, "database": rig.database, "target": rig.target.connection()}]
    options = {"source": rig.login, "routes": routes, "state_dir": rig.state.directory}
    for kind, gone in (("compare", False), ("stopped", True), ("cut_over", False), ("returned", True)):
        with open(figures, "w", encoding="utf-8"):
            pass
        perform(kind, options, "a test", rigs.silent)
        assert os.path.exists(figures) != gone, kind


@main_versions
def test_a_plan_that_names_another_place_is_refused(split, version):
    """The purpose serves elsewhere: neither is the empty instance filled, nor is it taken for the one that serves."""
    rig = split(version, databases=(5, 6))
    rig.old(5).set("a", 1)
    rig.copied(routes=rig.routes[:1])
    rig.cut_over(routes=rig.routes[:1], writers_stopped=True)
    wrong = [type(rig.routes[0])("db5", 5, rig.targets[6].connection())]
    for _ in range(2):
        for work in (rig.copied, rig.cut_over, rig.returned):
            with pytest.raises(UntangleError, match="has moved to %s, not to" % rig.targets[5].address):
                work(routes=wrong)
        # split.json says it as well
        rig.source.client().acl_deluser(marks.MOVED % 5)
    assert rig.new(6).dbsize() == 0 and rig.mark(6) is None


@main_versions
def test_the_first_to_mark_a_target_has_it(split, version):
    rig = split(version)
    rig.old().set("a", 1)
    target = Server(rig.target.connection())
    marks.write_target(target, {"state": "copying", "source": "elsewhere", "database": 1}, first=True)
    with pytest.raises(UntangleError, match="is being filled by somebody else"):
        marks.write_target(target, {"state": "copying"}, first=True)
    with pytest.raises(UntangleError, match="is marked as the target of database 1 of elsewhere"):
        rig.copied()
    assert rig.mark()["source"] == "elsewhere"


def test_a_target_without_functions_is_marked_too(split):
    rig = split("redis-6.0")
    dataset.fill(rig.old(), "redis-6.0", now_ms())
    assert rig.mark() is None
    rig.copied()
    assert rig.mark()["state"] == "copied" and not changed(rig.copied())
    rig.cut_over()
    assert rig.mark()["state"] == "serving" and not changed(rig.cut_over()) and not changed(rig.copied())
    rig.new().flushall()
    assert rig.mark()["state"] == "serving"
    rig.returned()
    assert rig.mark()["state"] == "returned" and rig.old().dbsize() == 0


# -- the fence ---------------------------------------------------------------------------------------------------------

USERS = {
    "app": ("on", ">x", "~*", "+@all"),
    "narrow": ("on", ">x", "~a*", "~b*", "+@read", "+select", "+ping", "+set", "+eval", "-get"),
    "open": ("on", "nopass", "~*", "+@all", "-@dangerous"),
    "reader": ("on", ">x", ">y", "~*", "+@read", "+select", "+ping"),
    "asleep": ("off", ">x", "~*", "+@all"),
}
MODERN = {
    "selected": ("on", ">x", "~*", "+@read", "+select", "+ping", "(~* +@write)", "(~k* +@scripting +set)"),
    "heard": ("on", ">x", "~*", "resetchannels", "&news:*", "+@all", "-function"),
    "keyed": ("on", ">x", "%R~r*", "%W~w*", "+@all"),
}


def make_users(server):
    users = {**USERS, **({} if server.version == "redis-6.0" else MODERN)}
    for name, rules in users.items():
        server.client().execute_command("ACL", "SETUSER", name, *rules)
    return users


@every_version
def test_a_fence_keeps_writes_out_and_leaves_no_trace(split, version):
    rig = split(version, to="redis-7.0")
    users = make_users(rig.source)
    fence = ["default", *[name for name in users if name != "asleep"]]
    rig.old().mset({"a": 1, "k": 1, "wk": 1})
    sha = rig.old().script_load("return redis.call('SET', KEYS[1], 'slipped')")
    if version != "redis-6.0":
        rig.old().function_load(
            "#!lua name=f\nredis.register_function('f', function(k) return redis.pcall('SET', k[1], 'slipped') end)"
        )
    admin = engine_user(rig)
    before = rig.users()
    offset = marks.put(admin, fence)
    marks.put(admin, fence)
    assert sorted(fence) == marks.fenced(admin) and offset <= admin.offset()

    for name in fence:
        # (the client's handshake is not the point here)
        client = rig.source.client(5, username=name, password="x", lib_name=None, lib_version=None)
        for command in (
            ("SET", "a", "slipped"), ("DEL", "k"), ("LPUSH", "l", 1), ("FLUSHDB",), ("FLUSHALL",), ("SWAPDB", 5, 6), ("MOVE", "k", 6),
            ("EVAL", "return redis.call('SET', KEYS[1], 'slipped')", 1, "k"),
            ("EVAL", "redis.pcall('SET', KEYS[1], 'slipped') return 'fine'", 1, "k"),
            ("EVALSHA", sha, 1, "k"), ("FCALL", "f", 1, "k"), ("RESTORE", "n", 0, "x"), ("SORT", "a", "STORE", "b"), ("COPY", "a", "b"),
            ("BLPOP", "list", 1), ("XADD", "s", "*", "a", 1), ("GETSET", "wk", "slipped"), ("RENAME", "k", "kk"),
        ):  # fmt: skip
            with pytest.raises(redis.ResponseError, match=r"(?i)permission|NOPERM|unknown command"):
                client.execute_command(*command)
        with contextlib.suppress(redis.ResponseError), client.pipeline(transaction=True) as pipe:
            pipe.set("a", "slipped").execute()
        assert client.ping()
    assert rig.source.client(5, username="reader", password="y").get("a") == b"1"
    assert rig.source.client(5, username="app", password="x").mget("a", "k", "wk") == [b"1", b"1", b"1"]
    assert rig.source.client(5, username="app", password="x").dbsize() == 3

    assert sorted(marks.lift(admin)) == sorted(fence)
    assert rig.users() == before
    assert marks.lift(admin) == []
    assert rig.source.client(5, username="app", password="x").set("a", 2)


def engine_user(rig):
    """A login that no fence touches, as the engine makes one."""
    return Server(marks.own_user(rig.engine_source(), "secret"), rig.database)


WAITING = (
    ("BLPOP", "queue", 20),
    ("XREAD", "BLOCK", 20000, "STREAMS", "stream", "$"),
    ("XREADGROUP", "GROUP", "g", "c", "BLOCK", 20000, "STREAMS", "stream", ">"),
)


@pytest.mark.parametrize("waiting", WAITING, ids=lambda words: words[0])
@every_version
def test_what_waits_is_cut_off_and_not_executed(split, version, waiting):
    rig = split(version, to="redis-7.0")
    rig.old().xgroup_create("stream", "g", mkstream=True)
    rig.source.client().execute_command("ACL", "SETUSER", "app", "on", ">x", "~*", "+@all")
    admin = engine_user(rig)
    outcome = []

    def wait():
        client = app(rig.source, 5)
        try:
            outcome.append(client.execute_command(*waiting))
        except redis.RedisError as exc:
            outcome.append(exc)

    thread = threading.Thread(target=wait)
    idle = rig.source.client(5, username="app", password="x", retry=None)
    idle.ping()
    thread.start()
    while not rig.source.client().info("clients")["blocked_clients"]:
        time.sleep(0.005)
    marks.put(admin, ["app"])
    # what the way back writes is nobody else's
    admin.run("RPUSH", "queue", "job")
    admin.run("XADD", "stream", "*", "f", "job")
    thread.join(10)
    assert (
        isinstance(outcome[0], redis.ConnectionError) or "NOPERM" in str(outcome[0]) or "permission" in str(outcome[0])
    )
    assert admin.run("LRANGE", "queue", 0, -1) == [b"job"]
    assert rig.old().xpending("stream", "g")["pending"] == 0
    with pytest.raises(redis.RedisError):
        idle.set("a", 1)
    assert not admin.run("EXISTS", "a")
    marks.lift(admin)
    assert rig.source.client(5, username="app", password="x").blpop("queue", 1) == (b"queue", b"job")


@main_versions
def test_who_is_fenced_and_who_cannot_be(split, version):
    rig = split(version)
    source = rig.engine_source()
    for name in ("app", "other", "both"):
        rig.source.client().execute_command("ACL", "SETUSER", name, "on", ">x", "~*", "+@all")
    rig.source.client().execute_command("ACL", "SETUSER", "asleep", "off", "+@all")
    rig.old().set("a", 1)
    # all that is in use moves: everybody
    assert marks.choose(source, {5}) == ["app", "both", "default", "other"]

    rig.source.client(6).set("a", 1)
    with pytest.raises(
        UntangleError, match=r"no client is connected to database 7.*while databases 5, 6 stay.*redis_split_fence"
    ):
        marks.choose(source, {7})
    rig._clients.clear()
    for client in list(rig.source._clients):
        client.close()
    app, other = (rig.source.client(db, username=name, password="x") for db, name in ((5, "app"), (6, "other")))
    assert app.ping() and other.ping()
    assert marks.choose(source, {5}) == ["app"]
    assert marks.choose(source, {5, 6}) == ["app", "both", "default", "other"]
    assert marks.choose(source, {5}, ["both"]) == ["both"]
    with pytest.raises(UntangleError, match=r"has no enabled user asleep, nobody. Correct redis_split_fence"):
        marks.choose(source, {5}, ["nobody", "asleep", "app"])

    both = [rig.source.client(db, username="both", password="x") for db in (5, 6)]
    assert all(client.ping() for client in both)
    with pytest.raises(
        UntangleError, match=r"cannot be fenced: these users also work on databases that stay: both \(database 6\)"
    ):
        marks.choose(source, {5})
    for client in both:
        client.close()
    default = rig.source.client(5)
    default.ping()
    with pytest.raises(UntangleError, match=r"cannot be fenced.*default \(databases 6 hold data\)"):
        marks.choose(source, {5})
    default.close()
    # an application that connects for every page is on database 0 before it says which one it wants
    with socket.create_connection((rig.source.host, rig.source.port)) as greeting:
        greeting.sendall(b"AUTH app x\r\n")
        assert greeting.recv(100) == b"+OK\r\n"
        assert marks.choose(source, {5}) == ["app"]
        greeting.sendall(b"GET k\r\n")
        greeting.recv(100)
        rig.source.client(0).set("stays", 1)
        with pytest.raises(UntangleError, match=r"also work on databases that stay: app \(database 0\)"):
            marks.choose(source, {5})
    rig.source.client(0).flushdb()
    # what has moved already holds nobody back
    marks.set_moved(source, 6, "db6", "elsewhere:1", ["other"])
    assert marks.choose(source, {5}) == ["app", "both", "default", "other"]


@main_versions
def test_a_fence_that_a_moved_database_needs_is_not_lifted(split, version):
    rig = split(version)
    admin = engine_user(rig)
    for name in ("app", "other"):
        admin.run("ACL", "SETUSER", name, "on", ">x", "~*", "+@all")
    marks.put(admin, ["app", "other"])
    marks.set_moved(admin, 6, "db6", "127.0.0.1:1", ["other"])
    assert marks.moved(admin) == {6: {"other"}} and marks.is_moved(admin, 6) == "db6@127.0.0.1:1"
    assert marks.lift(admin, ["app", "other"]) == ["app"]
    assert marks.lift(admin) == [] and marks.fenced(admin) == ["other"]
    marks.clear_moved(admin, 6)
    assert marks.lift(admin) == ["other"]
