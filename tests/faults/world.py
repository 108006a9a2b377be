# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A shared server, two targets, applications that write, and a controller that takes the purposes there and back."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import redis

import servers
from ansible_collections.njoy.untangle.plugins.module_utils import engine, profiles
from ansible_collections.njoy.untangle.plugins.module_utils.engine import jobs
from ansible_collections.njoy.untangle.plugins.module_utils.engine.server import Server
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

from .applications import Application, Line, Refused, resting
from .items import Violation
from .proxy import Proxy

DATABASES = (5, 10)
#: Calls of a phase, and seconds, until it must have come to its end once the faults are over.
TRIES, SECONDS = 8, 120.0
#: What a user does to come to this phase: the whole playbook again, and every other time the phase alone.
STEPS = {"mirrored": ("mirrored",), "cut_over": ("mirrored", "cut_over"), "returned": ("returned",)}
#: In a file, as they survive a restart there, and with them fences and marks.
USERS = "user default on nopass ~* &* +@all\nuser app on >x ~* &* +@all\n"
_HASHES = dict.fromkeys(("app", "admin", "health"), hashlib.sha256(b"x").hexdigest())
#: Those that redis_instances writes for the targets.
OWN_USERS = "\n".join(profiles.acl_lines("app", "queue", _HASHES, (7, 0), "+flushdb")) + "\n"


class Durable(servers.Server):
    """A server that keeps what it acknowledged when it is killed: its AOF is written, to the kernel, before every reply.

    `appendfsync no` is as good as `always` against SIGKILL, and spares the machine; `everysec` is not: it may put the write off
    for two seconds, and what is lost then was lost by the server.
    """

    # without this a process that meets its limit of file size is killed, where a full disk only answers ENOSPC
    under = ("/bin/sh", "-c", 'trap "" XFSZ; exec "$@"', "sh")

    def __init__(self, version: str, users: str = USERS, **login: str) -> None:
        self.login = login
        super().__init__(
            version,
            databases=16,
            appendonly="yes",
            appendfsync="no",
            repl_diskless_sync_delay=0,
            aclfile="users.acl",
            crash_log_enabled="no",
        )
        (self.directory / "users.acl").write_text(users)
        #: It is not there because somebody wants it so.
        self.away = True

    def admin(self, database: int = 0) -> redis.Redis:
        """A client beside all proxies, for one use."""
        return redis.Redis(unix_socket_path=self.unix_socket, db=database, **self.login)

    def limit_files(self, size: int | None) -> None:
        """No file of it grows beyond this size, as on a disk that is full; None: there is room again."""
        hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))

    def start(self) -> Durable:
        super().start()
        self.away = False
        return self

    def stop(self) -> None:
        self.away = True
        super().stop()

    def kill(self) -> None:
        self.away = True
        super().kill()


class World:
    def __init__(self, version: str, seed: int, directory: Path, big: int) -> None:
        self.version, self.seed, self.big = version, seed, big
        self.rng = random.Random(seed)
        self.state = engine.state.State(str(directory / "state"))
        self.log: list[str] = []
        self.closed = False
        self.began = time.monotonic()
        self._errors = (directory / "controller.log").open("ab")
        self.source = Durable(version)
        self.targets = {number: Durable(version, OWN_USERS, username="untangle", password="x") for number in DATABASES}
        for server in self.servers:
            server.start()
        threading.Thread(target=self._manage, daemon=True).start()
        self.proxies = {server.port: Proxy(server) for server in self.servers}
        self.routes = engine.route.routes(
            [{"purpose": "db%d" % n, "database": n, "target": self._login(t)} for n, t in self.targets.items()]
        )
        self.options = {
            "source": self._login(self.source),
            "routes": [dataclasses.asdict(route) for route in self.routes],
            "state_dir": self.state.directory,
            "max_latency_ms": 5.0,
            # named, for a server that was just restarted has nobody connected
            "fence": ["app"],
        }
        self.applications = [
            Application("w%d" % i, [(self.source, number), (self.targets[number], 0)], self.rng.randrange(1 << 30))
            for i, number in enumerate((*DATABASES, *DATABASES))
        ]
        self.controller: subprocess.Popen[str] | None = None

    @property
    def servers(self) -> list[Durable]:
        return [self.source, *self.targets.values()]

    def _login(self, server: Durable) -> dict[str, Any]:
        return {"host": "127.0.0.1", "port": self.proxies[server.port].port, "timeout": 5.0, **server.login}

    def _manage(self) -> None:
        """As a service manager does: what has ended by itself is started again."""
        while not self.closed:
            for server in self.servers:
                if not server.running and not server.away:
                    self.say("%r has ended", server)
                    server.start()
            time.sleep(0.05)

    def say(self, text: str, *args: Any) -> None:
        self.log.append("%7.2f %s" % (time.monotonic() - self.began, text % args))

    def start(self) -> None:
        with contextlib.closing(self.source.admin()) as client:
            # a database that stays, so that one user is fenced and not everybody
            client.set("stays", 1)
        for one in self.applications:
            one.fill()
        for one in self.applications:
            one.start()
            one.go()

    # -- the controller ----------------------------------------------------------------------------------------------------

    def call(self, kind: str, started: threading.Event | None = None) -> dict[str, Any]:
        """One call of a phase in a process of its own. A controller that was killed has answered nothing."""
        spec = json.dumps({"kind": kind, "options": self.options})
        self.controller = subprocess.Popen(
            [sys.executable, "-m", "faults.controller"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self.controller.stdin and self.controller.stdout
        try:
            self.controller.stdin.write(spec)
            self.controller.stdin.close()
            answer: dict[str, Any] = {"failed": True, "msg": "the controller was killed"}
            for line in self.controller.stdout:
                if line == "go\n":
                    if started:
                        started.set()
                else:
                    answer = json.loads(line)
            return answer
        finally:
            self.controller.wait()
            self.controller.stdout.close()
            if started:
                started.set()

    def reach(self, phase: str, started: threading.Event, over: threading.Event) -> None:
        """Call what leads to a phase until it is reached. Tries that fail while faults last do not count."""
        tries, again, end = 0, 0, time.monotonic() + SECONDS
        while True:
            tries, again = tries + over.is_set(), again + 1
            for kind in STEPS[phase] if again % 2 else (phase,):
                answer = self.call(kind, started if kind == phase else None)
                self.say("%s: %s", kind, answer.get("msg") or "changed=%s" % answer.get("changed"))
                if answer.get("failed"):
                    break
            else:
                return
            # what failed before it came to the phase itself: the faults begin all the same
            started.set()
            if tries >= TRIES or time.monotonic() > end:
                raise Violation("%s was not reached in %d calls: %s" % (phase, tries, answer.get("msg")))
            time.sleep(0.3)

    def job(self) -> dict[str, Any] | None:
        return jobs.running(self.state.directory)

    # -- the truth ---------------------------------------------------------------------------------------------------------

    def standing(self, route: engine.route.Route) -> str:
        """As a phase finds it that begins now."""
        for _again in range(20):
            try:
                return engine.route.standing(
                    Server(self.options["source"], route.database), route.open(), route, self.state
                )
            except UntangleError as exc:
                failed = exc
                time.sleep(0.1)
        raise failed

    def check(self, phase: str) -> None:
        """Nothing acknowledged is missing from the side that serves, nothing came back, nothing is there twice."""
        with resting(self.applications):
            for number, route in zip(DATABASES, self.routes):
                place = self.standing(route)
                there = place in ("cut_over", "retired")
                self.say("%s: %s", route.purpose, place)
                if (phase == "cut_over") != there:
                    raise Violation("after %s %s is %s" % (phase, route.purpose, place))
                server, database = (self.targets[number], 0) if there else (self.source, number)
                with contextlib.closing(server.admin(database)) as client:
                    wanted = set[bytes]()
                    for one in self.applications:
                        if one.lines[0].database == number:
                            wanted |= one.check(client)
                    strange = set(client.scan_iter(count=5000)) - wanted
                    if strange:
                        raise Violation(
                            "%s: keys that nobody wrote, or that were deleted: %s" % (server, sorted(strange)[:10])
                        )
                self._one_side_accepts(phase, number, there)

    def _one_side_accepts(self, phase: str, number: int, there: bool) -> None:
        for server, database, serves in (
            (self.source, number, not there),
            (self.targets[number], 0, there),
        ):
            if phase == "mirrored" and not serves:
                # Before the cutover nobody has been pointed there. A target that was restarted takes writes until the engine
                # has it again, and is then filled anew.
                continue
            line = Line(server, database)
            try:
                line.ask([("SET", "w%d:beat" % DATABASES.index(number), "1")])
                accepted = True
            except Refused:
                accepted = False
            finally:
                line.close()
            if accepted != serves:
                raise Violation("%s %s writes of database %d" % (server, "takes" if accepted else "refuses", number))

    # -- the end -----------------------------------------------------------------------------------------------------------

    def story(self) -> str:
        """What happened, for whoever reads a failure."""
        lines = [*self.log]
        lines += ["%s: %s %s" % (one.name, dict(one.counts), one.failed or "") for one in self.applications]
        where = Path(self.state.directory, "jobs")
        for job in sorted(where.iterdir()) if where.exists() else []:
            result = job / "result.json"
            lines.append("job %s: %s" % (job.name, result.read_text()[:600] if result.exists() else "no result"))
            lines += ["  " + line for line in (job / "log").read_text().splitlines()[-25:]]
        for server in self.servers:
            lines.append("log of %r:" % server)
            lines += ["  " + line for line in server.log.read_text(errors="replace").splitlines()[-12:]]
        return "\n".join(lines)

    def close(self) -> None:
        self.closed = True
        for one in self.applications:
            one.stop = True
        if self.controller and self.controller.poll() is None:
            self.controller.kill()
        with contextlib.suppress(Exception):
            jobs.stop(self.state.directory, 3)
        while left := self.job():
            os.kill(left["pid"], signal.SIGKILL)
            time.sleep(0.05)
        for one in self.applications:
            if one.is_alive():
                one.join(2)
        for proxy in self.proxies.values():
            proxy.close()
        for server in self.servers:
            server.close()
        self._errors.close()
