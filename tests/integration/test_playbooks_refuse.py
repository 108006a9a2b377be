# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the playbooks refuse before the first change, and what they say then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playbook_site import OLDEST, PROFILES, Site, core, needs

import servers

pytestmark = needs


@pytest.fixture(scope="module")
def fresh() -> Iterator[Site]:
    """A host on which nothing was ever done, and on which nothing may be done by what is refused."""
    site = Site("web1", "web2")
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


@pytest.mark.parametrize("version", [None, OLDEST])
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
def test_a_run_in_part_is_refused(fresh: Site, words: list[str], said: str, version: str | None) -> None:
    if version and (not core(version) or words[0] == "--tags"):
        pytest.skip(f"ansible-core {version} is not here, or adds nothing: `make units-matrix` brings it")
    run = fresh.play("split_redis", *words, ok=False, version=version)
    run.says(said)
    assert run.changed == 0


def test_a_phase_alone_is_refused_in_part_as_well(fresh: Site) -> None:
    """The last play of cutover by itself would point applications at instances that hold nothing."""
    run = fresh.play("cutover", "--limit", "web1,web2", ok=False)
    run.says("--limit web1,web2 leaves out redis1")
    assert run.changed == 0


def test_a_misspelt_group_is_refused(fresh: Site) -> None:
    fresh.write_inventory(redis_split_app_hosts=[], redis_split_apphosts=["web1", "web2"])
    try:
        fresh.play("split_redis", ok=False).says("redis_split_apphosts, which means nothing here")
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
    run = fresh.play("audit", "-e", changed_purpose(fresh, "cache", **change), ok="maxmemory" in change)
    if taken:
        taken.close()
    run.says(*words)
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
        "audit",
        "-e",
        f"redis_split_memory_check={answer}",
        ok=answer == "warn",
        inside=["unshare", "--mount", "sh", "-c", script, "sh"],
    )
    run.says("its memory of 64.0 MB does not hold what is used now", "redis_split_memory_check")
    assert ("WARNING" in run.output) == (answer == "warn")
    assert run.changed == 0


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
    ],
)
def test_what_a_planned_purpose_refuses(fresh: Site, phase: str, words: list[str]) -> None:
    run = fresh.play(phase, "-e", json.dumps({"redis_split_retire": [fresh.names["cache"]]}), ok=False)
    run.says(*words)
    assert run.changed == 0


def test_retire_wants_names(fresh: Site) -> None:
    fresh.play("retire", ok=False).says("redis_split_retire is empty", "Name the purposes")


@pytest.mark.parametrize("phase", ["status", "watch"])
def test_what_a_planned_purpose_allows(fresh: Site, phase: str) -> None:
    run = fresh.play(phase, "-e", f"redis_split_report_path={fresh.top}/ansible/report.html")
    run.says("planned")


def test_an_audit_needs_no_plan(fresh: Site) -> None:
    run = fresh.play("audit", "-e", json.dumps({"redis_split_purposes": [], "redis_split_apps": []}))
    run.says("redis_split_purposes:", "{name: db10, database: 10")
