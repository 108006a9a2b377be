# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of an old database: the backup is proven, the server is not held up, and whatever is broken off can be gone on with."""

from __future__ import annotations

import itertools
import os
import signal
import time

import dataset
import pytest
import redis
import rig as rigs
from rig import killed

import servers
from ansible_collections.njoy.untangle.plugins.module_utils import engine
from ansible_collections.njoy.untangle.plugins.module_utils.engine import forget
from ansible_collections.njoy.untangle.plugins.module_utils.engine.snapshot import Limits
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

pytestmark = pytest.mark.servers
pool, split = rigs.pool, rigs.split
main_versions = pytest.mark.parametrize("version", servers.MAIN)

KEYS = 3000


@pytest.fixture
def serving(split):
    """A purpose that is cut over, nobody on its old database."""

    def make(version):
        rig = split(version)
        rig.old().mset({f"k{i}": "x" * 50 for i in range(KEYS)})
        rig.old().xadd("stream", {"a": 1})
        rig.copied()
        rig.cut_over()
        rig.source.forget_clients()
        rig._clients.clear()
        return rig

    return make


def retire(rig, version, **options):
    return rig._do(
        engine.retire.retired,
        watch_seconds=0,
        quiet_seconds=0.05,
        server_command=servers.command(version),
        limits=Limits(scan_count=100),
        **options,
    )


def restore(rig):
    return rig._do(engine.retire.restored)


def inside(rig):
    """A client of the old database which is none of its applications: by the engine's own name."""
    return redis.Redis(
        unix_socket_path=rig.source.unix_socket,
        db=5,
        client_name="untangle-test",
        username="untangle",
        password=(open(os.path.join(rig.state.directory, "secrets", "source.engine")).read()),
    )


def backups(rig):
    return sorted(os.listdir(os.path.join(rig.state.directory, "backup")))


@main_versions
def test_a_backup_that_lacks_a_key_is_found(serving, version, monkeypatch):
    rig = serving(version)
    real = engine.retire.pack
    monkeypatch.setattr(engine.retire, "pack", lambda keys: real([key for key in keys if key[0] != b"k7"]))
    with pytest.raises(
        UntangleError, match=r"backup .* does not hold what database 5 of .* holds \(missing: 1\)\. Nothing"
    ):
        retire(rig, version)
    assert inside(rig).dbsize() == KEYS + 1 and rig.standing() == "cut_over"


@main_versions
def test_emptying_holds_nobody_up(serving, version):
    rig = serving(version)
    inside(rig).execute_command("CONFIG", "RESETSTAT")
    assert retire(rig, version)["changed"]
    ran = inside(rig).info("commandstats")
    assert inside(rig).dbsize() == 0
    assert not {"cmdstat_flushdb", "cmdstat_flushall", "cmdstat_del"} & set(ran)
    assert ran["cmdstat_unlink"]["calls"] > 10
    assert ran["cmdstat_unlink"]["usec"] / ran["cmdstat_unlink"]["calls"] < 5000


def die_while_emptying(facts):
    if facts["phase"] == "empty" and facts["keys"] > KEYS / 3:
        os.kill(os.getpid(), signal.SIGKILL)


def turns(names, moments):
    """Every moment once, the servers in turn."""
    found = [(*moment, version) for moment, version in zip(moments.values(), itertools.cycle(servers.MAIN))]
    return pytest.mark.parametrize([*names, "version"], found, ids=moments)


@turns(
    ["path", "after", "left"],
    {
        "before the proof": ("retire.prove_backup", False, KEYS + 1),
        "behind the proof": ("retire.prove_backup", True, KEYS + 1),
        "while emptying": ("retire.empty", True, None),
        "emptied": ("retire.empty", True, 0),
        "noted": ("state.State.update", True, KEYS + 1),
    },
)
def test_a_retirement_that_was_killed_is_finished(serving, version, path, after, left):
    rig = serving(version)
    before = dataset.read(inside(rig))
    report = die_while_emptying if left is None else rigs.silent
    killed(path, lambda: retire(rig, version, report=report), after=after)
    kept = inside(rig).dbsize()
    assert 0 < kept < KEYS if left is None else kept == left
    assert rig.standing() == "cut_over" and rig.new().dbsize() == KEYS + 1
    rig.target.forget_clients()
    rig._clients.clear()
    # a temporary file of a killed run is no backup
    assert retire(rig, version)["purposes"]["db5"]["state"] == "retired"
    assert inside(rig).dbsize() == 0 and rig.standing() == "retired"
    assert not retire(rig, version)["changed"]
    # what was emptied by both of them comes back
    restore(rig)
    assert not dataset.difference(before, dataset.read(inside(rig)))
    assert not restore(rig)["changed"]
    # and the next retirement begins anew
    inside(rig).delete("k1")
    retire(rig, version)
    restore(rig)
    assert inside(rig).dbsize() == KEYS


@main_versions
def test_a_second_backup_does_not_replace_the_first(serving, version):
    """Somebody wrote to the empty database: that is backed up beside what it held."""
    rig = serving(version)
    retire(rig, version)
    inside(rig).set("late", 1)
    retire(rig, version)
    assert len(backups(rig)) == 2
    restore(rig)
    assert inside(rig).dbsize() == KEYS + 2


@turns(
    ["path", "after"],
    {
        "before the user": ("marks.drop_own_user", False),
        "behind the user": ("marks.drop_own_user", True),
        "before the jobs": ("shutil.rmtree", False),
        "behind the first file": ("os.unlink", True),
    },
)
def test_forgetting_that_was_killed_is_finished(split, version, path, after):
    rig = split(version)
    rig.old().set("a", 1)
    rig.copied()
    rig.cut_over()
    rig.returned()
    os.makedirs(os.path.join(rig.state.directory, "jobs", "one"))
    os.makedirs(os.path.join(rig.state.directory, "backup"))
    with open(os.path.join(rig.state.directory, "backup", "kept"), "w"):
        pass
    assert engine.marks.OWN_USER in engine.marks.users(rig.engine_source())
    killed("forget." + path, lambda: forget.forget(rig.login, rig.state.directory), after=after)
    assert forget.forget(rig.login, rig.state.directory)
    assert forget.left(rig.login, rig.state.directory) == [] == forget.forget(rig.login, rig.state.directory)
    assert engine.marks.OWN_USER not in engine.marks.users(rig.engine_source())
    # the last copy of an old database, perhaps
    assert os.listdir(rig.state.directory) == ["backup"] and rig.old().get("a") == b"1"
    assert rig.new().get("a") == b"1"


@main_versions
def test_what_was_written_since_the_cutover_is_not_emptied(serving, version):
    """A straggler wrote, and went away: nobody is there to be named, and the instance does not have it."""
    rig = serving(version)
    inside(rig).set("k7", "late")
    with pytest.raises(UntangleError, match=r"does not hold what it held at the cutover.*redis_split_accept_loss"):
        retire(rig, version)
    assert not os.path.exists(os.path.join(rig.state.directory, "backup"))
    inside(rig).set("k7", "x" * 50)
    assert retire(rig, version)["changed"]


@main_versions
@pytest.mark.parametrize("write", [
    lambda old: old.rename("k1", "K1"),
    lambda old: old.delete("k1"),
    lambda old: old.set("new", ""),
    lambda old: old.pexpire("k1", 10**12),
    lambda old: old.rename("k1", "x") and old.rename("stream", "k1") and old.rename("x", "stream"),
    lambda old: old.xadd("stream", {"a": 2}),
])  # fmt: skip
def test_whatever_was_written_is_seen(serving, version, write):
    rig = serving(version)
    write(inside(rig))
    with pytest.raises(UntangleError, match="held at the cutover"):
        retire(rig, version)
    # it is in the backup
    assert retire(rig, version, accept_loss=["db5"])["changed"]


@main_versions
def test_expiry_is_no_write(split, version):
    rig = split(version)
    rig.old().set("short", 1, px=300)
    rig.old().set("long", 1, px=10**7)
    rig.old().set("longest", 1, px=10**11)
    rig.copied()
    rig.cut_over()
    rig.source.forget_clients()
    rig._clients.clear()
    time.sleep(0.4)
    assert retire(rig, version)["purposes"]["db5"]["backup_keys"] == 2
