# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role split_report: a page that a second run leaves alone, and that a fresh host in check mode does without."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from pathlib import Path

import cores
import yaml

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = str(cores.ansible_playbook(cores.NEWEST))
DONE = {
    "state": "cut_over",
    "since": "2026-11-22T14:32:08.123Z",
    "by": "root@redis1",
    "keys_before": 1500,
    "keys_after": 1500,
    "differences": 0,
    "compare": {"compared": 1500, "differences": 0, "kinds": {}},
}
SPLIT = {
    "version": 1,
    "source": "10.0.0.5:6379",
    "purposes": {"cache": DONE},
    "log": [{"at": "2026-11-22T14:32:08.123Z", "what": "cut over", "by": "root@redis1", "purposes": ["cache"]}],
}
PLAN = {
    "source": {"host": "10.0.0.5", "port": 6379, "password": "source-secret"},
    "purposes": [
        {
            "name": "cache",
            "database": 10,
            "address": "10.0.0.7",
            "host": "redis1",
            "port": 6381,
            "profile": "cache",
            "maxmemory": 2 << 30,
            "settings": {"maxmemory-policy": "allkeys-lru", "save": ""},
            "user": "cache",
            "password": "app-secret",
            "tls": False,
        }
    ],
}
FACTS = {"server": {"flavour": "redis", "version": "7.0.15"}, "databases": [], "findings": []}


def test_a_page_once(tmp_path: Path) -> None:
    path = tmp_path / "state" / "report.html"
    playbook = tmp_path / "play.yml"
    role = {"name": "njoy.untangle.split_report"}

    def play(*arguments: str, facts: object = FACTS, data: object = SPLIT) -> int:
        variables = {
            "split_report_data": data,
            "split_report_plan": PLAN,
            "split_report_facts": facts,
            "split_report_path": str(path),
        }
        tasks = [{"ansible.builtin.include_role": role, "vars": variables}]
        playbook.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
        done = subprocess.run(
            [PLAYBOOK, str(playbook), "-vvv", "--diff", *arguments],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PIPELINING": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        output = done.stdout + done.stderr
        assert done.returncode == 0, output[-5000:]
        assert "source-secret" not in output and "app-secret" not in output
        return int(re.search(r"changed=(\d+)", output)[1])

    assert play("--check") > 0
    assert not path.parent.exists()
    assert play() > 0
    text = path.read_text()
    assert "One database moved, no difference" in text and "Redis 7.0.15" in text
    assert "-secret" not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert play() == 0
    # a later audit sees another server; what the page shows is the first one
    assert play(facts={"server": {"flavour": "redis", "version": "8.0.2"}}) == 0
    assert play(facts={}) == 0
    assert path.read_text() == text
    kept = path.with_name("report.html.audit.json")
    assert (json.loads(kept.read_text()), stat.S_IMODE(kept.stat().st_mode)) == (FACTS, 0o600)
    back = {**SPLIT, "purposes": {"cache": {**DONE, "state": "returned"}}}
    assert play("--check", data=back) == 1
    assert play(data=back) == 1
    assert "Went back" in path.read_text()
