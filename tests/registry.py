# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A container registry on a free loopback port, which the engine trusts without TLS."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import eventually

PROGRAM = shutil.which("docker-registry")
needs_registry = pytest.mark.skipif(not PROGRAM, reason="no docker-registry: run `make testbed`")
CONFIG = """
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: %s/data}, delete: {enabled: true}}
http: {addr: "%s"}
"""


class Registry:
    def __init__(self, top: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % probe.getsockname()[1]
        self.config, self.log = top / "config.yml", top / "log"
        self.config.write_text(CONFIG % (top, self.address))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([str(PROGRAM), "serve", str(self.config)], stdout=log, stderr=log)
        eventually(lambda: urllib.request.urlopen(f"http://{self.address}/v2/", timeout=2).status == 200)

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


@contextlib.contextmanager
def registry() -> Iterator[Registry]:
    with tempfile.TemporaryDirectory(prefix="ut-registry-", dir="/tmp") as top:
        made = Registry(Path(top))
        try:
            made.start()
            yield made
        finally:
            made.stop()
