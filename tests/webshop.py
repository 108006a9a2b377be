# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A shop made of other people's libraries: Flask with Flask-Session and Flask-Caching, and workers of RQ.

    webshop.py start | stop | restart | health  DIR      DIR holds .env, and gets pid files, logs and jobs

Nothing in it knows of a split: where Redis is stands in .env, and who sees an error answers 500, as Flask does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

WORKERS = 2
STOP_SECONDS = 10


def work(number: int) -> None:
    """The job: its begin and its end are lines in a file, each appended by one write."""
    log = os.open(os.environ["SHOP_JOBS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(log, b"begun %d\n" % number)
    time.sleep(0.05)
    os.write(log, b"done %d\n" % number)
    os.close(log)


def serve() -> None:
    import redis
    import rq
    from flask import Flask, request, session
    from flask_caching import Cache
    from flask_session import Session
    from werkzeug.serving import make_server

    app = Flask("webshop")
    app.config.update(
        SESSION_TYPE="redis",
        SESSION_REDIS=redis.Redis.from_url(os.environ["SESSION_URL"]),
        CACHE_TYPE="RedisCache",
        CACHE_REDIS_URL=os.environ["CACHE_URL"],
        CACHE_DEFAULT_TIMEOUT=3600,
    )
    Session(app)
    cache = Cache(app)
    queues = redis.Redis.from_url(os.environ["RQ_REDIS_URL"])

    @app.get("/health")
    def health() -> str:
        return "ok"

    @app.post("/visit/<name>")
    def visit(name: str) -> dict[str, object]:
        session.setdefault("name", name)
        session["visits"] = session.get("visits", 0) + 1
        return dict(session)

    @app.get("/session")
    def show() -> dict[str, object]:
        return dict(session)

    @app.post("/order/<queue>/<int:number>")
    def order(queue: str, number: int) -> dict[str, object]:
        job = rq.Queue(queue, connection=queues).enqueue("webshop.work", number, job_id="order-%d" % number)
        return {"job": job.id}

    @app.route("/price/<name>", methods=["GET", "PUT"])
    def price(name: str) -> dict[str, object]:
        if request.method == "PUT":
            cache.set(name, int(request.data))
        return {"price": cache.get(name)}

    make_server("127.0.0.1", int(os.environ["SHOP_PORT"]), app, threaded=True).serve_forever()


def settings(directory: Path) -> dict[str, str]:
    lines = (directory / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def running(directory: Path) -> dict[str, int]:
    """Name to pid of what runs; a pid file that was left over names somebody else, or a zombie, neither of which is here."""
    found = {}
    for file in directory.glob("*.pid"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(file.read_text())
            if os.readlink("/proc/%d/cwd" % pid) == str(directory):
                found[file.stem] = pid
    return found


def start(directory: Path) -> None:
    here = Path(__file__).resolve()
    commands = {"web": [sys.executable, str(here), "serve", str(directory)]}
    for number in range(WORKERS):
        # --path: where it finds the module of the jobs
        rq = [sys.executable, "-m", "rq.cli", "worker", "--path", str(here.parent), "orders"]
        commands["worker%d" % number] = rq
    environment = {**os.environ, **settings(directory), "SHOP_JOBS": str(directory / "jobs")}
    there = running(directory)
    for name, command in commands.items():
        if name in there:
            continue
        with (directory / (name + ".log")).open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (directory / (name + ".pid")).write_text("%d\n" % process.pid)


def stop(directory: Path) -> None:
    """End it as a service manager does. On SIGTERM a worker of RQ ends after the job that it has."""
    for pid in running(directory).values():
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while there := running(directory):
        if time.monotonic() > deadline:
            for pid in there.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def health(directory: Path) -> None:
    # here, because every job imports this module anew, and this takes longer than the job
    import urllib.request

    with urllib.request.urlopen("http://127.0.0.1:%s/health" % settings(directory)["SHOP_PORT"], timeout=5) as answer:
        assert answer.status == 200
    assert len(running(directory)) == 1 + WORKERS


def main() -> None:
    what, directory = sys.argv[1], Path(sys.argv[2]).resolve()
    if what == "serve":
        serve()
    for step in [stop, start] if what == "restart" else [{"start": start, "stop": stop, "health": health}[what]]:
        step(directory)


if __name__ == "__main__":
    main()
