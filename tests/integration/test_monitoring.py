# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Prometheus and real exporters watch the instances, and an alert comes when there is something to tell."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from machine import docker, eventually, host_facts, module, needs_docker, network
from playbook_site import PROFILES, ROOT, Site, needs

import servers
from ansible_collections.njoy.untangle.plugins.module_utils.engine import jobs

pytestmark = [*needs, needs_docker]

WATCHER = "prom/prometheus:v2.42.0"


def ask(port: int, what: str, **words: str) -> Any:
    url = f"http://127.0.0.1:{port}/api/v1/{what}?{urllib.parse.urlencode(words)}"
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)["data"]


#: A replica sends nothing, and takes little.
SLAVE = 'redis_instance_info{role="slave"}'
CORES = {
    "redis_up": "1x100",
    "redis_cpu_user_seconds_total": "0+1x100",
    "redis_cpu_sys_seconds_total": "0x100",
    "redis_cpu_user_children_seconds_total": "0x100",
    "redis_cpu_sys_children_seconds_total": "0x100",
}
BUSY = {**CORES, "redis_cpu_user_seconds_total": "0+1x85 85+50x15"}
GROWN = {"redis_up": "1x100", "redis_memory_used_rss_bytes": "150000000x85 300000000x15"}
SENDING = {"redis_up": "1x100", "redis_net_output_bytes_total": "0+60x85 0+600000000x15"}
MISSES = {"redis_keyspace_hits_total": "0+60x100", "redis_keyspace_misses_total": "0+600x100"}
FULL = {"redis_memory_used_bytes": "86x100", "redis_memory_max_bytes": "100x100"}
#: An alert (none: nothing must fire), the profile, and what Prometheus has seen every minute for 100 minutes.
CASES: list[tuple[str, str, dict[str, str]]] = [
    (
        "",
        "sessions",
        {
            **CORES,
            "up": "1x100",
            'up{job="mirror"}': "1x100",
            "redis_memory_used_bytes": "50x100",
            "redis_memory_max_bytes": "100x100",
            "redis_evicted_keys_total": "5x100",
            "redis_master_link_up": "1x100",
            "redis_rdb_last_bgsave_status": "1x100",
            "redis_blocked_clients": "0x100",
            "redis_net_output_bytes_total": "0+60000000x100",
            "redis_memory_used_rss_bytes": "300000000x100",
            "node_textfile_scrape_error": "0x100",
            "untangle_mirror_lag_seconds": "1x100",
            "untangle_mirror_halted": "0x100",
        },
    ),
    ("RedisDown", "sessions", {"redis_up": "1x90 0x10"}),
    ("RedisDown", "sessions", {"up": "1x90 0x10"}),
    ("RedisEvicts", "sessions", {"redis_evicted_keys_total": "0x80 0+1x20"}),
    ("", "cache", {"redis_evicted_keys_total": "0x80 0+1x20"}),
    ("", "rate_limit", {"redis_evicted_keys_total": "0x80 0+1x20"}),
    ("RedisMemory", "sessions", FULL),
    ("", "cache", FULL),
    # without a limit
    ("", "sessions", {**FULL, "redis_memory_max_bytes": "0x100"}),
    ("RedisHitRate", "cache", MISSES),
    ("", "sessions", MISSES),
    # of ten reads a minute nothing can be told
    ("", "cache", {**MISSES, "redis_keyspace_hits_total": "0x100", "redis_keyspace_misses_total": "0+10x100"}),
    ("RedisReplication", "sessions", {"redis_master_link_up": "0x100"}),
    ("RedisPersistence", "sessions", {"redis_aof_last_write_status": "0x100"}),
    ("RedisPersistence", "sessions", {"redis_rdb_last_bgsave_status": "0x100"}),
    ("RedisPersistence", "sessions", {"redis_aof_last_bgrewrite_status": "0x100"}),
    ("RedisBlockedClients", "sessions", {"redis_blocked_clients": "1x100"}),
    ("", "queue", {"redis_blocked_clients": "1x100"}),
    ("RedisProcessor", "sessions", BUSY),
    # of what saves its data
    ("RedisProcessor", "sessions", {**CORES, "redis_cpu_user_children_seconds_total": "0x85 0+50x15"}),
    ("RedisProcessor", "sessions", {**CORES, "redis_cpu_sys_children_seconds_total": "0x85 0+50x15"}),
    ("", "sessions", {**CORES, "redis_cpu_user_seconds_total": "0+1x85 85+10x15"}),
    ("", "sessions", {**BUSY, SLAVE: "1x80 _x20"}),
    ("RedisResident", "sessions", GROWN),
    ("", "sessions", {**GROWN, "redis_memory_used_rss_bytes": "50000000x85 120000000x15"}),
    ("", "sessions", {**GROWN, SLAVE: "1x80 _x20"}),
    ("RedisTraffic", "sessions", SENDING),
    ("", "sessions", {**SENDING, "redis_net_output_bytes_total": "0+60x85 0+60000000x15"}),
    ("", "sessions", {**SENDING, SLAVE: "1x80 _x20"}),
    # long ago
    ("RedisTraffic", "sessions", {**SENDING, SLAVE: "1x34 _x66"}),
    # the first hours: nobody knows yet what is usual
    ("", "sessions", {"redis_up": "_x72 1x28", "redis_net_output_bytes_total": "_x72 0+60x13 0+600000000x15"}),
    ("", "sessions", {"redis_up": "_x72 1x28", "redis_memory_used_rss_bytes": "_x72 150000000x13 500000000x15"}),
    ("", "sessions", {**dict.fromkeys(CORES, "_x72 1x28"), "redis_cpu_user_seconds_total": "_x72 0+1x13 13+50x15"}),
    ("MirrorBehind", "sessions", {"untangle_mirror_lag_seconds": "11x100"}),
    # another reason does not begin anew
    (
        "MirrorHalted",
        "sessions",
        {
            'untangle_mirror_halted{phase="waiting for its source"}': "1x97 stale",
            'untangle_mirror_halted{phase="stopped"}': "_x98 1x2",
        },
    ),
    ("MirrorGone", "sessions", {"untangle_mirror_time_seconds": "5000x100"}),
    ("MirrorUnseen", "sessions", {'up{job="mirror"}': "0x100"}),
    ("MirrorUnseen", "sessions", {"node_textfile_scrape_error": "1x100"}),
]


def judged(
    directory: Path, number: int, patience: str, evicts: str, cases: list[tuple[str, str, dict[str, str]]]
) -> str:
    """The file of a test for promtool, beside the rules as they are with these variables."""
    given: dict[str, Any] = {
        "redis_instances_monitoring_patience": patience,
        "redis_instances_monitoring_hit_rate": 0.5,
        "redis_instances_backend": "compose",
        "__redis_instances_watch": "untangle-monitoring",
        "__redis_instances_watch_log": {"compose": "docker logs untangle-NAME"},
        "__redis_instances_watch_evicts": evicts,
        "__redis_instances_watch_now": "5m",
        "__redis_instances_watch_usual": "30m",
        "__redis_instances_watch_gone": 60,
    }
    rules = (ROOT / "roles/redis_instances/templates/rules.yml.j2").read_text()
    (directory / f"rules{number}.yml").write_text(jinja2.Template(rules).render(given))
    tests = []
    for alert, profile, figures in cases:
        series = []
        for name, values in figures.items():
            plain, _brace, more = name.rstrip("}").partition("{")
            labels = {"purpose": "x", "profile": profile, "job": "redis"}
            labels.update(one.split("=") for one in more.replace('"', "").split(",") if one)  # type: ignore[arg-type]
            series.append(
                {"series": "%s{%s}" % (plain, ",".join(f'{k}="{v}"' for k, v in labels.items())), "values": values}
            )
        fired = {"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": "99m"}
        fired["exp_samples"] = [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert else []  # type: ignore[assignment]
        what = f"{alert or 'nothing'} of {figures}"
        tests.append({"interval": "1m", "name": what, "input_series": series, "promql_expr_test": [fired]})
    name = f"tests{number}.yml"
    (directory / name).write_text(
        yaml.safe_dump({"rule_files": [f"rules{number}.yml"], "evaluation_interval": "1m", "tests": tests})
    )
    return f"/t/{name}"


def test_every_rule_fires_and_only_then(tmp_path: Path) -> None:
    files = [
        judged(tmp_path, 1, "2m", "7m", CASES),
        # what happened once is an alert, however patient one is
        judged(tmp_path, 2, "10m", "15m", [("RedisEvicts", "sessions", {"redis_evicted_keys_total": "0x87 9x12"})]),
    ]
    found = yaml.safe_load((tmp_path / "rules1.yml").read_text())["groups"][0]["rules"]
    assert {rule["alert"] for rule in found if "alert" in rule} == {alert for alert, _p, _f in CASES} - {""}
    down = next(rule for rule in found if rule.get("alert") == "RedisDown")
    assert down["annotations"]["summary"].endswith("docker logs untangle-{{ $labels.purpose }}")
    tmp_path.chmod(0o755)
    mounts = ["--volume", f"{tmp_path}:/t:ro", "--tmpfs", "/tmp"]  # a database for each of them
    words = ["docker", "run", "--rm", *mounts, "--user", "0", "--entrypoint", "promtool"]
    done = subprocess.run([*words, WATCHER, "test", "rules", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


WATCH = {
    "name": "watch-none-such",
    "wanted": True,
    "listen": "127.0.0.1:{free}",
    "interval": "15s",
    "patience": "2m",
}


@pytest.mark.parametrize(
    ("watch", "sentence"),
    [
        ({}, ""),
        ({"patience": "1h"}, "redis_instances_monitoring_patience is 1h. Write it as 30s or 2m"),
        (
            {"interval": "5m"},
            "redis_instances_monitoring_interval is 5m. Write it as 15s or 1m30s, and not over 60 seconds",
        ),
        ({"listen": "9090"}, "redis_instances_monitoring_listen is 9090. Write an IP address and a port"),
        ({"listen": "192.0.2.7:9090"}, "nothing can listen there: Cannot assign requested address"),
        ({"listen": "127.0.0.1:{busy}"}, "nothing can listen there: Address already in use by redis-server (pid"),
        ({"DOCKER_HOST": "tcp://127.0.0.1:1"}, "what watches runs in containers, and docker does not answer"),
        ({"theirs": "monitoring/compose.yaml"}, "/monitoring is not ours, and what watches would have its files there"),
        ({"theirs": "metrics/node.prom"}, "/metrics/node.prom is not ours"),
        ({"theirs": "metrics/mirror.prom"}, ""),
    ],
)
def test_what_stands_in_the_way_of_watching(watch: dict[str, Any], sentence: str) -> None:
    top = Path(tempfile.mkdtemp(prefix="ut-watch-", dir="/tmp"))
    top.chmod(0o711)
    question = {name: watch.pop(name) for name in ("DOCKER_HOST",) if name in watch}
    if theirs := watch.pop("theirs", ""):
        (top / theirs).parent.mkdir()
        (top / theirs).write_text("services: {}\n")
    try:
        with servers.Server() as busy:
            ports = {"busy": busy.port, "free": servers.free_port()}
            asked = {k: v.format(**ports) if k == "listen" else v for k, v in {**WATCH, **watch}.items()}
            answer = host_facts(top / "instances", watch=asked, **question)
        assert sentence in " ".join(answer["problems"]) and bool(sentence) == bool(answer["problems"])
        # neither is it ours where nobody wants one
        assert not host_facts(top / "instances", watch={**asked, "wanted": False})["watched"]
    finally:
        shutil.rmtree(top)


def test_instances_of_the_host_and_on_a_network_are_watched() -> None:
    with network() as (name, begin):
        # the host's own address there
        for backend, address in (("compose", f"{begin}.11"), ("host", f"{begin}.1")):
            site = Site(redis_split_backend=backend, redis_split_image="redis:7.0", redis_split_monitoring=True)
            port, watch = servers.free_port(), f"watch-{site.tag}"
            site.variables.update(
                redis_instances_monitoring_listen=f"127.0.0.1:{port}",
                redis_instances_monitoring_interval="1s",
                redis_split_purposes=site.variables["redis_split_purposes"][2:],
                __redis_instances_watch=watch,
            )
            del site.variables["redis_split_apps"]
            (purpose,) = site.variables["redis_split_purposes"]
            try:
                if backend == "compose":
                    site.variables["redis_split_network"] = name
                    purpose["address"] = f"{begin}.140"
                    site.play("provision", ok=False).says(f"gives {begin}.140 to any container", "Nothing was changed")
                else:
                    site.play("provision", ok=False).says("loopback or an IPv6 address alone", "Nothing was changed")
                purpose["address"] = address
                site.play("provision")
                eventually(lambda port=port: len(ask(port, "query", query="redis_up == 1")["result"]) == 1, 30)  # type: ignore[misc]
                secret = site.state / "secrets" / f"{purpose['name']}.exporter"
                assert secret.exists()
                # and when nobody watches any more, nothing of it is left but what is not ours
                (site.state / "metrics/node.prom").touch()
                site.variables["redis_split_monitoring"] = False
                site.play("provision")
                assert docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={watch}") == ""
                assert not secret.exists() and not (site.state / "monitoring").exists()
                assert [one.name for one in (site.state / "metrics").iterdir()] == ["node.prom"]
                assert backend == "compose" or site.play("provision").changed == 0
            finally:
                subprocess.run(
                    ["docker", "compose", "-p", watch, "down", "--volumes"], capture_output=True, check=False
                )
                site.close()


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
        for words in ("get x", "set x 1", "slowlog reset", "latency reset", "config set save ''"):
            assert "NOPERM" in docker("exec", container, *form, *words.split()), words
        assert exporter not in site.output and exporter not in docker("inspect", *docker("ps", "-q").split())
        # another split with this state directory would take it over, and leaves it alone where it does not watch
        home = site.state / "instances"
        asked = {"name": watch, "wanted": True, "listen": f"127.0.0.1:{port}", "interval": "1s", "patience": "2s"}
        answer = host_facts(home, watch=asked, instances=[["other", "127.0.0.1", 0]])
        assert (
            f"{watch} watches other instances there, {', '.join(sorted(site.names.values()))}." in answer["problems"][0]
        )
        mine = [[name, "127.0.0.1", site.ports[kind]] for kind, name in site.names.items()]
        for names, place, ours in ((mine, home, True), (mine[1:], home, True), ([["other", "127.0.0.1", 0]], home, False),
                                   (mine, home.parent / "x/instances", False)):  # fmt: skip
            assert host_facts(place, watch={**asked, "wanted": False}, instances=names)["watched"] == ours
        assert host_facts(home, backend="compose", watch=asked, instances=mine)["problems"] == []
        elsewhere = host_facts(home.parent / "x/instances", watch=asked)["problems"]
        assert f"from {home.parent}/monitoring" in elsewhere[0] and len(elsewhere) == 1
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
        queries = [
            one["expr"].replace("$purpose", ".*").replace("$__rate_interval", "1m")
            for panel in panels
            for one in panel["targets"]
        ]

        def told(query: str) -> set[str]:
            return {one["metric"]["purpose"] for one in ask(port, "query", query=query)["result"]}

        mirror = [query for query in queries if "untangle_mirror" in query]
        assert len(mirror) >= 3
        # a busy machine lets a scrape go by now and then, which has a second
        for query in queries:
            wanted = set() if query in mirror else set(site.names.values())
            eventually(lambda query=query, wanted=wanted: told(query) == wanted, 15)  # type: ignore[misc]

        rules = ask(port, "rules")["groups"][0]["rules"]
        assert len(rules) >= 16 and {one["health"] for one in rules} == {"ok"}
        eventually(lambda: ask(port, "alerts")["alerts"] == [], 15)

        def firing() -> set[tuple[str, str]]:
            found = ask(port, "alerts")["alerts"]
            return {(x["labels"]["alertname"], x["labels"].get("purpose", "")) for x in found if x["state"] == "firing"}

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
        docker("stop", f"{watch}-mirror-1")
        eventually(lambda: firing() == {("MirrorUnseen", "")}, 30)
        docker("start", f"{watch}-mirror-1")
        eventually(lambda: firing() == set(), 30)

        # during a split the mirror is watched too, and one that is killed does not go unseen
        for kind in PROFILES:
            site.instance(kind).flushall()
        site.fill()
        site.play("sync")
        for query in mirror:
            eventually(lambda query=query: told(query) == set(site.names.values()), 15)  # type: ignore[misc]
        near = "untangle_mirror_lag_seconds < 5 and on (purpose) redis_master_link_up == 1"
        eventually(lambda: told(near) == set(site.names.values()), 15)
        job = jobs.running(str(site.state))
        assert job
        os.kill(job["pid"], signal.SIGKILL)
        lost = {("RedisReplication", name) for name in site.names.values()} | {("MirrorGone", "")}
        eventually(lambda: firing() >= lost, 30)
        # and on the way back
        site.play("sync")
        site.play("cutover")
        eventually(lambda: firing() == set(), 30)
        eventually(lambda: told("untangle_mirror_lag_bytes") == set(), 15)
        for query in mirror:
            eventually(lambda query=query: told(query) == set(site.names.values()), 15)  # type: ignore[misc]
        site.play("rollback")
        accept = {"redis_split_accept_loss": [*site.names.values()]}
        site.play("remove", "-e", json.dumps(accept))
        assert docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={watch}") == ""
        assert not (site.state / "monitoring").exists()
    finally:
        subprocess.run(["docker", "compose", "-p", watch, "down", "--volumes"], capture_output=True, check=False)
        site.close()
