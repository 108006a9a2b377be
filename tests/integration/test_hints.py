# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The mirror of a source that has no PSYNC for us: keyspace notifications as hints."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mirrors
import pytest
import rig as rigs
import writers as writing

import servers
from ansible_collections.njoy.untangle.plugins.module_utils.engine.mirror import Mirror
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

pytestmark = pytest.mark.servers
pool, split, written_to, live = rigs.pool, rigs.split, writing.written_to, mirrors.live
each_version = pytest.mark.parametrize("version", servers.MAIN)

#: What a managed service takes away.
FORBIDDEN = ["PSYNC", "SYNC", "REPLCONF", "CONFIG", "DEBUG", "EVAL", "EVALSHA", "SCRIPT"]


@pytest.fixture
def managed(pool: rigs.Pool, tmp_path: Path) -> Iterator[Callable[..., rigs.Rig]]:
    made: list[servers.Server] = []

    def make(version: str, events: str = "AE") -> rigs.Rig:
        source = servers.Server.run(
            version, rename_command=[f'{name} ""' for name in FORBIDDEN], notify_keyspace_events=events or '""'
        )
        made.append(source)
        return rigs.Rig(source, {5: pool.get(version, 1)}, tmp_path)

    yield make
    for source in made:
        source.close()


@each_version
def test_in_step_where_nearly_everything_is_forbidden(managed, version):
    rig = managed(version)
    seed = random.randrange(1 << 30)
    print("seed", seed)
    stop = threading.Event()

    def write() -> None:
        client, chance = rig.source.client(5), random.Random(seed)
        while not stop.is_set():
            mirrors.program(client, chance, 5)

    rig.old().mset({f"still:{i}": i for i in range(5000)})
    rig.old().xgroup_create("silent", "group", mkstream=True)
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        with mirrors.following(rig) as mirror:
            assert mirror.facts()["feed"] == "notifications" and "REPLCONF" in mirror.facts()["feed_because"]
            end = time.monotonic() + 3
            while time.monotonic() < end:
                mirror.step()
            stop.set()
            writer.join()
            # neither tells of anything
            rig.old().xadd("silent", {"a": 1})
            mirror.catch_up(0)
            rig.old().xreadgroup("group", "consumer", {"silent": ">"})
            mirrors.in_step(rig, mirror)
            assert rig.new().xpending("silent", "group")["pending"] == 1
    finally:
        stop.set()


@each_version
def test_what_sends_no_hint_starts_over(managed, version):
    rig = managed(version)
    rig.old().mset({f"k{i}": i for i in range(3000)})
    with mirrors.following(rig) as mirror:
        mirrors.in_step(rig, mirror)
        rig.old().flushdb()
        rig.old().set("after", 1)
        with pytest.raises(UntangleError, match="FLUSHDB"):
            mirror.catch_up(0, steadily=True)
        mirrors.in_step(rig, mirror)
        assert rig.new().dbsize() == 1
        rig.source.client(6).set("other", 1)
        rig.old().swapdb(5, 6)
        with pytest.raises(UntangleError, match="SWAPDB"):
            mirror.catch_up(0, steadily=True)
        mirrors.in_step(rig, mirror)
        assert rig.new().keys() == [b"other"]


@each_version
def test_a_connection_that_was_cut_starts_over(managed, version):
    rig = managed(version)
    rig.old().set("a", 1)
    with mirrors.following(rig) as mirror:
        mirrors.in_step(rig, mirror)
        rig.source.client().execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        # while nobody listens
        rig.old().delete("a")
        rig.old().set("b", 1)
        mirrors.in_step(rig, mirror)
        assert mirror.facts()["restarts"] == 1 and rig.new().keys() == [b"b"]


def test_notifications_that_are_off_are_refused(managed, split):
    rig = managed("redis-7.0", events="")
    with mirrors.following(rig) as mirror:
        for i in range(200):
            rig.old().set(f"k{i}", i)
        with pytest.raises(UntangleError, match=r"told of no key.*Set notify-keyspace-events to AE"):
            mirrors.until_raised(mirror)
    rig = split("redis-7.0")
    rig.source.client().config_set("notify-keyspace-events", "Ex")
    with pytest.raises(UntangleError, match="its notify-keyspace-events is 'xE'"):
        Mirror(rig.login, rig.routes, feed="notifications").start()
    rig.source.client().config_set("notify-keyspace-events", "")


@each_version
def test_nothing_is_lost_by_hints(written_to, live, version):
    with written_to(version) as (rig, writers):
        rig.source.client().config_set("notify-keyspace-events", "AE")
        one = live(rig)
        one.call("mirrored", feed="notifications")
        time.sleep(0.5)
        done = one.call("cut_over")
        print("%s: writes were refused for %.1f ms" % (version, done["write_refused_seconds"] * 1000))
        writing.switch(rig, writers, True)
        rig.source.client().config_set("notify-keyspace-events", "")
    for writer, database in zip(writers, (5, 5, 10, 10)):
        writer.check(rig.new(database))


@pytest.mark.parametrize("pause", [0, 5])
@each_version
def test_a_user_who_may_do_little_cuts_over_and_returns(written_to, live, version, pause):
    """No PSYNC, no CONFIG, no scripts, no ACL: by hints, without users of our own, without marks and fences at the source."""
    with written_to(version) as (rig, writers):
        rig.source.client().config_set("notify-keyspace-events", "AE")
        forbidden = ["-psync", "-sync", "-replconf", "-config", "-debug", "-acl", "-function", "-@scripting"]
        rig.source.client().execute_command("ACL", "SETUSER", "restricted", "on", ">r", "~*", "&*", "+@all", *forbidden)
        one = live(rig)
        one.options["source"] = {**rig.login, "username": "restricted", "password": "r"}
        users = rig.users()
        one.call("mirrored")
        with pytest.raises(UntangleError, match=r"may not run ACL there, so nobody can be fenced\. Grant \+acl"):
            one.call("cut_over")
        for writer in writers:
            # nobody keeps it away from the old address
            writer.gives_up = True
        if pause:
            done = one.call("cut_over", pause_max_seconds=pause)
        else:
            for writer in writers:
                writer.pause()
            done = one.call("cut_over", writers_stopped=True)
        assert done["changed"] and done["fenced"] == []
        writing.switch(rig, writers, True)
        assert not one.call("mirrored")["changed"]
        time.sleep(0.5)
        one.call("returned")
        writing.switch(rig, writers, False)
        assert rig.users() == users
    for writer, database in zip(writers, (5, 5, 10, 10)):
        writer.check(rig.old(database))
    rig.source.client().config_set("notify-keyspace-events", "")


def test_which_feed_is_told(split: Any) -> None:
    rig = split("redis-7.0")
    with mirrors.following(rig) as mirror:
        assert (mirror.facts()["feed"], mirror.facts()["feed_because"]) == ("replication", None)
