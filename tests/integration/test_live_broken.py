# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The live split where servers, engines and their code go away: killed at each step, failed over, upgraded."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mirrors
import pytest
import redis
import rig as rigs
import writers as writing
from faults.proxy import Proxy
from mirrors import following, in_step, until
from writers import add_user, switch

import ansible_collections.njoy.untangle as collection
import servers
from ansible_collections.njoy.untangle.plugins.module_utils.engine import marks
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

pytestmark = pytest.mark.servers
pool, split, written_to, live = rigs.pool, rigs.split, writing.written_to, mirrors.live
each_version = pytest.mark.parametrize("version", servers.MAIN)


STEPS = [
    ("marks.put", 1, False),
    ("marks.put", 1, True),
    ("live._commit", 1, False),
    ("link.Link.promote", 1, False),
    ("link.Link.promote", 1, True),
    ("link.Link.promote", 2, True),
    ("marks.set_moved", 1, True),
    ("marks.set_moved", 2, True),
]


@pytest.mark.parametrize("forward", [True, False], ids=["forward", "back"])
@pytest.mark.parametrize(
    "step", STEPS, ids=lambda step: "%s-%d-%s" % (step[0], step[1], "after" if step[2] else "before")
)
def test_killed_at_each_step_of_the_cutover(written_to, live, step, forward):
    """Run again, it goes forward or back; whatever was acknowledged is where it ends."""
    path, nth, after = step
    with written_to("redis-7.0") as (rig, writers):
        rigs.killed_apart(rig, "mirrored_and_cut_over", path, nth, after)
        split = live(rig)
        if forward:
            try:
                split.call("cut_over")
            except UntangleError as exc:
                assert path == "marks.put" and not after and "Run sync first" in str(exc)
                split.call("mirrored")
                split.call("cut_over")
            assert set(rig.standings()) == {"cut_over"}
            switch(rig, writers, True)
        else:
            split.call("stopped")
            split.call("returned")
            assert not set(rig.standings()) & {"cut_over"}
            assert marks.fenced(rig.engine_source()) == []
            time.sleep(0.3)
    for writer, database in zip(writers, (5, 5, 10, 10)):
        writer.check(rig.new(database) if forward else rig.old(database))


class Probe(threading.Thread):
    """Asks both sides in turn whether they take a write of an application. Once the new one has, the old one never does again."""

    def __init__(self, rig: Any) -> None:
        super().__init__(daemon=True)
        self.sides = {"old": (rig.source, 5), "new": (rig.targets[5], 0)}
        self.rig, self.taken, self.stop = rig, "", False

    def run(self) -> None:
        # from the moment on in which it is filled
        until(
            lambda: (
                self.rig.new(5).info("replication")["role"] == "slave"
                or (self.rig.mark(5) or {}).get("state") == "serving"
            )
        )
        while not self.stop:
            for side, (server, database) in self.sides.items():
                with contextlib.suppress(redis.RedisError, OSError), writing.app(server, database) as client:
                    client.set("probe", 1)
                    self.taken += side[0]
            time.sleep(0.001)

    def check(self) -> None:
        self.stop = True
        self.join(20)
        assert re.fullmatch("o*n+", self.taken), self.taken


PAUSED = [
    ("gate.Pause.close", 1, True),
    ("live._commit", 1, False),
    ("gate.Pause.leave", 1, False),
    ("gate.Pause.leave", 1, True),
]


# An engine that is killed behind its commit lets no pause go: whoever waits there writes to the old database when it has passed.
KILLED = [
    *((victim, step, 0) for step in STEPS for victim in ("source", "target")),
    *((victim, step, 5) for step in PAUSED for victim in ("source", "target")),
    *(("engine", step, 5) for step in (*PAUSED[:2], PAUSED[3])),
]


@pytest.mark.parametrize(
    ("victim", "step", "pause"), KILLED, ids=["%s-%s-%d-%s-%d" % (one, *step, pause) for one, step, pause in KILLED]
)
def test_a_server_killed_at_each_step_of_the_cutover(live, tmp_path, victim, step, pause):
    """It comes back, and the cutover is finished or made again; at no moment do both sides take writes."""
    made, writers, probes = [], [], []
    try:
        for _number in range(3):
            # what was acknowledged outlives a kill; once a second one sees that its file has been written anew
            server = servers.Server(
                "redis-7.0", appendonly="yes", appendfsync="no", aclfile="users.acl", repl_diskless_sync_delay=0, hz=1
            )
            users = ["user default on nopass ~* &* +@all", "user app on >x ~* &* +@all"]
            (server.directory / "users.acl").write_text("\n".join(users) + "\n")
            made.append(server.start())
        rig = rigs.Rig(made[0], {5: made[1], 10: made[2]}, tmp_path)
        rig.source.client(5).mset({f"k{number}": number for number in range(3000)})
        rig.source.client(0).set("stays", 1)
        rig.source.forget_clients()
        writers += [writing.Writer("w%d" % i, (rig.source, database)) for i, database in enumerate((5, 5, 10, 10))]
        # one user for a database that moves and one that stays cannot be fenced
        stays = writing.app(rig.source, 0) if pause else None
        assert stays is None or stays.incr("n")
        probe = Probe(rig)
        probes.append(probe)
        for writer in writers:
            writer.gives_up = bool(pause)
            writer.start()
        probe.start()
        killed = {"source": rig.source, "target": rig.targets[5], "engine": None}[victim]
        how = {"pause_max_seconds": pause} if pause else {}
        process = rigs.apart(rig, "mirrored_and_cut_over", *step, killed.pid if killed else 0, how)
        try:
            if killed:
                assert until(lambda: not killed.running, 15), (
                    process.kill(),
                    process.communicate(),
                    [path.read_text() for path in Path(rig.state.directory).glob("*answer*")],
                )
                time.sleep(0.3)
                killed.start()
                time.sleep(0.5)
        finally:
            process.kill() if killed else None
            said = process.communicate(timeout=60)[1]
        split = live(rig)
        if not set(rig.standings()) & {"cut_over"}:
            for writer, database in zip(writers, (5, 5, 10, 10)):
                writer.place = writer.place or (rig.source, database)
        try:
            split.call("cut_over", **how)
        except UntangleError as exc:
            assert "Run sync first" in str(exc), (exc, said)
            split.call("mirrored")
            split.call("cut_over", **how)
        assert set(rig.standings()) == {"cut_over"}
        switch(rig, writers, True)
        time.sleep(0.3)
        for writer in writers:
            writer.stop = True
            writer.join(20)
        if victim == "source" and not pause:
            probe.check()
        for writer, database in zip(writers, (5, 5, 10, 10)):
            writer.check(rig.new(database))
            assert writer.served[rig.targets[database].port]
    finally:
        for thread in (*writers, *probes):
            thread.stop = True
        for server in made:
            server.close()


@each_version
def test_servers_that_go_away_are_waited_for(written_to, live, version):
    """A connection that is cut goes on where it was; a target that is started anew is filled again."""
    with written_to(version) as (rig, writers):
        split = live(rig)
        split.call("mirrored")
        rig.source.client().execute_command("CLIENT", "KILL", "TYPE", "replica")
        assert until(lambda: split.job()["progress"]["mirror"]["restarts"] == 1)
        os.kill(rig.source.pid, signal.SIGSTOP)
        time.sleep(1)
        os.kill(rig.source.pid, signal.SIGCONT)
        rig.targets[5].kill()
        assert until(lambda: split.job()["progress"]["mirror"]["purposes"]["db5"]["phase"] == "waiting for its target")
        rig.targets[5].start()
        assert until(lambda: split.job()["progress"]["mirror"]["purposes"]["db5"]["phase"] == "following")
        rig.targets[10].client().execute_command("REPLICAOF", "NO", "ONE")
        assert until(lambda: split.job()["progress"]["mirror"]["purposes"]["db10"]["starts"] == 2)
        assert until(lambda: rig.standings() == ["mirrored", "mirrored"])
        add_user(rig.targets[5], "app")
        split.call("cut_over")
        switch(rig, writers, True)
    for writer, database in zip(writers, (5, 5, 10, 10)):
        writer.check(rig.new(database))


FAILOVERS = ("goes_on", "starts_over", "lost_writes")


@pytest.mark.parametrize("how", FAILOVERS)
@each_version
def test_a_failover_of_the_source(pool, split, version, how):
    """The address of the source names another server, with a history of its own; it goes on there, or starts over and says so."""
    rig, replica = split(version), pool.get(version, 9)
    with contextlib.closing(Proxy(rig.source)) as proxy:
        rig.login = {**rig.login, "port": proxy.port}
        old, new = rig.source.client(5), replica.client(5)
        new.execute_command("REPLICAOF", rig.source.host, rig.source.port)
        assert until(lambda: new.info("replication")["master_link_status"] == "up")
        old.mset({f"k{number}": number for number in range(3000)})
        with following(rig) as mirror:
            in_step(rig, mirror)
            replid = mirror.facts()["replid"]
            assert until(lambda: new.dbsize() == 3000)
            if how == "lost_writes":
                new.execute_command("REPLICAOF", "NO", "ONE")
            old.mset({"last": 1, "k0": "last"})
            mirror.catch_up(rig.engine_source().offset())
            assert rig.new().get("last") == b"1"
            if how != "lost_writes":
                assert until(lambda: new.get("last") == b"1")
            rig.source.kill()
            new.execute_command("REPLICAOF", "NO", "ONE")
            if how == "starts_over":
                new.execute_command("DEBUG", "CHANGE-REPL-ID")
            new.mset({"after": 1, "k1": "after"})
            new.delete("k2")
            proxy.server = replica
            proxy.reset()
            assert mirrors.until_it_holds(mirror, lambda: mirror.facts()["replid"] != replid and mirror.in_step())
            in_step(rig, mirror)
            facts = mirror.facts()
            assert facts["restarts"] == 1
            assert facts["purposes"]["db5"]["starts"] == (1 if how == "goes_on" else 2)
            # what the new master has lost is lost; a target that kept it would be nobody's copy
            assert rig.new().mget("last", "k0", "k1", "k2", "after") == (
                [None, b"0", b"after", None, b"1"] if how == "lost_writes" else [b"1", b"last", b"after", None, b"1"]
            )


def test_a_mirror_outlives_an_upgrade_of_the_collection(written_to, live, tmp_path):
    """Its job keeps the code that it was started with, whatever becomes of that; a later release finds it and cuts over."""
    here, older = Path(collection.__path__[0]), tmp_path / "older"
    there = older / "ansible_collections" / "njoy" / "untangle"
    shutil.copytree(here / "plugins" / "module_utils", there / "plugins" / "module_utils")
    program = (
        "import json, sys; from ansible_collections.njoy.untangle.plugins.module_utils.engine import jobs;"
        "jobs.call({'by': 'an older release'}, 'mirrored', json.load(sys.stdin), [])"
    )
    with written_to("redis-7.0") as (rig, writers):
        split = live(rig)
        subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps({**split.options, "an_option_of": "its own"}),
            env={**os.environ, "PYTHONPATH": str(older)},
            text=True,
            check=True,
        )
        job = split.job()
        assert str(older) in Path("/proc/%d/environ" % job["pid"]).read_text()
        shutil.rmtree(older)
        assert not split.call("mirrored")["changed"]
        assert split.job()["pid"] == job["pid"] and job["by"] == "an older release"
        assert split.call("cut_over")["changed"]
        switch(rig, writers, True)
        time.sleep(0.5)
        assert split.call("returned")["changed"]
        switch(rig, writers, False)
    for writer, database in zip(writers, (5, 5, 10, 10)):
        writer.check(rig.old(database))
