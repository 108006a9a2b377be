# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo` and `make demo-clean`, as a newcomer runs them: once, at once again with another backend, and gone."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import servers

ROOT = Path(__file__).resolve().parents[2]
#: Names and ports of its own: another run of the tests, or a newcomer's demo, may be on this machine.
TAG = f"{random.randrange(10**6)}"
PURPOSES = tuple(kind + TAG for kind in ("sessions", "pipeline", "cache"))

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]


def docker(*words: str) -> str:
    if not shutil.which("docker"):
        return ""
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=False).stdout


def left(place: Path) -> dict[str, object]:
    """What a demo in this directory leaves on the machine."""
    processes = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(place).encode() in one.read_bytes():
                processes.append(one.read_bytes())
        except OSError:
            continue
    names = "|".join(PURPOSES)
    there = docker("ps", "--all", "--format", "{{.Names}} {{.Labels}}") + docker(
        "volume", "ls", "--format", "{{.Name}}"
    )
    return {
        "processes": processes,
        "containers and volumes": re.findall(rf".*untangle-(?:{names}|demo-source{TAG})(?:_data)?(?![\w-]).*", there),
        "files": place.exists(),
    }


@pytest.fixture
def place() -> Iterator[Path]:
    # root runs the servers as another user, who has to get through
    made = Path(tempfile.mkdtemp(prefix="ut-demo-", dir="/tmp"))
    made.chmod(0o711)
    yield made / "demo"
    make("demo-clean", made / "demo", "")
    shutil.rmtree(made, ignore_errors=True)


def make(target: str, place: Path, backend: str) -> str:
    path = os.environ["PATH"]
    if program := servers.command("redis-7.0"):
        # What the package would install, so that nothing has to be: the server of the test bed.
        own = place.parent / "bin"
        own.mkdir(exist_ok=True)
        (own / "redis-server").write_text("#!/bin/sh\nexec " + " ".join(program) + ' "$@"\n')
        (own / "redis-server").chmod(0o755)
        path = f"{path}:{own}"
    run = subprocess.run(
        ["make", "--no-print-directory", target],
        cwd=ROOT,
        env={
            **os.environ,
            "PATH": path,
            "DEMO_DIR": str(place),
            "DEMO_BACKEND": backend,
            "DEMO_TAG": TAG,
            # below those of the tests' servers
            "DEMO_PORT": str(10000 + int(TAG) % 90 * 100),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    return run.stdout


def test_demo(place: Path) -> None:
    """Containers are what it chooses by itself where there is a Docker engine and the image."""
    chosen = "compose" if docker("image", "ls", "--quiet", "redis") else "host"
    for asked, backend in (("", chosen), ("host", "host")):
        said = make("demo", place, asked)
        rows = re.findall(r"^  (\w+) +([\d,]+) +([\d,]+) +(\d+) +redis://\S+$", said, re.M)
        assert sorted(row[0] for row in rows) == sorted(PURPOSES)
        assert all(row[3] == "0" for row in rows)
        assert sum(int(row[1].replace(",", "")) for row in rows) >= 200_000
        assert "none of them missing" in said
        report = re.search(r"^  Report +(\S+)$", said, re.M)
        assert report and "<html" in Path(report[1]).read_text()
        assert re.search(rf"^  Instances +{backend}", said, re.M)
    assert left(place)["processes"] or left(place)["containers and volumes"]
    make("demo-clean", place, "")
    assert left(place) == {"processes": [], "containers and volumes": [], "files": False}
