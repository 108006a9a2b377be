# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles redis_instances and compose_stack with real servers and a real engine.

Every test has its own directory, names and ports, so that two runs beside each other do not meet.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pwd
import random
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cores
import pytest
import redis
import yaml
from machine import build, docker, eventually, host_facts, machine_with_systemd, module, needs_docker

import servers
from ansible_collections.njoy.untangle.plugins.module_utils import plan, profiles

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = cores.ansible_playbook(cores.OLDEST)
GIVEN = 'gi"ven$ s3cret%'
PLAY = """
- name: Instances
  hosts: here
  gather_facts: false
  environment: "{{ environment_there }}"
  vars:
    made: >-
      {{ {'source': {'host': '10.255.255.1'}, 'purposes': purposes, 'tls': tls}
         | njoy.untangle.split_plan({'instances': ['here'], 'vars': {'here': {'ansible_connection': 'local'}}}) }}
  tasks:
    - name: Have them
      ansible.builtin.include_role:
        name: njoy.untangle.redis_instances
      vars:
        redis_instances: "{{ made.purposes }}"
        redis_instances_tls: "{{ made.tls }}"
"""


# each plays a playbook five to nine times
slow = pytest.mark.timeout(900)
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="files are given away to the servers' users by root alone")


class Site:
    """One installation of instances in a directory of its own."""

    def __init__(self, backend: str, **variables: Any):
        # not below pytest's directories: those let nobody through but their owner
        self.top = Path(tempfile.mkdtemp(prefix="ut-inst-", dir="/tmp"))
        self.top.chmod(0o711)
        self.dir = self.top / "state" / "instances"
        self.secrets_dir = self.top / "state" / "secrets"
        tag = self.top.name[-6:].lower().replace("_", "x")
        self.queue, self.cache = f"q{tag}", f"c{tag}"
        self.purposes: list[dict[str, Any]] = [
            {"name": self.queue, "database": 5, "port": servers.free_port(), "profile": "queue", "maxmemory": "64mb"},
            {"name": self.cache, "database": 10, "port": servers.free_port(), "profile": "cache", "maxmemory": "32mb"},
        ]
        self.variables = {
            "tls": {},
            "redis_instances_backend": backend,
            "redis_instances_dir": str(self.dir),
            **variables,
        }
        self.inventory = "here ansible_connection=local ansible_python_interpreter=/usr/bin/python3"
        self.output = ""
        self.cmdlines: set[str] = set()
        self.changed = -1
        self.environment: dict[str, str] = {}

    def play(self, *words: str, ok: bool = True, **variables: Any) -> str:
        """Run the role with everything shown; keeps the number of changed tasks and every command line seen meanwhile."""
        (self.top / "play.yml").write_text(PLAY)
        (self.top / "hosts").write_text(self.inventory + "\n")
        given = {**self.variables, "purposes": self.purposes, "environment_there": self.environment, **variables}
        (self.top / "vars.yml").write_text(yaml.safe_dump(given))
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(done,), daemon=True)
        watcher.start()
        environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PIPELINING": "1"}
        run = subprocess.run(
            [str(ANSIBLE), "-i", "hosts", "play.yml", "-e", "@vars.yml", "-vvv", "--diff", *words],
            cwd=self.top,
            env={**environment, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".venv/collections")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        done.set()
        watcher.join()
        out = run.stdout + run.stderr
        self.output += out
        found = re.search(r"ok=\d+ +changed=(\d+)", out)
        self.changed = int(found.group(1)) if found else -1
        assert (run.returncode == 0) == ok, out[-6000:]
        return out

    def _watch(self, done: threading.Event) -> None:
        """Note every command line of processes that start meanwhile; those that were there say nothing new."""
        there = {name for name in os.listdir("/proc") if name.isdigit()}
        while not done.wait(0.03):
            for name in os.listdir("/proc"):
                if name.isdigit() and name not in there:
                    with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", errors="replace") as file:
                        self.cmdlines.add(file.read())

    def password(self, name: str, kind: str) -> str:
        return (self.secrets_dir / f"{name}.{kind}").read_text()

    def secrets(self) -> list[str]:
        """Every password and, as good as those, every hash of one."""
        words = [path.read_text() for path in self.secrets_dir.iterdir()]
        return words + [hashlib.sha256(word.encode()).hexdigest() for word in words]

    def client(self, name: str, kind: str = "admin", **options: Any) -> redis.Redis:
        port = next(one["port"] for one in self.purposes if one["name"] == name)
        user = {"admin": "untangle", "health": "health", "app": name}[kind]
        login = {"username": user, "password": self.password(name, kind)}
        return redis.Redis("127.0.0.1", port, decode_responses=True, protocol=2, **login, **options)

    def run_ids(self, **options: Any) -> dict[str, str]:
        found = {}
        for name in (self.queue, self.cache):
            with self.client(name, **options) as client:
                found[name] = client.info("server")["run_id"]
        return found

    def files(self) -> dict[str, tuple[int, int, str]]:
        """Every file below the site with mode, size and content's hash; servers' own data left out."""
        found = {}
        for path in sorted(self.dir.parent.rglob("*")):
            if path.is_file() and "data" not in path.parts and path.name != "server.log":
                held = path.read_bytes()
                found[str(path)] = (path.stat().st_mode, len(held), hashlib.sha256(held).hexdigest())
        return found

    def close(self) -> None:
        for name in (self.queue, self.cache):
            program = self.dir / name / "instance"
            if program.exists():
                subprocess.run([str(program), "stop"], capture_output=True, check=False)
            if docker("ps", "-aq", "--filter", f"name=^untangle-{name}$"):
                docker("compose", "-p", f"untangle-{name}", "down", "--volumes", "--timeout", "1")
        for pid in pids_below(self.top):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.top, ignore_errors=True)


def pids_below(top: Path) -> list[int]:
    """Processes that run a program below a directory, or work in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(top) in (path / "cmdline").read_text(errors="replace") or str(top) in os.readlink(path / "cwd"):
                found.append(int(path.name))
    return [pid for pid in found if pid != os.getpid()]


def watched_by(site: Site) -> dict[str, Any]:
    """The variables of a stack that watches and is this installation's own."""
    return {
        "__redis_instances_watch": f"watch-{site.queue}",
        "redis_instances_monitoring_listen": f"127.0.0.1:{servers.free_port()}",
        "redis_instances_monitoring_interval": "1s",
    }


def check_watched(site: Site) -> None:
    query = "http://127.0.0.1:9090/api/v1/query?query=redis_up==1"
    form = ["exec", f"watch-{site.queue}-prometheus-1", "wget", "-q", "-O", "-", query]
    eventually(lambda: len(json.loads(docker(*form))["data"]["result"]) == len(site.purposes), 30)


def left_of(site: Site) -> dict[str, Any]:
    """Everything of an installation that is on this machine."""
    names = f"untangle-({site.queue}|{site.cache})"
    return {
        "files": [str(path) for path in site.dir.parent.rglob("*")],
        "processes": pids_below(site.dir),
        "containers": [n for n in docker("ps", "-a", "--format", "{{.Names}}").split() if re.match(names, n)],
        "volumes": [n for n in docker("volume", "ls", "-q").split() if re.match(names, n)],
        "networks": [n for n in docker("network", "ls", "--format", "{{.Name}}").split() if re.match(names, n)],
    }


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[Any]:
    made: list[Site] = []

    def make(*args: Any, **kwargs: Any) -> Site:
        made.append(Site(*args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.close()


def refuses(client: redis.Redis, *words: str) -> bool:
    # DEBUG is not even looked up in the user's rules from 7.0 on: enable-debug-command is off
    with pytest.raises(redis.ResponseError, match=r"(?i)no permissions|NOPERM|command not allowed"):
        client.execute_command(*words)
    return True


def check_running(site: Site, **options: Any) -> None:
    """What both backends promise of what runs."""
    for one in site.purposes:
        name = one["name"]
        with site.client(name, **options) as admin, site.client(name, "app", **options) as app:
            assert admin.config_get("maxmemory")["maxmemory"] == str(profiles.parse_memory(one["maxmemory"]))
            assert admin.config_get("databases")["databases"] == "1"
            assert app.set("k", "v") and app.get("k") == "v" and app.info("memory")
            for words in (["FLUSHALL"], ["KEYS", "*"], ["DEBUG", "SLEEP", "0"], ["CONFIG", "GET", "save"]):
                assert refuses(app, *words)
            if one["profile"] == "cache":
                assert app.flushdb() and app.dbsize() == 0
            else:
                assert refuses(app, "FLUSHDB")
            with pytest.raises(redis.ResponseError, match="out of range"):
                app.execute_command("SELECT", "1")
        with site.client(name, "health", **options) as health:
            assert health.ping() and refuses(health, "GET", "k")
        with pytest.raises(redis.AuthenticationError), redis.Redis("127.0.0.1", one["port"], **options) as nobody:
            nobody.ping()
    assert stat.S_IMODE(site.secrets_dir.stat().st_mode) == 0o700
    for path in site.secrets_dir.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not path.read_bytes().endswith(b"\n")


def check_story(site: Site, **options: Any) -> None:
    """Check mode, the real thing, again, a change, and away: the same for both backends."""
    before = left_of(site)
    assert not before["files"]
    out = site.play("--check")
    assert left_of(site) == before, "check mode changed something"
    assert not site.dir.parent.exists()
    assert site.changed > 0 and f"untangle-{site.cache} would be started" in out
    assert "+maxmemory 33554432" in out and "+save 900 1" in out

    site.play()
    check_running(site, **options)
    assert site.password(site.queue, "app") == GIVEN
    first = site.run_ids(**options)
    files = site.files()

    site.play()
    assert site.changed == 0 and site.run_ids(**options) == first and site.files() == files

    site.purposes[1]["settings"] = {"maxmemory-policy": "allkeys-lfu", "notify-keyspace-events": "Ex"}
    out = site.play("--check")
    assert site.changed > 0 and f"untangle-{site.cache} would be started again" in out
    assert f"untangle-{site.queue} would be" not in out and "+maxmemory-policy allkeys-lfu" in out
    assert site.run_ids(**options) == first and site.files() == files

    with site.client(site.queue, "app", **options) as app:
        app.rpush("jobs", "one")
    site.play()
    second = site.run_ids(**options)
    assert second[site.queue] == first[site.queue] and second[site.cache] != first[site.cache]
    with site.client(site.cache, **options) as admin:
        assert admin.config_get("maxmemory-policy")["maxmemory-policy"] == "allkeys-lfu"


def check_secrets(site: Site) -> None:
    assert any("redis-server" in line for line in site.cmdlines), "the watcher saw nothing"
    for secret in site.secrets():
        assert secret not in site.output
        assert not [line for line in site.cmdlines if secret in line]
        assert json.dumps(secret)[1:-1] not in site.output


def check_away(site: Site, out: str) -> None:
    assert left_of(site) == {"files": [], "processes": [], "containers": [], "volumes": [], "networks": []}
    assert f"Removed, of {site.cache} on here" in out and f"{site.cache}.admin" in out


@slow
@needs_root
def test_host(site: Any) -> None:
    here = site("host")
    here.purposes[0]["password"] = GIVEN
    check_story(here)

    pids = {n: int((here.dir / n / "data/server.pid").read_text()) for n in (here.queue, here.cache)}
    assert {Path(f"/proc/{pid}").stat().st_uid for pid in pids.values()} == {pwd.getpwnam("redis").pw_uid}

    # a server that dies is started again, with what it had
    with here.client(here.queue) as admin:
        eventually(lambda: admin.info("persistence")["aof_last_write_status"] == "ok")
    time.sleep(1.1)  # appendfsync everysec
    os.kill(pids[here.queue], signal.SIGKILL)
    with here.client(here.queue, "app") as app:
        assert eventually(lambda: app.lrange("jobs", 0, -1) == ["one"])

    # a supervisor that dies leaves its server serving, and the next run watches over that again
    os.kill(int((here.dir / here.cache / "supervisor.pid").read_text()), signal.SIGKILL)
    ids = here.run_ids()
    # users that the server does not take are told in its own words, and it goes on with those that it has
    here.purposes[1]["acl"] = "+nonsense"
    out = here.play(ok=False)
    assert f"The instance {here.cache} on" in out and "Unknown command or category name in ACL" in out
    assert "Correct the acl of the purpose" in out
    assert here.run_ids() == ids and here.client(here.cache, "app").ping() and here.client(here.cache).acl_load()
    del here.purposes[1]["acl"]
    # a lost password of the health check: the users are loaded anew, nothing is started again
    (here.secrets_dir / f"{here.queue}.health").unlink()
    # and what was changed behind the role's back is told, by name
    with here.client(here.cache) as admin:
        admin.config_set("maxmemory", 12345678)
    out = here.play(ok=False)
    assert "maxmemory is '12345678', planned '33554432'" in out
    assert here.run_ids() == ids and here.client(here.queue, "health").ping()
    os.kill(int((here.dir / here.cache / "data/server.pid").read_text()), signal.SIGKILL)
    assert eventually(lambda: here.run_ids()[here.cache] != ids[here.cache])
    # the engine may hold the limits of an instance, while it fills that
    with here.client(here.cache) as admin:
        admin.config_set("maxmemory", 0)
        code = "#!lua name=untangle\n-- njoy.untangle: %s\nredis.register_function('untangle_mark', function() return '' end)"
        admin.function_load(code % json.dumps({"source": "a", "state": "copying"}))
    # a lost password of the engine: that instance has to be started again to know the new one
    (here.secrets_dir / f"{here.queue}.admin").unlink()
    # and one that is broken off before it has written down what it started finds its own server at the port
    (here.dir / here.queue / "applied").unlink()
    ids[here.cache] = here.client(here.cache).info("server")["run_id"]
    here.play()
    assert here.run_ids()[here.cache] == ids[here.cache] and here.run_ids()[here.queue] != ids[here.queue]
    check_secrets(here)
    check_away(here, here.play(redis_instances_state="absent"))


@slow
@needs_docker
@needs_root
def test_compose(site: Any) -> None:
    here = site("compose")
    here.purposes[0]["password"] = GIVEN
    here.variables["tls"] = servers.certificate(here.top)
    tls = {"ssl": True, "ssl_ca_certs": f"{here.top}/crt.pem"}
    check_story(here, **tls)

    one = json.loads(docker("inspect", f"untangle-{here.queue}"))[0]
    limits = one["HostConfig"]
    assert limits["Sysctls"] == {"net.core.somaxconn": "4096"}
    assert docker("exec", f"untangle-{here.queue}", "cat", "/proc/sys/net/core/somaxconn").strip() == "4096"
    assert limits["ReadonlyRootfs"] and limits["CapDrop"] == ["ALL"] and limits["PidsLimit"] == 100
    assert "no-new-privileges:true" in limits["SecurityOpt"] and not limits["Privileged"]
    assert limits["Memory"] == 2 * (64 << 20) + (128 << 20)
    assert one["Config"]["User"] == "999:999" and one["State"]["Health"]["Status"] == "healthy"
    assert {(p["HostIp"]) for ports in limits["PortBindings"].values() for p in ports} == {"127.0.0.1"}
    top = docker("top", f"untangle-{here.queue}", "-o", "pid,uid")
    assert top.split()[-1] == "999"
    assert not [
        n for n in docker("volume", "ls", "-q").split() if re.fullmatch("[0-9a-f]{64}", n) and n in json.dumps(one)
    ]
    # no secret is in what the engine keeps of it, nor in its files
    for secret in here.secrets():
        assert secret not in json.dumps(one) + (here.dir / here.queue / "compose.yaml").read_text()
    with pytest.raises((redis.ConnectionError, redis.AuthenticationError)):
        here.client(here.queue).ping()  # without TLS

    # the benchmark finds nothing but what is excepted, and nobody has changed anything
    judged = module("container_hardening_info", project=f"untangle-{here.queue}", directory=str(here.dir / here.queue))
    checks = judged["containers"][0]["checks"]
    assert judged["score"] == judged["out_of"] > 20, [check for check in checks if check["advice"]]
    assert [check["check"] for check in checks if check["excepted"]] == ["5.15"] and judged["drift"] == []

    # a server that dies is started again, with what it had
    ids = here.run_ids(**tls)
    os.kill(one["State"]["Pid"], signal.SIGKILL)
    with here.client(here.queue, "app", **tls) as app:
        assert eventually(lambda: app.lrange("jobs", 0, -1) == ["one"])
    assert here.run_ids(**tls)[here.queue] != ids[here.queue]

    # exporters come in over TLS too, and what watches goes with the instances, whatever is said of it by then
    watching = watched_by(here)
    here.play(redis_instances_monitoring=True, **watching)
    check_watched(here)
    here.play("--check", redis_instances_monitoring=True, **watching)
    assert here.changed == 0
    check_secrets(here)
    check_away(here, here.play(redis_instances_state="absent", **watching))
    assert docker("ps", "-aq", "--filter", f"name=watch-{here.queue}") == ""


@slow
@needs_docker
def test_ordinary_user_and_what_is_refused(site: Any) -> None:
    """Nobody in particular runs a server of the host; nothing stands in the way of an image of Valkey either."""
    here = site("host")
    here.purposes.pop()
    user = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    if os.getuid() == 0:
        here.inventory += (
            " ansible_become=true ansible_become_method=su ansible_become_user=nobody ansible_become_flags='-s /bin/sh'"
            f" ansible_remote_tmp={here.top}/tmp"
        )
        for name in ("state", "tmp"):
            (here.top / name).mkdir()
            shutil.chown(here.top / name, "nobody")
    here.play()
    pid = int((here.dir / here.queue / "data/server.pid").read_text())
    assert pwd.getpwuid(Path(f"/proc/{pid}").stat().st_uid).pw_name == user
    check_running(here)
    here.play()
    assert here.changed == 0

    # a setting that the server does not take is refused before what runs is touched
    ids = here.client(here.queue).info("server")["run_id"]
    files = here.files()
    here.purposes[0]["settings"] = {"maxmemory-polcy": "noeviction"}
    out = here.play(ok=False)
    assert "maxmemory-polcy" in out and "Bad directive" in out
    assert here.files() == files and here.client(here.queue).info("server")["run_id"] == ids
    # the other backend while this one runs, a port that somebody has, an address that is not here: all at once
    with servers.Server() as busy:
        here.purposes = [
            {**here.purposes[0], "settings": {}},
            {**here.purposes[0], "name": "other", "database": 6, "port": busy.port},
            {**here.purposes[0], "name": "far", "database": 7, "port": servers.free_port(), "address": "192.0.2.7"},
        ]
        out = here.play(ok=False, redis_instances_backend="compose")
    assert f"purpose {here.queue}: it runs here already with backend host" in out
    assert f"purpose other: port {busy.port} on 127.0.0.1 is in use" in out
    assert "purpose far: address 192.0.2.7 is not an address of this host" in out
    assert here.files() == files


@slow
@needs_docker
@needs_root
def test_ordinary_user_in_a_container(site: Any) -> None:
    """Who may use the engine but is not root: the container runs as that user, whatever the image's own user is."""
    here = site("compose", redis_instances_image="valkey/valkey:8.1")
    here.purposes.pop()
    here.inventory += (
        " ansible_become=true ansible_become_method=su ansible_become_user=nobody"
        f" ansible_become_flags='-s /bin/sh -g docker' ansible_remote_tmp={here.top}/tmp"
    )
    # that user's own configuration of the client, with the plugin that root has
    plugins = json.loads(docker("info", "-f", "{{json .ClientInfo.Plugins}}"))
    compose = next(one["Path"] for one in plugins if one["Name"] == "compose")
    (here.top / "docker/cli-plugins").mkdir(parents=True)
    shutil.copy(compose, here.top / "docker/cli-plugins/docker-compose")
    for name in ("state", "tmp", "docker"):
        (here.top / name).mkdir(exist_ok=True)
        shutil.chown(here.top / name, "nobody")
    here.environment = {"DOCKER_CONFIG": f"{here.top}/docker"}
    here.play()
    check_running(here)
    assert docker("top", f"untangle-{here.queue}", "-o", "pid,uid").split()[-1] == str(pwd.getpwnam("nobody").pw_uid)
    watching = watched_by(here)
    here.play(redis_instances_monitoring=True, **watching)
    check_watched(here)
    here.play(redis_instances_monitoring=True, **watching)
    assert here.changed == 0
    out = here.play(redis_instances_state="absent", **watching)
    assert f"container untangle-{here.queue}" in out and f"volume untangle-{here.queue}_data" in out
    assert docker("ps", "-aq", "--filter", f"name=watch-{here.queue}") == ""
    assert left_of(here) == {"files": [], "processes": [], "containers": [], "volumes": [], "networks": []}


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ({"server": "no-such-server"}, "no-such-server is not on this host. Install redis-server or valkey-server"),
        ({"server": "/bin/true"}, "Name another binary in redis_instances_server"),
        ({"user": "no-such-user"}, "user no-such-user is not on this host"),
        ({"dir": "relative"}, "redis_instances_dir is relative. Write it as an absolute path"),
        (
            {"tls": {"ca_file": "/nowhere/ca", "cert_file": "", "key_file": ""}},
            "redis_instances_tls: ca_file cannot be read",
        ),
        (
            {"instances": [["a", "no.such.name.invalid", 7000]]},
            "purpose a: this host cannot resolve address no.such.name.invalid",
        ),
        ({"instances": [["a", "192.0.2.7", 7000]]}, "purpose a: address 192.0.2.7 is not an address of this host"),
        ({"dir": "{barred}/x"}, "does not let user redis through to its instance. Allow it (chmod a+x)"),
        (
            {"backend": "compose", "image": "debian:bookworm-slim"},
            "the image debian:bookworm-slim holds no redis-server or valkey-server",
        ),
        ({"backend": "compose", "DOCKER_HOST": "tcp://127.0.0.1:1"}, "the Docker engine does not answer"),
        # Debian gives a host its own name this way
        (
            {"instances": [["a", "redis1.test", 7000]], "mount": ("/etc/hosts", "127.0.1.1 redis1.test\n")},
            "purpose a: its address redis1.test is 127.0.1.1 on this host, which no other host can reach",
        ),
        (
            {"host_settings": "set", "mount": ("/proc/sys/vm/overcommit_memory", "0\n")},
            "redis_instances_host_settings is set, and vm.overcommit_memory cannot be written here",
        ),
    ],
)
@needs_root
def test_what_stands_in_the_way(question: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    """What the role asks its host before the first change, asked directly."""
    barred = Path(tempfile.mkdtemp(prefix="ut-inst-", dir="/tmp"))
    try:
        answer = host_facts(
            tmp_path, **{k: v.replace("{barred}", str(barred)) if k == "dir" else v for k, v in question.items()}
        )
    finally:
        barred.rmdir()
    assert sentence in " ".join(answer["problems"])


@needs_docker
def test_an_address_that_a_network_gives_away(tmp_path: Path) -> None:
    name = f"untangle-test-{tmp_path.parent.name}-{os.getpid()}"
    begin = next(
        begin
        for begin in iter(lambda: f"10.{random.randint(100, 250)}.{random.randint(0, 250)}", None)
        if docker("network", "create", "--subnet", f"{begin}.0/24", name)
    )
    try:
        asked = [["a", f"{begin}.11", 7000], ["b", "fd00::5", 7000]]
        problems = host_facts(tmp_path, backend="compose", network=name, instances=asked)["problems"]
    finally:
        docker("network", "rm", name)
    assert len(problems) == 2
    assert f"purpose a: the network {name} gives {begin}.11 to any container" in problems[0]
    assert "fd00::5 is an IPv6 address" in problems[1]


@needs_root
def test_a_state_directory_that_was_made_shut_is_opened() -> None:
    with tempfile.TemporaryDirectory(prefix="ut-inst-", dir="/tmp") as state:
        (Path(state) / "split.json").touch()
        answer = host_facts(Path(state) / "instances")
        assert answer["shut"] == state and answer["problems"] == []


#: As many public images are: they run as a number, and have no /data. Its health check cannot succeed.
OF_A_NUMBER = """
FROM redis:7.0
RUN rm -rf /data && ln -sf /bin/false /usr/local/bin/redis-cli
USER 1001
"""
#: The nearest to Alpine: its shell and tools, its redis with group 1000, and nothing else of Debian.
OF_BUSYBOX = """
FROM redis:7.0 AS whole
RUN cd /tmp && apt-get update -q && apt-get download -q busybox-static && dpkg -x *.deb there \\
 && mkdir -p /new/bin /new/etc /new/data && install -d -m 1777 /new/tmp && cp there/bin/busybox /new/bin/ \\
 && for applet in $(/new/bin/busybox --list); do [ "$applet" = busybox ] || ln -s busybox "/new/bin/$applet"; done \\
 && cp -L /usr/bin/redis-server /usr/bin/redis-cli /new/bin/ \\
 && ldd /usr/bin/redis-server /usr/bin/redis-cli | grep -o '/lib[^ ]*' | sort -u | xargs -I @ cp -L --parents @ /new \\
 && echo 'root:x:0:0::/root:/bin/sh\\nredis:x:999:1000::/data:/sbin/nologin' > /new/etc/passwd \\
 && echo 'root:x:0:\\nredis:x:1000:' > /new/etc/group && echo ID=alpine > /new/etc/os-release && chown 999:1000 /new/data
FROM scratch
COPY --from=whole /new /
VOLUME /data
CMD ["redis-server"]
"""


@slow
@needs_docker
@needs_root
def test_images_of_others(site: Any) -> None:
    """A first deployment that fails is repeated; servers run as their image's user, and go on as whom their data belong to."""
    images = [f"untangle-test-{kind}-{os.getpid()}:1" for kind in ("number", "busybox", "empty")]
    number, busybox, empty = images
    build(number, OF_A_NUMBER)
    build(f"{number}0", f"FROM {number}\nUSER 0\nRUN ln -sf /usr/bin/redis-cli /usr/local/bin/redis-cli\nUSER 1001\n")
    build(busybox, OF_BUSYBOX)
    build(empty, "FROM scratch\nCOPY Dockerfile /\n")
    images.append(f"{number}0")
    here = site("compose", redis_instances_image=number, redis_instances_wait=8)
    here.purposes.pop()

    def user() -> str:
        return docker("inspect", "--format", "{{.Config.User}}", f"untangle-{here.queue}").strip()

    try:
        for image, sentence in ((empty, "has no shell (sh)"), ("debian:bookworm-slim", "holds no redis-server")):
            assert sentence in host_facts(here.top, backend="compose", image=image)["problems"][0]

        said = here.play(ok=False)
        assert "did not become healthy" in said, said[-4000:]
        here.variables.update(redis_instances_image=f"{number}0", redis_instances_wait=60)
        here.play()
        assert user() == "1001:0"
        check_running(here)
        with here.client(here.queue) as client:
            client.rpush("jobs", "one")
        here.variables["redis_instances_image"] = busybox
        here.play()
        assert user() == "1001:0" and here.client(here.queue).lrange("jobs", 0, -1) == ["one"]
        # gone but for its data, it has nobody to go on as
        docker("rm", "-f", f"untangle-{here.queue}")
        here.play()
        assert user() == "999:1000" and here.client(here.queue).lrange("jobs", 0, -1) == ["one"]
        assert here.client(here.queue).bgrewriteaof()
        check_running(here)
        here.play()
        assert here.changed == 0
        # what is asked of an image before the first change, asked there
        canary = {"payload_version": 99, "flavour": "redis", "version": "99"}
        problems = host_facts(here.top, backend="compose", image=busybox, source=canary)["problems"]
        assert "does not take the data format of the shared server" in problems[0]
    finally:
        here.close()
        docker("rmi", "-f", *images)


WITH_MODULES = """
FROM redis:7.0
RUN cd /tmp && apt-get update -q && apt-get download -q redis-redisearch && dpkg -x *.deb / && rm *.deb \\
 && apt-get install -qy --no-install-recommends tcc && printf '%s\\n' \\
    'int RedisModule_OnLoad(void **ctx, void **argv, int argc) {' \\
    '    int (*get)(const char *, void *) = ctx[0]; void (*name)(void *, const char *, int, int);' \\
    '    get("RedisModule_SetModuleAttribs", &name); name(ctx, "second", 1, 1); return argc != 2; }' > second.c \\
 && tcc -shared -nostdlib -o /usr/lib/redis/modules/second.so second.c
ENTRYPOINT ["sh", "-c", "exec redis-server \\"$@\\" --loadmodule $0", "/usr/lib/redis/modules/redisearch.so"]
CMD []
"""


@slow
@needs_docker
def test_modules_of_an_image_are_loaded_when_asked_for(site: Any) -> None:
    """An image whose entrypoint loads one, as that of Redis 8 does."""
    image = f"untangle-test-module-{os.getpid()}"
    build(f"{image}:1", WITH_MODULES)
    try:
        loaded = docker("run", "--rm", f"{image}:1", "--version")
        assert loaded.startswith("Redis server v=7.0")
        where = "/usr/lib/redis/modules"
        here = site("compose", redis_instances_image=f"{image}:1")
        here.purposes.pop()
        here.play()
        with here.client(here.queue) as client:
            assert client.module_list() == []
        # of several a list, with their arguments: the second loads with two of them only
        here.purposes[0]["settings"] = {"loadmodule": [f"{where}/redisearch.so", f"{where}/second.so a b"]}
        here.play()
        with here.client(here.queue) as client:
            assert sorted(one["name"] for one in client.module_list()) == ["ft", "second"]
        here.play()
        assert here.changed == 0
    finally:
        here.close()
        docker("rmi", "-f", f"{image}:1")


@slow
@needs_root
def test_the_kernels_settings(site: Any) -> None:
    """Reported with what they cost; set only when told to, and for good. A directory stands for the root of the host."""
    here = site("host", __redis_instances_top="")
    here.purposes.pop()
    top = here.top / "host"
    before = {
        "proc/sys/vm/overcommit_memory": "0",
        "proc/sys/net/core/somaxconn": "128",
        "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never",
    }
    for name, text in before.items():
        (top / name).parent.mkdir(parents=True)
        (top / name).write_text(text + "\n")
    here.variables["__redis_instances_top"] = str(top)

    def now() -> dict[str, str]:
        return {str(path.relative_to(top)): path.read_text().strip() for path in top.rglob("*") if path.is_file()}

    said = here.play()
    assert "vm.overcommit_memory is 0, and Redis needs 1" in said and "transparent huge pages is always" in said
    assert "net.core.somaxconn is 128" in said and "redis_instances_host_settings: set changes it" in said
    assert now() == before
    here.variables["redis_instances_host_settings"] = "set"
    here.play("--check")
    assert here.changed > 0 and now() == before
    here.play()
    assert now() == {
        "proc/sys/vm/overcommit_memory": "1",
        "proc/sys/net/core/somaxconn": "1024",
        "sys/kernel/mm/transparent_hugepage/enabled": "madvise",
        "etc/sysctl.d/99-untangle.conf": "vm.overcommit_memory = 1\nnet.core.somaxconn = 1024",
        "etc/tmpfiles.d/untangle.conf": "w /sys/kernel/mm/transparent_hugepage/enabled - - - - madvise",
    }
    said = here.play()
    assert here.changed == 0 and "and Redis needs 1" not in said
    here.play(redis_instances_state="absent")
    assert not [name for name in now() if name.startswith("etc/")]


@slow
@needs_docker
def test_systemd(site: Any) -> None:
    """Where systemd is PID 1 an instance is a unit: started, started again for a change, watched over, and taken away."""
    here = site("host", redis_instances_dir="")
    here.purposes.pop()
    here.purposes[0]["address"] = "127.0.0.1"
    machine, unit = here.top.name, f"untangle-{here.queue}"
    here.inventory = f"here ansible_connection=community.docker.docker ansible_host={machine} ansible_python_interpreter=/usr/bin/python3"

    with machine_with_systemd(machine) as there:

        def run_id() -> str:
            text = there(f"/var/lib/untangle/instances/{here.queue}/instance", "admin", "INFO", "server")
            found = re.search(r"run_id:(\w+)", text)
            return found.group(1) if found else ""

        here.play()
        assert there("systemctl", "is-active", unit) == "active" and there("systemctl", "is-enabled", unit) == "enabled"
        assert there("ps", "-o", "user=", "-C", "redis-server") == "redis"
        first = run_id()
        here.play()
        assert here.changed == 0 and run_id() == first
        here.purposes[0]["settings"] = {"hz": 20}
        # as after a run that was broken off before it wrote that down
        there("rm", f"/var/lib/untangle/instances/{here.queue}/applied")
        here.play()
        second = run_id()
        assert second != first
        there("pkill", "-9", "redis-server")
        assert eventually(lambda: run_id() not in (second, ""))
        out = here.play(redis_instances_state="absent")
        assert f"/etc/systemd/system/{unit}.service" in out
        assert unit not in there("systemctl", "list-units", "--all") and not there("pidof", "redis-server")
        assert there("find", "/var/lib/untangle", "/etc/systemd/system", "-name", f"*{here.queue}*") == ""


# -- what is rendered, on every server -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", servers.versions())
def test_every_profile_on_every_server(version: str, tmp_path: Path) -> None:
    """Each profile is taken by each server, and reads back as it was planned; the users may do what they should."""
    number = profiles.parse_version(version.partition("-")[2])
    hashes = {kind: hashlib.sha256(kind.encode()).hexdigest() for kind in ("app", "admin", "health")}
    for profile in profiles.PROFILES:
        port = servers.free_port()
        purpose = {
            "port": port,
            "settings": profiles.settings(profile, 64 << 20, {"notify-keyspace-events": "KEA", "hz": 20}),
        }
        home = tmp_path / profile
        home.mkdir()
        (home / "users.acl").write_text("\n".join(profiles.acl_lines("web", profile, hashes, number)) + "\n")
        layout = {"bind": "127.0.0.1", "dir": home, "aclfile": home / "users.acl", "pidfile": home / "server.pid"}
        wanted = profiles.instance_settings(purpose, number, layout)
        (home / "redis.conf").write_text("\n".join(profiles.conf_lines(wanted)) + "\n")
        with (home / "log").open("wb") as log:
            server = subprocess.Popen([*servers.command(version), str(home / "redis.conf")], stdout=log, stderr=log)
        try:
            with redis.Redis(
                port=port, username="untangle", password="admin", decode_responses=True, protocol=2
            ) as admin:
                eventually(admin.ping)
                running: dict[str, str] = {}
                for name in wanted:
                    running.update(admin.config_get(name))
                assert profiles.differences(wanted, running) == [], (version, profile)
                users = admin.acl_list()
                assert [line.split()[1] for line in sorted(users)] == sorted(["default", "web", "untangle", "health"])
            with redis.Redis(
                port=port, username="web", password="app", protocol=2, lib_name=None, lib_version=None
            ) as app:
                app.set("a", "1")
                app.client_setname("worker-1")
                assert app.client_id() and app.client_list() and app.info() and app.lpush("l", 1) and app.sort("l")
                assert app.eval("return redis.call('get', KEYS[1])", 1, "a") == b"1"
                assert app.publish("channel", "word") == 0
                for words in (
                    ["FLUSHALL"],
                    ["KEYS", "*"],
                    ["DEBUG", "SLEEP", "0"],
                    ["CONFIG", "GET", "*"],
                    ["CLIENT", "KILL", "ID", "1"],
                    ["CLIENT", "PAUSE", "1"],
                    ["SHUTDOWN"],
                    ["REPLICAOF", "NO", "ONE"],
                    ["ACL", "LIST"],
                    ["MONITOR"],
                    *([["FUNCTION", "FLUSH"]] if number >= (7, 0) else []),
                    *([] if profile in profiles.MAY_FLUSH else [["FLUSHDB"]]),
                ):
                    assert refuses(app, *words), words
                if profile in profiles.MAY_FLUSH:
                    app.flushdb()
        finally:
            server.kill()
            server.wait()


def test_plan_and_urls_meet_a_real_server(server: Any) -> None:
    """What endpoint() writes is a URL that a client library takes, whatever is in the password."""
    password = "p:/@?#%& +\"'\\ü"
    made = server("redis-7.0")
    with made.client() as admin:
        admin.execute_command("ACL", "SETUSER", "cache", "on", "~*", "+@all", ">" + password)
    purpose = {"name": "cache", "user": "cache", "address": "127.0.0.1", "port": made.port, "tls": False}
    url = str(plan.endpoint(purpose, "url", password))
    with redis.Redis.from_url(url) as client:
        assert client.ping() and client.acl_whoami() == "cache"
