# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Record what real servers answer to the audit's questions, one JSON file per release, for test_keyspace.py.

    .venv/bin/python tests/unit/plugins/module_utils/recordings/record.py [release ...]

Each server is given the same load: sessions in db 0, a pipeline in db 5, a cache in db 10, one client on each, and one of
every command that the audit looks for.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3]))

import servers

# Where it was recorded is nobody's business and would make two recordings differ.
PRIVATE = re.compile(
    r"^(os|executable|config_file|unixsocket|dir|logfile|pidfile|run_id|master_replid2?|redis_build_id):.*$", re.M
)


def load(server: servers.Server) -> list[Any]:
    """Fill it and return the clients that stay connected."""
    sessions = server.client(0, client_name="web")
    pipeline = server.client(5, client_name="worker")
    cache = server.client(10, client_name="web")
    for number in range(40):
        sessions.hset(f"session:{number}", mapping={"user": number, "seen": number})
        sessions.expire(f"session:{number}", 3600)
        cache.set(f"cache:{number}", "x" * 100, ex=600)
    pipeline.rpush("jobs", *range(50))
    pipeline.xadd("events", {"kind": "start"})
    pipeline.set("counter", 1)
    sessions.acl_setuser("reporting", enabled=True, passwords=["+recorded"], keys=["*"], commands=["+ping", "+select"])
    reporting = server.client(5, username="reporting", password="recorded")
    reporting.ping()
    sessions.config_set("slowlog-log-slower-than", 0)
    cache.keys("cache:*")
    pipeline.get("secret-argument-of-the-application")
    sessions.config_set("slowlog-log-slower-than", 10000)
    cache.execute_command("SELECT", 11)
    cache.set("wrong", 1)
    cache.flushdb()
    cache.execute_command("SELECT", 10)
    sessions.swapdb(14, 15)
    cache.move("cache:0", 12)
    for refused in ("FLUSHALL", "KEYS"):
        try:
            reporting.execute_command(refused, *(["*"] if refused == "KEYS" else []))
        except Exception as error:
            print(f"{server.version}: {error}")
    return [sessions, pipeline, cache, reporting]


def text(value: Any) -> Any:
    """Bytes as text, in lists as well."""
    if isinstance(value, list):
        return [text(item) for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def record(version: str) -> None:
    with servers.Server(
        version, maxmemory="64mb", maxmemory_policy="allkeys-lru", save="900 1", requirepass="recorded"
    ) as server:
        clients = load(server)
        auditor = server.client(client_name="untangle")
        auditor.response_callbacks.clear()
        found = {
            "client_id": auditor.execute_command("CLIENT ID"),
            "info": auditor.execute_command("INFO", "all"),
            "client_list": auditor.execute_command("CLIENT", "LIST"),
            "slowlog_len": auditor.execute_command("SLOWLOG", "LEN"),
            "slowlog": auditor.execute_command("SLOWLOG", "GET", 128),
            "config": auditor.execute_command("CONFIG", "GET", "*"),
        }
        # a pool keeps one connection per client here, so what is recorded is settled
        assert len(clients) == 4
        found = {name: text(value) for name, value in found.items()}
    found["info"] = [PRIVATE.sub(r"\1:-", line) for line in found["info"].splitlines()]
    found["client_list"] = [
        re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:1", line) for line in found["client_list"].splitlines()
    ]
    settings = dict(zip(found["config"][::2], found["config"][1::2]))
    for name in ("dir", "unixsocket", "logfile", "pidfile", "aclfile", "dbfilename"):
        settings[name] = ""
    found["config"] = [word for item in settings.items() for word in item]
    (HERE / f"{version}.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    for wanted in sys.argv[1:] or servers.versions():
        record(wanted)
