# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Prometheus and real exporters watch the instances, and an alert comes when there is something to tell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import jinja2
import yaml
from machine import docker, eventually, module, needs_docker
from playbook_site import PROFILES, ROOT, Site, needs

import servers
from ansible_collections.njoy.untangle.plugins.module_utils.engine import jobs

pytestmark = [*needs, needs_docker]

WATCHER = "prom/prometheus:v2.42.0"


def ask(port: int, what: str, **words: str) -> Any:
    url = f"http://127.0.0.1:{port}/api/v1/{what}?{urllib.parse.urlencode(words)}"
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)["data"]


FIRES: dict[str, dict[str, str]] = {
    # what Prometheus has seen every minute for five hours; an empty one is that nothing else must fire
    "": {
        "redis_up": "1x300",
        "redis_memory_used_bytes": "50x300",
        "redis_memory_max_bytes": "100x300",
        "redis_evicted_keys_total": "5x300",
        "redis_master_link_up": "1x300",
        "redis_rdb_last_bgsave_status": "1x300",
        "redis_blocked_clients": "0x300",
        "redis_net_output_bytes_total": "0+60000000x300",
        "redis_memory_used_rss_bytes": "300000000x300",
        "untangle_mirror_lag_seconds": "1x300",
        "untangle_mirror_halted": "0x300",
    },
    "RedisDown": {"redis_up": "1x290 0x10"},
    "RedisEvicts": {"redis_evicted_keys_total": "0x280 0+1x20"},
    "RedisMemory": {"redis_memory_used_bytes": "86x300", "redis_memory_max_bytes": "100x300"},
    "RedisHitRate": {"redis_keyspace_hits_total": "0+60x300", "redis_keyspace_misses_total": "0+600x300"},
    "RedisReplication": {"redis_master_link_up": "0x300"},
    "RedisPersistence": {"redis_aof_last_write_status": "0x300"},
    "RedisBlockedClients": {"redis_blocked_clients": "1x300"},
    "RedisProcessor": {
        "redis_up": "1x300",
        "redis_cpu_user_seconds_total": "0+1x285 285+50x15",
        "redis_cpu_sys_seconds_total": "0x300",
    },
    "RedisResident": {"redis_up": "1x300", "redis_memory_used_rss_bytes": "150000000x285 300000000x15"},
    "RedisTraffic": {"redis_up": "1x300", "redis_net_output_bytes_total": "0+60x285 0+600000000x15"},
    "MirrorBehind": {"untangle_mirror_lag_seconds": "11x300"},
    "MirrorHalted": {"untangle_mirror_halted": "1x300"},
    "MirrorGone": {"untangle_mirror_time_seconds": "17000x300"},
}
#: The first hours of work is no reason for an alarm: nobody knows yet what is usual.
YOUNG = {"redis_up": "_x220 1x80", "redis_net_output_bytes_total": "_x220 0+60x65 0+600000000x15"}


def test_every_rule_fires_and_only_then(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "redis_instances_monitoring_patience": "2m",
        "redis_instances_monitoring_hit_rate": 0.5,
        "__redis_instances_watch_now": "5m",
        "__redis_instances_watch_usual": "2h",
        "__redis_instances_watch_gone": 60,
    }
    rules = (ROOT / "roles/redis_instances/templates/rules.yml.j2").read_text()
    (tmp_path / "rules.yml").write_text(jinja2.Template(rules).render(given))
    names = {rule["alert"] for rule in yaml.safe_load((tmp_path / "rules.yml").read_text())["groups"][0]["rules"]}
    assert names == FIRES.keys() - {""}
    tests = []
    for alert, figures in [*FIRES.items(), ("", YOUNG)]:
        profile = "cache" if alert == "RedisHitRate" else "sessions"
        series = [
            {"series": f'{name}{{purpose="x",profile="{profile}",job="redis"}}', "values": values}
            for name, values in figures.items()
        ]
        fired = {"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": "299m"}
        fired["exp_samples"] = [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert else []  # type: ignore[assignment]
        tests.append({"interval": "1m", "name": alert, "input_series": series, "promql_expr_test": [fired]})
    (tmp_path / "tests.yml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests})
    )
    tmp_path.chmod(0o755)
    words = ["docker", "run", "--rm", "--volume", f"{tmp_path}:/t:ro", "--user", "0", "--entrypoint", "promtool"]
    done = subprocess.run(
        [*words, WATCHER, "test", "rules", "/t/tests.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_instances_are_watched() -> None:
    site = Site(
        redis_split_backend="compose",
        redis_split_image="redis:7.0",
        redis_split_monitoring=True,
        redis_split_strategy="live",
    )
    port, watch = servers.free_port(), f"watch-{site.tag}"
    site.variables.update(
        redis_instances_monitoring_listen=f"127.0.0.1:{port}",
        redis_instances_monitoring_interval="1s",
        redis_instances_monitoring_patience="2s",
        __redis_instances_watch=watch,
        __redis_instances_watch_now="5s",
        __redis_instances_watch_usual="30s",
        __redis_instances_watch_gone=5,
    )
    try:
        site.play("provision")
        assert site.play("provision").changed == 0

        def up() -> set[str]:
            return {one["metric"]["purpose"] for one in ask(port, "query", query="redis_up == 1")["result"]}

        eventually(lambda: up() == set(site.names.values()), 30)
        # it can read what it asks for, and nothing else
        exporter = (site.state / "secrets" / f"{site.names['cache']}.exporter").read_text()
        form = ["redis-cli", "-p", str(site.ports["cache"]), "--user", "exporter", "-a", exporter, "--no-auth-warning"]
        container = f"untangle-{site.names['cache']}"
        assert "NOPERM" in docker("exec", container, *form, "get", "x") + docker(
            "exec", container, *form, "set", "x", "1"
        )
        assert exporter not in site.output and exporter not in docker("inspect", *docker("ps", "-q").split())
        marks = module("container_hardening_info", project=watch, directory=str(site.state / "monitoring"))
        lacking = [x for one in marks["containers"] for x in one["checks"] if not x["passed"] and not x["excepted"]]
        assert not lacking and marks["drift"] == []

        for kind in PROFILES:
            client = site.instance(kind)
            client.set("there", 1)
        began = time.monotonic()
        while time.monotonic() - began < 5:
            for kind in PROFILES:
                site.instance(kind).mget("there", "absent")
            time.sleep(0.1)
        panels = json.loads((ROOT / "roles/redis_instances/files/dashboard.json").read_text())["panels"]
        asked = [one["expr"].replace("$purpose", ".*") for panel in panels for one in panel["targets"]]

        def told(query: str) -> set[str]:
            return {one["metric"]["purpose"] for one in ask(port, "query", query=query)["result"]}

        mirror = [query for query in asked if "untangle_mirror" in query]
        assert len(mirror) >= 3
        for query in asked:
            assert told(query) == (set() if query in mirror else set(site.names.values())), query

        rules = ask(port, "rules")["groups"][0]["rules"]
        assert len(rules) >= 13 and {one["health"] for one in rules} == {"ok"}
        assert [one["labels"]["alertname"] for one in ask(port, "alerts")["alerts"]] == []

        def firing() -> set[tuple[str, str]]:
            found = ask(port, "alerts")["alerts"]
            return {(x["labels"]["alertname"], x["labels"]["purpose"]) for x in found if x["state"] == "firing"}

        # it sends more than ever before
        client = site.instance("sessions")
        client.set("big", bytes(1_000_000))
        eventually(lambda: client.get("big") and ("RedisTraffic", site.names["sessions"]) in firing(), 30)
        queue = site.instance("pipeline")
        for number in range(60):
            queue.set(f"job:{number}", bytes(1_000_000))
        home = site.state / "instances" / site.names["cache"]
        subprocess.run(["docker", "compose", "stop"], cwd=home, check=True, capture_output=True)
        wanted = {("RedisMemory", site.names["pipeline"]), ("RedisDown", site.names["cache"])}
        eventually(lambda: firing() == wanted, 30)
        subprocess.run(["docker", "compose", "start"], cwd=home, check=True, capture_output=True)
        queue.delete(*queue.keys("job:*"))
        eventually(lambda: firing() == set(), 30)

        # during a split the mirror is watched too, and one that is killed does not go unseen
        for kind in PROFILES:
            site.instance(kind).flushall()
        site.fill()
        site.play("sync")
        for query in mirror:
            eventually(lambda query=query: told(query) == set(site.names.values()), 15)  # type: ignore[misc]
        assert told("untangle_mirror_lag_seconds < 5") == set(site.names.values())
        job = jobs.running(str(site.state))
        assert job
        os.kill(job["pid"], signal.SIGKILL)
        eventually(lambda: "MirrorGone" in {x["labels"]["alertname"] for x in ask(port, "alerts")["alerts"]}, 30)
        accept = {"redis_split_accept_loss": [*site.names.values()]}
        site.play("remove", "-e", json.dumps(accept))
        assert docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={watch}") == ""
        assert not (site.state / "monitoring").exists()
    finally:
        subprocess.run(["docker", "compose", "-p", watch, "down", "--volumes"], capture_output=True, check=False)
        site.close()
