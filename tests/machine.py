# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Docker engine of this machine, and a container in which systemd is PID 1."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cores
import pytest
import redis


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=False).stdout


needs_docker = pytest.mark.skipif(not docker("info", "-f", "{{.ID}}"), reason="no Docker engine: run `make testbed`")


def module(name: str, /, *words: str, **arguments: Any) -> dict[str, Any]:
    """What one of our modules answers on this machine."""
    asked = ["-m", f"njoy.untangle.{name}", "-a", json.dumps(arguments), *words]
    command = [str(cores.ansible_playbook().with_name("ansible")), "-i", "localhost,", "-c", "local", "all", *asked]
    env = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(Path(__file__).resolve().parents[1] / ".venv/collections"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
    }
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    _head, arrow, text = done.stdout.partition(" => ")
    assert arrow, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(text)
    return found


def host_facts(directory: Path, **question: Any) -> dict[str, Any]:
    """What redis_instances asks its host before the first change, asked directly."""
    asked = {"state": "present", "backend": "host", "dir": str(directory), "secrets_dir": "", "image": "redis:7.0"}
    asked.update({"server": "", "user": "", "tls": {}, "instances": [], **question})
    place, content = asked.pop("mount", ("", ""))
    environment = {**os.environ, **({"DOCKER_HOST": asked.pop("DOCKER_HOST")} if "DOCKER_HOST" in asked else {})}
    words = [
        "/usr/bin/python3",
        str(Path(__file__).resolve().parents[1] / "roles/redis_instances/files/host_facts.py"),
        json.dumps(asked),
    ]
    if place:
        # another file in its place, read-only, for that process alone
        (directory / "mounted").write_text(content)
        mount = 'mount --bind "$0" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
        words = ["unshare", "--mount", "sh", "-c", mount, str(directory / "mounted"), place, *words]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def eventually(check: Any, seconds: float = 15) -> Any:
    until = time.monotonic() + seconds
    while True:
        try:
            value = check()
            if value:
                return value
        except (redis.RedisError, OSError, AssertionError):
            pass
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.1)


@contextlib.contextmanager
def network() -> Iterator[tuple[str, str]]:
    """A network with a subnet of its own: its name, and how its addresses begin."""
    while True:
        begin = f"10.{random.randint(100, 250)}.{random.randint(0, 250)}"
        name = f"untangle-test-{begin}"
        addresses = ["--subnet", f"{begin}.0/24", "--ip-range", f"{begin}.128/25", "--gateway", f"{begin}.1"]
        if docker("network", "create", *addresses, name):
            break
    try:
        yield name, begin
    finally:
        docker("network", "rm", name)


SYSTEMD = """
FROM njoy/managed-host
RUN apt-get update && apt-get install -y --no-install-recommends systemd systemd-sysv redis-server \\
 && systemctl mask redis-server
ENTRYPOINT []
CMD ["/sbin/init"]
"""


def build(image: str, dockerfile: str) -> None:
    # not by standard input, of which some releases of buildx leave a directory in /tmp
    with tempfile.TemporaryDirectory() as alone:
        Path(alone, "Dockerfile").write_text(dockerfile)
        built = subprocess.run(
            ["docker", "build", "-q", "-t", image, alone], capture_output=True, text=True, check=False
        )
    assert built.returncode == 0, built.stderr


@contextlib.contextmanager
def machine_with_systemd(name: str) -> Iterator[Callable[..., str]]:
    """A container in which systemd is PID 1, as a function that runs commands there."""
    image = f"untangle-test-systemd:{name}"
    build(image, SYSTEMD)

    def there(*words: str) -> str:
        return docker("exec", name, *words).strip()

    docker("run", "-d", "--name", name, "--cap-add=SYS_ADMIN", "--security-opt=seccomp=unconfined",
           "--security-opt=apparmor=unconfined", "--tmpfs=/run", "--tmpfs=/run/lock",
           "--volume=/sys/fs/cgroup/systemd:/sys/fs/cgroup/systemd:rw", image)  # fmt: skip
    try:
        if not eventually(lambda: there("systemctl", "is-system-running") in ("running", "degraded", "starting")):
            pytest.skip("systemd does not start in a container here")
        yield there
    finally:
        docker("rm", "-fv", name)
        docker("rmi", image)
