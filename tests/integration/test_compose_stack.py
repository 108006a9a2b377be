# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role compose_stack by itself: releases that are recorded, put back when one fails, and gone back to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import cores
import pytest
from engine import Engine
from machine import docker, module, needs_docker
from registry import needs_registry, registry

import servers
from ansible_collections.njoy.untangle.plugins.module_utils.stacks import Project

pytestmark = [needs_docker, pytest.mark.timeout(900)]
PLAY = """
- name: A stack
  hosts: here
  gather_facts: false
  tasks:
    - name: Have it
      ansible.builtin.include_role:
        name: njoy.untangle.compose_stack
"""
COMPOSE = """
name: {{ compose_stack_name }}
services:
  store:
    image: {{ image }}
    command: [redis-server, /etc/store/redis.conf]
    volumes:
      - {type: bind, source: ./store, target: /etc/store, read_only: true}
      - {type: volume, source: data, target: /data}
    healthcheck: &health {test: [CMD-SHELL, "{{ check }}"], interval: 1s, timeout: 2s, retries: 3}
    labels: {config: "{{ config | ansible.builtin.hash('sha256') }}"}
  other:
    image: redis:7.0
    command: [redis-server, --save, ""]
    volumes: [{type: tmpfs, target: /data}]
    healthcheck: {test: [CMD-SHELL, "redis-cli ping | grep -q PONG"], interval: 1s, timeout: 2s, retries: 3}
volumes:
  data: {}
"""
WELL = "redis-cli ping | grep -q PONG"


class Stack:
    def __init__(self) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="ut-stack-", dir="/tmp"))
        self.top.chmod(0o711)
        self.name = self.top.name.lower().replace("_", "x")
        self.image = f"{self.name}:current"
        docker("tag", "redis:7.0", self.image)
        (self.top / "play.yml").write_text(PLAY)
        (self.top / "hosts").write_text("here ansible_connection=local ansible_python_interpreter=/usr/bin/python3\n")
        (self.top / "compose.yaml.j2").write_text(COMPOSE)
        (self.top / "redis.conf.j2").write_text("{{ config }}\n")
        self.variables: dict[str, Any] = {
            "compose_stack_name": self.name,
            "compose_stack_dir": str(self.top / "stack"),
            "compose_stack_files": [
                {"src": str(self.top / "compose.yaml.j2"), "dest": "compose.yaml"},
                {"src": str(self.top / "redis.conf.j2"), "dest": "store/redis.conf"},
            ],
            "compose_stack_wait": 20,
            "compose_stack_by": "a test",
            "image": self.image,
            "config": "save 1 1\ndir /data\nmaxclients 100",
            "check": WELL,
        }

    def play(self, *words: str, ok: bool = True, **variables: Any) -> str:
        env = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(Path(__file__).resolve().parents[2] / ".venv/collections"),
            "ANSIBLE_HOME": str(self.top / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
        }
        given = json.dumps({**self.variables, **variables})
        done = subprocess.run(
            [str(cores.ansible_playbook()), "-i", "hosts", "play.yml", "-e", given, *words],
            cwd=self.top, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) == ok, done.stdout[-5000:] + done.stderr
        return done.stdout

    def ids(self) -> dict[str, str]:
        """Container by service."""
        form = '{{.Label "com.docker.compose.service"}} {{.ID}}'
        lines = docker("ps", "--filter", f"label=com.docker.compose.project={self.name}", "--format", form).splitlines()
        return dict(line.split() for line in lines)

    def redis(self, *words: str) -> str:
        return docker("exec", self.ids()["store"], "redis-cli", *words).strip()

    def releases(self) -> list[dict[str, Any]]:
        found = (self.top / "stack/releases").glob("*.json")
        return sorted((json.loads(path.read_text()) for path in found), key=lambda one: one["number"])

    def close(self) -> None:
        if left := docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={self.name}").split():
            docker("rm", "-fv", *left)
        docker("network", "rm", f"{self.name}_default")
        docker("volume", "rm", f"{self.name}_data")
        docker("image", "rm", self.image)
        shutil.rmtree(self.top, ignore_errors=True)


@pytest.fixture
def stack() -> Iterator[Stack]:
    made = Stack()
    yield made
    made.close()


def test_releases(stack: Stack) -> None:
    """Recorded, gone back to, and only what differs is made anew each time."""
    stack.play()
    first = stack.ids()
    (release,) = stack.releases()
    assert (release["number"], release["by"]) == (1, "a test") and set(release["services"]) == {"store", "other"}
    assert release["services"]["store"]["image"] == stack.image
    assert release["services"]["store"]["id"] == docker("image", "inspect", "-f", "{{.Id}}", "redis:7.0").strip()
    assert abs(datetime.fromisoformat(release["at"]) - datetime.now(timezone.utc)) < timedelta(minutes=2)
    assert set(release["files"]) == {"compose.yaml", "store/redis.conf"}
    assert (stack.top / "stack/releases").stat().st_mode & 0o777 == 0o700
    assert "changed=0" in stack.play() and stack.ids() == first and len(stack.releases()) == 1

    assert stack.redis("SET", "kept", "yes") == "OK"
    stack.variables["config"] = "save 1 1\ndir /data\nmaxclients 200"
    said = stack.play("--check", "--diff")
    assert "+maxclients 200" in said and stack.ids() == first and len(stack.releases()) == 1
    stack.play()
    second = stack.ids()
    assert second["other"] == first["other"] and second["store"] != first["store"]
    assert stack.redis("CONFIG", "GET", "maxclients").split() == ["maxclients", "200"]
    digests = [{name: one["config"] for name, one in each["services"].items()} for each in stack.releases()]
    assert (
        len(digests) == 2 and digests[0]["other"] == digests[1]["other"] and digests[0]["store"] != digests[1]["store"]
    )

    # the tag is swapped, as after a pull
    docker("tag", "redis:8.0", stack.image)
    said = stack.play("--check")
    assert "would be started" in said and f"{stack.name}-store-1)" in said and stack.ids() == second
    stack.play()
    assert stack.redis("INFO", "server").split("redis_version:")[1].startswith("8.0")
    third = stack.ids()
    assert third["other"] == first["other"] and len(stack.releases()) == 3
    assert stack.redis("GET", "kept") == "yes"
    # 7.0 cannot read what 8.0 has saved: that is data, and no release. What serves goes on, and is the current one still
    assert stack.redis("SAVE") == "OK"
    said = stack.play(ok=False, compose_stack_state="rolled_back")
    assert "RDB format version" in said and "Release 3 of" in said and "was put back and serves" in said
    assert stack.redis("INFO", "server").split("redis_version:")[1].startswith("8.0")
    assert stack.redis("GET", "kept") == "yes" and not [one for one in stack.releases() if "withdrawn" in one]
    stack.redis("CONFIG", "SET", "save", "")
    docker("run", "--rm", "-v", f"{stack.name}_data:/data", "--entrypoint", "rm", "redis:7.0", "-f", "/data/dump.rdb")

    said = stack.play(compose_stack_state="rolled_back")
    assert "is release 2 of" in said
    assert stack.redis("INFO", "server").split("redis_version:")[1].startswith("7.0")
    assert stack.redis("CONFIG", "GET", "maxclients").split() == ["maxclients", "200"]
    said = stack.play("--check", compose_stack_state="rolled_back")
    assert "would be release 1 of" in said and stack.redis("CONFIG", "GET", "maxclients").split()[1] == "200"
    assert stack.redis("SET", "kept", "again") == "OK"
    stack.play(compose_stack_state="rolled_back")
    assert stack.redis("CONFIG", "GET", "maxclients").split() == ["maxclients", "100"]
    assert stack.redis("GET", "kept") == "again" and stack.ids()["other"] == first["other"]
    said = stack.play(ok=False, compose_stack_state="rolled_back")
    assert "there is no release before the current one" in said
    assert stack.redis("PING") == "PONG"

    # the next deployment is a release of its own, and those that were withdrawn do not push out what there is to go back to
    stack.play(compose_stack_keep=2, image="redis:7.0")
    standing = [one["number"] for one in stack.releases() if "withdrawn" not in one]
    assert standing == [1, 4] and len(stack.releases()) == 4
    stack.play(compose_stack_state="absent", compose_stack_volumes=True)
    assert not (stack.top / "stack/releases").exists()
    # a directory of that name is not ours by its name
    (stack.top / "stack/releases").mkdir()
    (stack.top / "stack/releases/mine.json").write_text("{}")
    stack.play(compose_stack_state="absent")
    assert (stack.top / "stack/releases/mine.json").exists()
    assert stack.ids() == {}


SHARED = """
services:
  writer:
    image: IMAGE
    volumes: [./www:/www, ./conf:/conf:ro, ./certs:/certs:ro, data:/data]
  reader:
    image: redis:7.0
    volumes: [./www:/www:ro, ./www/css:/css:ro, data:/data]
volumes: {data: {}}
"""


def test_data_is_no_part_of_a_release(stack: Stack) -> None:
    """What a container writes, be it mounted read-only beside it, and what links lead to, is neither kept nor put back nor removed."""
    here, away = stack.top / "stack", stack.top / "away"
    for path, text in {
        here / "compose.yaml": SHARED.replace("IMAGE", stack.image), here / "www/a.jpg": "1", here / "www/css/a.css": "1", here / "conf/a.conf": "1", away / "cert": "1", away / "b": "1",
    }.items():  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (here / "certs").mkdir()
    (here / "certs/cert").symlink_to(away / "cert")

    def compose(*words: str) -> None:
        subprocess.run(["docker", "compose", "-p", stack.name, *words], cwd=here, check=True, capture_output=True)

    def release(state: str, *words: str, **asked: Any) -> dict[str, Any]:
        return module("compose_release", *words, directory=str(here), project=stack.name, state=state, **asked)

    # a container beside its service is not that service
    docker("tag", "redis:8.0", stack.image)
    compose("run", "--detach", "--entrypoint", "sleep", "writer", "60")
    docker("tag", "redis:7.0", stack.image)
    compose("up", "--detach")
    first = release("recorded")["release"]
    assert first["services"]["writer"]["id"] == docker("image", "inspect", "-f", "{{.Id}}", "redis:7.0").strip()
    assert first["files"] == ["compose.yaml", "conf/a.conf"]
    assert not release("recorded")["changed"]

    for path in (
        here / "www/a.jpg",
        here / "www/css/a.css",
        here / "www/b.jpg",
        here / "conf/a.conf",
        here / "conf/b.conf",
        away / "cert",
    ):
        path.write_text("2")
    would = release("restored", "--check", written=["conf/b.conf"])
    done = release("restored", written=["conf/b.conf"])
    assert done["put_back"] == would["put_back"] == ["conf/a.conf", "conf/b.conf"]
    assert sorted(path.name for path in (here / "www").iterdir()) == ["a.jpg", "b.jpg", "css"]
    assert [(here / one).read_text() for one in ("www/a.jpg", "www/css/a.css", "conf/a.conf")] == ["2", "2", "1"]
    assert (away / "cert").read_text() == "2" and (away / "b").exists() and not (here / "conf/b.conf").exists()

    # a mounted directory that is gone is put back, and check mode knows it
    (here / "conf/a.conf").write_text("3")
    second = release("recorded", keep=1)["release"]
    assert second["services"]["writer"]["config"] != first["services"]["writer"]["config"]
    assert second["services"]["reader"]["config"] == first["services"]["reader"]["config"]
    assert "no release before the current one" in release("rolled_back")["msg"]  # only one is kept
    shutil.rmtree(here / "conf")
    assert release("restored", "--check")["put_back"] == ["conf/a.conf"] and not (here / "conf").exists()
    assert release("restored")["put_back"] == ["conf/a.conf"] and (here / "conf/a.conf").read_text() == "3"


BROKEN = [
    ("an image that is nowhere", {"image": "127.0.0.1:1/no-such-image:1"}, "Error when processing store"),
    ("a configuration that is refused", {"config": "maxmemory nonsense"}, "maxmemory nonsense"),
    ("an image that ends at once", {"image": "debian:bookworm-slim"}, "redis-server"),
    ("a service that does not become healthy", {"check": "redis-cli ping | grep -q NEVER"}, "unhealthy"),
]


@pytest.mark.parametrize(("variables", "reason"), [one[1:] for one in BROKEN], ids=[one[0] for one in BROKEN])
def test_a_release_that_breaks_leaves_the_old_one_serving(stack: Stack, variables: dict[str, Any], reason: str) -> None:
    """Within a minute, with its data."""
    said = stack.play(ok=False, **variables)
    assert reason in said and "there is no release to go back to" in said
    stack.play()
    assert stack.redis("SET", "kept", "yes") == "OK"
    other = stack.ids()["other"]
    # who may read its configuration comes back with it: images differ in their groups
    mounted = [stack.top / "stack/store", stack.top / "stack/store/redis.conf"]
    owned = [(path.stat().st_mode, path.stat().st_gid) for path in mounted]
    for path in mounted:
        path.chmod(0o700)
        os.chown(path, -1, 4321)
    began = time.monotonic()
    said = stack.play(ok=False, **variables)
    assert time.monotonic() - began < 60
    assert reason in said and "Release 1 of" in said and "was put back and serves" in said
    assert stack.redis("GET", "kept") == "yes" and stack.ids()["other"] == other
    assert [(path.stat().st_mode, path.stat().st_gid) for path in mounted] == owned
    assert len(stack.releases()) == 1
    assert "changed=0" in stack.play()


def test_the_word_of_compose_is_not_enough(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some releases end well when the time is over, now and then; this one always does."""
    program = stack.top / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n{shutil.which("docker")} "$@" || case " $* " in *" up "*) ;; *) exit 1 ;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    said = stack.play(ok=False, check="redis-cli ping | grep -q NEVER", compose_stack_wait=3)
    assert "did not become healthy" in said and "store (Up" in said and "(compose_stack_wait)" in said
    assert stack.releases() == []


def test_what_is_judged_and_what_drifts(stack: Stack) -> None:
    stack.play()
    asked = {"project": stack.name, "directory": stack.variables["compose_stack_dir"]}
    found = module("container_hardening_info", **asked)
    store = next(one for one in found["containers"] if one["service"] == "store")
    failed = {one["check"] for one in store["checks"] if not one["passed"]}
    # what nobody asked for in this stack
    assert {"4.1", "5.4", "5.11", "5.12", "5.13", "5.26", "5.29"} <= failed and "5.27" not in failed
    assert found["score"] < found["out_of"] and found["drift"] == []
    # somebody stops a service, somebody gets in, somebody edits a file on the host
    docker("stop", stack.ids()["other"])
    said = stack.play("--check")
    assert "would be started" in said and f"{stack.name}-other-1)" in said and set(stack.ids()) == {"store"}
    docker("exec", stack.ids()["store"], "sh", "-c", "echo x >> /etc/passwd; touch /data/data")
    (stack.top / "stack/store/redis.conf").write_text("maxclients 300\n")
    drift = module("container_hardening_info", **asked)["drift"]
    assert "store: /etc/passwd was changed inside the container" in drift
    assert "file store/redis.conf differs from the release" in drift
    assert not [line for line in drift if "/data" in line]
    # the next deployment puts it right
    stack.play()
    docker("rm", "-f", stack.ids()["store"])
    assert "service store is gone" in module("container_hardening_info", **asked)["drift"]
    stack.play()
    assert module("container_hardening_info", **asked)["drift"] == []
    said = module("container_hardening_info", project=stack.name + "x")
    assert said.get("failed", True) and f"No container of {stack.name}x is on this host" in said["msg"]
    said = module("container_hardening_info", containers=["no-such-container"])
    assert said.get("failed", True) and "no-such-container" in said["msg"]


SECRET = "a rather $ecret 'word'"
BY_VARIABLES: dict[str, Any] = {
    "compose_stack_files": [],
    "compose_stack_services": {
        "store": {
            "image": "redis:7.0",
            "command": [
                "sh",
                "-c",
                'exec redis-server /etc/store/redis.conf --requirepass "$$(cat /run/secrets/password)"',
            ],
            "config": {"/etc/store": {"redis.conf": "dir /data\nmaxclients ${N}\n"}},
            "volumes": ["data:/data"],
            "data": "3gb",
            "environment": {"GREETING": "${GREETING}"},
            "healthcheck": {
                "test": ["CMD-SHELL", 'REDISCLI_AUTH="$$(cat /run/secrets/password)" redis-cli ping | grep -q PONG'],
                "interval": "1s",
            },
        },
        "other": {
            "image": "redis:7.0",
            "command": ["redis-server", "--save", ""],
            "tmpfs": ["/data:uid=999"],
            "healthcheck": {"test": ["CMD-SHELL", "redis-cli ping | grep -q PONG"], "interval": "1s"},
        },
    },
    "compose_stack_secrets": {"store": {"password": SECRET}},
    "compose_stack_env": {"GREETING": "it's a $HOME"},
}


def described(number: int = 100, secret: str = SECRET) -> dict[str, Any]:
    made = json.loads(json.dumps(BY_VARIABLES))
    files = made["compose_stack_services"]["store"]["config"]["/etc/store"]
    files["redis.conf"] = files["redis.conf"].replace("${N}", str(number))
    made["compose_stack_secrets"]["store"]["password"] = secret
    return made


def test_a_stack_by_variables(stack: Stack) -> None:
    """Hardened to full marks; a change makes that service anew and no other; a secret is a file, and nowhere else."""
    stack.variables.update(described())
    said = stack.play("--check", "--diff", "-vvv")
    assert "+maxclients 100" in said and "would be started" in said and not (stack.top / "stack").exists()
    said += stack.play("--diff", "-vvv")
    assert "changed=0" in stack.play()
    first = stack.ids()
    found = module("container_hardening_info", project=stack.name, directory=stack.variables["compose_stack_dir"])
    failed = [
        (one["service"], x["check"], x["reason"])
        for one in found["containers"]
        for x in one["checks"]
        if not x["passed"] and not x["excepted"]
    ]
    assert found["score"] == found["out_of"] and not failed and found["drift"] == []
    facts = json.loads(docker("inspect", first["store"]))[0]
    assert facts["Config"]["User"] == "999:999" and facts["Config"]["StopTimeout"] == 60
    assert "GREETING=it's a $HOME" in facts["Config"]["Env"]
    (network,) = facts["NetworkSettings"]["Networks"]
    assert json.loads(docker("network", "inspect", network))[0]["Internal"]

    # the secret: its container's user reads it, and it stands nowhere else
    assert docker("exec", first["store"], "cat", "/run/secrets/password") == SECRET
    assert (
        docker("exec", first["store"], "redis-cli", "-a", SECRET, "--no-auth-warning", "set", "kept", "yes").strip()
        == "OK"
    )
    path = stack.top / "stack/secrets/store/password"
    assert (path.stat().st_mode & 0o7777, path.stat().st_uid, path.stat().st_gid) == (0o400, 999, 999)
    told = [
        said,
        json.dumps(facts),
        (stack.top / "stack/compose.yaml").read_text(),
        (stack.top / "stack/.env").read_text(),
    ]
    assert not [text for text in told if SECRET in text or json.dumps(SECRET)[1:-1] in text]

    # a change in a file
    stack.variables.update(described(200))
    said = stack.play("--check", "--diff")
    assert "+maxclients 200" in said and "(store)" in said and stack.ids() == first
    stack.play()
    second = stack.ids()
    assert second["other"] == first["other"] and second["store"] != first["store"]
    # another secret
    stack.variables.update(described(200, "the next one"))
    said = stack.play("--diff")
    assert "the next one" not in said and SECRET not in said
    third = stack.ids()
    assert third["other"] == first["other"] and third["store"] != second["store"]
    asked = ("redis-cli", "-a", "the next one", "--no-auth-warning")
    assert docker("exec", third["store"], *asked, "get", "kept").strip() == "yes"
    assert docker("exec", third["store"], *asked, "config", "get", "maxclients").split()[1] == "200"
    # the release before has the secret of before, and nothing that came with the one after it
    stack.variables["compose_stack_services"]["other"]["config"] = {"/etc/other": {"other.conf": "x"}}
    stack.play()
    for _ in range(2):
        stack.play(compose_stack_state="rolled_back")
        assert not (stack.top / "stack/config/other").exists()
    del stack.variables["compose_stack_services"]["other"]["config"]
    assert (
        docker("exec", stack.ids()["store"], "redis-cli", "-a", SECRET, "--no-auth-warning", "get", "kept").strip()
        == "yes"
    )

    # what nobody needs any more is gone
    for key in ("config", "command"):
        del stack.variables["compose_stack_services"]["store"][key]
    stack.variables["compose_stack_services"]["store"]["healthcheck"] = stack.variables["compose_stack_services"][
        "other"
    ]["healthcheck"]
    stack.variables.update(compose_stack_secrets={}, compose_stack_env={})
    stack.variables["compose_stack_services"]["store"].pop("environment")
    stack.play()
    left = {str(one.relative_to(stack.top / "stack")) for one in (stack.top / "stack").rglob("*") if one.is_file()}
    assert {one for one in left if not one.startswith("releases/")} == {"compose.yaml", "secrets/.key"}
    stack.play(compose_stack_state="absent", compose_stack_volumes=True)
    assert stack.ids() == {} and not (stack.top / "stack").exists()
    # the same name, and nothing of ours
    (stack.top / "stack/releases").mkdir(parents=True)
    stack.play(compose_stack_state="absent", compose_stack_volumes=True)
    assert (stack.top / "stack/releases").exists()


AWKWARD = [
    "a\\b",
    "end\\",
    "it's",
    'say "hi"',
    "$HOME ${HOME} $$",
    "one\ntwo\r\n",
    "#a # b",
    " sp ",
    "\\n",
    "caf\u00e9 \U0001f6d2",
    "",
    "`id`",
]


def test_awkward_values_arrive(tmp_path: Path) -> None:
    """As Compose itself reads what is written: values of .env, and what stands in compose.yaml."""
    names = {f"N{number}": value for number, value in enumerate(AWKWARD)}
    service = {
        "image": "redis:7.0",
        "environment": {name: "${%s}" % name for name in names},
        "labels": {"cart": "\U0001f6d2 \x85"},
        # two words for one thing, which Compose compares
        "deploy": {"resources": {"limits": {"memory": "1g", "pids": 500}}},
        "volumes": ["./x:/x:ro,Z"],
    }
    files = Project("1e3", {"web": service}, environment=names).files()
    for one in files:
        (tmp_path / one.path).write_text(one.content)
    said = docker("compose", "--project-directory", str(tmp_path), "config", "--format", "json")
    found = json.loads(said)
    assert found["name"] == "1e3" and found["services"]["web"]["labels"] == service["labels"]
    read = found["services"]["web"]["environment"]
    assert {name: value.replace("$$", "$") for name, value in read.items()} == names


@pytest.mark.skipif(os.getuid() != 0, reason="a network of its own is made by root alone")
def test_who_answers_does_not_call(stack: Stack) -> None:
    """A published port is reached at its addresses, from another host too, and behind it nobody gets out."""
    outside = Engine()
    outside.lay_out()
    # as everywhere: others do not know where the engine's own addresses are
    subprocess.run(["ip", "-n", outside.name, "route", "delete", "default"], check=True)
    listening = [*outside.inside, sys.executable, "-m", "http.server", "8000"]
    port = servers.free_port()
    stack.variables.update(described(), compose_stack_secrets={})
    other = stack.variables["compose_stack_services"]["other"]
    other["ports"] = [f"127.0.0.1:{port}:6379", f"{outside.here}:{port}:6379"]
    other["networks"] = ["front"]
    stack.variables["compose_stack_services"] = {"other": other}
    try:
        with subprocess.Popen(listening, cwd=stack.top, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                stack.play()
                for before, address in (([], "127.0.0.1"), ([], outside.here), (outside.inside, outside.here)):
                    words = [*before, "redis-cli", "-h", address, "-p", str(port), "ping"]
                    said = subprocess.run(words, capture_output=True, text=True, timeout=9, check=True).stdout
                    assert said == "PONG\n"
                call = ["timeout", "3", "bash", "-c", f"echo > /dev/tcp/{outside.address}/8000 && echo called"]
                # as anybody does on a network as the engine makes it
                assert docker("run", "--rm", "redis:7.0", *call) == "called\n"
                assert docker("exec", stack.ids()["other"], *call) == ""
            finally:
                server.terminate()
    finally:
        outside.close()
        stack.play(compose_stack_state="absent")


def test_what_cannot_be_deployed_is_refused_whole(stack: Stack) -> None:
    stack.variables.update(described())
    store = stack.variables["compose_stack_services"]["store"]
    store.update(volumes=["/data"], ports=["6379:6379"], environment={"PASSWORD": SECRET})
    built = f"{stack.name}-built:1"
    dockerfile = f"ARG BASE\nFROM ${{BASE}}\nRUN echo {SECRET!r}\n"
    store.update(image=built, build={"base": "redis:7.0", "dockerfile": dockerfile})
    said = stack.play(ok=False)
    assert docker("image", "inspect", "--format", "{{.Id}}", built).strip() == ""
    for reason in (
        "anonymous volume at /data",
        "on every address of the host",
        "stands in environment of service store too",
        "stands in build of service store too",
        "Nothing was changed",
    ):
        assert reason in said
    assert not (stack.top / "stack").exists() and SECRET not in said
    # of files that others may not read none is shown
    one = {"src": str(stack.top / "redis.conf.j2"), "dest": "x/open"}
    closed = [{**one, "dest": "x/closed", "mode": mode} for mode in ("0640", 0o640, "u=rw,g=,o=")]
    said = stack.play(
        "--check", "--diff", compose_stack_services={}, compose_stack_files=[one, *closed], config="hunter22"
    )
    assert said.count("+hunter22") == 1 and not (stack.top / "stack").exists()
    mixed = [{"src": str(stack.top / "redis.conf.j2"), "dest": dest} for dest in ("x/.env", "./config/store/x")]
    said = stack.play(ok=False, compose_stack_files=mixed)
    assert "(now x/.env, ./config/store/x) go elsewhere" in said and not (stack.top / "stack").exists()


@needs_registry
def test_built_pushed_and_deployed_by_digest(stack: Stack) -> None:
    """Two versions of a Dockerfile, a registry between, and the way back when the host has lost the first image."""
    with registry() as one:
        where = one.address
        stack.variables.update(described(), compose_stack_push=f"{where}/{stack.name}")
        store = stack.variables["compose_stack_services"]["store"]
        store["image"] = f"{stack.name}-built:1"
        store["build"] = {"base": "redis:7.0", "dockerfile": "ARG BASE\nFROM ${BASE}\nRUN echo one > /version\n"}
        said = stack.play(ok=False, compose_stack_image_budget=1)
        assert "budget" in said and "compose_stack_image_budget" in said and stack.ids() == {}
        stack.play()
        first = stack.ids()
        ran = json.loads(docker("inspect", first["store"]))[0]
        assert ran["Config"]["Image"].startswith(f"{where}/{stack.name}/store:1@sha256:")
        assert docker("exec", first["store"], "cat", "/version").strip() == "one"
        assert "changed=0" in stack.play()
        store["build"]["dockerfile"] = store["build"]["dockerfile"].replace("one", "two")
        stack.play()
        second = stack.ids()
        assert docker("exec", second["store"], "cat", "/version").strip() == "two" and second["other"] == first["other"]
        docker("rmi", "-f", ran["Image"])
        stack.play(compose_stack_state="rolled_back")
        assert docker("exec", stack.ids()["store"], "cat", "/version").strip() == "one"
        stack.play(compose_stack_state="absent", compose_stack_volumes=True)
        form = "{{.Repository}} {{.Tag}} {{.Digest}}"
        for line in docker("image", "ls", "--digests", "--format", form).splitlines():
            name, tag, digest = line.split()
            # by name: an ID would be another's image too
            if stack.name in name and tag != "current":
                docker("rmi", f"{name}:{tag}" if tag != "<none>" else f"{name}@{digest}")


def test_a_service_that_fails_has_the_last_word(stack: Stack) -> None:
    """And not the ones that are well."""
    stack.variables.update(described())
    stack.play()
    kept = stack.ids()
    stack.variables.update(described())
    stack.variables["compose_stack_services"]["store"]["config"]["/etc/store"]["redis.conf"] = "maxmemory nonsense"
    said = stack.play(ok=False)
    assert "store (" in said and "maxmemory nonsense" in said and "other (" not in said
    assert "Release 1 of" in said and "was put back and serves" in said
    assert stack.ids()["other"] == kept["other"]
    assert "maxmemory" not in (stack.top / "stack/config/store/etc-store/redis.conf").read_text()
