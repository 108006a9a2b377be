# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""split.json and the lock beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ansible_collections.njoy.untangle.plugins.module_utils.engine import state
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError


def test_facts_are_merged_and_every_run_leaves_a_line(tmp_path):
    split = state.State(str(tmp_path / "deep" / "state"))
    assert split.read() == {"version": 1, "purposes": {}, "log": []}
    assert split.purpose("cache") == {}

    split.update("copied", "ann", {"cache": {"state": "copied", "bytes": 7}}, source="1.2.3.4:1")
    since = split.purpose("cache")["since"]
    split.update("copied again", "bob", {"cache": {"state": "copied", "bytes": 8}})
    # since when and by whom go with the state, not with the last run
    assert split.purpose("cache") == {"state": "copied", "bytes": 8, "since": since, "by": "ann"}
    split.update("cut over", "bob", {"cache": {"state": "cut_over"}, "queue": {"state": "cut_over"}})
    assert split.purpose("cache")["by"] == "bob" and split.purpose("cache")["bytes"] == 8

    data = split.read()
    assert data["source"] == "1.2.3.4:1"
    assert [(line["what"], line["by"], line["purposes"]) for line in data["log"]] == [
        ("copied", "ann", ["cache"]),
        ("copied again", "bob", ["cache"]),
        ("cut over", "bob", ["cache", "queue"]),
    ]
    assert os.stat(split.path).st_mode & 0o777 == 0o600
    assert os.stat(split.directory).st_mode & 0o777 == 0o700
    assert os.listdir(split.directory) == ["split.json"]


def test_two_who_write_at_once_lose_nothing_of_each_other(tmp_path):
    """A mirror cuts over while somebody compares."""
    program = "import sys; from {0} import state; [state.State(sys.argv[1]).update('w', sys.argv[2], {{sys.argv[2] + str(n): {{'n': n}}}}) for n in range(200)]"
    words = [sys.executable, "-c", program.format(state.__package__), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    several = [subprocess.Popen([*words, name], env=environment) for name in "abc"]
    assert [one.wait() for one in several] == [0, 0, 0]
    data = state.State(str(tmp_path)).read()
    assert len(data["purposes"]) == len(data["log"]) == 600


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    split = state.State(str(tmp_path))
    (tmp_path / "split.json").write_text('{"purposes": ')
    with pytest.raises(UntangleError, match=r"split.json cannot be read .* Move it away"):
        split.read()
    with pytest.raises(UntangleError):
        split.update("copied", "ann", {})
    assert (tmp_path / "split.json").read_text() == '{"purposes": '


def test_a_write_that_fails_leaves_the_old_text(tmp_path, monkeypatch):
    split = state.State(str(tmp_path))
    split.update("copied", "ann", {"cache": {"state": "copied"}})
    before = (tmp_path / "split.json").read_text()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        split.update("cut over", "ann", {"cache": {"state": "cut_over"}})
    assert (tmp_path / "split.json").read_text() == before
    assert os.listdir(tmp_path) == ["split.json"]
    assert json.loads(before)["purposes"]["cache"]["state"] == "copied"


def test_the_lock_says_who_holds_it_and_dies_with_its_process(tmp_path):
    first, second = state.Lock(str(tmp_path)), state.Lock(str(tmp_path))
    first.take("sync", "ann@host")
    with pytest.raises(UntangleError, match=r"is being worked on: sync by ann@host since .*\(pid %d\)" % os.getpid()):
        second.take("cutover", "bob")
    first.release()
    second.take("cutover", "bob")
    second.release()

    program = (
        "import fcntl, os, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, first.path], check=False)
    first.take("sync", "ann")
    first.release()
