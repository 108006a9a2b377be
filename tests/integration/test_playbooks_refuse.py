# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the playbooks refuse before the first change, and what they say then."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cores import NEWEST, OLDEST
from playbook_site import PROFILES, Site, needs

import servers

pytestmark = needs


@pytest.fixture(scope="module")
def fresh() -> Iterator[Site]:
    """A host on which nothing was ever done, and on which nothing may be done by what is refused."""
    site = Site("web1", "web2", core=OLDEST)
    site.fill()
    before = site.snapshot()
    yield site
    site.write_inventory()
    after = site.snapshot()
    assert {k: v for k, v in after["files"].items() if "inventory" not in k} == {
        k: v for k, v in before["files"].items() if "inventory" not in k
    }
    assert {k: v for k, v in after.items() if k != "files"} == {k: v for k, v in before.items() if k != "files"}
    site.close()


@pytest.mark.parametrize("core", [OLDEST, NEWEST])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "web1"], "--limit web1 leaves out"),
        # Ansible itself refuses this one, unless the inventory names localhost
        (["--limit", "localhost"], "leaves us with no hosts to target"),
        (["--limit", "localhost", "-i", "localhost,"], "--limit localhost leaves out"),
        (["--skip-tags", "always"], "--skip-tags always would leave out"),
        (["--tags", "cutover"], "--tags cutover would leave out"),
        (["-e", "redis_split_untill=verify"], "Is it redis_split_until?"),
    ],
    ids=["limit", "limit-localhost", "limit-named-localhost", "skip-tags", "tags", "variable"],
)
def test_a_run_in_part_is_refused(fresh: Site, words: list[str], said: str, core: str) -> None:
    run = fresh.play("split_redis", *words, ok=False, core=core)
    run.says(said)
    assert run.changed == 0


def test_a_phase_alone_is_refused_in_part_as_well(fresh: Site) -> None:
    """The last play of cutover by itself would point applications at instances that hold nothing."""
    run = fresh.play("cutover", "--limit", "web1,web2", ok=False)
    run.says("--limit web1,web2 leaves out redis1")
    assert run.changed == 0
    run = fresh.play("cutover", "--skip-tags", "always", ok=False)
    run.says("--skip-tags always would leave out")
    assert run.changed == 0


@pytest.mark.parametrize(
    "groups",
    [
        {"redis_split_app_hosts": [], "redis_split_apphosts": ["web1", "web2"]},
        {"redis_split_hosts": [], "redis_split_host": ["redis1"]},
    ],
    ids=["applications", "instances"],
)
def test_a_misspelt_group_is_refused(fresh: Site, groups: dict[str, list[str]]) -> None:
    fresh.write_inventory(**groups)
    try:
        fresh.play("split_redis", ok=False).says(f"{list(groups)[1]}, which means nothing here")
    finally:
        fresh.write_inventory()


def changed_purpose(site: Site, kind: str, **facts: Any) -> str:
    purposes = [dict(one) for one in site.variables["redis_split_purposes"]]
    purposes[list(PROFILES).index(kind)].update(facts)
    return json.dumps({"redis_split_purposes": purposes})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"port": "of sessions"}, ["redis_split_purposes", "both have port", "its own port"]),
        ({"database": 0}, ["redis_split_purposes", "both have database 0", "One database goes to one purpose"]),
        ({"name": "Cache-1"}, ["redis_split_purposes", "lower-case letters"]),
        ({"database": 99}, ["redis_split_purposes", "has no database 99", "0 to 15", "Correct its number"]),
        ({"port": "taken"}, ["is in use by", "Choose another port", "redis_split_purposes"]),
        ({"maxmemory": "900gb"}, ["WARNING", "more than 80 %", "lower maxmemory in redis_split_purposes"]),
    ],
    ids=["one-port", "one-database", "name", "no-such-database", "port-in-use", "limits"],
)
def test_a_plan_that_cannot_be(fresh: Site, change: dict[str, Any], words: list[str]) -> None:
    taken = None
    if change.get("port") == "taken":
        taken = servers.Server.run("redis-7.0")
        change = {"port": taken.port}
    elif "port" in change:
        change = {"port": fresh.ports["sessions"]}
    # a phase that would change something, but for the warning
    phase = "audit" if "maxmemory" in change else "provision"
    run = fresh.play(phase, "-e", changed_purpose(fresh, "cache", **change), ok=phase == "audit")
    if taken:
        taken.close()
    run.says(*words)
    assert run.changed == 0


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {"server": "/nowhere/redis-server"},
            ["name its path in redis_split_server", "use redis_split_backend: compose"],
        ),
        (
            {"tls": dict.fromkeys(("ca_file", "cert_file", "key_file"), "/nowhere/pem")},
            ["redis_split_tls: ca_file cannot be read"],
        ),
        ({"state_dir": "{shut}/state"}, ["does not let user", "or set redis_split_state_dir to another place"]),
    ],
    ids=["server", "tls", "directory"],
)
def test_a_host_that_cannot_run_an_instance(
    fresh: Site, tmp_path: Path, variables: dict[str, Any], words: list[str]
) -> None:
    """The names are those of redis_split, which fills the variables of redis_instances from its own."""
    tmp_path.chmod(0o700)
    given = {
        f"redis_split_{name}": value.format(shut=tmp_path) if isinstance(value, str) else value
        for name, value in variables.items()
    }
    run = fresh.play("audit", "-e", json.dumps(given), ok=False)
    run.says(*words)
    assert not re.search(r"(?<!_)redis_instances_", run.output)
    assert run.changed == 0


def test_an_address_that_an_application_cannot_reach(fresh: Site) -> None:
    """web2 has a name service of its own, which does not know the instance's host; the engine and web1 know it."""
    name, known = "instances.example", fresh.top / "ansible" / "hosts"
    known.parent.mkdir(exist_ok=True)
    known.write_text(f"127.0.0.1 localhost {name}\n")
    shown = ["unshare", "--mount", "sh", "-c", f'mount --bind {known} /etc/hosts && exec "$@"', "sh"]
    hidden = "unshare --mount sh -c 'umount /etc/hosts && exec /usr/bin/python3 \"$@\"' sh"
    python = fresh.top / "ansible" / "python-elsewhere"
    python.write_text(f'#!/bin/sh\nexec {hidden} "$@"\n')
    python.chmod(0o755)
    fresh.write_inventory(redis_split_app_hosts=["web1", f"web2 ansible_python_interpreter={python}"])
    try:
        run = fresh.play("provision", "-e", changed_purpose(fresh, "cache", address=name), ok=False, inside=shown)
    finally:
        fresh.write_inventory()
    run.says(
        f"redis_split_purposes, {fresh.names['cache']}: web2 cannot reach its address {name}, port {fresh.ports['cache']}",
        "Give the purpose an address that web2 can connect to",
        "Nothing was changed.",
    )
    assert "web1 cannot reach" not in run.output
    assert run.changed == 0


def test_an_empty_database_warns(fresh: Site) -> None:
    fresh.play("audit", "-e", changed_purpose(fresh, "cache", database=7)).says(
        "database 7", "is empty", "has no purpose"
    )


@pytest.mark.parametrize("answer", ["refuse", "warn"])
def test_memory_that_does_not_fit(fresh: Site, tmp_path: Path, answer: str) -> None:
    """A host with little memory: the kernel's own table, replaced for this run alone by a mount that only it sees."""
    small = tmp_path / "meminfo"
    small.write_text("MemTotal: 65536 kB\nMemAvailable: 1024 kB\n")
    script = f'mount --bind {small} /proc/meminfo && exec "$@"'
    run = fresh.play(
        "audit" if answer == "warn" else "provision",
        "-e",
        f"redis_split_memory_check={answer}",
        ok=answer == "warn",
        inside=["unshare", "--mount", "sh", "-c", script, "sh"],
    )
    run.says("its memory of 64.0 MB does not hold what is used now", "redis_split_memory_check")
    assert ("WARNING" in run.output) == (answer == "warn")
    assert run.changed == 0


@pytest.mark.skipif(not servers.command("redis-8.0"), reason="no redis-server 8.0: run `make testbed`")
@pytest.mark.parametrize("phase", ["audit", "provision"])
def test_instances_too_old_for_the_data_of_the_source(fresh: Site, phase: str) -> None:
    """The instances would run the host's 7.0. Its own answer decides, not a table of versions."""
    with servers.Server("redis-8.0") as newer:
        for database in (0, 5, 10):
            newer.client(database).set("greeting", "a value that nobody shows")
        source = {"redis_split_source": {"host": "127.0.0.1", "port": newer.port}}
        run = fresh.play(phase, "-e", json.dumps(source), ok=False)
        run.says(
            "redis 7.0.15 does not take the data format of the shared server, which is redis 8.0",
            "in redis_split_server",
            "Nothing was changed.",
        )
        assert run.changed == 0 and "nobody shows" not in run.output
        assert newer.client(5).keys() == [b"greeting"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"password": "wr0ng-secret"}, ["refuses the login of user default", "password of redis_split_source"]),
        ({"port": 1}, ["cannot be reached", "host, port and tls of redis_split_source"]),
    ],
    ids=["password", "unreachable"],
)
def test_a_source_that_cannot_be_used(fresh: Site, source: dict[str, Any], words: list[str]) -> None:
    given = {**fresh.variables["redis_split_source"], **source}
    run = fresh.play("split_redis", "-e", json.dumps({"redis_split_source": given}), ok=False)
    run.says(*words)
    assert "wr0ng-secret" not in run.output


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("sync", ["no instance was made for it yet", "Run provision first"]),
        ("cutover", ["Run provision first"]),
        ("verify", ["Run provision and sync first"]),
        ("retire", ["is not cut over"]),
        ("retire --check", ["is not cut over"]),
    ],
)
def test_what_a_planned_purpose_refuses(fresh: Site, phase: str, words: list[str]) -> None:
    given = ["-e", json.dumps({"redis_split_retire": [fresh.names["cache"]]})]
    run = fresh.play(*phase.split(), *given, ok=False)
    run.says(*words)
    assert run.changed == 0


def test_retire_wants_names(fresh: Site) -> None:
    fresh.play("retire", ok=False).says("redis_split_retire is empty", "Name the purposes")


@pytest.mark.parametrize("phase", ["status", "watch", "rollback"])
def test_what_a_planned_purpose_allows(fresh: Site, phase: str) -> None:
    run = fresh.play(phase, "-e", f"redis_split_report_path={fresh.top}/ansible/report.html")
    if phase != "rollback":
        run.says("planned")


def test_an_audit_needs_no_plan(fresh: Site) -> None:
    run = fresh.play("audit", "-e", json.dumps({"redis_split_purposes": [], "redis_split_apps": []}))
    run.says("redis_split_purposes:", "{name: db10, database: 10")


# -- what a purpose refuses and allows before it serves, in the order of its states ------------------------------------


@pytest.fixture(scope="module")
def provisioned() -> Iterator[Site]:
    site = Site(core=OLDEST)
    site.fill()
    site.play("provision")
    yield site
    site.close()


def test_foreign_keys_in_an_instance_are_refused(provisioned: Site) -> None:
    """Before anything else is done, and by every phase that would copy."""
    site = provisioned
    site.instance("cache").set("foreign", "1")
    before = site.snapshot()
    runs = []
    try:
        runs += [site.play(phase, ok=False) for phase in ("split_redis", "sync")]
        assert site.instance("cache").keys() == [b"foreign"]
        assert {name for name, what in site.snapshot().items() if what != before[name]} <= {"processes"}
    finally:
        site.instance("cache").flushall()
    where = f"127.0.0.1:{site.ports['cache']}"
    for run in runs:
        run.says(f"{site.names['cache']}: {where} holds 1 keys that are not ours", "othing was changed.")
        assert run.changed == 0
    runs[0].says(f"redis_split_purposes, {site.names['cache']}")


@pytest.mark.parametrize(
    ("phase", "ok", "words"),
    [
        ("provision", True, []),
        ("cutover", False, ["not in step", "Run sync first"]),
        ("verify", False, ["Run provision and sync first"]),
        ("retire", False, ["is not cut over"]),
        ("rollback", True, []),
        ("watch", True, ["nothing to watch"]),
        ("status", True, ["planned"]),
    ],
)
def test_what_a_provisioned_purpose_does(provisioned: Site, phase: str, ok: bool, words: list[str]) -> None:
    site = provisioned
    run = site.play(phase, "-e", json.dumps({"redis_split_retire": [site.names["cache"]]}), ok=ok)
    run.says(*words)
    # a way that was gone to its end is written into the report
    assert run.changed <= (phase in ("rollback", "watch")), run.output[-3000:]
    assert site.instance("cache").dbsize() == 0
    assert site.files["web1"].read_text() == site.before["web1"] and site.restarts() == []


@pytest.fixture(scope="module")
def copied(provisioned: Site) -> Site:
    provisioned.play("sync")
    return provisioned


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("retire", ["is not cut over (copied)"]),
        ("watch", ["is copied: nothing to watch"]),
        ("rollback", []),
        ("status", ["copied"]),
    ],
)
def test_what_a_copied_purpose_does(copied: Site, phase: str, words: list[str]) -> None:
    site = copied
    data = site.source_data()
    run = site.play(
        phase,
        "-e",
        json.dumps({"redis_split_retire": [site.names["cache"]], "redis_split_report_path": f"{site.top}/report.html"}),
        ok=phase != "retire",
    )
    run.says(*words)
    assert site.states() == {"copied"}
    assert site.source_data() == data


def test_a_difference_ends_verify_as_failed(copied: Site) -> None:
    """One key of many is missing; nothing is repaired on the way."""
    site = copied
    site.instance("cache").delete("purpose")
    for phase in ("verify", "verify"):
        site.play(phase, ok=False).says(site.names["cache"], "missing", "purpose")
    assert not site.instance("cache").exists("purpose")
    site.instance("cache").set("purpose", "cache")


@pytest.mark.parametrize("check", [True, False])
def test_a_copy_can_be_taken_away(copied: Site, check: bool) -> None:
    site = copied
    before = site.snapshot()
    run = site.play("remove", *["--check"] * check)
    assert site.source_data() == before["keys"]
    if check:
        assert site.snapshot() == before and run.changed > 0
    else:
        assert not [name for name in site.snapshot()["files"] if str(site.state) in name]
