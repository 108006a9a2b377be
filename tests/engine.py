# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Docker engine of a test's own, in a network of its own, that can lose its power.

python tests/engine.py COMMAND ...    runs a command on such a machine, which is a swarm as well
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from machine import eventually


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Engine:
    """``socket`` is its DOCKER_HOST, ``inside`` what a command is begun with to run on its host, at ``address``.

    ``here`` is this machine's address, as seen from there; or, with ``beside``, that of another engine's host, on which it is cabled
    to that one and to nothing else.
    """

    def __init__(self, *options: str, beside: Engine | None = None) -> None:
        self.options, self.beside = options, beside
        self.top = Path(tempfile.mkdtemp(prefix="ut-engine-", dir="/tmp"))
        # Names of interfaces have 15 characters at most.
        self.name = "ut" + self.top.name[-8:].lower().replace("_", "x")
        begin = f"10.{random.randint(10, 99)}.{random.randint(0, 255)}"
        self.here, self.address, self.subnet = f"{begin}.1", f"{begin}.2", f"{begin}.128/25"
        self.socket = f"unix://{self.top}/docker.sock"
        self.inside = ["nsenter", f"--net=/run/netns/{self.name}"]
        self.process: subprocess.Popen[bytes] | None = None

    def lay_out(self) -> None:
        _ip("netns", "add", self.name)
        _ip("link", "add", f"{self.name}h", "type", "veth", "peer", "name", f"{self.name}g", "netns", self.name)
        there = ["-n", self.beside.name] if self.beside else []
        if self.beside:
            _ip("link", "set", f"{self.name}h", "netns", self.beside.name)
        _ip(*there, "address", "add", f"{self.here}/30", "dev", f"{self.name}h")
        _ip(*there, "link", "set", f"{self.name}h", "up")
        if self.beside:
            # Of an overlay network the kernel takes what comes from the address by which a swarm knows a node, and from no other of it.
            net = f"{self.here.rpartition('.')[0]}.0/30"
            _ip(*there, "route", "replace", net, "dev", f"{self.name}h", "src", self.beside.address)
            _ip("route", "add", net, "via", self.beside.address)
        _ip("-n", self.name, "address", "add", f"{self.address}/30", "dev", f"{self.name}g")
        for device in (f"{self.name}g", "lo"):
            _ip("-n", self.name, "link", "set", device, "up")
        _ip("-n", self.name, "route", "add", "default", "via", self.here)

    def start(self) -> None:
        # What a power cut leaves behind.
        for name in ("docker.pid", "exec/containerd/containerd.pid"):
            (self.top / name).unlink(missing_ok=True)
        words = [
            "dockerd", "--host", self.socket, "--data-root", str(self.top / "data"), "--exec-root", str(self.top / "exec"),
            "--pidfile", str(self.top / "docker.pid"), "--cgroup-parent", self.name, "--default-address-pool",
            f"base={self.subnet},size=28", "--bridge", "none", *self.options,
        ]  # fmt: skip
        with open(self.top / "log", "ab") as log:
            self.process = subprocess.Popen(
                [*self.inside, *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        eventually(lambda: self.docker("info", "-f", "{{.ID}}").strip(), 30)

    def docker(self, *words: str) -> str:
        return subprocess.run(
            ["docker", "--host", self.socket, *words], capture_output=True, text=True, check=False
        ).stdout

    def network(self, name: str) -> str:
        """A network of containers that this machine reaches too: how its addresses begin. 2 to 15 are for who asks for them."""
        begin = f"10.{random.randint(100, 250)}.{random.randint(0, 250)}"
        self.docker("network", "create", "--subnet", f"{begin}.0/27", "--ip-range", f"{begin}.16/28", name)
        _ip("route", "add", f"{begin}.0/27", "via", self.address)
        # the engine lets nobody in from outside to what is not published
        subprocess.run([*self.inside, "iptables", "-A", "FORWARD", "-d", f"{begin}.0/27", "-j", "ACCEPT"], check=True)
        return begin

    def load(self, *images: str) -> None:
        """From the engine of this machine."""
        with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as save:
            subprocess.run(
                ["docker", "--host", self.socket, "load"], stdin=save.stdout, check=True, capture_output=True
            )

    def _pids(self) -> list[int]:
        """The engine, what it is helped by, and all that runs in its containers."""
        found = set()
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                ours = str(self.top) in (path / "cmdline").read_bytes().decode(errors="replace")
                if ours or f"/{self.name}/" in (path / "cgroup").read_text():
                    found.add(int(path.name))
        return sorted(found - {os.getpid()})

    def cut_power(self) -> None:
        """All of it ends at once, and nothing is told."""
        for _ in range(50):
            pids = self._pids()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not pids:
                break
            time.sleep(0.1)
        if self.process:
            self.process.wait()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.cut_power()
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if str(self.top) in line]
        for mount in reversed(mounts):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
        for words in (["link", "delete", f"{self.name}h"], ["netns", "delete", self.name]):
            subprocess.run(["ip", *words], check=False, capture_output=True)
        for group in Path("/sys/fs/cgroup").rglob(self.name):
            for path in [*sorted(group.rglob("*/"), reverse=True), group]:
                with contextlib.suppress(OSError):
                    path.rmdir()
        shutil.rmtree(self.top, ignore_errors=True)


@contextlib.contextmanager
def engine_of_ones_own(*images: str, options: Sequence[str] = (), beside: Engine | None = None) -> Iterator[Engine]:
    """``options`` are dockerd's."""
    made = Engine(*options, beside=beside)
    try:
        made.lay_out()
        made.start()
        made.load(*images)
        yield made
    finally:
        made.close()


if __name__ == "__main__":
    # told to end, it takes the engine away all the same
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with engine_of_ones_own("redis:7.0", "redis:8.0", "valkey/valkey:8.1", options=["--no-new-privileges"]) as engine:
        engine.docker("swarm", "init", "--advertise-addr", engine.address)
        env = {**os.environ, "DOCKER_HOST": engine.socket, "UNTANGLE_ADDRESS": engine.address}
        sys.exit(subprocess.run([*engine.inside, *sys.argv[1:]], env=env, check=False).returncode)
