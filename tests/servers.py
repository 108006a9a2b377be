# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real Redis and Valkey servers for tests: plain processes on free loopback ports.

    with Server("redis-8.0", maxmemory="100mb", maxmemory_policy="allkeys-lru") as server:
        server.client(db=5).set("k", "v")

The binaries are what `make testbed` puts on the machine: each release comes from one Debian release, unpacked into a
directory of its own and run by that directory's own dynamic loader.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

# name -> (Debian release that carries it, flavour)
RELEASES = {
    "redis-6.0": ("bullseye", "redis"),
    "redis-7.0": ("bookworm", "redis"),
    "redis-8.0": ("trixie", "redis"),
    "valkey-8.1": ("trixie", "valkey"),
    "valkey-9.1": ("forky", "valkey"),
}
MAIN = ("redis-7.0", "redis-8.0", "valkey-8.1")
ALL = tuple(RELEASES)
#: Splits that go on to a newer server.
PAIRS = (
    ("redis-6.0", "redis-7.0"),
    ("redis-6.0", "redis-8.0"),
    ("redis-6.0", "valkey-8.1"),
    ("redis-7.0", "redis-8.0"),
    ("redis-7.0", "valkey-8.1"),
    ("redis-7.0", "valkey-9.1"),
)

TESTBED = Path(os.environ.get("UNTANGLE_TESTBED", "/var/cache/untangle-testbed"))
START_SECONDS = 20.0

_handed_out: set[int] = set()


def free_port() -> int:
    """A loopback port that nothing listens on and that was not handed out before in this process.

    It is taken from below the range that the kernel gives to outgoing connections, so none of those can sit on it.
    """
    while True:
        port = random.randrange(20000, 30000)
        if port in _handed_out:
            continue
        with socket.socket() as probe:
            # without SO_REUSEADDR: a port in TIME_WAIT is not free enough for a server that has to start
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _handed_out.add(port)
        return port


def _reports(command: list[str]) -> str:
    try:
        return subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except OSError:
        return ""


@functools.cache
def command(version: str) -> tuple[str, ...]:
    """The words that run this server, or () where it is not on this machine."""
    suite, flavour = RELEASES[version]
    name = f"{flavour}-server"
    installed = shutil.which(name)
    number = version.partition("-")[2]
    if installed and f"v={number}." in _reports([installed]):
        return (installed,)
    root = TESTBED / "rootfs" / suite
    binary = root / "usr/bin" / name
    # the loader by its place among the libraries: /lib64 may be a link that leads out of the directory
    loaders = [p for where in ("usr/lib/*", "lib/*") for p in root.glob(where + "/ld-linux*.so.*") if p.exists()]
    libraries = sorted({str(p) for where in ("lib/*-linux-gnu*", "usr/lib/*-linux-gnu*") for p in root.glob(where)})
    if not (binary.exists() and loaders):
        return ()
    words = (str(loaders[0]), "--library-path", ":".join(libraries), str(binary))
    # forky still moves: a later minor release serves as well, another major one does not
    return words if f"v={number.partition('.')[0]}." in _reports(list(words)) else ()


def versions() -> list[str]:
    """The servers that this machine can start, oldest first."""
    return [v for v in ALL if command(v)]


class Server:
    """One server process with its own temporary directory; `config` holds redis.conf settings.

    In keyword settings `_` stands for `-`; a list gives the directive once per item; a value is written as it is, so
    one with spaces that is one word needs its own quotes. What is not said: no persistence,
    bound to 127.0.0.1 and to a unix socket, DEBUG allowed. `restart()` keeps port, directory and settings.
    """

    host = "127.0.0.1"
    #: Words before the command, that prepare its process and end in an exec.
    under: tuple[str, ...] = ()

    def __init__(
        self, version: str = "redis-7.0", config: dict[str, Any] | None = None, *, port: int = 0, **settings: Any
    ):
        self.version = version
        self.flavour = RELEASES[version][1]
        self.port = port
        self.config: dict[str, Any] = {**(config or {}), **{k.replace("_", "-"): v for k, v in settings.items()}}
        self.process: subprocess.Popen[bytes] | None = None
        self._clients: list[redis.Redis] = []
        # short: the path of a unix socket has at most 107 bytes
        self.directory = Path(tempfile.mkdtemp(prefix="ut-", dir="/tmp"))
        self.unix_socket = str(self.directory / "s")
        self.log = self.directory / "log"
        atexit.register(self.close)

    # -- life and death ---------------------------------------------------------------------------------------------

    @classmethod
    def run(cls, *args: Any, **kwargs: Any) -> Server:
        """A server that is up."""
        return cls(*args, **kwargs).start()

    def start(self) -> Server:
        """Start it and wait until it answers and has loaded its data."""
        if self.running:
            return self
        words = command(self.version)
        if not words:
            here = ", ".join(versions()) or "none"
            raise RuntimeError(f"{self.version} is not on this machine (it has: {here}). Run `make testbed`.")
        fixed = bool(self.port)
        for _attempt in range(5):
            if not fixed:
                self.port = free_port()
            (self.directory / "server.conf").write_text(self._render())
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    [*self.under, *words, str(self.directory / "server.conf")],
                    cwd=self.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            if self._answers():
                return self
            text = self.log.read_text(errors="replace")
            self.kill()
            if "Address already in use" not in text or fixed:
                break
        raise RuntimeError(f"{self.version} did not start on port {self.port}:\n{text[-2000:]}")

    def _render(self) -> str:
        settings: dict[str, Any] = {
            "bind": "127.0.0.1",
            "port": self.port,
            "unixsocket": self.unix_socket,
            "unixsocketperm": "777",
            "dir": self.directory,
            "daemonize": "no",
            "save": '""',
            "appendonly": "no",
            **({} if self.version == "redis-6.0" else {"enable-debug-command": "yes"}),
            **self.config,
        }
        lines = []
        for name, value in settings.items():
            for item in value if isinstance(value, (list, tuple)) else [value]:
                lines.append(f"{name} {item if str(item) else chr(34) * 2}\n")
        return "".join(lines)

    def _answers(self) -> bool:
        assert self.process is not None
        at_once = Retry(NoBackoff(), 0)
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            try:
                with contextlib.closing(redis.Redis(unix_socket_path=self.unix_socket, retry=at_once)) as probe:
                    probe.ping()
                return True
            except redis.AuthenticationError:
                return True
            except redis.ResponseError as error:
                if str(error).startswith("NOAUTH"):
                    return True
            except (redis.BusyLoadingError, redis.ConnectionError, OSError):
                pass
            time.sleep(0.01)
        return False

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        if not self.running:
            raise RuntimeError(f"{self!r} is not running")
        return self.process.pid  # type: ignore[union-attr]

    def stop(self) -> None:
        """SIGTERM, as a service manager does it: it saves first where `save` or AOF is on."""
        if self.running:
            self.cont()
            self.process.terminate()  # type: ignore[union-attr]
            try:
                self.process.wait(20)  # type: ignore[union-attr]
            except subprocess.TimeoutExpired:
                self.kill()
        self.forget_clients()

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.forget_clients()

    def restart(self) -> Server:
        """Stop it if it runs, and start it again where it was."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """SIGSTOP: it is there and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its directory."""
        atexit.unregister(self.close)
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self.version} on {self.host}:{self.port}>"

    # -- talking to it ----------------------------------------------------------------------------------------------

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        """A redis-py client that returns bytes; `requirepass` is known to it. Closed when the server stops."""
        if "requirepass" in self.config and "username" not in options:
            options.setdefault("password", self.config["requirepass"])
        client = redis.Redis(host=self.host, port=self.port, db=db, **options)
        self._clients.append(client)
        return client

    def connection(self, **options: Any) -> dict[str, Any]:
        """The connection as modules take it (`source`, a route's `target`)."""
        found: dict[str, Any] = {"host": self.host, "port": self.port}
        if "requirepass" in self.config:
            found["password"] = self.config["requirepass"]
        return {**found, **options}

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def forget_clients(self) -> None:
        for client in self._clients:
            with contextlib.suppress(Exception):
                client.close()
        self._clients.clear()


def certificate(where: Path) -> dict[str, str]:
    """A certificate for 127.0.0.1 that is its own authority, as the variables of a split name its files."""
    key, made = f"{where}/key.pem", f"{where}/crt.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", made],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return {"ca_file": made, "cert_file": made, "key_file": key}
