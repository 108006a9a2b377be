# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's application: a shop with sessions, a cache and a job queue in Redis, which it finds through an env file.

    app.py start | stop | restart | health | wait  DIR      DIR holds shop.env and gets shop.pid, shop.json and shop.log

It numbers its orders with INCR and notices when a number does not follow on the one before: an order that was acknowledged
and is gone. It also measures the longest time between two orders, which is what a customer sees of a cutover.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import redis

PAUSE = 0.02
FRESH_SECONDS = 2.0
TIMEOUTS = {"socket_timeout": 2, "socket_connect_timeout": 2}


class Shop:
    def __init__(self, directory: Path):
        self.path = directory / "shop.json"
        self.sessions = redis.Redis.from_url(os.environ["SESSION_URL"], **TIMEOUTS)
        self.cache = redis.Redis.from_url(os.environ["CACHE_URL"], **TIMEOUTS)
        self.queue = redis.Redis(
            host=os.environ["QUEUE_HOST"],
            port=int(os.environ["QUEUE_PORT"]),
            db=int(os.environ["QUEUE_DB"]),
            username=os.environ.get("QUEUE_USER"),
            password=os.environ.get("QUEUE_PASSWORD"),
            **TIMEOUTS,
        )
        self.seen = {"orders": 0, "missing": 0, "errors": 0, "longest_pause": 0.0, "last_order": 0.0, "last_error": ""}
        if self.path.exists():
            self.seen.update(json.loads(self.path.read_text()))
        self.unsure = False  # an INCR that was sent and not answered may have counted
        self.stopping = False

    def round(self, number: int) -> None:
        """One visit: renew a session, look at a page, place an order, work on a job."""
        session = "session:visitor-%d" % (number % 500)
        self.sessions.hincrby(session, "clicks", 1)
        self.sessions.expire(session, 1800)
        page = "page:%06d" % (number * 7919 % 150_000)
        if self.cache.get(page) is None:
            self.cache.set(page, "rendered anew", ex=1800)
        self.place_order()
        # The worker's side: it was created with the stream, so that a job read here and never acknowledged stays pending.
        for _, entries in self.queue.xreadgroup("workers", "shop", {"jobs": ">"}, count=1) or ():
            self.queue.xack("jobs", "workers", *[entry for entry, _ in entries])
        self.queue.rpop("queue:mail")

    def place_order(self) -> None:
        try:
            order = int(self.queue.incr("orders"))
        except redis.ConnectionError:
            self.unsure = True
            raise
        expected = self.seen["orders"] + 1
        if order != expected and not (self.unsure and order == expected + 1):
            self.seen["missing"] += abs(expected - order)
        self.unsure = False
        now = time.time()
        if self.seen["last_order"]:
            self.seen["longest_pause"] = max(self.seen["longest_pause"], now - self.seen["last_order"])
        self.seen.update(orders=order, last_order=now)
        self.queue.xadd("jobs", {"order": order})
        self.queue.lpush("queue:mail", order)

    def run(self) -> None:
        number, saved = 0, 0.0
        while not self.stopping:
            number += 1
            try:
                self.round(number)
            except redis.RedisError as error:
                self.seen["errors"] += 1
                self.seen["last_error"] = "%s: %s" % (type(error).__name__, error)
            if time.monotonic() - saved > 0.5:
                self.save()
                saved = time.monotonic()
            time.sleep(PAUSE)
        self.save()

    def save(self) -> None:
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps(self.seen))
        temporary.replace(self.path)

    def healthy(self) -> bool:
        return time.time() - self.seen["last_order"] < FRESH_SECONDS


def serve(directory: Path) -> None:
    shop = Shop(directory)

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if shop.healthy() else 503)
            self.end_headers()
            self.wfile.write(json.dumps(shop.seen).encode())

        def log_message(self, *_: object) -> None:
            pass

    http.server.ThreadingHTTPServer.allow_reuse_address = True
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["SHOP_PORT"])), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: setattr(shop, "stopping", True))
    shop.run()


def running(directory: Path) -> int:
    """The pid of the shop of this directory, or 0; a number left over from before is nobody's."""
    try:
        pid = int((directory / "shop.pid").read_text())
        words = Path("/proc/%d/cmdline" % pid).read_bytes().split(b"\0")
    except (OSError, ValueError):
        return 0
    return pid if b"serve" in words and str(directory).encode() in words else 0


def start(directory: Path) -> None:
    if running(directory):
        return
    # Read by a shell, as a service manager or an entrypoint would.
    script = '. "$1/shop.env"; exec "$2" "$3" serve "$1"'
    with (directory / "shop.log").open("ab") as log:
        process = subprocess.Popen(
            ["/bin/sh", "-ec", script, "shop", str(directory), sys.executable, os.path.abspath(__file__)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (directory / "shop.pid").write_text("%d\n" % process.pid)


def stop(directory: Path) -> None:
    pid = running(directory)
    if pid:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while running(directory):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def health(directory: Path) -> str:
    """'' when it works, else what is wrong."""
    for line in (directory / "shop.env").read_text().splitlines():
        if line.startswith("export SHOP_PORT="):
            port = line.partition("=")[2]
    try:
        with urllib.request.urlopen("http://127.0.0.1:%s/" % port, timeout=3):
            return ""
    except urllib.error.HTTPError as error:
        return json.loads(error.read())["last_error"] or "no order within %d s" % FRESH_SECONDS
    except OSError as error:
        return "the shop does not answer: %s" % error


def wait(directory: Path) -> str:
    for _ in range(60):
        problem = health(directory)
        if not problem:
            return ""
        time.sleep(0.25)
    return problem


def main() -> None:
    what, directory = sys.argv[1], Path(sys.argv[2]).resolve()
    if what == "serve":
        serve(directory)
    elif what in ("start", "stop", "restart"):
        if what != "start":
            stop(directory)
        if what != "stop":
            start(directory)
    elif what in ("health", "wait"):
        sys.exit({"health": health, "wait": wait}[what](directory) or 0)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
