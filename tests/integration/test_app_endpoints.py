# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role app_endpoints on real files: flip, broken flips, the way back, and what is never shown."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import cores
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = str(cores.ansible_playbook(cores.OLDEST))
SECRETS = {"cache": "c@che/secret?1", "sessions": "sess:ion+secret#2", "pipeline": "pipeline'secret3"}
OLD = "0ld-source-secret"
ENV = f"""\
# the shop
export APP=shop
export CACHE_URL=redis://:{OLD}@10.0.0.5:6379/10  # shared
export QUEUE_HOST="10.0.0.5"
"""
FLIPPED = """\
# the shop
export APP=shop
export CACHE_URL=redis://cache:c%40che%2Fsecret%3F1@127.0.0.1:6381/0  # shared
export QUEUE_HOST=127.0.0.1
export QUEUE_PORT=6380
export QUEUE_PASSWORD="pipeline'secret3"
"""


class Host:
    """This machine as an application's host, with everything in one directory."""

    def __init__(self, directory: Path):
        self.dir = directory
        self.env = directory / ".env"
        self.env.write_text(ENV)
        self.env.chmod(0o640)
        self.log = directory / "log"
        self.app = {
            "name": "shop",
            "files": [
                {
                    "path": str(self.env),
                    "set": {
                        "CACHE_URL": "cache",
                        "QUEUE_HOST": "pipeline.host",
                        "QUEUE_PORT": "pipeline.port",
                        "QUEUE_PASSWORD": "pipeline.password",
                    },
                }
            ],
            "restart": f"echo restart >> {self.log}",
            "health": f"test ! -e {directory}/sick",
        }
        self.variables = {
            "app_endpoints_apps": [self.app],
            "app_endpoints_purposes": [
                {"name": "cache", "address": "127.0.0.1", "port": 6381, "user": "cache", "tls": False},
                {"name": "sessions", "address": "127.0.0.1", "port": "6382", "user": "sessions", "tls": False},
                {"name": "pipeline", "address": "127.0.0.1", "port": 6380, "user": "pipeline", "tls": False},
            ],
            "app_endpoints_passwords": SECRETS,
            "app_endpoints_health_seconds": "2",
        }
        self.output = ""

    def play(self, entry: str = "main", *arguments: str, ok: bool = True, **variables: object) -> int:
        """Run one entry point with everything shown; the number of changed tasks, or -1 if it failed."""
        return self.plays([entry], arguments, ok, variables)[0]

    def twice(self, entry: str = "main", **variables: object) -> bool:
        """Whether an entry point changes something, and run again nothing."""
        first, second = self.plays([entry, entry], (), True, variables)
        return first > 0 and second == 0

    def plays(
        self, entries: list[str], arguments: Sequence[str], ok: bool, variables: Mapping[str, object]
    ) -> list[int]:
        playbook, inventory = self.dir / "play.yml", self.dir / "inventory"
        plays = []
        for entry in entries:
            role = {"name": "njoy.untangle.app_endpoints", "tasks_from": entry}
            tasks = [{"ansible.builtin.include_role": role, "vars": {**self.variables, **variables}}]
            plays.append({"hosts": "web1", "gather_facts": False, "tasks": tasks})
        playbook.write_text(yaml.safe_dump(plays, sort_keys=False))
        inventory.write_text(f"web1 ansible_connection=local ansible_python_interpreter={sys.executable}\n")
        done = subprocess.run(
            [PLAYBOOK, "-i", str(inventory), str(playbook), "-vvv", "--diff", *arguments],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PIPELINING": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        self.output = done.stdout + done.stderr
        for secret in (OLD, "not-this-0ne", *SECRETS.values(), "c%40che%2Fsecret%3F1"):
            assert secret not in self.output
        assert (done.returncode == 0) is ok, self.output[-5000:]
        if not ok:
            return [-1]
        counts = [len(re.findall(r"^changed: \[", part, re.MULTILINE)) for part in self.output.split("\nPLAY [")[1:]]
        # a loop counts as one task in the recap and as one line per item here
        assert (sum(counts) > 0) == ("changed=0 " not in self.output.split("PLAY RECAP")[1])
        return counts

    def files(self) -> dict[str, tuple[str, int]]:
        names = [path for path in self.dir.iterdir() if path.name not in ("play.yml", "inventory")]
        return {path.name: (path.read_text(), stat.S_IMODE(path.stat().st_mode)) for path in names}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_check_flip_again_and_back(host: Host) -> None:
    before = host.files()
    assert host.play("main", "--check") > 0
    assert "CACHE_URL=******** (new value)" in host.output
    assert f"echo restart >> {host.log}" in host.output
    assert host.files() == before

    assert host.twice()
    after = host.files()
    assert after == {
        ".env": (FLIPPED, 0o640),
        ".env.before-untangle": (ENV, 0o600),
        "log": ("restart\n", 0o644),
    }
    assert host.play("main", "--check") == 0
    assert host.files() == after

    assert host.play("main", "--check", app_endpoints_state="absent") > 0
    assert host.files() == after
    assert host.twice(app_endpoints_state="absent")
    assert host.files() == {".env": (ENV, 0o640), "log": ("restart\nrestart\n", 0o644)}


def test_a_flip_without_its_restart_is_finished_by_the_next_run(host: Host) -> None:
    host.app["restart"] = f"test -e {host.dir}/may && echo restart >> {host.log}"
    host.play(ok=False)
    assert host.env.read_text() == FLIPPED
    (host.dir / "may").touch()
    assert host.twice()
    assert host.log.read_text() == "restart\n"


def test_a_way_back_without_its_restart_is_finished_by_the_next_run(host: Host) -> None:
    host.play()
    host.app["restart"] = f"test -e {host.dir}/may && echo back >> {host.log}"
    host.play("back", ok=False)
    (host.dir / "may").touch()
    assert host.twice("back")
    assert host.log.read_text() == "restart\nback\n"
    assert set(host.files()) == {".env", "log", "may"}


def test_an_application_that_stays_sick_is_named_and_restarted_again(host: Host) -> None:
    (host.dir / "sick").touch()
    host.play(ok=False)
    assert "shop on web1 was restarted and is not healthy after 2 s" in host.output
    assert "go back with the playbook rollback" in host.output
    (host.dir / "sick").unlink()
    assert host.play() > 0
    assert host.log.read_text() == "restart\nrestart\n"


def test_what_was_changed_meanwhile_stays_on_the_way_back(host: Host) -> None:
    host.play()
    host.env.write_text(FLIPPED.replace("APP=shop", "APP=shop2") + "export NEW=1\n")
    host.play("back")
    assert host.env.read_text() == ENV.replace("APP=shop", "APP=shop2") + "export NEW=1\n"


def test_a_link_to_a_shared_file(host: Host) -> None:
    release, shared = host.dir / "release", host.dir / "shared"
    release.mkdir()
    host.env.rename(shared)
    (release / ".env").symlink_to(shared)
    host.app["files"][0]["path"] = str(release / ".env")
    assert host.twice()
    assert (release / ".env").is_symlink() and shared.read_text() == FLIPPED
    assert host.dir.joinpath("shared.before-untangle").read_text() == ENV
    assert host.twice("back")
    assert (release / ".env").is_symlink() and shared.read_text() == ENV
    assert sorted(path.name for path in host.dir.rglob("*untangle*")) == []


def test_prepare_writes_beside_and_tells(host: Host) -> None:
    assert host.play("prepare", "--check") > 0
    assert set(host.files()) == {".env"}
    assert host.twice("prepare")
    assert f"echo restart >> {host.log}" in host.output
    assert host.files() == {".env": (ENV, 0o640), ".env.untangle-new": (FLIPPED, 0o640)}
    assert host.plays(["main", "prepare"], (), True, {})[1] == 0
    assert set(host.files()) == {".env", ".env.before-untangle", "log"}
    assert host.play("clean") > 0
    assert set(host.files()) == {".env", "log"}


def test_prepare_stops_where_the_flip_would(host: Host) -> None:
    host.app["files"][0]["path"] += "x"
    host.play("prepare", ok=False)
    assert "does not exist" in host.output


def test_a_misspelt_purpose_is_refused(host: Host) -> None:
    host.app["files"][0]["set"]["CACHE_URL"] = "cahce"
    host.play(ok=False)
    assert "no purpose of this plan" in host.output
    assert set(host.files()) == {".env"}


def test_templates(host: Host) -> None:
    settings, template = host.dir / "settings.json", host.dir / "settings.json.j2"
    settings.write_text('{"redis": "old"}\n')
    settings.chmod(0o604)
    template.write_text(
        '{"redis": {{ app_endpoints_instances.sessions.url | to_json }}, "port": {{ app_endpoints_instances.cache.port }}}\n'
    )
    host.app["files"].append({"path": str(settings), "template": str(template)})
    before = host.files()
    assert host.play("main", "--check") > 0
    assert host.files() == before
    assert host.twice("prepare")
    rendered = '{"redis": "redis://sessions:sess%3Aion%2Bsecret%232@127.0.0.1:6382/0", "port": 6381}\n'
    assert host.files()["settings.json.untangle-new"] == (rendered, 0o604)
    assert host.plays(["main", "main", "prepare"], (), True, {})[1:] == [0, 0]
    after = host.files()
    assert after["settings.json"] == (rendered, 0o604)
    assert after["settings.json.before-untangle"] == ('{"redis": "old"}\n', 0o600)
    assert "settings.json.untangle-new" not in after
    assert host.log.read_text() == "restart\n"  # once for both files
    assert host.twice("back")
    assert host.files() == {**before, "log": ("restart\nrestart\n", 0o644)}


def test_a_broken_off_template_flip_is_finished(host: Host) -> None:
    settings, template = host.dir / "settings", host.dir / "settings.j2"
    settings.write_text("old\n")
    template.write_text("{{ app_endpoints_instances.cache.host }}\n")
    host.app["files"] = [{"path": str(settings), "template": str(template)}]
    host.app["restart"] = f"test -e {host.dir}/may && echo restart >> {host.log}"
    host.play(ok=False)
    (host.dir / "may").touch()
    assert host.twice()
    assert host.log.read_text() == "restart\n"


def test_stop_and_start(host: Host) -> None:
    host.app.update(stop=f"echo stop >> {host.log}", start=f"echo start >> {host.log}")
    worker = {"name": "a worker", "stop": f"echo stop-w >> {host.log}", "start": f"echo start-w >> {host.log}"}
    host.variables["app_endpoints_apps"] = [host.app, worker]
    assert host.play("stop", "--check") > 0
    assert set(host.files()) == {".env"}
    assert host.twice("stop")  # although it makes sure once more
    assert host.log.read_text() == "stop\nstop-w\nstop\nstop-w\n"
    assert host.twice("start")
    host.log.write_text("")
    # stopped ones are started, not restarted
    assert host.plays(["stop", "main", "main", "start"], (), True, {})[2:] == [0, 0]
    assert host.log.read_text() == "stop\nstop-w\nstart\nstart-w\n"
    assert set(host.files()) == {".env", ".env.before-untangle", "log"}


def test_an_application_without_files_follows_the_others(host: Host) -> None:
    worker = {"name": "worker", "restart": f"echo worker >> {host.log}"}
    elsewhere = {"name": "other", "hosts": ["web2"], "files": [{"path": "/nowhere", "set": {"A": "cache"}}]}
    host.variables["app_endpoints_apps"] = [host.app, worker, elsewhere]
    assert host.twice()
    assert host.log.read_text() == "restart\nworker\n"


def test_an_application_without_commands_needs_none(host: Host) -> None:
    del host.app["restart"]
    assert host.twice()
    assert host.env.read_text() == FLIPPED
    assert set(host.files()) == {".env", ".env.before-untangle"}


def test_logins_are_tried_from_here(host: Host, server) -> None:
    made = server("redis-7.0")
    admin = made.client()
    for name, secret in SECRETS.items():
        admin.acl_setuser(
            name, enabled=True, passwords=["+" + secret], keys=["*"], categories=["+@all", "-@admin", "-@dangerous"]
        )
    for purpose in host.variables["app_endpoints_purposes"]:
        purpose.update(port=made.port, password="not-this-0ne")
    assert host.play("check") == 0
    host.variables["app_endpoints_passwords"] = {**SECRETS, "cache": "another-secret"}
    host.play("check", ok=False)
    assert "cache" in host.output and "refuses the login" in host.output
    host.variables["app_endpoints_purposes"][0]["port"] = 1
    assert host.play("check", "--check", app_endpoints_passwords={}) == 0  # nothing is there yet
