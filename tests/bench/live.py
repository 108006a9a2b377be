"""Measures the live mirror: how much it follows, how long a cutover refuses writes, and what it costs.

    python tests/bench/live.py      as a part of make bench, or by itself; the last line is JSON

Three databases of one source and three targets, the engine as a job, as the modules start it; writers in processes of their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

HERE = pathlib.Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[2] / ".venv/collections")]

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import servers
from ansible_collections.njoy.untangle.plugins.module_utils.engine import jobs, route
from ansible_collections.njoy.untangle.plugins.module_utils.engine.server import Server as Connected

DATABASES = (0, 5, 10)
ROUNDS = int(os.environ.get("BENCH_CUTOVERS", "20"))
MANY = int(os.environ.get("BENCH_MANY_KEYS", "10000000"))
#: Writes a second while cutovers are measured, and while memory is.
RATE, RATE_MANY = 10_000, 2_000


def mixed(number: int) -> tuple[Any, ...]:
    n = number
    return (
        ("SET", "string:%d" % (n % 100_000), n),
        ("INCR", "counter:%d" % (n % 1000)),
        ("HSET", "hash:%d" % (n % 1000), "f%d" % (n % 10), n),
        ("RPUSH", "list:%d" % (n % 1000), n),
        ("LPOP", "list:%d" % (n % 1000)),
        ("ZADD", "zset:%d" % (n % 1000), n, "m%d" % (n % 50)),
        ("SET", "short:%d" % (n % 10_000), n, "PX", 600_000),
        ("DEL", "string:%d" % (n % 100_000)),
    )[n % 8]


def write(port: int, database: int, rate: int, stop: Any, count: Any) -> None:
    """Mixed commands on one database, ``rate`` a second (0: as many as go); cut off or refused, it tries again."""
    number, begun, size = 0, time.monotonic(), 100 if not rate else max(1, rate // 200)
    client = redis.Redis(port=port, db=database, username="app", password="x", retry=Retry(NoBackoff(), 0))
    # made beforehand: on a machine with few processors, making them is most of the work
    batches: list[list[bytes]] = []
    while not stop.is_set():
        try:
            wire = client.connection_pool.get_connection()
            batches = batches or [
                wire.pack_commands([mixed(first + one * 7) for one in range(size)])
                for first in range(0, 400 * size, size)
            ]
            while not stop.is_set():
                wire.send_packed_command(batches[number // size % len(batches)])
                for _one in range(size):
                    wire.read_response()
                number += size
                count.value = number
                if rate:
                    time.sleep(max(0.0, begun + number / rate - time.monotonic()))
        except redis.RedisError:
            client.connection_pool.disconnect()
            client.connection_pool.reset()
            time.sleep(0.005)


@contextlib.contextmanager
def writing(port: int, rate: int, databases: tuple[int, ...] = DATABASES) -> Iterator[Any]:
    """Writers on these databases, ``rate`` writes a second in all. Yields a function that tells how many there were."""
    stop = multiprocessing.Event()
    counts = [multiprocessing.Value("q", 0) for _database in databases]
    each = rate // len(databases)
    workers = [
        multiprocessing.Process(target=write, args=(port, database, each, stop, count), daemon=True)
        for database, count in zip(databases, counts)
    ]
    for worker in workers:
        worker.start()
    try:
        yield lambda: sum(count.value for count in counts)
    finally:
        stop.set()
        for worker in workers:
            worker.join(10)


class Site:
    """A source, its targets, and the modules' calls."""

    def __init__(self, databases: tuple[int, ...] = DATABASES):
        self.directory = tempfile.TemporaryDirectory()
        self.source = servers.Server.run("redis-7.0", repl_diskless_sync_delay=0, repl_backlog_size="64mb")
        self.targets = [servers.Server.run("redis-7.0") for _database in databases]
        for server in (self.source, *self.targets):
            server.client().execute_command("ACL", "SETUSER", "app", "on", ">x", "~*", "+@all")
        routes = [route.Route("db%d" % n, n, t.connection()) for n, t in zip(databases, self.targets)]
        self.options = {
            "source": self.source.connection(),
            "routes": [dataclasses.asdict(one) for one in routes],
            "state_dir": str(pathlib.Path(self.directory.name) / "state"),
            "max_latency_ms": 5.0,
        }

    def call(self, kind: str) -> dict[str, Any]:
        answer = jobs.call(
            {"by": "bench"}, kind, {**self.options, **({"fence": ["app"]} if kind == "cut_over" else {})}, None
        )
        if answer.get("failed"):
            raise SystemExit(answer["msg"])
        return answer

    def mirror(self) -> dict[str, Any]:
        found = jobs.running(self.options["state_dir"], "mirrored") or {}
        return {"pid": found.get("pid"), **found.get("progress", {}).get("mirror", {})}

    def close(self) -> None:
        jobs.stop(self.options["state_dir"])
        for server in (self.source, *self.targets):
            server.close()
        self.directory.cleanup()


def say(text: str) -> None:
    print(text, flush=True)


def peak_rss_mb(pid: int) -> float:
    for line in pathlib.Path("/proc/%d/status" % pid).read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def applied(site: Site) -> int:
    """How far the slowest target is, in the source's offsets, as the source itself knows it."""
    for line in Connected(site.options["source"]).info("replication").values():
        if isinstance(line, dict) and "offset" in line:
            return int(line["offset"])
    return 0


def follow(site: Site) -> dict[str, Any]:
    """Ever fewer writes a second, until what was written last is acknowledged by its target within a second."""
    site.call("mirrored")
    found = _followed(site, 0)
    most = found["followed_at_most_s"] = found["mirror_writes_s"]
    for share in range(95, 45, -5):
        if found["mirror_lag_s"] < 1:
            break
        found.update(_followed(site, most * share // 100))
    return found


def _followed(site: Site, rate: int, seconds: float = 10.0) -> dict[str, Any]:
    began = time.monotonic()
    with writing(site.source.port, rate) as count:
        time.sleep(seconds)
    writes, ended = count(), time.monotonic()
    goal = Connected(site.options["source"]).offset()
    while applied(site) < goal:
        if time.monotonic() - ended > 120:
            raise SystemExit("the mirror did not come into step: %s" % site.mirror())
        time.sleep(0.05)
    caught = time.monotonic()
    return {
        "mirror_writes_s": round(writes / (caught - began)),
        "source_writes_s": round(writes / (ended - began)),
        "mirror_lag_s": round(caught - ended, 2),
    }


def cut_over(site: Site) -> dict[str, Any]:
    forward, back = [], []
    with writing(site.source.port, RATE):
        for _round in range(ROUNDS):
            site.call("mirrored")
            time.sleep(1)
            forward.append(site.call("cut_over")["write_refused_seconds"] * 1000)
            end = time.monotonic() + 60
            while {one["phase"] for one in site.mirror().get("purposes", {}).values()} != {"following back"}:
                if time.monotonic() > end:
                    raise SystemExit("the old databases did not come into step: %s" % site.mirror())
                time.sleep(0.05)
            back.append(site.call("returned")["write_refused_seconds"] * 1000)
    return {
        "cutover_ms": round(statistics.median(forward), 1),
        "cutover_ms_worst": round(max(forward), 1),
        "return_ms": round(statistics.median(back), 1),
        "return_ms_worst": round(max(back), 1),
    }


def write_gap() -> int:
    """The longest time without an acknowledged write of the demo's application, in ms: `make demo` splits, flips and restarts it."""
    root = HERE.parents[2]
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        # root runs the servers as another user
        os.chmod(directory, 0o711)
        place = pathlib.Path(directory) / "demo"
        environment = {**os.environ, "DEMO_DIR": str(place), "DEMO_BACKEND": "host"}
        try:
            subprocess.run([str(root / "demo/run.sh")], env=environment, stdout=subprocess.DEVNULL, check=True)
            return round(json.loads((place / "shop.json").read_text())["longest_pause"] * 1000)
        finally:
            subprocess.run([str(root / "demo/clean.sh"), "--quiet"], env=environment, check=True)


def many() -> dict[str, Any]:
    """The memory of the engine does not follow what there is."""
    site = Site((5,))
    try:
        # DEBUG POPULATE fills the selected database.
        with contextlib.closing(site.source.client(5)) as client:
            client.execute_command("DEBUG", "POPULATE", MANY, "many", 10)
        with writing(site.source.port, RATE_MANY, (5,)):
            began = time.monotonic()
            site.call("mirrored")
            seconds = time.monotonic() - began
            rss = peak_rss_mb(site.mirror()["pid"])
        return {"engine_rss_mb_10m": round(rss, 1), "mirror_many_keys": MANY, "mirror_many_s": round(seconds, 1)}
    finally:
        site.close()


def figures(p99: Any) -> dict[str, Any]:
    """``p99`` tells what another client of the source notices while something is done, in ms."""
    found: dict[str, Any] = {}
    site = Site()
    try:
        with writing(site.source.port, RATE):
            found["source_p99_ms_written"] = round(p99(site.source, lambda: time.sleep(5)), 2)
            site.call("mirrored")
            found["source_p99_ms_mirror"] = round(p99(site.source, lambda: time.sleep(5)), 2)
        say("p99 of another client: %(source_p99_ms_written)s ms, mirrored %(source_p99_ms_mirror)s ms" % found)
        found.update(cut_over(site))
        say(
            "cutover %(cutover_ms)s ms, worst %(cutover_ms_worst)s; return %(return_ms)s ms, worst %(return_ms_worst)s"
            % found
        )
        found.update(follow(site))
        say(
            "followed %(mirror_writes_s)d writes/s, %(mirror_lag_s)s s behind at the end; at most %(followed_at_most_s)d"
            % found
        )
    finally:
        site.close()
    found["source_p99_ratio_mirror"] = round(found["source_p99_ms_mirror"] / found["source_p99_ms_written"], 2)
    if os.environ.get("BENCH_PLAY", "1") != "0":
        found["write_gap_ms"] = write_gap()
        say("through the whole play an application waited %(write_gap_ms)d ms, its restart included" % found)
    found.update(many())
    say("%(mirror_many_keys)d keys: %(engine_rss_mb_10m)s MB, %(mirror_many_s)s s" % found)
    return found


if __name__ == "__main__":
    from bench import p99_during

    print(json.dumps(figures(p99_during)))
