# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""compose_project's real main() on real directories: what it writes, what it leaves alone, what it says."""

from __future__ import annotations

import json
import os

import pytest
from ansible.module_utils import basic

from ansible_collections.njoy.untangle.plugins.modules import compose_project

try:
    from ansible.module_utils.testing import patch_module_args
except ImportError:  # ansible-core 2.17 and 2.18
    from contextlib import contextmanager

    @contextmanager
    def patch_module_args(args):
        before, basic._ANSIBLE_ARGS = basic._ANSIBLE_ARGS, json.dumps({"ANSIBLE_MODULE_ARGS": args}).encode()
        yield
        basic._ANSIBLE_ARGS = before


WEB = {"image": "nginx:1.22", "healthcheck": {"test": ["CMD", "true"]}}
US = {"uid": os.geteuid(), "gid": os.getegid()}
IMAGE = {"reference": "nginx:1.22", "id": "sha256:1", "user": US, "volumes": [], "healthcheck": False}


@pytest.fixture
def run(capfd, tmp_path):
    # what root owns is no matter here: a container of root is switched on by name
    given = {"directory": str(tmp_path / "shop"), "project": "shop", "hardening": {"user": False}}

    def run(service=None, check=False, **arguments):
        known = {**given, "services": {"web": {**WEB, **(service or {})}}, "images": {"web": IMAGE}, **arguments}
        known.update(_ansible_check_mode=check, _ansible_diff=True)
        with patch_module_args(known), pytest.raises(SystemExit):
            compose_project.main()
        return json.loads(capfd.readouterr().out)

    return run


def tree(top):
    return {str(one.relative_to(top)): one.read_bytes() for one in top.rglob("*") if one.is_file()}


THEIRS = ["compose.yaml", "docker-compose.yml", ".env", "config/database.yml", "secrets/db"]


@pytest.mark.parametrize("name", THEIRS)
def test_a_directory_of_somebody_elses_is_left_alone(run, tmp_path, name):
    path = tmp_path / "shop" / name
    path.parent.mkdir(parents=True)
    path.write_text("services: {}\n")
    said = run()
    assert said["failed"] and name.partition("/")[0] + ", which this collection did not write" in said["msg"]
    assert said["msg"].endswith("Nothing was changed.") and tree(tmp_path / "shop") == {name: b"services: {}\n"}


def test_what_stands_beside_ours_stays(run, tmp_path):
    """As the files of an instance do, which are there before; and a run that was broken off is finished."""
    (tmp_path / "shop/conf").mkdir(parents=True)
    (tmp_path / "shop/conf/redis.conf").write_text("x")
    service = {"config": {"/etc/x": {"a": "text", "b": "text"}}}
    assert run(service, check=True)["changed"] and list(tree(tmp_path / "shop")) == ["conf/redis.conf"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "chmod", lambda path, mode: None if "compose.yaml" in str(path) or mode != 0o644 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(service)
    assert "conf/redis.conf" in tree(tmp_path / "shop") and "config/web/etc-x/b" not in tree(tmp_path / "shop")
    said = run(service, secrets={"web": {"word": "a secret"}})
    assert {"config/web/etc-x/b", "compose.yaml"} < set(said["files"]) and said["services"] == ["web"]
    assert next(one for one in said["diff"] if one["after_header"] == "compose.yaml")["after"].startswith("# Written")
    assert not run(service, secrets={"web": {"word": "a secret"}})["changed"]
    assert "conf/redis.conf" in tree(tmp_path / "shop")


@pytest.mark.parametrize(("user", "refused"), [("12345:12345", False), ("12345:999", True), ("999:12345", True)])
def test_who_cannot_give_files_away(run, tmp_path, monkeypatch, user, refused):
    """Before the first of them is written."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(os, "getegid", lambda: 12345)
    monkeypatch.setattr(os, "getgroups", lambda: [12345, 7])
    monkeypatch.setattr(os, "chown", lambda *_words: None)
    said = run({"user": user}, secrets={"web": {"word": "a secret"}})
    assert said.get("failed", False) == refused == (not (tmp_path / "shop").exists())
    if refused:
        assert f"must belong to {user}" in said["msg"] and 'user: "12345:12345"' in said["msg"]


def test_line_ends_are_kept(run, tmp_path):
    service, secrets = {"config": {"/etc/x": {"a": "one\r\ntwo\r\n"}}}, {"web": {"key": "BEGIN\r\nkey\r\n"}}
    assert run(service, secrets=secrets)["changed"]
    assert tree(tmp_path / "shop")["config/web/etc-x/a"] == b"one\r\ntwo\r\n"
    assert tree(tmp_path / "shop")["secrets/web/key"] == b"BEGIN\r\nkey\r\n"
    assert not run(service, secrets=secrets)["changed"]


def test_what_env_fills_in_is_named(run):
    service = {"command": "echo ${GREETING}"}
    run(service, environment={"GREETING": "hello", "OTHER": "x"})
    said = run(service, environment={"GREETING": "hello", "OTHER": "y"})
    assert (said["files"], said["services"]) == ([".env"], [])
    for check in (True, False):
        said = run(service, environment={"GREETING": "good day", "OTHER": "y"}, check=check)
        assert (said["files"], said["services"]) == ([".env"], ["web"])
    assert run(service)["services"] == ["web"]
