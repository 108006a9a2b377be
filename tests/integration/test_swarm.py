# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stacks and instances on a Docker Swarm of this module's own, which has one node, and in one test two."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cores
import pytest
import yaml
from engine import Engine, engine_of_ones_own
from machine import eventually, module, needs_docker
from playbook_site import ROOT, Pusher, Site, differs, needs

from ansible_collections.njoy.untangle.plugins.module_utils import swarm, swarm_services
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

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
#: A value of .env as a password may be.
AWKWARD = "it's \\ one\nB='two' $line"
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
            "compose_stack_env": {"CLIENTS": "100", "AWKWARD": AWKWARD},
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
                    "environment": {"AWKWARD": "${AWKWARD}"},
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
    assert stack.inside("other", "printenv", "AWKWARD") == AWKWARD
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

    # a secret is another, and its service
    before = {name: stack.container(name) for name in services}
    stack.variables["compose_stack_secrets"] = {"store": {"word": "another secret word"}}
    stack.play()
    assert stack.container("other") == before["other"] and stack.container("store") != before["store"]
    assert stack.inside("store", "cat", "/run/secrets/word") == "another secret word"
    assert len(engine.docker("secret", "ls", "-q").split()) == 1

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

    # an image that nobody has, lines that the client refuses, and a config that the server refuses
    before = {name: stack.container(name) for name in services}
    for lines, said in (
        ({"image": "127.0.0.1:1/nobody/has:1"}, "127.0.0.1:1/nobody/has"),
        ({"stop_grace_period": 30}, "must be a string"),
    ):
        assert said in stack.play(ok=False, compose_stack_services={**changed, "other": {**changed["other"], **lines}})
        assert before == {name: stack.container(name) for name in services}
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


GONE = "left out, which is how it is said"
#: Forms in which lines of Compose come, with what the engine's client has to make of them; None where we refuse them by name.
FORMS: list[tuple[str, Any, Any]] = [
    ("command", "a 'b c'", ["a", "b c"]),
    ("entrypoint", ["a"], ["a"]),
    ("environment", ["A=1", "B"], {"A": "1", "B": None}),
    ("environment", {"A": None, "B": 1.5}, {"A": None, "B": "1.5"}),
    ("env_file", "x.env", ["x.env"]),
    ("env_file", [{"path": "x.env"}], ["x.env"]),
    ("env_file", [{"path": "x.env", "format": "raw"}], None),
    ("user", "101", "101:101"),
    ("working_dir", "/x", "/x"),
    ("cap_add", ["NET_BIND_SERVICE"], ["NET_BIND_SERVICE"]),
    ("cap_drop", ["CHOWN"], ["ALL", "CHOWN"]),
    ("read_only", False, GONE),
    ("ulimits", {"nofile": {"soft": 10, "hard": 20}}, {"core": {}, "nofile": {"soft": 10, "hard": 20}}),
    ("sysctls", ["net.core.somaxconn=1024"], {"net.core.somaxconn": "1024"}),
    ("init", True, True),
    ("logging", {"driver": "local", "options": {"max-file": 3}}, {"driver": "local", "options": {"max-file": "3"}}),
    ("labels", ["a=b"], {"a": "b", "njoy.untangle.image": "redis:7.0"}),
    ("stop_grace_period", "1m30s", "1m30s"),
    ("stop_signal", "SIGQUIT", "SIGQUIT"),
    ("hostname", "h", "h"),
    ("extra_hosts", {"a": "10.0.0.5", "b": ["10.0.0.6", "::1"]}, ["a:10.0.0.5", "b:10.0.0.6", "b:::1"]),
    ("extra_hosts", ["a=host-gateway"], None),
    ("dns", "10.0.0.1", ["10.0.0.1"]),
    ("dns_search", ["x.y"], ["x.y"]),
    ("tty", True, True),
    ("stdin_open", True, True),
    ("secrets", ["theirs"], [{"mode": 0o400, "target": "word", "uid": "101", "gid": "101"}]),
    ("networks", {"default": {"aliases": ["a"]}}, {"default": {"aliases": ["a"]}}),
    ("networks", {"default": {"priority": 5}}, None),
    ("ports", ["${PORT}:80/udp"], [{"mode": "host", "target": 80, "published": 8080, "protocol": "udp"}]),
    ("ports", [{"target": 80, "published": "8080", "name": "x"}], [{"mode": "host", "target": 80, "published": 8080}]),
    ("ports", ["80"], None),
    ("volumes", ["/x:/x:ro"], [{"type": "bind", "source": "/x", "target": "/x", "read_only": True}]),
    ("volumes", [{"type": "tmpfs", "target": "/x", "tmpfs": {"size": "16m"}}], [{"type": "tmpfs", "target": "/x", "tmpfs": {"size": 16 << 20}}]),
    ("volumes", ["/x:/x:Z"], None),
    ("healthcheck", {"test": "a b", "interval": "1s", "start_interval": "1s"}, {"test": ["CMD-SHELL", "a b"], "interval": "1s"}),
]  # fmt: skip


def test_every_line_that_is_kept_reaches_the_client(tmp_path: Path) -> None:
    """As it reads it itself; what it would drop or refuse is refused by us."""
    (tmp_path / "x.env").touch()
    facts = {
        "reference": "redis:7.0",
        "id": "sha256:" + 64 * "a",
        "user": {"uid": 101, "gid": 101},
        "volumes": [],
        "healthcheck": True,
    }
    for key, given, wanted in FORMS:
        service: dict[str, Any] = {"image": "redis:7.0", "hardening": {"ports": False}}
        if key != "secrets":  # these are given beside the services
            service[key] = given
        secrets = {"web": {"word": "told to none"}} if key == "secrets" else {}
        made = swarm.Stack(
            "shop", {"web": service}, secrets, {"PORT": "8080"}, images={"web": facts}, node=swarm.Node("n0", True),
        )  # fmt: skip
        if wanted is None:
            with pytest.raises(UntangleError, match=r"service web (has|publishes) .*Nothing was changed"):
                made.files()
            continue
        text = made.files()[-1].content
        words = ["docker", "stack", "config", "--compose-file", "-"]
        done = subprocess.run(words, input=text, capture_output=True, text=True, cwd=tmp_path, check=True)
        found = yaml.safe_load(done.stdout)["services"]["web"].get(key, GONE)
        if key == "secrets":
            found = [{name: value for name, value in one.items() if name != "source"} for one in found]
        if key == "volumes":
            found = [one for one in found if one["target"] != "/tmp"]
        assert found == wanted, key
    assert {key for key, _given, _wanted in FORMS} | {"image"} == swarm.KEPT
    swarm_services.expect_read(text, "/nowhere", {})
    with pytest.raises(UntangleError, match=r"must be a boolean.*\. Nothing was changed"):
        swarm_services.expect_read(text.replace("read_only: true", 'read_only: "yes"'), "/nowhere", {})


def test_what_ends_late_or_at_once(stack: Stack, engine: Engine) -> None:
    """A task that takes its stop grace is waited for, one that ends well is done, and what a removal left is removed by the next."""
    once = {
        "image": "redis:7.0",
        "entrypoint": ["true"],
        "command": [],
        "tmpfs": ["/data"],
        "hardening": {"health": False},
    }
    slow = {
        # it does not hear SIGTERM
        "image": "redis:7.0", "entrypoint": ["sh", "-c", "trap '' TERM; redis-server --save '' & wait; sleep 60"],
        "volumes": ["data:/data"], "healthcheck": PING, "stop_grace_period": "25s",
    }  # fmt: skip
    services = {"slow": slow, "once": {**once, "restart": "no"}, "job": {**once, "deploy": {"mode": "replicated-job"}}}
    stack.variables.update(compose_stack_services=services, compose_stack_secrets={}, compose_stack_wait=20)
    stack.play()
    assert "changed=0" in stack.play()
    first = stack.container("slow")
    stack.play(compose_stack_services={**services, "slow": {**slow, "labels": {"a": "b"}}})
    assert stack.container("slow") not in ("", first)
    holds = ["run", "--detach", "--rm", "--name", "holds", "--network", "shop_default", "--entrypoint", "sleep"]
    engine.docker(*holds, "redis:7.0", "600")
    try:
        said = stack.play(ok=False, compose_stack_state="absent")
        assert "Failed to remove" in said, said
    finally:
        engine.docker("rm", "--force", "holds")
    assert engine.docker("service", "ls", "-q") == ""
    assert engine.docker("network", "ls", "-q", "--filter", "name=shop_") != ""
    stack.play(compose_stack_state="absent", compose_stack_volumes=True)
    for kind in ("network", "volume"):
        assert engine.docker(kind, "ls", "-q", "--filter", "name=shop_").split() == [], kind
    assert "changed=0" in stack.play(compose_stack_state="absent", compose_stack_volumes=True)


def _lose(engine: Engine, second: Engine, second_id: str) -> None:
    # one manager alone of two could decide nothing any more
    engine.docker("node", "demote", second_id)
    role = ("node", "inspect", "--format", "{{.Spec.Role}} {{.ManagerStatus}}", second_id)
    eventually(lambda: engine.docker(*role).split() == ["worker", "<nil>"])
    second.cut_power()


@contextlib.contextmanager
def _second_manager(engine: Engine) -> Iterator[tuple[Engine, str, str]]:
    """With the IDs of both nodes."""
    with engine_of_ones_own("redis:7.0", options=["--no-new-privileges"], beside=engine) as second:
        token = engine.docker("swarm", "join-token", "--quiet", "manager").strip()
        second.docker("swarm", "join", "--token", token, "--advertise-addr", second.address, f"{engine.address}:2377")
        first_id, second_id = (one.docker("info", "-f", "{{.Swarm.NodeID}}").strip() for one in (engine, second))
        eventually(lambda: "Ready" in second.docker("node", "ls", "--filter", f"id={first_id}"))
        try:
            yield second, first_id, second_id
        finally:
            _lose(engine, second, second_id)
            engine.docker("node", "rm", "--force", second_id)


def test_two_managers(stack: Stack, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data stays on its node whoever deploys, what has none goes to both, and the end of one node is nothing to the other's."""
    with _second_manager(engine) as (second, first_id, second_id):
        services = stack.variables["compose_stack_services"]
        twice = {"replicas": 2, "placement": {"max_replicas_per_node": 1, "constraints": ["node.platform.os == linux"]}}
        services["other"].update(deploy=twice, command=["--save", "", "--protected-mode", "no"])
        # whose image no other node has
        dockerfile = "ARG BASE\nFROM ${BASE}\nLABEL mine=1\n"
        services["built"] = {
            **services["other"], "image": "ut-built:1", "build": {"dockerfile": dockerfile, "base": "redis:7.0"}, "deploy": {"replicas": 2},
        }  # fmt: skip
        assert "No registry gave the image of built, and no other node has it" in stack.play()

        def nodes(service: str) -> list[str]:
            found = engine.docker(
                "service", "ps", "--quiet", "--filter", "desired-state=running", f"shop_{service}"
            ).split()
            tasks = json.loads(engine.docker("inspect", "--type", "task", *found))
            return sorted(one["NodeID"] for one in tasks)

        assert nodes("store") == [first_id] and nodes("built") == [first_id] * 2
        assert nodes("other") == sorted([first_id, second_id])
        # by the overlay network, of which one is on the other node
        there = {line.split()[0] for line in stack.inside("store", "getent", "ahostsv4", "tasks.other").splitlines()}
        assert len(there) == 2
        assert [stack.inside("store", "timeout", "5", "redis-cli", "-h", one, "ping") for one in there] == ["PONG"] * 2
        stack.inside("store", "redis-cli", "set", "kept", "well")
        before = stack.container("store")

        # the other manager has the play too
        other = Stack(second)
        other.variables["compose_stack_services"] = services
        said = other.play(ok=False)
        assert re.search(rf"service store has data, and is kept on the node \S+ \({first_id}\)", said), said
        assert not (other.top / "stack").exists() and stack.container("store") == before
        monkeypatch.setenv("DOCKER_HOST", second.socket)
        marks = module("container_hardening_info", project="shop", exceptions=EXCEPTIONS)
        assert marks["elsewhere"] == ["built", "other", "store"]
        # (a service like an instance's, which does not run)
        kept = ["--constraint", f"node.id == {first_id}", "--replicas", "0", "--detach", "redis:7.0"]
        second.docker(
            "service",
            "create",
            "--name",
            "untangle-far_server",
            "--container-label",
            "njoy.untangle.home=/x/far",
            *kept,
        )
        said = _stands_in_the_way(second, "/x")
        assert "Swarm keeps untangle-far on another node" in said and first_id in said
        assert "untangle-far on this host belongs to another installation (/x/far)" in _stands_in_the_way(engine, "/y")
        assert _stands_in_the_way(engine, "/x") == ""
        second.docker("service", "rm", "untangle-far_server")
        # a stack all of whose tasks are elsewhere is there
        far = {"far": {**services["other"], "deploy": {"placement": {"constraints": [f"node.id == {first_id}"]}}}}
        other.variables.update(compose_stack_name="far", compose_stack_services=far, compose_stack_secrets={})
        other.play()
        assert "far would be started" not in other.play("--check")
        other.play(compose_stack_state="absent")
        shutil.rmtree(other.top, ignore_errors=True)

        _lose(engine, second, second_id)
        eventually(lambda: "down" in engine.docker("node", "inspect", "-f", "{{.Status.State}}", second_id), 60)
        assert stack.container("store") == before and stack.inside("store", "redis-cli", "get", "kept") == "well"


def test_a_split_over_two_managers(engine: Engine, tmp_path: Path) -> None:
    """An instance on each, and back again."""
    with _second_manager(engine) as (second, first_id, second_id):
        site = Site(redis_split_backend="swarm", redis_split_image="redis:7.0", redis_split_strategy="live")
        for one in (engine, second):
            # what Ansible runs on that host
            program = site.top / f"python-{one.address}"
            program.write_text(
                f'#!/bin/sh\nDOCKER_HOST={one.socket} exec {" ".join(one.inside)} /usr/bin/python3 "$@"\n'
            )
            program.chmod(0o755)
        hosts = {"redis1": engine.address, "redis2": second.address}
        site.write_inventory(
            redis_split_hosts=[
                f"{name} ansible_python_interpreter={site.top}/python-{at}" for name, at in hosts.items()
            ]
        )
        try:
            site.source.config["bind"] = f"127.0.0.1 {engine.here}"
            site.source.restart()
            site.variables["redis_split_source"]["host"] = engine.here
            for purpose, name in zip(site.variables["redis_split_purposes"], ("redis1", "redis1", "redis2")):
                purpose.update(host=name, address=hosts[name])
            site.fill()
            site.play("provision")
            at = {
                one: json.loads(engine.docker("service", "inspect", f"untangle-{site.names[one]}_server"))
                for one in ("cache", "pipeline")
            }
            assert second_id in json.dumps(at["cache"]) and first_id in json.dumps(at["pipeline"])
            site.play("sync")
            writer = Pusher(site)
            site.play("cutover")
            writer.end()
            assert site.states() == {"cut_over"}
            whole = site.target_data()
            site.play("rollback")
            assert differs(whole, site.source_data()) == {}
            # a plan that names the other host for it
            site.variables["redis_split_purposes"][2].update(host="redis1", address=engine.address)
            site.play("provision", ok=False).says(
                f"Swarm keeps untangle-{site.names['cache']} on another node", "Nothing was changed"
            )
            site.variables["redis_split_purposes"][2].update(host="redis2", address=second.address)
            site.play("remove")
            assert engine.docker("service", "ls", "--quiet", "--filter", f"name={site.tag}").split() == []
        finally:
            site.close()


def _stands_in_the_way(engine: Engine, directory: str) -> str:
    """What the role refuses on that host, which is to have the purpose `far`."""
    asked = {
        "state": "present", "backend": "swarm", "dir": directory, "secrets_dir": "", "image": "redis:7.0", "server": "", "user": "",
        "tls": {}, "instances": [["far", engine.address, 7001]],
    }  # fmt: skip
    program = str(ROOT / "roles/redis_instances/files/host_facts.py")
    words = [*engine.inside, "/usr/bin/python3", program, json.dumps(asked)]
    env = {**os.environ, "DOCKER_HOST": engine.socket}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    return " ".join(json.loads(done.stdout)["problems"])


def test_ports_and_payloads_of_instances_are_tried_as_swarm_has_them() -> None:
    """On every address, and in the image."""
    where = importlib.util.spec_from_file_location("host_facts", ROOT / "roles/redis_instances/files/host_facts.py")
    assert where and where.loader
    facts = importlib.util.module_from_spec(where)
    where.loader.exec_module(facts)
    with socket.socket() as other:
        other.bind(("127.0.0.2", 0))
        other.listen(1)
        one = {"name": "cache", "address": "127.0.0.1", "port": other.getsockname()[1]}
        for everywhere, wanted in ((False, 0), (True, 1)):
            problems: list[str] = []
            assert (
                facts.check_listen(
                    one, "/nowhere", {"backend": "", "container": False, "alive": False}, everywhere, problems
                )
                == "127.0.0.1"
            )
            assert len(problems) == wanted
        assert "on another address of this host, and Swarm publishes on every one, is in use" in problems[0]
    problems = []
    source = {"payload_version": 99, "flavour": "redis", "version": "99"}
    asked = {"backend": "swarm", "image": "redis:7.0", "source": source}
    server = {
        "path": "/usr/local/bin/redis-server",
        "cli": "/usr/local/bin/redis-cli",
        "flavour": "redis",
        "version": "7.0",
    }
    server["path"], server["cli"] = facts.server_in_image("redis:7.0", "swarm", problems)[1]["path"], "redis-cli"
    facts.check_payload(asked, server, problems)
    assert len(problems) == 1 and "Name an image of that version in {image}" in problems[0]


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
