# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules as a playbook of one's own calls them: predicted by check mode, done, and not done again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cores
import pytest
from playbook_site import COLLECTIONS

import servers

pytestmark = pytest.mark.servers

#: Module, options of its own, and whether check mode, the first run and the second one say changed.
STEPS = [
    ("redis_keyspace_info", {}, (False, False, False)),
    ("redis_split_info", {}, (False, False, False)),
    ("redis_migrate", {}, (True, True, False)),
    ("redis_compare", {}, (False, False, False)),
    ("redis_cutover", {}, (True, True, False)),
    ("redis_retire", {"watch_seconds": 0, "quiet_seconds": 0.1}, (True, True, False)),
    ("redis_retire", {"state": "restored"}, (True, True, False)),
    ("redis_cutover", {"state": "returned"}, (True, True, False)),
    ("redis_split", {"state": "absent"}, (True, True, False)),
]
#: These take no routes.
ALONE = ("redis_keyspace_info", "redis_split")


#: Check mode, a run and a second one; the modules are the same with every server, so one of them is asked for all three.
VERSIONS = [*servers.MAIN, "redis-6.0"]
RUNS = {version: (False,) if number else (True, False, False) for number, version in enumerate(VERSIONS)}
#: The oldest Python of a managed host, where one is here.
PYTHONS = {"valkey-8.1": next(Path.home().glob(".pyenv/versions/3.9.*/bin/python3"), None)}


@pytest.mark.parametrize("version", VERSIONS)
def test_check_mode_then_real_then_again(server, tmp_path, version):
    source, target = server(version), server(version)
    source.client(5).mset({f"k{i}": i for i in range(100)})
    source.forget_clients()
    defaults = {"source": source.connection()}
    engine = {
        "state_dir": str(tmp_path / "state"),
        "routes": [{"purpose": "jobs", "database": 5, "target": target.connection()}],
    }
    tasks = []
    for number, (name, options, _flags) in enumerate(STEPS):
        arguments = {**({} if name in ALONE else engine), **options}
        if options.get("quiet_seconds"):
            arguments["server_command"] = list(servers.command(version))
        if name == "redis_split":
            arguments["state_dir"] = engine["state_dir"]
        for check in RUNS[version]:
            tasks.append(
                {
                    "name": "%s, step %d%s" % (name, number, ", check mode" if check else ""),
                    "njoy.untangle." + name: arguments,
                    "check_mode": check,
                }
            )
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        # one connection for all of them, by the group's name
        "module_defaults": {"group/njoy.untangle.redis": defaults},
        "tasks": tasks,
    }
    playbook = tmp_path / "play.yml"
    playbook.write_text(json.dumps([play]))
    done = subprocess.run(
        [str(cores.ansible_playbook(cores.OLDEST)), "-i", "localhost,", str(playbook)],
        cwd=tmp_path,
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_HOME": str(tmp_path / "ansible"),
            "ANSIBLE_PYTHON_INTERPRETER": str(PYTHONS.get(version) or sys.executable),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
        },
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    lines = done.stdout.splitlines()
    said = [line.split(":")[0] == "changed" for line in lines if line.startswith(("ok: [", "changed: ["))]
    runs = len(RUNS[version])
    found = [(name, tuple(said[runs * n : runs * (n + 1)])) for n, (name, _options, _flags) in enumerate(STEPS)]
    assert found == [(name, flags if runs == 3 else flags[1:2]) for name, _options, flags in STEPS], done.stdout
    assert source.client(5).dbsize() == 100 and source.client(5).set("a", 1)
