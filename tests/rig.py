# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A source, its targets and the engine between them, for tests that drive the engine itself.

from rig import split  # a fixture

def test_it(split):
    rig = split("redis-8.0")
    rig.copied()
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import servers
from ansible_collections.njoy.untangle.plugins.module_utils import engine
from ansible_collections.njoy.untangle.plugins.module_utils.engine.server import Server


def silent(facts: dict[str, Any]) -> None:
    """A report to nobody."""


class Pool:
    """Servers that outlive a test, emptied of data, users, functions and settings before the next one."""

    def __init__(self) -> None:
        self.servers: dict[tuple[str, int], servers.Server] = {}

    def get(self, version: str, number: int) -> servers.Server:
        if (version, number) not in self.servers:
            self.servers[version, number] = servers.Server(version, databases=32)
        server = self.servers[version, number].start()
        clean(server)
        return server

    def close(self) -> None:
        for server in self.servers.values():
            server.close()


def clean(server: servers.Server) -> None:
    client = redis.Redis(unix_socket_path=server.unix_socket)
    modern = server.version != "redis-6.0"
    put = client.execute_command
    put("ACL", "SETUSER", "default", "reset", "on", "nopass", "~*", "+@all", *(["&*"] if modern else []))
    users = [name for name in put("ACL", "USERS") if name not in (b"default", "default")]
    if users:
        put("ACL", "DELUSER", *users)
    # left as the replica of an engine that has ended
    put("REPLICAOF", "NO", "ONE")
    put("CONFIG", "SET", "replica-read-only", "yes")
    # a mirror is attached at once
    put("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    put("CONFIG", "SET", "maxmemory", "0")
    put("CONFIG", "SET", "maxmemory-policy", "noeviction")
    put("FLUSHALL")
    put("SCRIPT", "FLUSH")
    if modern:
        put("FUNCTION", "FLUSH")
    client.close()


class Rig:
    """`databases` of one source, each with a target; purposes are called db5 and so on."""

    def __init__(self, source: servers.Server, targets: dict[int, servers.Server], state_dir: Path) -> None:
        self.source, self.targets = source, targets
        self.state = engine.state.State(str(state_dir / "state"))
        self.login = source.connection()
        self._clients: dict[tuple[int, int], redis.Redis] = {}
        self.routes = engine.route.routes(
            [{"purpose": "db%d" % n, "database": n, "target": t.connection()} for n, t in targets.items()]
        )

    @property
    def database(self) -> int:
        return next(iter(self.targets))

    @property
    def target(self) -> servers.Server:
        return self.targets[self.database]

    @property
    def purpose(self) -> str:
        return "db%d" % self.database

    def old(self, database: int | None = None) -> redis.Redis:
        """A client on the old database."""
        database = self.database if database is None else database
        return self._client(self.source, database)

    def new(self, database: int | None = None) -> redis.Redis:
        """A client on the instance that is to serve it."""
        return self._client(self.targets[self.database if database is None else database], 0)

    def _client(self, server: servers.Server, database: int) -> redis.Redis:
        if (server.port, database) not in self._clients:
            self._clients[server.port, database] = server.client(database)
        return self._clients[server.port, database]

    # -- what the modules do --------------------------------------------------------------------------------------

    def _do(self, work: Callable[..., Any], report: Callable[..., None] = silent, **options: Any) -> Any:
        if "big" in options:
            options["limits"] = engine.snapshot.Limits(big_key_bytes=options.pop("big"))
        routes = options.pop("routes", self.routes)
        return work(self.login, routes, self.state, "a test", report, **options)

    def copied(self, **options: Any) -> Any:
        return self._do(engine.copy.copied, **options)

    def cut_over(self, **options: Any) -> Any:
        return self._do(engine.cutover.cut_over, **options)

    def returned(self, **options: Any) -> Any:
        return self._do(engine.cutover.returned, **options)

    def mirrored_and_cut_over(self, **how: Any) -> None:
        """Mirror every route in this process, and cut over as soon as it is in step."""
        desk = engine.desk.Desk(self.state.directory)
        os.makedirs(self.state.directory, exist_ok=True)
        request = {"id": "1", "what": "cut_over", "purposes": [route.purpose for route in self.routes], **how}
        engine.state.write_atomically(os.path.join(self.state.directory, "request.json"), json.dumps(request))
        self._do(engine.live.mirrored, limits=engine.snapshot.Limits(), desk=desk)

    def compare(self, database: int | None = None, **options: Any) -> engine.compare.Result:
        route = next(r for r in self.routes if database in (None, r.database))
        return engine.compare.Comparer(self.engine_source(route.database), route.open(), **options).run()

    def standing(self) -> str:
        return self.standings()[0]

    def standings(self) -> list[str]:
        """Where each purpose stands."""
        return [
            engine.route.standing(self.engine_source(route.database), route.open(), route, self.state)
            for route in self.routes
        ]

    # -- what it left ---------------------------------------------------------------------------------------------

    def engine_source(self, database: int | None = None) -> Server:
        return Server(self.login, self.database if database is None else database)

    def mark(self, database: int | None = None) -> Any:
        return engine.marks.read_target(
            Server(self.targets[self.database if database is None else database].connection())
        )

    def users(self, server: servers.Server | None = None) -> list[str]:
        """ACL LIST without the engine's own user. Redis 6 lists a user's commands in the order of a hash table."""
        server = server or self.source
        with contextlib.closing(redis.Redis(unix_socket_path=server.unix_socket)) as client:
            lines = [
                line.decode() if isinstance(line, bytes) else line for line in client.execute_command("ACL", "LIST")
            ]
        lines = [line for line in lines if line.split()[1] != engine.marks.OWN_USER]
        return [" ".join(sorted(line.split())) for line in lines] if server.version == "redis-6.0" else lines

    def memory(self, database: int | None = None) -> tuple[str, str]:
        found = self.new(database).config_get("maxmemory*")
        return found["maxmemory"], found["maxmemory-policy"]


def find(path: str) -> tuple[Any, str]:
    """`copy.unbounded`, `target.Writer.send`: the object that has it, and its name there."""
    *owners, name = path.split(".")
    owner: Any = engine
    for part in owners:
        owner = getattr(owner, part)
    return owner, name


def trap(path: str, nth: int, after: bool, victim: int = 0) -> None:
    """From now on this process kills itself, or another one, before or after the nth call of a function of the engine."""
    owner, name = find(path)
    real, calls = getattr(owner, name), [0]

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == nth and not after:
            os.kill(victim or os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if calls[0] == nth and after:
            os.kill(victim or os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, stand_in)


def killed(path: str, work: Callable[[], Any], nth: int = 1, after: bool = False) -> None:
    """Do this work in a process of its own that is killed with SIGKILL at the nth call of a function of the engine."""
    pid = os.fork()
    if not pid:
        try:
            trap(path, nth, after)
            work()
        finally:
            os._exit(7)
    _pid, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), "%s was not called %d times" % (path, nth)


def killed_apart(rig: Rig, work: str, path: str, nth: int = 1, after: bool = False, **options: Any) -> None:
    """The same in an interpreter of its own, for tests with threads, which a fork would tear apart."""
    process = apart(rig, work, path, nth, after, 0, options)
    _said, text = process.communicate()
    assert process.returncode == -signal.SIGKILL, text


def apart(
    rig: Rig, work: str, path: str, nth: int, after: bool, victim: int, options: dict[str, Any]
) -> subprocess.Popen[str]:
    """This work in an interpreter of its own, which kills itself, or the process `victim`, at that call."""
    spec = {
        "login": rig.login,
        "routes": [dataclasses.asdict(route) for route in rig.routes],
        "state_dir": rig.state.directory,
        "call": [work, path, nth, after, victim, options],
    }
    program = "import json, sys, rig; rig._apart(json.load(sys.stdin))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    assert process.stdin
    process.stdin.write(json.dumps(spec))
    process.stdin.close()
    process.stdin = None
    return process


def _apart(spec: dict[str, Any]) -> None:
    rig = Rig.__new__(Rig)
    rig.login, rig.routes = spec["login"], engine.route.routes(spec["routes"])
    rig.state = engine.state.State(spec["state_dir"])
    work, path, nth, after, victim, options = spec["call"]
    trap(path, nth, after, victim)
    getattr(rig, work)(**options)


def killed_after(seconds: float, work: Callable[[], Any]) -> bool:
    """Do this work in a process that is killed after some time. False where it was faster."""
    pid = os.fork()
    if not pid:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(7)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    _pid, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the work failed by itself"
    return os.WIFSIGNALED(status)


@contextlib.contextmanager
def busy(work: Callable[[int], None]) -> Iterator[None]:
    """A thread that calls `work(0)`, `work(1)`, … until the block ends; what it raises is raised here."""
    stop, failed = threading.Event(), []

    def loop() -> None:
        number = 0
        try:
            while not stop.is_set():
                work(number)
                number += 1
        except BaseException as exc:
            failed.append(exc)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)
    if failed:
        raise failed[0]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool()
    yield made
    made.close()


@pytest.fixture
def split(pool: Pool, tmp_path: Path) -> Callable[..., Rig]:
    """`split("redis-8.0", databases=(0, 5))` gives a rig with empty servers."""

    def make(version: str = "redis-7.0", databases: tuple[int, ...] = (5,), to: str | None = None) -> Rig:
        targets = {n: pool.get(to or version, i + 1) for i, n in enumerate(databases)}
        return Rig(pool.get(version, 0), targets, tmp_path)

    return make
