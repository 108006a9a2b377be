"""Measures the copy against its peers, in one run on one machine; the last line is JSON.

    make bench                      1,000,000 keys of 100 bytes and 200,000 of 1 kB
    BENCH_KEYS=100000 make bench    less, to see that it works

    BENCH_LIVE=0 make bench         without the figures of the live mirror (live.py)
    BENCH_PLAY=0 make bench         without the application's pause through the whole play

It ends with an error where the median cutover takes 50 ms or more.

Peers: MIGRATE ... COPY REPLACE KEYS by the thousand; redis-py's ordinary pipelines of DUMP, PTTL and RESTORE; and, as the limit,
redis-cli --pipe replaying ready-made RESTOREs into the target; and redis-shake 4, where it is on PATH (which was not tried). What another client of the source notices is measured by one
that asks GET every millisecond in a process of its own. Every figure is the best of its rounds, rounds of peers taking turns,
so that a slow moment of the machine meets all of them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

HERE = pathlib.Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[2] / ".venv/collections")]

import live
import redis

import servers
from ansible_collections.njoy.untangle.plugins.module_utils.engine.copy import copied
from ansible_collections.njoy.untangle.plugins.module_utils.engine.route import Route
from ansible_collections.njoy.untangle.plugins.module_utils.engine.server import Server as Connected
from ansible_collections.njoy.untangle.plugins.module_utils.engine.snapshot import Limits, Reader
from ansible_collections.njoy.untangle.plugins.module_utils.engine.state import State
from ansible_collections.njoy.untangle.plugins.module_utils.engine.target import pack

SMALL = int(os.environ.get("BENCH_KEYS", "1000000"))
LARGE = SMALL // 5
#: The one figure that is a gate.
CUTOVER_MS = 50
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))


def fill(server: servers.Server, database: int, keys: int, size: int) -> None:
    client = server.client(database)
    # Not compressible, as values in use seldom are as a whole.
    noise = os.urandom(size * 64)
    for start in range(0, keys, 10000):
        with client.pipeline(transaction=False) as work:
            for i in range(start, min(start + 10000, keys)):
                at = (i * 37) % (len(noise) - size)
                work.set(b"bench:%08d" % i, noise[at : at + size])
            work.execute()


def engine(source: dict[str, Any], target: dict[str, Any], database: int, latency: float, result: Any) -> None:
    """The engine's copy, in a process of its own, as a job runs it."""
    route = Route("bench", database, target)
    with tempfile.TemporaryDirectory() as directory:
        limits = Limits(max_latency_ms=latency)
        done = copied(source, [route], State(directory), "bench", lambda facts: None, limits)["bench"]
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result.put({"keys": done["keys_copied"], "rss_mb": rss, "slowest_ms": done["source_slowest_ms"]})


def run_engine(source: servers.Server, target: servers.Server, database: int, latency: float = 5.0) -> dict[str, Any]:
    result: Any = multiprocessing.Queue()
    process = multiprocessing.Process(
        target=engine, args=(source.connection(), target.connection(), database, latency, result)
    )
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("the engine's copy failed, see above")
    return result.get()


def run_migrate(source: servers.Server, target: servers.Server, database: int) -> None:
    client = source.client(database)
    cursor, names = 0, []
    while True:
        cursor, found = client.scan(cursor, count=1000)
        names += found
        while len(names) >= 1000 or (names and not cursor):
            batch, names = names[:1000], names[1000:]
            client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 60000, "COPY", "REPLACE", "KEYS", *batch)
        if not cursor:
            return


def run_redis_py(source: servers.Server, target: servers.Server, database: int) -> None:
    here, there = source.client(database), target.client()
    cursor = 0
    while True:
        cursor, names = here.scan(cursor, count=1000)
        if names:
            with here.pipeline(transaction=False) as work:
                for name in names:
                    work.dump(name).pttl(name)
                answers = work.execute()
            with there.pipeline(transaction=False) as work:
                for name, payload, ttl in zip(names, answers[::2], answers[1::2]):
                    work.restore(name, max(ttl, 0), payload, replace=True)
                work.execute()
        if not cursor:
            return


def run_shake(source: servers.Server, target: servers.Server, database: int) -> None:
    """RedisShake's reader by SCAN, since its other one takes whole servers. Of database 0 alone: it keeps the numbers."""
    with tempfile.TemporaryDirectory() as directory:
        pathlib.Path(directory, "shake.toml").write_text(
            '[scan_reader]\naddress = "127.0.0.1:%d"\ndbs = [%d]\n[redis_writer]\naddress = "127.0.0.1:%d"\n'
            % (source.port, database, target.port)
        )
        subprocess.run(["redis-shake", "shake.toml"], cwd=directory, stdout=subprocess.DEVNULL, check=True)


def write_commands(source: servers.Server, database: int, path: pathlib.Path) -> None:
    reader = Reader(Connected(source.connection(), database), Limits(max_latency_ms=1000))
    with path.open("wb") as stream:
        for page in reader.pages():
            stream.write(pack(page.keys))


def run_limit(target: servers.Server, path: pathlib.Path) -> None:
    with path.open("rb") as stream:
        subprocess.run(
            ["redis-cli", "-p", str(target.port), "--pipe"], stdin=stream, stdout=subprocess.DEVNULL, check=True
        )


def ask(port: int, keys: int, stop: Any, result: Any) -> None:
    client = redis.Redis(port=port)
    times, i = [], 0
    while not stop.is_set():
        i = (i + 7919) % keys
        began = time.perf_counter()
        client.get(b"bench:%08d" % i)
        times.append(time.perf_counter() - began)
        time.sleep(0.001)
    times.sort()
    result.put(times[int(len(times) * 0.99)] * 1000 if times else None)


def p99_during(source: servers.Server, work: Callable[[], Any]) -> float:
    stop, result = multiprocessing.Event(), multiprocessing.Queue()
    process = multiprocessing.Process(target=ask, args=(source.port, SMALL, stop, result))
    process.start()
    time.sleep(0.3)
    work()
    stop.set()
    value = result.get()
    process.join()
    return float(value)


def empty(target: servers.Server) -> None:
    target.client().flushall()
    # the mark of the copy before
    target.client().execute_command("FUNCTION", "FLUSH")


def timed(target: servers.Server, work: Callable[[], Any]) -> tuple[float, Any]:
    empty(target)
    began = time.monotonic()
    facts = work()
    return time.monotonic() - began, facts


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    figures: dict[str, Any] = {"keys_100": SMALL, "keys_1k": LARGE}
    with servers.Server("redis-7.0").start() as source, servers.Server("redis-7.0").start() as target:
        say("filling: %d keys of 100 bytes, %d of 1 kB" % (SMALL, LARGE))
        fill(source, 0, SMALL, 100)
        fill(source, 1, LARGE, 1000)
        for database, keys, suffix in ((0, SMALL, ""), (1, LARGE, "_1k")):
            commands = target.directory / "restore.resp"
            write_commands(source, database, commands)
            peers: dict[str, Callable[[], Any]] = {
                "copy": lambda database=database: run_engine(source, target, database),
                "migrate": lambda database=database: run_migrate(source, target, database),
                "limit": lambda commands=commands: run_limit(target, commands),
            }
            if shutil.which("redis-shake") and not database:
                peers["redis_shake"] = lambda: run_shake(source, target, 0)
            best: dict[str, float] = {}
            for _round in range(ROUNDS):
                for name, work in peers.items():
                    seconds, facts = timed(target, work)
                    if target.client().dbsize() != keys:
                        raise SystemExit("%s copied %d of %d keys" % (name, target.client().dbsize(), keys))
                    best[name] = min(best.get(name, seconds), seconds)
                    if name == "copy":
                        figures["engine_rss_mb"] = round(max(figures.get("engine_rss_mb", 0), facts["rss_mb"]), 1)
                    say("%s%s: %.2f s, %d keys/s" % (name, suffix, seconds, keys / seconds))
            # Once is enough: it is far behind.
            best["redis_py"], _facts = timed(target, lambda database=database: run_redis_py(source, target, database))
            say("redis_py%s: %.2f s" % (suffix, best["redis_py"]))
            for name, seconds in best.items():
                figures["%s%s_keys_s" % (name, suffix)] = round(keys / seconds)
            figures["copy_vs_migrate" + suffix] = round(best["migrate"] / best["copy"], 2)
            if "redis_shake" in best:
                figures["copy_vs_redis_shake" + suffix] = round(best["redis_shake"] / best["copy"], 2)
            figures["copy_vs_redis_py" + suffix] = round(best["redis_py"] / best["copy"], 2)
            figures["copy_vs_limit" + suffix] = round(best["limit"] / best["copy"], 2)
            commands.unlink()
        figures["source_p99_ms_idle"] = round(p99_during(source, lambda: time.sleep(3)), 2)
        empty(target)
        figures["source_p99_ms_copy"] = round(p99_during(source, lambda: run_engine(source, target, 0, 5.0)), 2)
        empty(target)
        figures["source_p99_ms_migrate"] = round(p99_during(source, lambda: run_migrate(source, target, 0)), 2)
    if os.environ.get("BENCH_LIVE", "1") != "0":
        figures.update(live.figures(p99_during))
    print(json.dumps(figures))
    # A run with fewer is a look at the program, and no measurement.
    if live.ROUNDS >= 20 and figures.get("cutover_ms", 0) >= CUTOVER_MS:
        raise SystemExit(
            "a cutover takes %(cutover_ms)s ms, in the median" % figures + ", and may take %d" % CUTOVER_MS
        )


if __name__ == "__main__":
    main()
