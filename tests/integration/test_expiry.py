# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys that are renewed in their last milliseconds, while the feed lags behind: a copy that expired by itself would lose them."""

from __future__ import annotations

import heapq
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import mirrors
import pytest
import redis
import rig as rigs
import writers as writing

import servers

pytestmark = pytest.mark.servers
pool, split, live = rigs.pool, rigs.split, mirrors.live

KEYS = 5000
LIFE = 3000  # ms
LAST = 50  # ms


class Renewer(threading.Thread):
    """Lets every key live on when its time is nearly over, and knows when each ends: `ends`, in ms, as acknowledged."""

    def __init__(self, client: redis.Redis, ends: dict[str, int]):
        super().__init__(daemon=True)
        self.client, self.ends, self.stop = client, ends, False
        #: Asked for, and nobody knows whether it was done.
        self.perhaps: dict[str, int] = {}
        self.renewed = 0

    def run(self) -> None:
        queue = [(end, key) for key, end in self.ends.items()]
        heapq.heapify(queue)
        while not self.stop:
            now, due = time.time() * 1000, []
            while queue and queue[0][0] < now + LAST:
                due.append(heapq.heappop(queue)[1])
            if not due:
                time.sleep(0.002)
                continue
            asked = {key: int(now) + LIFE + random.randrange(200) for key in due}
            with self.client.pipeline(transaction=False) as pipe:
                for key, end in asked.items():
                    pipe.pexpireat(key, end)
                try:
                    answers = pipe.execute(raise_on_error=False)
                except redis.RedisError:
                    self.perhaps = asked
                    return
            for key, answer in zip(due, answers):
                if isinstance(answer, Exception):
                    # shut out
                    self.stop = True
                elif answer:
                    self.ends[key] = asked[key]
                    self.renewed += 1
                    heapq.heappush(queue, (asked[key], key))
                else:
                    # it was over
                    del self.ends[key]

    def check(self, client: redis.Redis) -> None:
        """Every key whose time is not over is there, and ends when it should."""
        self.stop = True
        self.join(20)
        with client.pipeline(transaction=False) as pipe:
            for key in self.ends:
                pipe.pexpiretime(key).get(key)
            answers = pipe.execute()
        found = dict(zip(self.ends, answers[::2]))
        now, alive = time.time() * 1000, 0
        for key, end in self.ends.items():
            if key in self.perhaps:
                assert found[key] in (end, self.perhaps[key]) or end < now, key
            elif end > now:
                assert found[key] == end, (key, end, found[key], now)
                alive += 1
        assert {value.decode() for value in answers[1::2] if value} <= set(self.ends)
        assert alive > 1000 and self.renewed > 2000, (alive, self.renewed)


@contextmanager
def lagging(split: mirrors.Live) -> Iterator[None]:
    """The mirror stands still from time to time."""
    over = threading.Event()

    def disturb() -> None:
        while not over.wait(random.uniform(0.05, 0.3)):
            with suppress(ProcessLookupError):
                pid = split.job()["pid"]
                os.kill(pid, signal.SIGSTOP)
                time.sleep(random.uniform(0.1, 0.8))
                os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("version", servers.MAIN)
def test_renewed_in_their_last_milliseconds(split: Any, live: Any, version: str) -> None:
    """There and back: what somebody renewed in time is never lost, and ends on both sides at the same millisecond."""
    rig = split(version)
    for server in (rig.source, rig.target):
        writing.add_user(server, "app")
    now = int(time.time() * 1000)
    ends = {f"k{number}": now + LIFE // 2 + number % LIFE for number in range(KEYS)}
    app = writing.app(rig.source, 5)
    with app.pipeline(transaction=False) as pipe:
        for key, end in ends.items():
            pipe.set(key, key, pxat=end)
        pipe.execute()
    renewer = Renewer(app, ends)
    renewer.start()
    mirror = live(rig)
    mirror.call("mirrored")
    with lagging(mirror):
        time.sleep(5)
    mirror.call("cut_over")
    renewer.check(rig.new())

    again = Renewer(writing.app(rig.target, 0), {**ends, **renewer.perhaps})
    again.start()
    with lagging(mirror):
        time.sleep(5)
    mirror.call("returned")
    again.check(rig.old())
