# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""redis_keyspace_info in front of real servers: right facts, nothing changed, and a user who may see little."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from ansible.module_utils import basic

import servers
from ansible_collections.njoy.untangle.plugins.modules import redis_keyspace_info

try:
    from ansible.module_utils.testing import patch_module_args
except ImportError:  # ansible-core 2.17 and 2.18

    @contextlib.contextmanager
    def patch_module_args(args):
        before, basic._ANSIBLE_ARGS = basic._ANSIBLE_ARGS, json.dumps({"ANSIBLE_MODULE_ARGS": args}).encode()
        yield
        basic._ANSIBLE_ARGS = before


pytestmark = pytest.mark.servers
every_version = pytest.mark.parametrize("version", servers.ALL)

PLAN = [{"name": "sessions", "database": 0}, {"name": "pipeline", "database": 5}, {"name": "cache", "database": 10}]


@pytest.fixture
def run(capfd):
    def run(source, check=False, **arguments):
        with (
            patch_module_args({"source": source, **arguments, "_ansible_check_mode": check}),
            pytest.raises(SystemExit),
        ):
            redis_keyspace_info.main()
        return json.loads(capfd.readouterr().out)

    return run


def fill(server, sessions=300, pipeline=20, cache=500):
    """Sessions in db 0, a pipeline in db 5, a cache in db 10."""
    with server.client(0).pipeline(transaction=False) as pipe:
        for number in range(sessions):
            pipe.hset(f"session:{number}", mapping={"user": number, "basket": "x" * 200})
            pipe.expire(f"session:{number}", 3600)
        pipe.execute()
    queue = server.client(5)
    for number in range(pipeline):
        queue.rpush(f"queue:{number}", *range(50))
    with server.client(10).pipeline(transaction=False) as pipe:
        for number in range(cache):
            pipe.set(f"cache:{number}", "y" * 300, ex=600)
        pipe.execute()


def database(result, number):
    return next(entry for entry in result["databases"] if entry["database"] == number)


def check(result, name):
    return next(entry for entry in result["findings"] if entry["check"] == name)


def contents(server):
    """Everything that a reader must not change."""
    client = server.client()
    return client.execute_command("DEBUG", "DIGEST"), client.config_get("*"), client.acl_list()


@every_version
def test_facts(run, server, version):
    shared = server(version, maxmemory="100mb", maxmemory_policy="allkeys-lru", save="900 1", requirepass="s3cret")
    fill(shared)
    worker = shared.client(5, client_name="worker")
    worker.blpop("queue:0")
    web = shared.client(10, client_name="web")
    web.keys("*")
    web.execute_command("SELECT", 3)
    web.flushdb()
    until = time.monotonic() + 10
    # the server estimates it while it looks for expired keys, some time after they were set
    while not all(shared.client().info("keyspace")[f"db{number}"]["avg_ttl"] for number in (0, 10)):
        assert time.monotonic() < until
        time.sleep(0.05)
    before = contents(shared)
    result = run(shared.connection(), plan=PLAN)
    assert contents(shared) == before

    assert not result.get("failed"), result["msg"]
    assert (result["changed"], result["address"], result["refused"]) == (False, shared.address, [])
    told = result["server"]
    assert f"{told['flavour']}-{told['version']}".startswith(version + ".")
    assert (told["mode"], told["role"], told["cluster"], told["replicas"]) == ("standalone", "master", False, 0)
    assert (told["maxmemory"], told["maxmemory_policy"], told["databases"]) == (100 << 20, "allkeys-lru", 16)
    assert (told["persistence"]["save"], told["persistence"]["appendonly"]) == ("900 1", False)

    keyspace = shared.client().info("keyspace")
    for number in (0, 5, 10):
        held = keyspace[f"db{number}"]
        entry = database(result, number)
        assert (entry["keys"], entry["expires"]) == (held["keys"], held["expires"])
        assert entry["avg_ttl"] == pytest.approx(held["avg_ttl"], abs=5_000)
        assert entry["memory"]["sampled"] == min(held["keys"], 200)
    assert [entry["purpose"] for entry in result["databases"]] == ["sessions", None, "pipeline", "cache"]
    assert [
        (kind["name"], kind["last_command"]) for kind in database(result, 5)["clients"]["seen"] if kind["name"]
    ] == [("worker", "blpop")]
    # somebody has selected a database that is empty and that nobody planned
    assert (database(result, 3)["keys"], database(result, 3)["clients"]["connections"]) == (0, 1)

    assert {name: count["calls"] for name, count in result["commands"].items() if name != "SELECT"} == {
        "FLUSHALL": 0,
        "FLUSHDB": 1,
        "KEYS": 1,
        "SWAPDB": 0,
        "MOVE": 0,
    }
    assert {finding["check"]: finding["severity"] for finding in result["findings"]} == {
        "databases_in_use": "warning",
        "one_policy": "warning",
        "cluster": "info",
        "flush_seen": "warning",
        "slow_commands": "warning",
    }
    assert "s3cret" not in json.dumps(result)


@every_version
def test_check_mode_reads_as_well_and_twice_is_the_same(run, server, version):
    shared = server(version)
    fill(shared)
    first = run(shared.connection(), plan=PLAN)
    second = run(shared.connection(), plan=PLAN, check=True)
    for result in (first, second):
        for number in (0, 5, 10):
            # time goes by, tables grow and shrink
            for moving in ("avg_ttl", "clients", "memory"):
                database(result, number).pop(moving)
    assert first["databases"] == second["databases"]
    assert second["changed"] is False


@every_version
def test_wrong_password(run, server, version):
    shared = server(version, requirepass="s3cret")
    result = run({**shared.connection(), "password": "wr0ng"})
    assert result["failed"]
    for word in (shared.address, "user default", "password of source"):
        assert word in result["msg"]
    assert "wr0ng" not in json.dumps(result)


def test_no_password(run, server):
    shared = server("redis-7.0", requirepass="s3cret")
    result = run({"host": "127.0.0.1", "port": shared.port})
    assert result["failed"]
    assert "password of source" in result["msg"]


def test_nobody_there(run):
    result = run({"port": servers.free_port()})
    assert result["failed"]
    assert "cannot be reached" in result["msg"]
    assert "host, port and tls of source" in result["msg"]


@every_version
def test_a_user_who_may_only_look_at_little(run, server, version):
    """As on a managed service: no CONFIG, no CLIENT LIST, no SLOWLOG."""
    shared = server(version)
    fill(shared)
    shared.client().acl_setuser("auditor", enabled=True, passwords=["+s3cret"], commands=["+ping", "+info", "+select"])
    source = shared.connection(username="auditor", password="s3cret")
    result = run(source, plan=[*PLAN, {"name": "far", "database": 99}], settings=True)
    assert not result.get("failed"), result["msg"]
    assert database(result, 10)["keys"] == 500
    assert {result["settings"], result["slow_log"], result["server"]["databases"], database(result, 10)["clients"]} == {
        None
    }
    assert result["server"]["persistence"]["save"] is None
    # INFO and SELECT tell what CONFIG would
    assert result["server"]["maxmemory_policy"] == "noeviction"
    assert (database(result, 5)["exists"], database(result, 99)["exists"]) == (True, False)
    assert {entry["command"] for entry in result["refused"]} == {"CONFIG GET", "CLIENT LIST", "SLOWLOG GET", "SCAN"}
    for entry in result["refused"]:
        assert entry["command"] in json.dumps(result["warnings"])


@every_version
def test_a_user_who_may_do_nothing_but_log_in(run, server, version):
    shared = server(version)
    fill(shared)
    shared.client().acl_setuser("nobody", enabled=True, passwords=["+s3cret"], commands=["+ping"])
    result = run(shared.connection(username="nobody", password="s3cret"), plan=PLAN)
    assert not result.get("failed"), result["msg"]
    assert [(entry["purpose"], entry["keys"], entry["exists"]) for entry in result["databases"]] == [
        ("sessions", None, None),
        ("pipeline", None, None),
        ("cache", None, None),
    ]
    assert {finding["severity"] for finding in result["findings"]} == {"unknown"}


@every_version
def test_the_rights_that_the_page_on_the_audit_names_are_enough(run, server, version):
    shared = server(version)
    fill(shared)
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
    rights = re.search(r"ACL SETUSER auditor on '>PASSWORD' (.*)", page).group(1).split()
    if version == "redis-7.0":
        rights.remove("+client|no-touch")
    shared.client().execute_command("ACL", "SETUSER", "auditor", "on", ">s3cret", *rights)
    result = run(shared.connection(username="auditor", password="s3cret"), plan=PLAN, settings=True)
    assert result["refused"] == []
    assert database(result, 10)["memory"]["sampled"] == 200
    with pytest.raises(redis.exceptions.NoPermissionError):
        shared.client(username="auditor", password="s3cret").get("session:1")


@every_version
def test_memory_estimate_against_what_the_server_uses(run, server, version):
    shared = server(version)
    empty = shared.client().info("memory")["used_memory"]
    for number in (0, 5, 10):
        with shared.client(number).pipeline(transaction=False) as pipe:
            for key in range(20_000):
                # 20 to 2,019 bytes, the sort of spread that a cache has
                pipe.set(f"key:{number}:{key}", "z" * (20 + key * 7919 % 2000), ex=3600 if number else None)
            pipe.execute()
    used = shared.client().info("memory")["used_memory"] - empty
    result = run(shared.connection())
    everything = run(shared.connection(), memory_sample=100_000)
    estimates = [entry["memory"] for entry in result["databases"]]
    exact = [entry["memory"] for entry in everything["databases"]]
    assert [entry["sampled"] for entry in estimates] == [200] * 3
    assert [(entry["sampled"], entry["margin"]) for entry in exact] == [(20_000, 0)] * 3
    for estimate, truth in zip(estimates, exact):
        # The sample is a different one with every start of a server. At 5.5 standard errors fifteen samples are wrong
        # once in a million runs; at 3.5 it was once in 140.
        assert abs(estimate["bytes"] - truth["bytes"]) < estimate["margin"] * 5.5 / 1.96
    total = sum(entry["bytes"] for entry in exact)
    print(f"{version}: {total:,} bytes by key, {used:,} in use ({total / used:.0%})")
    assert 0.95 < total / used < 1.05


@every_version
@pytest.mark.parametrize("size", [20, 100])
def test_memory_estimate_of_small_keys_that_expire(run, server, version, size):
    """The hardest case: tables take as much as values."""
    shared = server(version)
    client = shared.client()
    empty = client.info("memory")["used_memory"]
    for start in range(0, 100_000, 10_000):
        with client.pipeline(transaction=False) as pipe:
            for key in range(start, start + 10_000):
                pipe.set(f"key:{key}", "z" * size, ex=3600)
            pipe.execute()
    until = time.monotonic() + 10
    # a table that grows is there twice for a moment
    while client.info("memory")["used_memory"] != (used := client.info("memory")["used_memory"]):
        assert time.monotonic() < until
    estimate = database(run(shared.connection()), 0)["memory"]["bytes"]
    print(f"{version}, {size} bytes: {estimate:,} estimated, {used - empty:,} in use ({estimate / (used - empty):.0%})")
    assert 0.8 < estimate / (used - empty) < 1.2


def test_database_numbers_above_15(run, server):
    shared = server("redis-7.0", databases=64)
    shared.client(40).set("k", "v")
    result = run(
        shared.connection(),
        plan=[{"name": "far", "database": "40"}, {"name": "last", "database": 63}, {"name": "none", "database": 64}],
    )
    assert [
        (entry["database"], entry["keys"], entry["exists"]) for entry in result["databases"] if entry["purpose"]
    ] == [
        (40, 1, True),
        (63, 0, True),
        (64, 0, False),
    ]
    assert result["server"]["databases"] == 64
    assert "db 64 (none), which this server does not have" in check(result, "databases_in_use")["evidence"]


def test_unix_socket(run, server):
    shared = server("redis-7.0")
    shared.client().set("k", "v")
    result = run({"unix_socket": shared.unix_socket})
    assert result["address"] == shared.unix_socket
    assert database(result, 0)["keys"] == 1


@pytest.mark.parametrize("version", ["redis-7.0", "valkey-9.1"])
def test_cluster(run, server, version):
    shared = server(version, cluster_enabled="yes")
    result = run(shared.connection(), plan=PLAN)
    assert (result["server"]["mode"], result["server"]["cluster"], result["server"]["databases"]) == (
        "cluster",
        True,
        1,
    )
    assert [entry["exists"] for entry in result["databases"]] == [True, False, False]
    assert check(result, "cluster")["severity"] == "critical"


@pytest.mark.parametrize("version", ["redis-6.0", "redis-8.0", "valkey-8.1"])
def test_replicas(run, server, version):
    master = server(version, repl_diskless_sync_delay=0)
    fill(master)
    replica = server(version, replicaof=f"127.0.0.1 {master.port}")
    until = time.monotonic() + 20
    while replica.client().info("replication").get("master_link_status") != "up":
        assert time.monotonic() < until
        time.sleep(0.05)
    result = run(master.connection())
    assert (result["server"]["role"], result["server"]["replicas"]) == ("master", 1)
    # its connection is no user of db 0
    assert "replconf" not in json.dumps(database(result, 0)["clients"])
    result = run(replica.connection())
    assert (result["server"]["role"], database(result, 10)["keys"]) == ("replica", 500)


@every_version
def test_settings_are_those_of_the_running_server(run, server, version):
    shared = server(
        version, maxmemory="64mb", maxmemory_policy="volatile-lru", save="60 1000", databases=1, masterauth="s3cret"
    )
    result = run(shared.connection(), settings=True, memory_sample=0)
    told = result["settings"]
    real = shared.client().config_get("*")
    assert {name: value for name, value in told.items() if value != "********"} == {
        name: value for name, value in real.items() if told[name] != "********"
    }
    assert told["masterauth"] == "********"
    assert (told["databases"], told["save"], told["maxmemory"]) == ("1", "60 1000", str(64 << 20))
    assert "s3cret" not in json.dumps(result)


def test_a_key_that_holds_most_of_it_shows_in_the_margin(run, server):
    shared = server("redis-7.0")
    fill(shared, sessions=1000)
    shared.client().set("session:huge", "z" * 5_000_000)
    everything = run(shared.connection(), memory_sample=10_000)
    assert database(everything, 0)["memory"]["bytes"] > 5_000_000
    assert database(everything, 0)["memory"]["margin"] == 0


def test_slow_log(run, server):
    shared = server("redis-7.0")
    fill(shared)
    shared.client(10).set("secret-key", "secret-value")
    admin = shared.client()
    admin.config_set("slowlog-log-slower-than", 0)
    shared.client(10).get("secret-key")
    admin.execute_command("DEBUG", "SLEEP", "0.12")
    admin.config_set("slowlog-log-slower-than", 10_000)
    result = run(shared.connection())
    assert result["slow_log"]["commands"][0]["command"] == "DEBUG"
    assert result["slow_log"]["slowest_ms"] > 100
    assert check(result, "slow_commands")["severity"] == "critical"
    assert "secret-" not in json.dumps(result)


PLAYBOOK = """
- hosts: all
  gather_facts: false
  module_defaults:
    group/njoy.untangle.redis:
      source: {host: 127.0.0.1, port: "%(port)s", password: "{{ lookup('ansible.builtin.env', 'AUDIT_PASSWORD') }}"}
  tasks:
    - njoy.untangle.redis_keyspace_info:
        plan: [{name: cache, database: "10", password: pur-pose}]
        settings: true
      register: audit
    - ansible.builtin.assert:
        that:
          - audit is not changed
          - (audit.databases | selectattr('purpose', 'equalto', 'cache') | first)['keys'] == 500
          - audit.settings['requirepass'] == '********'
          - audit.findings | map(attribute='check') | first == 'databases_in_use'
"""


@pytest.mark.parametrize("arguments", [[], ["--check", "--diff"], ["-vvv"]], ids=" ".join)
def test_through_ansible_on_a_python_without_the_library(server, tmp_path, arguments):
    """The action plugin brings redis-py along, a module_defaults group gives the connection, and no secret is shown."""
    shared = server("redis-7.0", requirepass="s3cret")
    fill(shared)
    # the interpreter that .venv was made from has none of its packages
    bare = sys._base_executable
    assert subprocess.run([bare, "-c", "import redis"], capture_output=True, check=False).returncode != 0
    play = tmp_path / "play.yml"
    play.write_text(PLAYBOOK % {"port": shared.port})
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("ansible-playbook"), "-i", "host,", "-c", "local"),
            *("-e", f"ansible_python_interpreter={bare}", *arguments, str(play)),
        ],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "AUDIT_PASSWORD": "s3cret"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=0" in done.stdout
    for secret in ("s3cret", "pur-pose"):
        assert secret not in done.stdout + done.stderr
