# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mirror on a host where systemd is PID 1."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import async_timeout
import pytest
import redis
from machine import docker, eventually, machine_with_systemd, needs_docker

from ansible_collections.njoy.untangle.plugins.module_utils import plan

CALL = """
import json, sys
from ansible_collections.njoy.untangle.plugins.module_utils.engine import jobs
kind, options = sys.argv[1], json.loads(sys.argv[2])
if kind == "end":
    print(json.dumps(jobs.stop(options["state_dir"])))
else:
    print(json.dumps(jobs.call({"wait": None, "by": "a test"}, kind, options, sys.argv[3:])))
"""


@pytest.mark.timeout(900)
@needs_docker
def test_a_mirror_that_is_killed_is_started_again(tmp_path: Path) -> None:
    """Where systemd is PID 1 a mirror is a unit: killed it comes back by itself, stopped it does not, and nothing of it is left."""
    code = tmp_path / "opt" / "code"
    part = "ansible_collections/njoy/untangle/plugins/module_utils"
    here = Path(plan.__file__).parent
    shutil.copytree(here, code / part, ignore=shutil.ignore_patterns("__pycache__"))
    # (what the action plugin brings along; to import it would make a controller of all tests that run in this process)
    for package in (redis, async_timeout):
        where = Path(package.__file__).parent
        shutil.copytree(where, tmp_path / "opt" / "lib" / where.name)
    libraries = ["/opt/lib"]
    (tmp_path / "opt" / "call.py").write_text(CALL)
    name = f"untangle-mirror-{os.getpid()}"
    options = {
        "source": {"host": "127.0.0.1", "port": 7001},
        "routes": [{"purpose": "cache", "database": 5, "target": {"host": "127.0.0.1", "port": 7002}}],
        "state_dir": "/var/lib/untangle",
    }
    with machine_with_systemd(name) as there:
        docker("cp", str(tmp_path / "opt") + "/.", f"{name}:/opt")
        for port in ("7001", "7002"):
            there("redis-server", "--port", port, "--daemonize", "yes", "--save", "", "--repl-diskless-sync-delay", "0")

        def call(kind: str) -> Any:
            where = "PYTHONPATH=" + ":".join(["/opt/code", *libraries])
            said = there("env", where, "python3", "/opt/call.py", kind, json.dumps(options), *libraries)
            return json.loads(said.splitlines()[-1])

        def get(port: str, database: str, *words: str) -> str:
            return there("redis-cli", "-p", port, "-n", database, *words)

        def job() -> dict[str, Any]:
            (found,) = there("sh", "-c", "cat /var/lib/untangle/jobs/*mirrored*/job.json").splitlines()
            return json.loads(found)

        eventually(lambda: get("7002", "0", "PING") == "PONG")
        get("7001", "5", "SET", "a", "1")
        answer = call("mirrored")
        assert answer.get("changed"), (answer, there("sh", "-c", "cat /var/lib/untangle/jobs/*/log"))
        first = job()
        assert there("systemctl", "is-active", first["unit"]) == "active"
        assert there("find", "/var/lib/untangle", "-name", "spec.json") == ""
        there("kill", "-9", str(first["pid"]))
        get("7001", "5", "SET", "b", "2")
        eventually(lambda: get("7002", "0", "GET", "b") == "2", 30)
        assert job()["pid"] != first["pid"]
        assert not call("mirrored")["changed"]
        assert call("cut_over")["changed"]
        get("7002", "0", "SET", "c", "3")
        eventually(lambda: get("7001", "5", "GET", "c") == "3", 30)
        # the way back too
        second = job()
        there("kill", "-9", str(second["pid"]))
        get("7002", "0", "SET", "d", "4")
        eventually(lambda: get("7001", "5", "GET", "d") == "4", 30)
        assert call("end")
        eventually(lambda: there("systemctl", "is-active", first["unit"]) == "inactive", 5)
        time.sleep(2)
        assert there("sh", "-c", "ls -d /run/untangle* ; pgrep -f engine[.]job") == ""
