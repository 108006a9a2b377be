# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers of RQ, Flask-Session and Flask-Caching through the whole split and back, while customers come and orders are placed.

What RQ promises, for a job without a `retry`: it is begun at most once. Enqueueing is one transaction: what was acknowledged is
in the queue. A worker takes a job with BLMOVE into a list beside the queue, notes it as started, runs it in a process of its
own, and notes how it went. Where it is kept from writing in between, by a fence or a kill, it gives up and ends, and the job
stays where it was last noted. Maintenance of a later worker finds it there and moves it to the FailedJobRegistry, whether it ran
or not, for somebody to look at. So per interruption each worker may leave one job behind, and none is lost.
"""

from __future__ import annotations

import collections
import http.client
import json
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
import rq
import webshop
from cores import OLDEST
from playbook_site import SOURCE_SECRET, Site, needs

import servers

pytestmark = needs

IDLE = range(100)  # sessions that nobody uses while the databases move
BUSY = range(100, 120)
NIGHT = range(1_000_000, 1_000_030)  # orders that wait in a queue which no worker serves by day
#: A cutover and a way back, each a fence and a restart.
INTERRUPTIONS = 4


class Shop:
    """The application beside a site, and what its customers know of it: `visits`, `orders` and `prices` were acknowledged."""

    def __init__(self, site: Site):
        self.directory = site.top / "shop"
        self.directory.mkdir()
        self.port = servers.free_port()
        old = f"redis://:{urllib.parse.quote(SOURCE_SECRET, safe='')}@127.0.0.1:{site.source.port}"
        env = self.directory / ".env"
        env.write_text(
            f"# the shop\nSHOP_PORT={self.port}\nSESSION_URL={old}/0\nRQ_REDIS_URL={old}/5\nCACHE_URL={old}/10\n"
        )
        self.before = env.read_text()
        self.program = [sys.executable, str(Path(webshop.__file__)), "{}", str(self.directory)]
        site.variables["redis_split_apps"] = [
            {
                "name": "shop",
                "files": [
                    {
                        "path": str(env),
                        "set": {
                            "SESSION_URL": site.names["sessions"],
                            "RQ_REDIS_URL": site.names["pipeline"],
                            "CACHE_URL": site.names["cache"],
                        },
                    }
                ],
                "restart": self.command("restart"),
                "health": self.command("health"),
            }
        ]
        self.cookies: dict[int, str] = {}
        self.visits: dict[int, int] = {}
        self.unsure_visits: collections.Counter[int] = collections.Counter()
        self.orders: list[int] = []
        self.unsure_orders: set[int] = set()
        self.prices: dict[str, int] = {}
        self.unsure_prices: dict[str, set[int]] = collections.defaultdict(set)
        self.gaps: dict[str, float] = {}
        self.wrong: list[str] = []
        self.stopping = threading.Event()

    def command(self, what: str) -> str:
        return " ".join(self.program).format(what)

    def run(self, what: str) -> None:
        subprocess.run(self.command(what).split(), check=True, timeout=60)

    def wait(self) -> None:
        until = time.monotonic() + 60
        while subprocess.run(self.command("health").split(), capture_output=True, check=False, timeout=60).returncode:
            assert time.monotonic() < until, self.logs()
            time.sleep(0.2)

    def logs(self) -> str:
        return "\n".join(f"{path.name}:\n{path.read_text()[-3000:]}" for path in sorted(self.directory.glob("*.log")))

    # -- its customers ------------------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, session: int | None = None, body: str | None = None) -> dict[str, Any] | None:
        """The answer, or None where the customer cannot know what was done."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            headers = {"Cookie": self.cookies[session]} if session in self.cookies else {}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                return None
            given = answer.headers.get("Set-Cookie", "").partition(";")[0]
            if session is not None and given and self.cookies.setdefault(session, given) != given:
                self.wrong.append(f"session {session} was given another cookie")
            return json.loads(text)
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def visit(self, number: int) -> bool:
        found = self.ask("POST", f"/visit/customer{number}", number)
        if found is None:
            self.unsure_visits[number] += 1
            return False
        least = self.visits.get(number, 0) + 1
        if found["name"] != f"customer{number}" or not least <= found["visits"] <= least + self.unsure_visits[number]:
            self.wrong.append(
                f"session {number}: {found} after {least - 1} visits, {self.unsure_visits[number]} unsure"
            )
        self.visits[number] = found["visits"]
        self.unsure_visits[number] = 0
        return True

    def order(self, number: int, queue: str = "orders") -> bool:
        found = self.ask("POST", f"/order/{queue}/{number}")
        if found is None:
            # It may be in the queue. An order of its own number is never placed again.
            self.unsure_orders.add(number)
            return False
        self.orders.append(number)
        return True

    def change_price(self, number: int) -> bool:
        """Look at a price, and put up another."""
        name = f"article{number % 20}"
        found = self.ask("GET", f"/price/{name}")
        if found is not None:
            self.judge(name, found["price"])
        self.unsure_prices[name].add(number)
        if self.ask("PUT", f"/price/{name}", body=str(number)) is None:
            return False
        self.prices[name] = number
        # what was unsure has been written over: only this one, or nothing
        self.unsure_prices[name].clear()
        return True

    def judge(self, name: str, price: int | None) -> None:
        if price is not None and price not in {self.prices.get(name), *self.unsure_prices[name]}:
            self.wrong.append(
                f"the cache says {price} for {name}: neither {self.prices.get(name)} nor {self.unsure_prices[name]}"
            )

    def look(self, numbers: range) -> None:
        """Every session that was acknowledged is there, with what it held, for the same cookie."""
        for number in numbers:
            found = self.ask("GET", "/session", number) or {}
            assert found.get("name") == f"customer{number}", (number, found)
            assert self.visits[number] <= found["visits"] <= self.visits[number] + self.unsure_visits[number]

    @contextmanager
    def open(self) -> Iterator[None]:
        """Customers come all the time, one after the other in each of three threads."""

        def stream(name: str, act: Callable[[int], bool], pause: float) -> None:
            number, last = 0, time.monotonic()
            while not self.stopping.is_set():
                number += 1
                if act(number):
                    self.gaps[name] = max(self.gaps.get(name, 0), time.monotonic() - last)
                    last = time.monotonic()
                    self.stopping.wait(pause)
                else:
                    # who saw an error does not come back at once
                    self.stopping.wait(0.5)

        doing: dict[str, tuple[Callable[[int], bool], float]] = {
            "visits": (lambda number: self.visit(BUSY[number % len(BUSY)]), 0.15),
            "orders": (self.order, 0.15),
            "prices": (self.change_price, 0.15),
        }
        threads = [threading.Thread(target=stream, args=(name, *how), daemon=True) for name, how in doing.items()]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopping.set()
            for thread in threads:
                thread.join(40)

    # -- its workers --------------------------------------------------------------------------------------------------

    def jobs(self, what: str) -> collections.Counter[int]:
        lines = (self.directory / "jobs").read_text().splitlines()
        return collections.Counter(int(line.split()[1]) for line in lines if line.startswith(what))


def left_behind(client: redis.Redis) -> set[int]:
    """The orders that RQ knows as begun or failed."""
    queue = rq.Queue("orders", connection=client)
    ids = [
        *queue.intermediate_queue.get_job_ids(),
        *queue.started_job_registry.get_job_ids(cleanup=False),
        *queue.failed_job_registry.get_job_ids(cleanup=False),
    ]
    return {int(name.partition("-")[2]) for name in ids}


def settle(shop: Shop, client: redis.Redis) -> None:
    """Wait until every order acknowledged so far has run, or is with a worker, of whom one or the other was interrupted."""
    orders = {number for number in shop.orders if number not in NIGHT}
    until = time.monotonic() + 120
    while missing := orders - set(shop.jobs("done")):
        if missing <= left_behind(client):
            break
        assert time.monotonic() < until, (missing, left_behind(client), shop.logs())
        time.sleep(0.2)
    assert rq.Queue("night", connection=client).job_ids == [f"order-{number}" for number in NIGHT]


def maintain(shop: Shop, client: redis.Redis) -> set[int]:
    """What a worker's maintenance does with jobs left behind once their time is over. Returns those that never ran.

    Then these are enqueued once more, as somebody does who has looked at them.
    """
    queue = rq.Queue("orders", connection=client)
    for name in queue.intermediate_queue.get_job_ids():
        client.set(queue.intermediate_queue.get_first_seen_key(name), time.time() - 120)
    queue.started_job_registry.cleanup(timestamp=time.time() + 86400)
    queue.intermediate_queue.cleanup(rq.SimpleWorker([queue], connection=client), queue)
    failed = {int(name.partition("-")[2]) for name in queue.failed_job_registry.get_job_ids()}
    idle = failed - set(shop.jobs("begun"))
    for number in idle:
        queue.failed_job_registry.requeue(f"order-{number}")
    print(f"{len(failed)} jobs were interrupted: {sorted(failed)}; of these never began {sorted(idle)}")
    assert len(failed) <= INTERRUPTIONS * webshop.WORKERS
    return idle


def test_rq_flask_session_and_flask_caching() -> None:
    site = Site(core=OLDEST, redis_split_strategy="live")
    shop = Shop(site)
    old = site.source.client(5, username="default", password=SOURCE_SECRET)
    try:
        shop.run("start")
        shop.wait()
        assert all(shop.visit(number) for number in [*IDLE, *BUSY])
        assert all(shop.order(number, "night") for number in NIGHT)
        with shop.open():
            time.sleep(1)
            began = time.monotonic()
            site.play("split_redis").says("refused during the cutover, some milliseconds")
            print(f"the split took {time.monotonic() - began:.0f} s")
            assert site.states() == {"cut_over"}
            time.sleep(1)
            new = site.instance("pipeline", "app")
            assert shop.orders
            settle(shop, new)
            shop.look(IDLE)
            # it is the instances that are used; the old server has the order from the mirror
            assert new.exists(f"rq:job:order-{shop.orders[-1]}")
            # (each worker's connection has the worker's name)
            here, there = ({one["name"] for one in client.client_list()} for client in (site.instance("pipeline"), old))
            assert len(here - there) == webshop.WORKERS and there <= {"", "untangle"}

            began = time.monotonic()
            site.play("rollback")
            print(f"the way back took {time.monotonic() - began:.0f} s")
            assert (shop.directory / ".env").read_text() == shop.before
            time.sleep(1)
            settle(shop, old)
        print("longest times without an acknowledgement:", {name: round(gap, 1) for name, gap in shop.gaps.items()})
        shop.look(IDLE)
        shop.look(BUSY)
        for name in shop.prices:
            found = shop.ask("GET", f"/price/{name}")
            assert found is not None
            shop.judge(name, found["price"])
        shop.run("stop")
        again = maintain(shop, old)
        worker = [sys.executable, "-m", "rq.cli", "worker", "--burst", "--path", str(Path(webshop.__file__).parent)]
        environment = {**webshop.settings(shop.directory), "SHOP_JOBS": str(shop.directory / "jobs")}
        subprocess.run(
            [*worker, "orders", "night"],
            cwd=shop.directory,
            env=environment,
            check=True,
            timeout=60,
            capture_output=True,
        )
        begun, done = shop.jobs("begun"), shop.jobs("done")
        assert [number for number, times in begun.items() if times > 1] == []
        assert set(shop.orders) - set(done) == set()
        assert again <= set(done)
        # nothing ran that nobody asked for
        assert set(begun) <= set(shop.orders) | shop.unsure_orders
        assert shop.wrong == []
        assert len(shop.orders) > 100 and len(shop.prices) == 20 and sum(shop.visits.values()) > 300
        print(
            f"{len(shop.orders)} orders, {sum(shop.visits.values())} visits, {len(shop.unsure_orders)} orders refused"
        )
    finally:
        shop.stopping.set()
        try:
            shop.run("stop")
        finally:
            site.close()
