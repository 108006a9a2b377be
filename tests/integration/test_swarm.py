# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stacks and instances on a Docker Swarm of one node, which is this module's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cores
import pytest
from engine import Engine, engine_of_ones_own
from machine import eventually, module, needs_docker
from playbook_site import Pusher, Site, differs, needs

pytestmark = [*needs, needs_docker]
PLAY = """
- name: A stack
  hosts: here
  gather_facts: false
  tasks:
    - name: Have it
      ansible.builtin.include_role:
        name: njoy.untangle.compose_stack
"""
#: What a Swarm cannot be told, as docs/swarm.md has it.
EXCEPTIONS = {
    "5.12": "no shares",
    "5.14": "all addresses",
    "5.15": "restarts always",
    "5.26": "the engine sets it for all",
}
WATCH = ["prom/prometheus:v2.42.0", "oliver006/redis_exporter:v1.45.0-alpine", "prom/node-exporter:v1.5.0"]
PING = {"test": ["CMD-SHELL", "redis-cli ping | grep -q PONG"], "interval": "1s", "timeout": "2s", "retries": 3}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    # its dockerd sets for every container what Swarm cannot be told
    with engine_of_ones_own("redis:7.0", *WATCH, options=["--no-new-privileges"]) as made:
        made.docker("swarm", "init", "--advertise-addr", made.address)
        yield made


class Stack:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.top = Path(tempfile.mkdtemp(prefix="ut-swarm-", dir="/tmp"))
        self.top.chmod(0o711)
        (self.top / "play.yml").write_text(PLAY)
        (self.top / "hosts").write_text("here ansible_connection=local ansible_python_interpreter=/usr/bin/python3\n")
        self.variables: dict[str, Any] = {
            "compose_stack_backend": "swarm",
            "compose_stack_name": "shop",
            "compose_stack_dir": str(self.top / "stack"),
            "compose_stack_wait": 30,
            "compose_stack_by": "a test",
            "compose_stack_env": {"CLIENTS": "100"},
            "compose_stack_secrets": {"store": {"word": "a very secret word"}},
            "compose_stack_services": {
                "store": {
                    "image": "redis:7.0",
                    "entrypoint": ["redis-server"],
                    "command": ["/etc/store/redis.conf", "--maxclients", "${CLIENTS}"],
                    "config": {"/etc/store": {"redis.conf": "save 1 1\ndir /data\n"}},
                    "volumes": ["data:/data"],
                    "depends_on": ["other"],
                    "healthcheck": PING,
                },
                "other": {
                    "image": "redis:7.0",
                    "entrypoint": ["redis-server"],
                    "command": ["--save", ""],
                    "tmpfs": ["/data:size=8m"],
                    "healthcheck": PING,
                },
            },
        }

    def play(self, *words: str, ok: bool = True, **variables: Any) -> str:
        env = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(Path(__file__).resolve().parents[2] / ".venv/collections"),
            "ANSIBLE_HOME": str(self.top / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
            "DOCKER_HOST": self.engine.socket,
        }
        given = json.dumps({**self.variables, **variables})
        done = subprocess.run(
            [str(cores.ansible_playbook()), "-i", "hosts", "play.yml", "-e", given, *words],
            cwd=self.top, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) == ok, done.stdout[-5000:] + done.stderr
        return done.stdout

    def container(self, service: str) -> str:
        """The one that runs now: an ending one may be there still."""
        label = f"label=com.docker.swarm.service.name=shop_{service}"
        return self.engine.docker("ps", "--quiet", "--filter", label, "--filter", "health=healthy").strip()

    def inspected(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.engine.docker("inspect", self.container(service)))[0]
        return found

    def inside(self, service: str, *words: str) -> str:
        return self.engine.docker("exec", self.container(service), *words).strip()


@pytest.fixture
def stack(engine: Engine) -> Iterator[Stack]:
    made = Stack(engine)
    yield made
    engine.docker("stack", "rm", "shop")
    eventually(lambda: not engine.docker("ps", "-q").strip(), 60)
    shutil.rmtree(made.top, ignore_errors=True)


def test_a_stack(stack: Stack, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Compose says is so on the swarm; a change touches one service, a broken one is put back, and all of it goes away."""
    services = stack.variables["compose_stack_services"]
    wrong = {**services, "other": {**services["other"], "ports": ["127.0.0.1:7001:6379"], "cpuset": "0", "ipc": "host"}}
    said = stack.play(ok=False, compose_stack_services=wrong)
    assert "publishes port 7001 on 127.0.0.1, and Swarm publishes on every address" in said
    assert "service other has cpuset, which Swarm does not do" in said and "has ipc, which" in said
    assert not (stack.top / "stack").exists()

    said = stack.play()
    assert "Swarm sets no limit for swap" in said and "Swarm starts all services at once" in said
    found = stack.inspected("store")
    host = found["HostConfig"]
    assert (
        host["Memory"] == 512 << 20
        and host["PidsLimit"] == 200
        and host["CapDrop"] == ["ALL"]
        and host["ReadonlyRootfs"]
    )
    assert host["LogConfig"]["Type"] == "local" and found["Config"]["User"] == "999:999"
    assert {one["Target"]: one["Type"] for one in host["Mounts"]}["/tmp"] == "tmpfs"
    assert {one["Target"]: one for one in stack.inspected("other")["HostConfig"]["Mounts"]}["/data"][
        "TmpfsOptions"
    ] == {"SizeBytes": 8 << 20}
    assert stack.inside("store", "grep", "NoNewPrivs", "/proc/self/status").split()[1] == "1"
    assert stack.inside("store", "redis-cli", "config", "get", "maxclients").split() == ["maxclients", "100"]
    assert stack.inside("store", "cat", "/run/secrets/word") == "a very secret word"
    assert stack.inside("store", "stat", "-c", "%u %a", "/run/secrets/word") == "999 400"
    spec = json.loads(engine.docker("service", "inspect", "shop_store"))[0]["Spec"]
    assert spec["TaskTemplate"]["Placement"]["Constraints"][0].startswith("node.id == ")
    assert spec["UpdateConfig"]["Order"] == "stop-first"
    assert json.loads(engine.docker("network", "inspect", "shop_default"))[0]["Internal"]
    assert "very secret" not in json.dumps(spec) + said + (stack.top / "stack/stack.yaml").read_text()
    assert "changed=0" in stack.play()
    monkeypatch.setenv("DOCKER_HOST", engine.socket)
    marks = module(
        "container_hardening_info", project="shop", directory=str(stack.top / "stack"), exceptions=EXCEPTIONS
    )
    assert marks["score"] == marks["out_of"] > 40 and marks["drift"] == [], marks

    # one service is another, and its config of before is forgotten
    stack.inside("store", "redis-cli", "set", "kept", "well")
    before = {name: stack.container(name) for name in services}
    changed = json.loads(json.dumps(services))
    changed["store"]["config"]["/etc/store"]["redis.conf"] = "save 1 1\ndir /data\ntimeout 77\n"
    assert "store" in stack.play("--check", compose_stack_services=changed)
    assert stack.container("store") == before["store"]
    stack.play(compose_stack_services=changed)
    assert stack.container("other") == before["other"] and stack.container("store") != before["store"]
    assert stack.inside("store", "redis-cli", "config", "get", "timeout").split() == ["timeout", "77"]
    assert stack.inside("store", "redis-cli", "get", "kept") == "well"
    assert len(engine.docker("config", "ls", "-q").split()) == 1

    # a config that the server refuses, and an image that nobody has
    broken = json.loads(json.dumps(changed))
    broken["store"]["config"]["/etc/store"]["redis.conf"] = "save 1 1\ndir /data\nmaxclients none\n"
    said = stack.play(ok=False, compose_stack_services=broken)
    assert "did not become healthy" in said and "FATAL CONFIG FILE ERROR" in said and "was put back and serves" in said
    assert stack.inside("store", "redis-cli", "get", "kept") == "well"
    assert "changed=0" in stack.play(compose_stack_services=changed)

    stack.play(compose_stack_state="rolled_back")
    assert stack.inside("store", "redis-cli", "config", "get", "timeout").split() == ["timeout", "0"]
    assert stack.inside("store", "redis-cli", "get", "kept") == "well"

    stack.play(compose_stack_state="absent")
    assert engine.docker("volume", "ls", "-q").split() == ["shop_data"]
    stack.play(compose_stack_state="absent", compose_stack_volumes=True)
    for kind in ("service", "config", "secret", "volume"):
        assert engine.docker(kind, "ls", "-q").split() == [], kind
    assert not (stack.top / "stack").exists()


def test_the_live_split_onto_the_swarm(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """And back; an instance is killed and stopped under the mirror, and Swarm brings it up again with its data. All of it is watched."""
    monkeypatch.setenv("DOCKER_HOST", engine.socket)
    site = Site(
        redis_split_backend="swarm",
        redis_split_image="redis:7.0",
        redis_split_strategy="live",
        redis_split_monitoring=True,
        redis_instances_monitoring_interval="1s",
    )
    watch = f"watch-{site.tag}"
    site.variables["__redis_instances_watch"] = watch

    def told(query: str) -> set[str]:
        words = ["curl", "-fsS", "--data-urlencode", f"query={query}", "http://127.0.0.1:9090/api/v1/query"]
        done = subprocess.run([*engine.inside, *words], capture_output=True, text=True, check=True)
        return {one["metric"]["purpose"] for one in json.loads(done.stdout)["data"]["result"]}

    def play(phase: str, *words: str, ok: bool = True) -> Any:
        return site.play(phase, *words, ok=ok, inside=engine.inside)

    try:
        site.source.config["bind"] = f"127.0.0.1 {engine.here}"
        site.source.restart()
        site.variables["redis_split_source"]["host"] = engine.here
        play("provision", ok=False).says(
            f"purpose {site.names['cache']}: its address is 127.0.0.1, and Swarm publishes on every address of a node", "Nothing was changed"
        )  # fmt: skip
        for purpose in site.variables["redis_split_purposes"]:
            purpose["address"] = engine.address
        site.fill()
        play("provision")
        play("sync")
        for query in ("redis_up == 1", "untangle_mirror_lag_seconds"):
            eventually(lambda query=query: told(query) == set(site.names.values()), 30)  # type: ignore[misc]
        writer = Pusher(site)
        engine.docker("kill", "--signal", "KILL", _task(engine, site, "pipeline"))
        program = site.state / "instances" / site.names["cache"] / "instance"
        for word in ("stop", "start"):
            subprocess.run([*engine.inside, str(program), word], check=True, capture_output=True, timeout=60)
        play("cutover")
        writer.end()
        assert site.states() == {"cut_over"}
        whole = site.target_data()
        marks = module(
            "container_hardening_info", project=f"untangle-{site.names['cache']}",
            directory=str(site.state / "instances" / site.names["cache"]), exceptions=EXCEPTIONS,
        )  # fmt: skip
        assert marks["score"] == marks["out_of"] > 20 and marks["drift"] == [], marks
        play("rollback")
        assert differs(whole, site.source_data()) == {}
        play("remove")
        for kind in ("service", "volume", "config", "network"):
            assert engine.docker(kind, "ls", "--quiet", "--filter", f"name={site.tag}").split() == []
    finally:
        site.close()


def _task(engine: Engine, site: Site, kind: str) -> str:
    label = f"label=com.docker.swarm.service.name=untangle-{site.names[kind]}_server"
    return engine.docker("ps", "--quiet", "--filter", label).strip()
