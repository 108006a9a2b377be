# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A shared server, an application on two hosts and an inventory: what the tests of the playbooks work on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import tempfile
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cores
import dataset
import pytest
import redis

import servers
from ansible_collections.njoy.untangle.plugins.module_utils.engine import jobs

ROOT = Path(__file__).resolve().parents[1]
COLLECTIONS = ROOT / ".venv" / "collections"
VERSION = "redis-7.0"
#: Of this process alone: another one that runs beside it may show its own on a command line.
SOURCE_SECRET = f"s0urce s3cret/%{os.getpid()}"
OLD = "redis://:{}@127.0.0.1:{}/{}"
PROFILES = {"sessions": (0, "sessions"), "pipeline": (5, "queue"), "cache": (10, "cache")}


#: What every test of the playbooks needs.
needs = [
    pytest.mark.servers,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not servers.command("redis-7.0"), reason="no redis-server 7.0: run `make testbed`"),
    pytest.mark.skipif(os.getuid() != 0, reason="instances run as the server's own user, which takes root"),
]


def differs(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Where two sides differ, by kind."""
    return {kind: found for kind in PROFILES if (found := dataset.difference(one[kind], other[kind]))}


def _lines(screen: int) -> Iterator[str]:
    """What is written to a terminal or a pipe, until nobody is left to write."""
    with open(os.dup(screen), encoding="utf-8", errors="replace", newline="\n") as stream, contextlib.suppress(OSError):
        # a terminal whose last user has gone answers with an error
        for line in stream:
            yield line.replace("\r\n", "\n")


def _take_terminal() -> None:
    # what was started in the background hands down that it hears no interrupt
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Run:
    """One run of a playbook that has ended."""

    def __init__(self, code: int, output: str):
        self.code = code
        self.output = output
        self.changed = sum(int(n) for n in re.findall(r"ok=\d+ +changed=(\d+)", output))

    def says(self, *texts: str) -> bool:
        flat = self.output.replace("\\n", " ")
        for text in texts:
            assert text in flat, f"{text!r} is not in:\n{self.output[-5000:]}"
        return True


class Site:
    """`site.play("cutover")` runs a phase as a user does, by its FQCN, and returns what came of it."""

    def __init__(self, *apps: str, core: str | None = None, **variables: Any):
        self.apps = apps or ("web1",)
        self.core = core
        # not below pytest's directories: those let nobody through but their owner
        self.top = Path(tempfile.mkdtemp(prefix="ut-play-", dir="/tmp"))
        self.top.chmod(0o711)
        self.source = servers.Server(VERSION, requirepass=f'"{SOURCE_SECRET}"')
        self.source.config["requirepass"] = f'"{SOURCE_SECRET}"'
        self.source.start()
        # names of its own: containers and units of two sites must not meet
        self.tag = self.top.name[-6:].lower().replace("_", "x")
        self.names = {kind: f"{kind}_{self.tag}" for kind in PROFILES}
        self.ports = {kind: servers.free_port() for kind in PROFILES}
        self.state = self.top / "state"
        self.log = self.top / "restarts"
        self.files = {name: self.top / f"{name}.env" for name in self.apps}
        self.inventory = self.top / "inventory.ini"
        self.collections = str(COLLECTIONS)
        self.output = ""
        self.cmdlines: set[str] = set()
        for file in self.files.values():
            file.write_text(
                "# the shop\nDEBUG=0\n"
                f"CACHE_URL={OLD.format('x', self.source.port, 10)}\nSESSION_URL={OLD.format('x', self.source.port, 0)}\n"
                f"QUEUE_HOST=127.0.0.1\nQUEUE_PORT={self.source.port}\n"
            )
        self.before = {name: file.read_text() for name, file in self.files.items()}
        self.write_inventory()
        self.variables: dict[str, Any] = {
            # (those with the default, live, say so: its stories are in test_playbooks_live.py)
            "redis_split_strategy": "copy",
            "redis_split_source": {"host": "127.0.0.1", "port": self.source.port, "password": SOURCE_SECRET},
            "redis_split_purposes": [
                {
                    "name": self.names[kind],
                    "database": number,
                    "port": self.ports[kind],
                    "profile": profile,
                    "maxmemory": "64mb",
                }
                for kind, (number, profile) in PROFILES.items()
            ],
            "redis_split_apps": [
                {
                    "name": name,
                    "hosts": [name],
                    "files": [
                        {
                            "path": str(file),
                            "set": {
                                "CACHE_URL": self.names["cache"],
                                "SESSION_URL": self.names["sessions"],
                                "QUEUE_HOST": self.names["pipeline"] + ".host",
                                "QUEUE_PORT": self.names["pipeline"] + ".port",
                            },
                        }
                    ],
                    "restart": f"echo {name} >> {self.log}",
                }
                for name, file in self.files.items()
            ],
            "redis_split_backend": "host",
            "redis_split_state_dir": str(self.state),
            "redis_split_memory_check": "warn",
            "redis_split_become": False,
            **variables,
        }

    def write_inventory(self, **groups: list[str]) -> None:
        groups = {"redis_split_hosts": ["redis1"], "redis_split_app_hosts": list(self.apps), **groups}
        lines = ["[all:vars]", "ansible_connection=local", "ansible_python_interpreter=/usr/bin/python3"]
        for name, hosts in groups.items():
            lines += [f"[{name}]", *hosts]
        self.inventory.write_text("\n".join(lines) + "\n")

    def install_tarball(self) -> None:
        """From here on run what a user has who installed the collection, not the checkout."""
        galaxy, built = [str(cores.ansible_playbook().with_name("ansible-galaxy")), "collection"], self.top / "dist"
        env = {**os.environ, "ANSIBLE_HOME": str(self.top / "ansible"), "ANSIBLE_COLLECTIONS_PATH": str(self.top)}
        subprocess.run(
            [*galaxy, "build", "--output-path", str(built)], cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL
        )
        (tarball,) = built.iterdir()
        # what it depends on is beside the checkout already, and nothing is fetched
        words = ["install", "--no-deps", "--offline", "--collections-path", str(built), str(tarball)]
        subprocess.run([*galaxy, *words], env=env, check=True, stdout=subprocess.DEVNULL)
        for other in (COLLECTIONS / "ansible_collections").iterdir():
            if other.name != "njoy":
                (built / "ansible_collections" / other.name).symlink_to(other)
        self.collections = str(built)

    # -- data ---------------------------------------------------------------------------------------------------------

    def admin(self, database: int = 0) -> redis.Redis:
        """The shared server as a user who may always write: the fence is for the users of applications."""
        client = self.source.client(database, username="default", password=SOURCE_SECRET)
        secret = self.state / "secrets" / "source.engine"
        if secret.exists() and any(line.startswith("user untangle ") for line in client.acl_list()):
            return self.source.client(database, username="untangle", password=secret.read_text())
        return client

    def instance(self, kind: str, user: str = "untangle", **tls: Any) -> redis.Redis:
        """An instance as the engine, or as its application (user ``app``)."""
        name = self.names[kind]
        password = (self.state / "secrets" / f"{name}.{'admin' if user == 'untangle' else 'app'}").read_text()
        (purpose,) = (one for one in self.variables["redis_split_purposes"] if one["name"] == name)
        return redis.Redis(
            host=purpose.get("address", "127.0.0.1"),
            port=self.ports[kind],
            username=user if user == "untangle" else name,
            password=password,
            **tls,
        )

    def fill(self) -> None:
        now = int(time.time() * 1000)
        for name, (database, _profile) in PROFILES.items():
            client = self.source.client(database, username="default", password=SOURCE_SECRET)
            dataset.fill(client, VERSION, now)
            client.set("purpose", name)

    def source_data(self) -> dict[str, Any]:
        return {name: dataset.read(self.admin(database), VERSION) for name, (database, _p) in PROFILES.items()}

    def target_data(self, **tls: Any) -> dict[str, Any]:
        return {name: dataset.read(self.instance(name, **tls), VERSION) for name in PROFILES}

    # -- running ------------------------------------------------------------------------------------------------------

    def play(
        self,
        phase: str,
        *words: str,
        ok: bool | None = True,
        core: str | None = None,
        until: str | None = None,
        how: signal.Signals | None = None,
        environment: dict[str, str] | None = None,
        variables: dict[str, Any] | None = None,
        inside: Sequence[str] = (),
    ) -> Run:
        """Run a phase, perhaps `inside` another command.

        With `until`, send `how` to it as soon as its output holds that text; `ok` None: any end will do. SIGINT comes from a
        terminal of its own, by its key.
        """
        file = self.top / "vars.json"
        file.write_text(json.dumps(self.variables if variables is None else variables))
        command = [
            *inside,
            str(cores.ansible_playbook(core or self.core)),
            "-i",
            str(self.inventory),
            f"njoy.untangle.{phase}",
            "-e",
            f"@{file}",
            *words,
        ]
        env = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": self.collections,
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_HOME": str(self.top / "ansible"),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_DEPRECATION_WARNINGS": "false",
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }
        env.pop("ANSIBLE_CONFIG", None)
        screen, terminal = pty.openpty() if how == signal.SIGINT else os.pipe()
        process = subprocess.Popen(
            command,
            cwd=self.top,
            env=env,
            stdin=terminal if how == signal.SIGINT else subprocess.DEVNULL,
            stdout=terminal,
            stderr=subprocess.STDOUT,
            # a session of its own: a terminal's interrupt goes to all that runs in it
            start_new_session=True,
            preexec_fn=_take_terminal if how == signal.SIGINT else None,
        )
        os.close(terminal)

        def end() -> None:
            if how == signal.SIGINT:
                os.write(screen, b"\x03")
            else:
                os.killpg(process.pid, signal.SIGKILL)

        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(done,), daemon=True)
        watcher.start()
        lines = []
        again: list[threading.Timer] = []
        for line in _lines(screen):
            lines.append(line)
            patience = 0.0
            if again and "Exception ignored in" in line:
                # Python was in a place where it can end nothing, as while it forks, and is there still.
                patience = 0.3
            if until is not None and until in line:
                until = None
                end()
                # Interrupted at a bad moment Ansible waits for ever for a worker that is gone; people press ctrl-C again.
                patience = 20.0
            if patience:
                again.append(threading.Timer(patience, end))
                again[-1].start()
        code = process.wait()
        for timer in again:
            timer.cancel()
        os.close(screen)
        done.set()
        watcher.join()
        assert until is None, f"{until!r} never came:\n" + "".join(lines)[-4000:]
        found = Run(code, "".join(lines))
        self.output += found.output
        if ok is not None:
            assert (code == 0) == ok, found.output[-8000:]
        return found

    def _watch(self, done: threading.Event) -> None:
        """Note the command lines of all processes that start meanwhile."""
        there = set(os.listdir("/proc"))
        while not done.wait(0.05):
            for name in os.listdir("/proc"):
                if name.isdigit() and name not in there:
                    with contextlib.suppress(OSError):
                        self.cmdlines.add(Path("/proc", name, "cmdline").read_bytes().decode(errors="replace"))

    def states(self) -> set[str]:
        return {one["state"] for one in json.loads((self.state / "split.json").read_text())["purposes"].values()}

    def restarts(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def snapshot(self) -> dict[str, Any]:
        """All that a run in check mode must leave as it is."""
        client = self.source.client(0, username="default", password=SOURCE_SECRET)
        config = client.config_get("*")
        ours = [str(self.top)]
        processes = []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                command = Path("/proc", name, "cmdline").read_bytes().decode(errors="replace") if name.isdigit() else ""
                if any(place in command for place in ours):
                    processes.append(command)
        files = {
            str(path): path.read_bytes() if path.is_file() else None
            for path in sorted(self.top.rglob("*"))
            if self.top / "ansible" not in [path, *path.parents]
            and path.name != "vars.json"
            # a server writes its files when it likes, some seconds behind what it has answered
            and (path.name == "server.pid" or not any((parent / "server.pid").exists() for parent in path.parents))
        }
        running = [kind for kind, name in self.names.items() if self._directory(name).joinpath("server.pid").exists()]
        containers = self.docker("ps", "--all", "--quiet", "--filter", f"name={self.tag}")
        return {
            "files": files,
            "processes": sorted(processes),
            "containers": sorted(containers.split()),
            "acl": client.acl_list(),
            "config": config,
            "keys": self.source_data(),
            "instances": {kind: dataset.read(self.instance(kind), VERSION) for kind in running},
        }

    def _directory(self, name: str) -> Path:
        """Where an instance that runs on the host keeps its data."""
        return self.state / "instances" / name / "data"

    @staticmethod
    def docker(*words: str) -> str:
        """What docker says, or nothing where there is none."""
        if not shutil.which("docker"):
            return ""
        return subprocess.run(["docker", *words], capture_output=True, text=True, check=False).stdout

    def secrets(self) -> dict[str, str]:
        """Every secret of this site by where it is kept."""
        found = {"the source's": SOURCE_SECRET}
        for path in sorted((self.state / "secrets").iterdir()):
            found[path.name] = path.read_text()
        return found

    def close(self) -> None:
        jobs.stop(str(self.state))
        for name in self.names.values():
            program = self.state / "instances" / name / "instance"
            if program.exists():
                subprocess.run([str(program), "stop"], capture_output=True, check=False)
        for kind, away in (
            ("ps --all", "rm --force --volumes"),
            ("network ls", "network rm"),
            ("volume ls", "volume rm"),
        ):
            if found := self.docker(*kind.split(), "--quiet", "--filter", f"name={self.tag}").split():
                self.docker(*away.split(), *found)
        self.source.close()
        shutil.rmtree(self.top, ignore_errors=True)


class Pusher:
    """Pushes numbers onto a list of the pipeline, at the shared server, and remembers which were acknowledged."""

    def __init__(self, site: Site):
        self.site, self.stop, self.acknowledged = site, threading.Event(), list[int]()
        self.thread = threading.Thread(target=self._write, daemon=True)
        self.thread.start()

    def _write(self) -> None:
        client = self.site.source.client(5, username="default", password=SOURCE_SECRET)
        number = 0
        while not self.stop.is_set():
            number += 1
            try:
                client.rpush("written", number)
                self.acknowledged.append(number)
            except redis.RedisError:
                return
            time.sleep(0.002)

    def end(self) -> None:
        self.thread.join(20)
        assert not self.thread.is_alive() and len(self.acknowledged) > 100
        arrived = [int(number) for number in self.site.instance("pipeline").lrange("written", 0, -1)]
        assert arrived[: len(self.acknowledged)] == self.acknowledged
        # a push that was executed and whose answer was lost is the only one that may come beside these
        assert len(arrived) <= len(self.acknowledged) + 1
