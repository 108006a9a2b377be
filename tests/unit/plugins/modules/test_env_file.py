# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""env_file's real main() on real files: what it writes, what it keeps, what it shows."""

from __future__ import annotations

import json
import os
import stat

import pytest
from ansible.module_utils import basic

from ansible_collections.njoy.untangle.plugins.modules import env_file

try:
    from ansible.module_utils.testing import patch_module_args
except ImportError:  # ansible-core 2.17 and 2.18
    from contextlib import contextmanager

    @contextmanager
    def patch_module_args(args):
        before, basic._ANSIBLE_ARGS = basic._ANSIBLE_ARGS, json.dumps({"ANSIBLE_MODULE_ARGS": args}).encode()
        yield
        basic._ANSIBLE_ARGS = before


@pytest.fixture
def run(capfd):
    def run(check=False, **arguments):
        known = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True}
        with patch_module_args(known), pytest.raises(SystemExit):
            env_file.main()
        result = json.loads(capfd.readouterr().out)
        result.pop("size", None)  # of the file as it is; Ansible adds it, in check mode that of the old one
        return result

    return run


@pytest.fixture
def env(tmp_path):
    path = tmp_path / ".env"
    path.write_bytes(b"# shop\nCACHE_URL=redis://:0ld-secret@10.0.0.5/10\nDB_PASSWORD=other-secret\n")
    path.chmod(0o640)
    return path


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def files(path):
    return {p.name: (p.read_bytes(), mode(p)) for p in path.parent.iterdir()}


NEW = "redis://cache:n3w-secret@10.0.0.7:6381/0"


def test_check_then_real_then_again(run, env):
    before = files(env)
    arguments = {"path": str(env), "set": {"CACHE_URL": NEW, "CACHE_DB": 0, "CACHE_ON": True}, "backup": True}
    predicted = run(check=True, **arguments)
    assert files(env) == before
    done = run(**arguments)
    assert done == {**predicted, "backup_file": str(env) + ".before-untangle"}
    assert done["changed"] and done["names"] == ["CACHE_URL", "CACHE_DB", "CACHE_ON"]
    assert (
        env.read_text()
        == before[".env"][0].decode().replace("redis://:0ld-secret@10.0.0.5/10", NEW) + "CACHE_DB=0\nCACHE_ON=true\n"
    )
    assert mode(env) == 0o640
    kept = env.with_name(".env.before-untangle")
    assert (kept.read_bytes(), mode(kept)) == (before[".env"][0], 0o600)
    after = files(env)
    for check in (True, False):
        again = run(check=check, **arguments)
        assert (again["changed"], again["actions"], again["names"]) == (False, [], [])
    assert files(env) == after
    assert [name for name in after if name.startswith(".untangle")] == []  # no temporary file stays


def test_nothing_secret_is_shown(run, env):
    secrets = ("0ld-secret", "other-secret", "n3w-secret", "shorty")
    shown = json.dumps(
        [
            run(path=str(env), set={"CACHE_URL": NEW, "PIN": "shorty"}, backup=True),
            run(path=str(env), names=["CACHE_URL"], state="restored"),
            run(path=str(env), names=["DB_PASSWORD"], state="absent"),
            run(path=str(env), set={"CACHE_URL": "n3w-secret's $"}),
            run(path=str(env) + "x", set={"CACHE_URL": NEW}),
            run(path=str(env), set={"CACHE_URL": NEW}, names=["n3w-secret"]),
        ]
    )
    assert [secret for secret in secrets if secret in shown.replace('"names": ["n3w-secret"]', "")] == []


def test_ordinary_values_do_not_spoil_the_result(run, env):
    done = run(path=str(env), set={"A": "0", "B": "env", "C": env.parent.name}, backup=True)
    assert done["path"] == str(env)
    assert done["backup_file"] == str(env) + ".before-untangle"
    if "invocation" in done:  # from ansible-core 2.21 on only when asked for
        assert done["invocation"]["module_args"]["set"] == dict.fromkeys("ABC", "********")


def test_the_diff_names_the_line(run, env):
    assert run(path=str(env), set={"CACHE_URL": NEW})["diff"] == {
        "before_header": str(env),
        "after_header": str(env),
        "before": "CACHE_URL=********\n",
        "after": "CACHE_URL=******** (new value)\n",
    }


def test_there_and_back(run, env):
    before = env.read_bytes()
    run(path=str(env), set={"CACHE_URL": NEW, "NEW": "1"}, backup=True)
    run(path=str(env), set={"CACHE_URL": "other"}, backup=True)  # the first kept file stays
    predicted = run(check=True, path=str(env), state="restored", names=["CACHE_URL", "NEW"])
    done = run(path=str(env), state="restored", names=["CACHE_URL", "NEW"])
    assert predicted == done and done["changed"]
    assert env.read_bytes() == before
    assert not run(path=str(env), state="restored", names=["CACHE_URL", "NEW"])["changed"]


def test_nothing_kept_nothing_put_back(run, env):
    assert not run(path=str(env), state="restored", names=["CACHE_URL"])["changed"]


def test_a_mark_is_made_before_a_change_and_stays(run, env, monkeypatch):
    mark = env.with_name("restart-due")
    arguments = {"path": str(env), "set": {"CACHE_URL": NEW}, "mark": str(mark)}
    assert run(check=True, **arguments)["marked"] is False and not mark.exists()
    with monkeypatch.context() as patch:
        patch.setattr(
            env_file,
            "write",
            lambda *args, **kwargs: (nothing for nothing in ()).throw(OSError(28, "No space left on device", "x")),
        )
        assert "No space left" in run(**arguments)["msg"]
    assert mark.exists()
    mark.unlink()
    assert run(**arguments)["marked"] is True
    again = run(**arguments)
    assert again["marked"] is True and again["changed"] is False
    mark.unlink()
    assert run(**arguments)["marked"] is False and not mark.exists()


def test_dest_holds_the_result_while_it_differs(run, env):
    before, beside = env.read_bytes(), env.with_name(".env.new")
    arguments = {"path": str(env), "set": {"CACHE_URL": NEW}, "dest": str(beside)}
    assert run(check=True, **arguments)["changed"] and not beside.exists()
    assert run(**arguments)["changed"]
    assert env.read_bytes() == before and NEW in beside.read_text() and mode(beside) == 0o640
    assert not run(**arguments)["changed"]
    run(path=str(env), set={"CACHE_URL": NEW})
    assert run(**arguments)["actions"] == ["removed %s" % beside]
    assert not beside.exists() and not run(**arguments)["changed"]


def test_a_link_is_followed(run, env):
    link = env.with_name("link")
    link.symlink_to(env.name)
    done = run(path=str(link), set={"CACHE_URL": NEW}, backup=True)
    assert link.is_symlink() and NEW in env.read_text()
    assert done["path"] == str(env)


def test_a_missing_file_is_an_error_unless_it_may_be_made(run, env):
    missing = env.with_name("missing")
    assert "create" in run(path=str(missing), set={"A": "1"})["msg"]
    assert run(check=True, path=str(missing), set={"A": "1"}, create=True)["changed"] and not missing.exists()
    assert run(path=str(missing), set={"A": "1"}, create=True)["changed"]
    assert (missing.read_text(), mode(missing)) == ("A=1\n", 0o600)


def test_mode_can_be_given(run, env):
    assert run(path=str(env), set={"CACHE_URL": NEW}, mode="0600")["changed"]
    assert mode(env) == 0o600
    assert run(path=str(env), set={"CACHE_URL": NEW}, mode="0640")["changed"]  # the mode alone
    assert mode(env) == 0o640


@pytest.mark.parametrize("value", [None, ["x"], {"a": 1}])
def test_values_are_text_or_numbers(run, env, value):
    assert "CACHE_URL" in run(path=str(env), set={"CACHE_URL": value})["msg"]


def test_a_directory_is_refused(run, env):
    assert "regular file" in run(path=str(env.parent), set={"A": "1"})["msg"]
