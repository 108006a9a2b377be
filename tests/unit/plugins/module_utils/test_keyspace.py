# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replies of real servers (recordings/, made by record.py) become facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.njoy.untangle.plugins.module_utils import keyspace
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

RECORDINGS = sorted((Path(__file__).parent / "recordings").glob("*.json"))


@pytest.fixture(params=RECORDINGS, ids=lambda path: path.stem)
def recorded(request: pytest.FixtureRequest) -> dict[str, Any]:
    found = json.loads(request.param.read_text())
    flavour, found["number"] = request.param.stem.split("-")
    found["flavour"] = flavour
    found["parsed"] = keyspace.parse_info("\r\n".join(found["info"]))
    found["settings"] = dict(zip(found["config"][::2], found["config"][1::2]))
    found["clients"] = keyspace.parse_clients("\n".join(found["client_list"]))
    return found


def test_every_release_is_recorded():
    assert [path.stem for path in RECORDINGS] == ["redis-6.0", "redis-7.0", "redis-8.0", "valkey-8.1", "valkey-9.1"]


def test_server(recorded):
    server = keyspace.server_facts(recorded["parsed"], recorded["settings"])
    assert server["flavour"] == recorded["flavour"]
    # Valkey also gives a redis_version, which is not its own
    assert server["version"].startswith(recorded["number"] + ".")
    assert {name: server[name] for name in ("mode", "role", "cluster", "replicas", "databases")} == {
        "mode": "standalone",
        "role": "master",
        "cluster": False,
        "replicas": 0,
        "databases": 16,
    }
    assert (server["maxmemory"], server["maxmemory_policy"], server["evicted_keys"]) == (64 << 20, "allkeys-lru", 0)
    assert 0 < server["used_memory"] < server["total_system_memory"]
    assert server["persistence"] == {
        "save": "900 1",
        "appendonly": False,
        "last_save_status": "ok",
        "last_save_at": int(recorded["parsed"]["rdb_last_save_time"]),
        "last_append_status": "ok",
    }


def test_server_without_config(recorded):
    server = keyspace.server_facts(recorded["parsed"], None)
    assert server["databases"] is None
    assert server["persistence"]["save"] is None
    # INFO tells these, too
    assert server["maxmemory_policy"] == "allkeys-lru"
    assert server["persistence"]["appendonly"] is False


def test_server_that_tells_nothing():
    server = keyspace.server_facts(None, None)
    assert set(server.pop("persistence").values()) == {None}
    assert set(server.values()) == {None}


@pytest.mark.parametrize(
    ("settings", "databases"), [({"databases": "16"}, 1), ({"databases": "16", "cluster-databases": "4"}, 4)]
)
def test_a_cluster_has_other_databases_than_its_setting_says(settings, databases):
    server = keyspace.server_facts({"cluster_enabled": "1", "redis_mode": "cluster"}, settings)
    assert (server["cluster"], server["mode"], server["databases"]) == (True, "cluster", databases)


def test_replica():
    assert keyspace.server_facts({"role": "slave"}, None)["role"] == "replica"


def test_keyspace(recorded):
    found = keyspace.keyspace_facts(recorded["parsed"])
    assert {number: (held["keys"], held["expires"]) for number, held in found.items()} == {
        0: (40, 40),
        5: (3, 0),
        10: (39, 39),
        12: (1, 1),
    }
    # as INFO says it, later servers' additions included
    line = recorded["parsed"]["db10"]
    assert ",".join("%s=%s" % item for item in found[10].items()) == line


def test_commands(recorded):
    commands = keyspace.command_facts(recorded["parsed"])
    assert {name: count["calls"] for name, count in commands.items()} == {
        "FLUSHALL": 0,
        "FLUSHDB": 1,
        "KEYS": 1,
        "SELECT": 5,
        "SWAPDB": 1,
        "MOVE": 1,
    }
    refused = 0 if recorded["number"] == "6.0" else 1
    assert (commands["FLUSHALL"]["rejected"], commands["KEYS"]["rejected"]) == (refused, refused)


def test_commands_hidden():
    assert keyspace.command_facts({"redis_version": "7.0.0"}) is None


def test_clients(recorded):
    clients = keyspace.client_facts(recorded["clients"], recorded["client_id"])
    assert {number: found["connections"] for number, found in clients.items()} == {0: 1, 5: 2, 10: 1}
    assert sorted((kind["name"], kind["user"], kind["address"]) for kind in clients[5]["seen"]) == [
        ("", "reporting", "127.0.0.1"),
        ("worker", "default", "127.0.0.1"),
    ]
    assert clients[10]["seen"][0]["last_command"] == "move"


def test_clients_are_counted_by_kind_and_replicas_are_none():
    clients = keyspace.client_facts(
        keyspace.parse_clients(
            "id=1 addr=10.0.0.1:5000 name=web idle=9 flags=N db=3 cmd=get user=app\n"
            "id=2 addr=10.0.0.1:5001 name=web idle=2 flags=N db=3 cmd=set user=app\n"
            "id=3 addr=[::1]:5001 name= idle=0 flags=P db=3 cmd=subscribe user=app\n"
            "id=4 addr=/run/redis.sock:0 name= idle=0 flags=U db=0 cmd=ping user=app\n"
            "id=5 addr=10.0.0.2:6379 name= idle=0 flags=S db=0 cmd=replconf user=default\n"
            "id=6 addr=10.0.0.3:6379 name= idle=0 flags=M db=0 cmd= user=default\n"
        ),
        own_id=99,
    )
    assert clients[0]["connections"] == 1
    assert clients[0]["seen"][0]["address"] == "/run/redis.sock"
    assert clients[3] == {
        "connections": 3,
        "seen": [
            {
                "name": "web",
                "user": "app",
                "address": "10.0.0.1",
                "library": "",
                "connections": 2,
                "last_command": "set",
                "idle_seconds": 2,
            },
            {
                "name": "",
                "user": "app",
                "address": "[::1]",
                "library": "",
                "connections": 1,
                "last_command": "subscribe",
                "idle_seconds": 0,
            },
        ],
    }


def test_few_of_many_kinds_of_client_are_told():
    lines = "\n".join(f"id={n} addr=10.0.0.{n}:1 name= idle=0 flags=N db=0 cmd=get user=app" for n in range(50))
    clients = keyspace.client_facts(keyspace.parse_clients(lines), None)
    assert (clients[0]["connections"], len(clients[0]["seen"])) == (50, 10)


def test_slow_log(recorded):
    slow_log = keyspace.slow_log_facts(recorded["slowlog_len"], recorded["slowlog"], recorded["settings"])
    assert {entry["command"] for entry in slow_log["commands"]} == {"KEYS", "GET", "CONFIG"}
    assert (slow_log["entries"], slow_log["read"], slow_log["threshold_us"]) == (3, 3, 10000)
    assert slow_log["slowest_ms"] == max(entry[2] for entry in recorded["slowlog"]) / 1000
    # arguments are the users' data
    assert "secret-argument" in json.dumps(recorded["slowlog"])
    assert "secret-argument" not in json.dumps(slow_log)


def test_slow_log_leaves_out_its_own_connections():
    entries = [
        [2, 0, 900, [b"INFO", b"all"], b"127.0.0.1:1", b"untangle"],
        [1, 0, 500, [b"keys", b"*"], b"127.0.0.1:2", b""],
    ]
    assert keyspace.slow_log_facts(2, entries, None) == {
        "entries": 1,
        "read": 1,
        "slowest_ms": 0.5,
        "threshold_us": None,
        "commands": [{"command": "KEYS", "entries": 1, "slowest_ms": 0.5}],
    }


def test_settings_are_told_and_secrets_masked(recorded):
    settings = {**recorded["settings"], "masterauth": "s3cret", "tls-key-file-pass": "s3cret"}
    shown = keyspace.masked(settings)
    assert shown["maxmemory-policy"] == "allkeys-lru"
    assert recorded["settings"]["requirepass"] == "recorded"
    assert (shown["requirepass"], shown["masterauth"], shown["tls-key-file-pass"]) == (keyspace.MASK,) * 3
    # that a secret is not set is a fact to read back, and these are none
    assert shown["tls-client-key-file-pass" if "tls-client-key-file-pass" in shown else "masteruser"] == ""
    assert shown["acl-pubsub-default" if "acl-pubsub-default" in shown else "aclfile"] in (
        "resetchannels",
        "allchannels",
        "",
    )


def test_plan():
    plan = [{"name": "cache", "database": "10", "port": 6381}, {"name": "pipeline", "database": 5, "profile": "queue"}]
    assert keyspace.parse_plan(plan) == {
        10: {"purpose": "cache", "profile": None},
        5: {"purpose": "pipeline", "profile": "queue"},
    }
    assert keyspace.parse_plan(None) == {}


@pytest.mark.parametrize(
    "entry",
    [{"name": "cache"}, {"name": "cache", "database": "ten"}, {"database": 1}, {"name": "cache", "database": None}],
)
def test_a_plan_without_numbers_is_refused(entry):
    with pytest.raises(UntangleError, match="needs `name`, and `database` as a number"):
        keyspace.parse_plan([entry])


def test_memory_of_every_key_is_a_sum():
    assert keyspace.memory_estimate([100, 300], 2, every_key=True) == {
        "bytes": 400 + 2 * keyspace.TABLE_BYTES,
        "margin": 0,
        "sampled": 2,
    }
    assert keyspace.memory_estimate([], 0, every_key=True) == {"bytes": 0, "margin": 0, "sampled": 0}


def test_memory_of_a_sample_is_its_mean_times_the_keys():
    assert keyspace.memory_estimate([100] * 10, 1000, every_key=False, expiries=500) == {
        "bytes": (100 + keyspace.TABLE_BYTES) * 1000 + 500,
        "margin": 0,
        "sampled": 10,
    }
    even = keyspace.memory_estimate([90, 110] * 100, 1_000_000, every_key=False)
    assert (even["bytes"], even["sampled"]) == ((100 + keyspace.TABLE_BYTES) * 1_000_000, 200)
    # 1.96 standard errors of the mean
    assert even["margin"] == pytest.approx(1.96 * 10 / 200**0.5 * 1_000_000, rel=0.01)
    uneven = keyspace.memory_estimate([100] * 199 + [1_000_000], 1_000_000, every_key=False)
    assert uneven["margin"] > uneven["bytes"]


def test_the_table_of_expiries():
    reply = [
        b"peak.allocated",
        1,
        b"db.0",
        [b"overhead.hashtable.main", 50, b"overhead.hashtable.expires", 20],
        b"db.dict.rehashing.count",
        0,
    ]
    assert keyspace.parse_tables(reply) == {0: 20}
    assert keyspace.parse_tables(None) == {}
