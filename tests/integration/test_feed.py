# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The change feed where it is hard: cut off anywhere, attached beside a BGSAVE, read on while a target takes nothing."""

from __future__ import annotations

import os
import signal
import time

import pytest
import redis
import rig as rigs
from mirrors import following, in_step, until_it_holds
from rig import busy

import servers
from ansible_collections.njoy.untangle.plugins.module_utils.engine.lane import CHECK_SECONDS

pytestmark = pytest.mark.servers
pool, split = rigs.pool, rigs.split
each_version = pytest.mark.parametrize("version", servers.MAIN)


@each_version
def test_cut_off_anywhere_it_goes_on_there(split, version):
    """In the middle of a command, of a transaction, with another database selected: nothing is left out and nothing done twice."""
    rig = split(version, databases=(5, 10))
    # what is written until the feed is there again has to be kept
    rig.source.client().config_set("repl-backlog-size", 256 << 20)
    with following(rig) as mirror:
        in_step(rig, mirror)
        writers = {number: rig.source.client(number) for number in rig.targets}

        def write(number: int) -> None:
            client = writers[(5, 10)[number % 2]]
            with client.pipeline(transaction=True) as pipe:
                pipe.incr("counter").rpush("list", number).set("large", b"%d" % number * 40_000).execute()
            writers[10].append("text", "x")

        killed = 0
        with busy(write):
            end = time.monotonic() + 3
            while time.monotonic() < end:
                cut = time.monotonic() + 0.05
                while time.monotonic() < cut:
                    mirror.step(0.001)
                killed += rig.source.client().execute_command("CLIENT", "KILL", "TYPE", "replica")
        assert until_it_holds(mirror, lambda: mirror.away is None and mirror.in_step())
        in_step(rig, mirror)
        facts = mirror.facts()
        # each time it went on where it was
        assert killed >= 2 and facts["restarts"] >= 2
        assert {one["starts"] for one in facts["purposes"].values()} == {1}
        for number in rig.targets:
            assert rig.new(number).get("counter") == rig.old(number).get("counter")
            assert rig.new(number).lrange("list", 0, -1) == rig.old(number).lrange("list", 0, -1)


def test_attached_beside_a_bgsave_it_waits(split):
    rig = split()
    with rig.old().pipeline(transaction=False) as pipe:
        for number in range(1000):
            pipe.set(f"k{number}", number)
        pipe.execute()
    admin, waited = rig.source.client(), list[float]()
    admin.config_set("rdb-key-save-delay", 3000)
    try:
        admin.bgsave()
        assert admin.info("persistence")["rdb_bgsave_in_progress"]
        began = time.monotonic()
        with following(rig, wait=waited.append) as mirror:
            assert time.monotonic() - began > 1 and len(waited) >= 1
            in_step(rig, mirror)
    finally:
        admin.config_set("rdb-key-save-delay", 0)


def test_a_target_that_takes_nothing_holds_nobody_up(split):
    """Its queue is bounded, the feed is read on, the other route is in step; and when it takes again, it gets all it missed."""
    rig = split(databases=(5, 10))
    limit = 1 << 20
    with following(rig, queue_bytes=limit) as mirror:
        in_step(rig, mirror)
        stuck, other = mirror.lanes
        os.kill(rig.targets[5].pid, signal.SIGSTOP)
        try:
            for number in range(40):
                with rig.old(5).pipeline(transaction=False) as pipe:
                    for one in range(500):
                        pipe.set(f"k{number}-{one}", os.urandom(1000))
                    pipe.execute()
                rig.old(10).incr("counter")
                mirror.step(0.001)
            goal, slowest = rig.engine_source().offset(), 0.0
            until_due = time.monotonic() + 2 * CHECK_SECONDS
            while time.monotonic() < until_due:
                began = time.monotonic()
                mirror.step(0.001)
                slowest = max(slowest, time.monotonic() - began)
            # nor does the look whether it is still what it was
            assert slowest < 10
            assert until_it_holds(mirror, lambda: mirror.feed.position >= goal and other.applied >= goal)
            assert rig.new(10).get("counter") == b"40"
            # what the system's buffers hold is not counted, what is queued behind them is
            assert stuck.link.queued < limit + (1 << 20) and len(stuck.dirty) > 10_000
            replica = next(one for one in rig.source.client().client_list() if "S" in one["flags"])
            assert int(replica["omem"]) < 1 << 20
        finally:
            os.kill(rig.targets[5].pid, signal.SIGCONT)
        in_step(rig, mirror)
        assert rig.new(5).dbsize() == 20_000 and not stuck.dirty
        assert {one["starts"] for one in mirror.facts()["purposes"].values()} == {1}


def test_what_is_published_is_not_passed_on(split):
    """Channels do not belong to databases: subscribers of an instance would hear what was meant for others."""
    rig = split()
    with following(rig) as mirror:
        in_step(rig, mirror)
        with rig.new().pubsub(ignore_subscribe_messages=True) as listener:
            listener.subscribe("news")
            listener.get_message(timeout=0.5)
            assert rig.source.client(5).publish("news", "of db 5") == 0
            with rig.source.client(5).pipeline(transaction=True) as pipe:
                pipe.set("k", 1).publish("news", "in a transaction").execute()
            in_step(rig, mirror)
            assert rig.new().get("k") == b"1"
            assert listener.get_message(timeout=0.5) is None
            with pytest.raises(redis.ReadOnlyError):
                rig.new().set("k", 2)
