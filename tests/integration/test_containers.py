# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Instances in containers: the live split onto a network of the user's, and what happens to containers in their life."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from engine import engine_of_ones_own
from machine import docker, eventually, module, needs_docker, network
from playbook_site import PROFILES, Pusher, Site, differs, needs

pytestmark = [*needs, needs_docker]


@contextlib.contextmanager
def site_in_containers(**variables: Any) -> Iterator[Site]:
    site = Site(
        redis_split_backend="compose", redis_split_image="redis:7.0", redis_split_strategy="live", **variables
    )  # fmt: skip
    try:
        yield site
    finally:
        site.close()


def facts(site: Site, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", f"untangle-{site.names[kind]}"))[0]
    return found


def compose(site: Site, kind: str, *words: str) -> None:
    home = site.state / "instances" / site.names[kind]
    subprocess.run(["docker", "compose", *words], cwd=home, check=True, capture_output=True)


def test_the_live_split_on_a_network() -> None:
    """Nothing is published; containers go down, come up and are killed under the mirror, and after the cutover too."""
    with network() as (name, begin), site_in_containers(redis_split_network=name) as site:
        purposes = site.variables["redis_split_purposes"]
        for number, purpose in enumerate(purposes, 11):
            purpose["address"] = f"{begin}.{number}"
        stranger = f"untangle-stranger-{begin}"
        docker("run", "-d", "--name", stranger, "--network", name, "--ip", f"{begin}.11", "redis:7.0")
        purposes[1]["address"], purposes[2]["address"] = "127.0.0.1", f"{begin}.255"
        try:
            site.play("provision", ok=False).says(
                f"{stranger} has the address {begin}.11",
                "127.0.0.1 is no address for a container on the network",
                f"{begin}.255 is no address for a container on the network",
                "Nothing was changed",
            )
        finally:
            docker("rm", "-fv", stranger)
        purposes[1]["address"], purposes[2]["address"] = f"{begin}.12", f"{begin}.13"

        site.fill()
        site.play("provision")
        for kind in PROFILES:
            found = facts(site, kind)
            assert not found["HostConfig"]["PortBindings"] and set(found["NetworkSettings"]["Networks"]) == {name}
        marks = module("container_hardening_info", project=f"untangle-{site.names['cache']}")
        assert marks["score"] == marks["out_of"]
        site.play("sync")
        writer = Pusher(site)
        # An application in a container comes by name.
        reached = docker(
            "run", "--rm", "--network", name, "redis:7.0", "redis-cli", "-h", f"untangle-{site.names['cache']}", "-p",
            str(site.ports["cache"]), "ping",
        )  # fmt: skip
        assert "NOAUTH" in reached
        compose(site, "cache", "down")
        os.kill(facts(site, "pipeline")["State"]["Pid"], signal.SIGKILL)
        time.sleep(2)
        compose(site, "cache", "up", "--detach", "--wait")
        eventually(lambda: facts(site, "pipeline")["State"]["Running"])
        site.play("cutover")
        writer.end()
        assert site.states() == {"cut_over"}
        size = int(docker("image", "inspect", "--format", "{{.Size}}", "redis:7.0")) / 1e6
        assert f"Images: redis:7.0 of {size:.0f} MB." in (site.state / "report.html").read_text()

        # what was acknowledged is there, when each write goes to the disk (a second later otherwise: see the power cut below)
        queue = site.instance("pipeline")
        queue.config_set("appendfsync", "always")
        whole, before = site.target_data(), facts(site, "pipeline")["State"]["Pid"]
        for number in range(200):
            queue.rpush("always", number)
        os.kill(before, signal.SIGKILL)
        eventually(
            lambda: facts(site, "pipeline")["State"]["Pid"] not in (0, before) and site.instance("pipeline").ping(), 30
        )
        assert queue.lrange("always", 0, -1) == [b"%d" % number for number in range(200)]
        queue.delete("always")
        assert differs_of("pipeline", whole["pipeline"], site) == {}
        compose(site, "sessions", "down")
        compose(site, "sessions", "up", "--detach", "--wait")
        assert differs_of("sessions", whole["sessions"], site) == {}

        # An upgrade takes the data along; back the older server would have to read what the newer one has saved.
        site.variables["redis_split_image"] = "redis:8.0"
        site.play("provision", "--check").says("would be")
        assert queue.info("server")["redis_version"].startswith("7.0")
        kept = {kind: site.target_data()[kind] for kind in ("pipeline", "sessions")}
        site.play("provision")
        for kind in PROFILES:
            assert site.instance(kind).info("server")["redis_version"].startswith("8.0")
            # what an image brings is not loaded unasked (what a server is built with has no path)
            assert [one for one in site.instance(kind).module_list() if one[b"path"]] == []
        for kind, data in kept.items():
            assert differs_of(kind, data, site) == {}
        queue.bgrewriteaof()
        eventually(lambda: not queue.info("persistence")["aof_rewrite_in_progress"])
        site.variables["redis_split_image"] = "redis:7.0"
        site.play("provision", ok=False).says("RDB format version", "was put back and serves")
        assert queue.info("server")["redis_version"].startswith("8.0")
        for kind, data in kept.items():
            assert differs_of(kind, data, site) == {}
        site.variables["redis_split_image"] = "redis:8.0"

        # A cache that was made anew has lost what it took since the cutover, and nobody goes back over that unasked.
        site.play("rollback", ok=False).says("came back empty", "redis_split_accept_loss")
        data = site.target_data()
        site.play("rollback", "-e", json.dumps({"redis_split_accept_loss": [site.names["cache"]]}))
        assert differs({**data, "cache": site.source_data()["cache"]}, site.source_data()) == {}


def differs_of(kind: str, data: dict[str, Any], site: Site) -> dict[str, Any]:
    now = site.target_data()
    return differs({**now, kind: data}, now)


def test_a_host_that_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The power of the instances' host is cut, under the mirror and after the cutover: an engine of its own, and all that it runs.

    The instances are on a network of the user's, with another container that takes what address it gets and may be there first.
    """
    with engine_of_ones_own("redis:7.0") as engine, site_in_containers(redis_split_network="shop") as site:
        monkeypatch.setenv("DOCKER_HOST", engine.socket)
        begin = engine.network("shop")
        engine.docker(
            "run", "--detach", "--restart=always", "--network=shop", "redis:7.0", "redis-server", "--save", ""
        )
        site.source.config["bind"] = f"127.0.0.1 {engine.here}"
        site.source.restart()
        site.variables["redis_split_source"]["host"] = engine.here
        for number, purpose in enumerate(site.variables["redis_split_purposes"], 2):
            purpose["address"] = f"{begin}.{number}"

        def play(phase: str, *words: str) -> None:
            site.play(phase, *words, inside=engine.inside)

        def serve(kind: str) -> bool:
            return bool(site.instance(kind).ping())

        site.fill()
        play("provision")
        play("sync")
        writer = Pusher(site)
        engine.cut_power()
        engine.start()
        for kind in PROFILES:
            eventually(lambda kind=kind: serve(kind), 30)  # type: ignore[misc]
        play("cutover")
        writer.end()
        queue = site.instance("pipeline")
        queue.rpush("after", *range(1000))
        # with an append-only file nothing that is older than a second is lost
        time.sleep(1.5)
        whole = site.target_data()
        engine.cut_power()
        engine.start()
        for kind in PROFILES:
            eventually(lambda kind=kind: serve(kind), 30)  # type: ignore[misc]
        for kind in ("pipeline", "sessions"):
            assert differs_of(kind, whole[kind], site) == {}
        play("rollback", "-e", json.dumps({"redis_split_accept_loss": [site.names["cache"]]}))
        back = site.source_data()
        assert differs({**whole, "cache": back["cache"]}, back) == {}


CHANGE_EVERY_PAGE = """
for number = ARGV[1], ARGV[2] do
    for offset = 0, 15999, 4096 do redis.call('SETRANGE', 'job:' .. number, offset, 'changed') end
end
"""


def test_a_fork_at_the_limit_is_no_end() -> None:
    """What is full is written to all over while it forks: every page is there twice, and the container's limit has room for it."""
    with site_in_containers(redis_split_host_settings="set") as site:
        # so big that what comes on top of the factor is no room for it
        next(one for one in site.variables["redis_split_purposes"] if one["profile"] == "sessions")["maxmemory"] = (
            "256mb"
        )
        host = site.top / "host"
        (host / "proc/sys/vm").mkdir(parents=True)
        (host / "proc/sys/vm/overcommit_memory").write_text("0\n")
        site.variables["__redis_instances_top"] = str(host)
        site.play("provision").says("vm.overcommit_memory is 0, and Redis needs 1", "This is changed now and for good")
        assert (host / "proc/sys/vm/overcommit_memory").read_text() == "1\n"
        assert (host / "etc/sysctl.d/99-untangle.conf").read_text() == "vm.overcommit_memory = 1\n"

        client = site.instance("sessions")
        # microseconds a key, so that the fork lives while it is written to, and has let go of little (what it has saved, it frees)
        client.config_set("rdb-key-save-delay", 1000)
        limit, keys, filler = client.info("memory")["maxmemory"], 0, random.randbytes(16000)
        change = client.register_script(CHANGE_EVERY_PAGE)
        while client.info("memory")["used_memory"] < limit * 0.92:
            pipe = client.pipeline(transaction=False)
            for number in range(keys, keys + 200):
                pipe.set(f"job:{number}", filler)
            pipe.execute()
            keys += 200
        for job in ("bgrewriteaof", "bgsave"):
            eventually(lambda: not forked(client), 60)
            getattr(client, job)()
            for first in range(0, keys, 200):
                change(args=[first, first + 199])
            assert forked(client), "it ended too early to be shown anything"
            eventually(lambda: not forked(client), 60)
        saved = client.info("persistence")
        assert saved["rdb_last_bgsave_status"] == saved["aof_last_bgrewrite_status"] == "ok"
        # most pages were there twice, or this has shown nothing
        assert saved["rdb_last_cow_size"] > limit * 0.5, saved
        found = facts(site, "sessions")
        assert not found["State"]["OOMKilled"] and found["RestartCount"] == 0 and client.dbsize() == keys
        a_server_that_loads_is_not_well(found)


def a_server_that_loads_is_not_well(found: dict[str, Any]) -> None:
    """By the instance's own check, on its data, that a second server takes its time to load: it answers, and LOADING."""
    image, check = found["Config"]["Image"], found["Config"]["Healthcheck"]["Test"][1]
    docker("stop", found["Id"])
    slow = found["Name"].strip("/") + "-slow"
    mounts = [f"{one.get('Name') or one['Source']}:{one['Destination']}" for one in found["Mounts"]]
    words = [word for mount in mounts for word in ("--volume", mount)]
    words += ["--network", "none", "--user", found["Config"]["User"], "--entrypoint", "redis-server", image]
    ping = check.removesuffix("| grep -q PONG")
    assert ping != check
    try:
        docker("run", "--detach", "--name", slow, *words, "/etc/untangle/redis.conf", "--key-load-delay", "100")
        said: list[str] = []
        until = time.monotonic() + 120
        while "well PONG" not in said and time.monotonic() < until:
            # first whether it is well: it may have loaded all before the next word
            looked = docker("exec", slow, "sh", "-c", f"if {check}; then echo well; else echo ill; fi; {ping}")
            said.append(" ".join(looked.split()))
    finally:
        docker("rm", "-fv", slow)
    assert "well PONG" in said and any(one.startswith("ill LOADING") for one in said), set(said)
    assert not any(one.startswith("well LOADING") for one in said)


def forked(client: redis.Redis) -> bool:
    saved = client.info("persistence")
    return bool(saved["aof_rewrite_in_progress"] or saved["rdb_bgsave_in_progress"])
