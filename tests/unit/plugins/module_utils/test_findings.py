# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts become findings: each of the five checks in each of its verdicts."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.njoy.untangle.plugins.module_utils import findings, keyspace

CHECKS = ["databases_in_use", "one_policy", "cluster", "flush_seen", "slow_commands"]


def facts(
    *held: tuple[int, int, int], info: dict[str, str] | None = None, plan: dict[int, str] | None = None, **more: Any
) -> dict[str, Any]:
    """Facts of a quiet server with (database, keys, expires)."""
    given = {
        "redis_version": "7.0.15",
        "cluster_enabled": "0",
        "uptime_in_seconds": "172800",
        "maxmemory": "1000",
        "maxmemory_policy": "allkeys-lru",
        "evicted_keys": "0",
        "cmdstat_get": "calls=1",
        **(info or {}),
    }
    keys = {database: (count, expires) for database, count, expires in held}
    databases = [
        {
            "database": database,
            "purpose": (plan or {}).get(database),
            "profile": None,
            "exists": database < 16,
            "keys": keys.get(database, (0, 0))[0],
            "expires": keys.get(database, (0, 0))[1],
            "clients": {"connections": 0, "seen": []},
        }
        for database in sorted({*keys, *(plan or ())})
    ]
    return {
        "server": keyspace.server_facts(given, {"databases": "16"}),
        "databases": databases,
        "commands": keyspace.command_facts(given),
        "slow_log": keyspace.slow_log_facts(0, [], None),
        **more,
    }


def verdict(check: str, found: dict[str, Any]) -> tuple[str, str]:
    """Severity of one check, and all that it says."""
    one = findings.findings(found)[CHECKS.index(check)]
    assert one["check"] == check
    return one["severity"], one["evidence"] + " " + one["advice"]


SHARED = ((0, 40, 40), (5, 3, 0), (10, 40, 40))
PLAN = {0: "sessions", 5: "pipeline", 10: "cache"}


def test_a_server_with_one_purpose_is_fine():
    found = findings.findings(facts((0, 100, 0)))
    assert [one["check"] for one in found] == CHECKS
    assert {one["severity"] for one in found} == {"ok"}
    assert {one["advice"] for one in found} == {""}


def test_an_empty_server_is_fine():
    assert {one["severity"] for one in findings.findings(facts())} == {"ok"}


def test_what_the_server_does_not_tell_is_unknown_not_ok():
    silent = {"server": keyspace.server_facts(None, None), "databases": [], "commands": None, "slow_log": None}
    assert {one["severity"] for one in findings.findings(silent)} == {"unknown"}


def test_databases_in_use():
    severity, said = verdict("databases_in_use", facts(*SHARED, plan=PLAN))
    assert severity == "warning"
    assert "3 databases hold keys: db 0 (sessions) 40 keys, 40 with an expiry; db 5 (pipeline) 3 keys" in said
    assert verdict("databases_in_use", facts((4, 1, 0)))[0] == "info"


def test_a_database_that_no_purpose_names():
    severity, said = verdict("databases_in_use", facts((0, 1, 0), (3, 9, 0), plan={0: "sessions"}))
    assert severity == "warning"
    assert "No purpose of the plan names db 3" in said


def test_a_client_on_a_database_that_no_purpose_names():
    found = facts((0, 1, 0), (3, 0, 0), plan={0: "sessions"})
    found["databases"][1]["clients"]["connections"] = 2
    severity, said = verdict("databases_in_use", found)
    assert severity == "info"
    assert "Clients have selected db 3" in said


def test_a_planned_database_that_the_server_does_not_have():
    severity, said = verdict("databases_in_use", facts((0, 1, 0), plan={0: "sessions", 16: "cache"}))
    assert severity == "critical"
    assert "db 16 (cache), which this server does not have" in said


@pytest.mark.parametrize(
    ("policy", "maxmemory", "evicted", "severity", "words"),
    [
        (
            "allkeys-lru",
            "1000",
            "0",
            "warning",
            "keys that never expire are evicted as well, those of db 5 (pipeline) among them",
        ),
        ("allkeys-lru", "1000", "7", "critical", "7 keys evicted within 2.0 days"),
        (
            "volatile-lru",
            "1000",
            "7",
            "critical",
            "only keys with an expiry are evicted, to make room for db 5 (pipeline) as well",
        ),
        ("noeviction", "1000", "0", "warning", "writes fail in all of them"),
        ("noeviction", "0", "0", "warning", "maxmemory not set"),
        ("allkeys-lru", "0", "0", "warning", "takes the machine's memory from all of them"),
    ],
)
def test_one_policy(policy, maxmemory, evicted, severity, words):
    info = {"maxmemory_policy": policy, "maxmemory": maxmemory, "evicted_keys": evicted}
    found = verdict("one_policy", facts(*SHARED, plan=PLAN, info=info))
    assert found[0] == severity
    assert words in found[1]
    assert "Keys of db 0 (sessions), db 10 (cache) expire, those of db 5 (pipeline) never do" in found[1]


def test_one_policy_for_like_uses():
    assert verdict("one_policy", facts((0, 40, 40), (1, 50, 49)))[0] == "ok"


def test_profiles_tell_apart_what_expiry_does_not():
    found = facts((0, 40, 40), (10, 40, 40), plan={0: "sessions", 10: "cache"})
    found["databases"][0]["profile"], found["databases"][1]["profile"] = "sessions", "cache"
    severity, said = verdict("one_policy", found)
    assert severity == "warning"
    assert "keys of all of them are evicted, whichever filled it" in said


def test_a_database_of_both_kinds():
    assert "of those of db 5 some do" in verdict("one_policy", facts((0, 40, 40), (5, 10, 5)))[1]


def test_cluster():
    assert verdict("cluster", facts(*SHARED))[0] == "info"
    assert "db 5, db 10 cannot move into Redis Cluster" in verdict("cluster", facts(*SHARED))[1]
    inside = {"cluster_enabled": "1"}
    assert verdict("cluster", facts((0, 1, 0), info=inside))[0] == "ok"
    severity, said = verdict("cluster", facts((0, 1, 0), info=inside, plan={0: "sessions", 10: "cache"}))
    assert (severity, "the plan names db 10 (cache)" in said) == ("critical", True)
    # Valkey 9 and later can have several
    assert verdict("cluster", facts((0, 1, 0), (10, 1, 0), info=inside, plan={10: "cache"}))[0] == "ok"


@pytest.mark.parametrize(
    ("counts", "held", "severity", "words"),
    [
        ({"cmdstat_flushall": "calls=2"}, SHARED, "critical", "FLUSHALL ran 2 times within 2.0 days"),
        ({"cmdstat_flushall": "calls=2"}, SHARED[:1], "warning", "FLUSHALL ran 2 times"),
        ({"cmdstat_flushdb": "calls=1"}, SHARED, "warning", "FLUSHDB ran once"),
        ({"cmdstat_flushall": "calls=0,rejected_calls=1"}, SHARED, "info", "FLUSHALL was refused once"),
        ({"cmdstat_flushall": "calls=1,failed_calls=1"}, SHARED, "info", "FLUSHALL was refused once"),
        ({}, SHARED, "ok", "Neither FLUSHALL nor FLUSHDB ran"),
    ],
)
def test_flush_seen(counts, held, severity, words):
    found = verdict("flush_seen", facts(*held, info=counts))
    assert found[0] == severity
    assert words in found[1]


def slow(command: str, microseconds: int) -> dict[str, Any]:
    return keyspace.slow_log_facts(1, [[1, 0, microseconds, [command.encode()], b"127.0.0.1:1", b""]], None)


@pytest.mark.parametrize(
    ("held", "info", "slow_log", "severity", "words"),
    [
        (SHARED, {"cmdstat_keys": "calls=3"}, None, "warning", "KEYS ran 3 times"),
        (SHARED, {}, slow("SORT", 20_000), "warning", "SORT (1, up to 20.0 ms)"),
        (SHARED, {}, slow("KEYS", 200_000), "critical", "KEYS (1, up to 200.0 ms)"),
        (SHARED[:1], {}, slow("KEYS", 200_000), "warning", "KEYS (1, up to 200.0 ms)"),
        (SHARED, {}, None, "unknown", "does not allow SLOWLOG"),
    ],
)
def test_slow_commands(held, info, slow_log, severity, words):
    found = verdict("slow_commands", facts(*held, info=info, slow_log=slow_log))
    assert found[0] == severity
    assert words in found[1]
