# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The live split as jobs make it: a mirror that goes on by itself, a cutover in its process, and the way back."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import rig as rigs
import writers as writing
from writers import switch

import servers
from ansible_collections.njoy.untangle.plugins.module_utils.engine import jobs, marks
from ansible_collections.njoy.untangle.plugins.module_utils.engine.server import Server
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

pytestmark = pytest.mark.servers
pool, split, written_to = rigs.pool, rigs.split, writing.written_to
each_version = pytest.mark.parametrize("version", servers.MAIN)


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


@each_version
def test_nothing_is_lost_and_writers_wait_for_milliseconds(written_to, live, version):
    with written_to(version) as (rig, writers):
        split = live(rig)
        assert split.call("mirrored")["changed"]
        assert {one["state"] for one in split.call("mirrored")["purposes"].values()} == {"mirrored"}
        assert not split.call("mirrored")["changed"]
        assert rig.standing() == "mirrored"
        time.sleep(0.5)
        done = split.call("cut_over")
        assert done["fenced"] == ["app"]
        print("%s: writes were refused for %.1f ms" % (version, done["write_refused_seconds"] * 1000))
        switch(rig, writers, True)
        assert rig.standing() == "cut_over"
        time.sleep(0.5)
        # again, with new writes on the targets
        assert not split.call("mirrored")["changed"]
        assert not split.call("cut_over")["changed"]
        split.call("returned")
        switch(rig, writers, False)
    for writer, database in zip(writers, (5, 5, 10, 10)):
        writer.check(rig.old(database))
        assert set(writer.served) == {rig.source.port, rig.targets[database].port}


def test_a_mirror_that_is_killed_starts_over(written_to, live):
    with written_to("redis-7.0") as (rig, writers):
        split = live(rig)
        split.call("mirrored")
        os.kill(split.job()["pid"], signal.SIGKILL)
        # its targets wait for it, and nobody may cut over
        with pytest.raises(redis.ReadOnlyError):
            rig.new(5).set("x", 1)
        while split.job():
            time.sleep(0.01)
        with pytest.raises(UntangleError, match=r"not in step.*Run sync first"):
            split.call("cut_over")
        split.call("mirrored")
        split.call("cut_over")
        switch(rig, writers, True)
    for writer, database in zip(writers, (5, 5, 10, 10)):
        writer.check(rig.new(database))


def test_a_mirror_that_is_stopped_lets_its_targets_go(written_to, live):
    with written_to("redis-7.0") as (rig, _writers):
        split = live(rig)
        split.call("mirrored")
        split.stop()
        assert split.job() is None
        assert Server(rig.target.connection()).info("replication")["role"] == "master"
        assert rig.standing() == "copying"
        # another strategy may take over
        rig.copied()
        assert rig.standing() == "copied"


def test_a_cutover_that_cannot_be_made_lifts_its_fence_and_the_mirror_goes_on(written_to, live):
    with written_to("redis-7.0") as (rig, writers):
        split = live(rig)
        split.call("mirrored")
        # Keys that only the target holds: the counts will never be equal. Only the engine could write them, so it is its link.
        Server(rig.source.connection()).run("SELECT", 5)
        rig.targets[10].client().config_set("replica-read-only", "no")
        rig.targets[10].client().set("stranger", "1")
        with pytest.raises(UntangleError, match=r"holds .* keys"):
            split.call("cut_over")
        assert marks.fenced(rig.engine_source()) == []
        rig.targets[10].client().delete("stranger")
        rig.targets[10].client().config_set("replica-read-only", "yes")
        assert split.call("cut_over")["changed"]
        switch(rig, writers, True)
    for writer, database in zip(writers, (5, 5, 10, 10)):
        writer.check(rig.new(database))


def test_a_second_engine_is_refused(written_to, live, tmp_path):
    with written_to("redis-7.0") as (rig, _writers):
        live(rig).call("mirrored")
        other = live(rig)
        other.options["state_dir"] = str(tmp_path / "elsewhere")
        with pytest.raises(UntangleError, match="is being filled by the engine at"):
            other.call("mirrored")
