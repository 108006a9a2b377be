# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Applications that write while a database moves, and know what was acknowledged to them."""

from __future__ import annotations

import collections
import contextlib
import threading
import time

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rig import busy

ONCE = Retry(NoBackoff(), 0)


def add_user(server, name, *rules):
    server.client().execute_command("ACL", "SETUSER", name, "on", ">x", "~*", *(rules or ("+@all",)))


def app(server, database=0, name="app", **options):
    """A client that never repeats a command by itself."""
    return server.client(database, username=name, password="x", retry=ONCE, **options)


class Told(redis.Connection):
    """Its user learns that it was cut; a pool would quietly make another one."""

    def can_read(self, timeout: float = 0) -> bool:
        return False


class Writer(threading.Thread):
    """Writes unique things, on one side at a time, and keeps what was acknowledged. Nothing is ever repeated."""

    def __init__(self, name, place):
        super().__init__(daemon=True)
        self.name, self.place = name, place
        self.acknowledged, self.unknown, self.incremented = [], set(), [0, 0]
        self.served, self.stop, self.failed = collections.Counter(), False, None
        self.busy = self.gives_up = False

    def run(self):
        number, client, place = 0, None, None
        try:
            while not self.stop:
                if self.place is not place:
                    place = self.place
                    client = place and app(place[0], place[1])
                    if client:
                        client.connection_pool.connection_class = Told
                self.busy = place is not None
                if place is None:
                    time.sleep(0.001)
                    continue
                number += 1
                self.once(client, "%s-%d" % (self.name, number), place)
                time.sleep(0.0005)
        except BaseException as exc:
            self.failed = exc

    def pause(self):
        """Until it is given another place, as an application that was stopped. With `gives_up` it does so once it is cut off."""
        self.place = None
        while self.busy:
            time.sleep(0.001)

    def once(self, client, word, place):
        try:
            client.incr("counter:" + self.name)
            self.incremented[0] += 1
            client.rpush("list:" + self.name, word)
            with client.pipeline(transaction=True) as pipe:
                pipe.set("a:" + word, word).hset("hash:" + self.name, word, 1).execute()
        except (redis.ConnectionError, redis.TimeoutError):
            # sent, perhaps done, and nobody will say
            self.incremented[1] += 1
            self.unknown.add(word)
            if self.gives_up:
                self.place = None
            time.sleep(0.005)
        except redis.ResponseError as exc:
            if (
                "permission" not in str(exc)
                and "NOPERM" not in str(exc)
                and "EXECABORT" not in str(exc).upper()
                and "discarded" not in str(exc)
            ):
                raise
            self.unknown.add(word)
            time.sleep(0.005)
        else:
            self.acknowledged.append(word)
            self.served[place[0].port] += 1

    def check(self, client):
        assert self.failed is None, self.failed
        found = [word.decode() for word in client.lrange("list:" + self.name, 0, -1)]
        assert [word for word, times in collections.Counter(found).items() if times > 1] == []
        assert found == sorted(found, key=lambda word: int(word.rpartition("-")[2]))
        assert set(self.acknowledged) - set(found) == set()
        assert set(found) - set(self.acknowledged) <= self.unknown
        fields = {word.decode() for word in client.hkeys("hash:" + self.name)}
        values = {key.decode()[2:] for key in client.scan_iter("a:%s-*" % self.name, count=5000)}
        # a transaction is there as a whole or not at all
        assert fields == values
        assert set(self.acknowledged) - fields == set() and fields - set(self.acknowledged) <= self.unknown
        done, perhaps = self.incremented
        assert done <= int(client.get("counter:" + self.name)) <= done + perhaps


@pytest.fixture
def written_to(split):
    """Two databases that four writers write to, and a third that stays, whose writer must never be refused."""

    @contextlib.contextmanager
    def make(version, to=None):
        rig = split(version, databases=(5, 10), to=to)
        for server in (rig.source, *rig.targets.values()):
            add_user(server, "app")
        add_user(rig.source, "other")
        with rig.old(5).pipeline(transaction=False) as pipe:
            for i in range(3000):
                pipe.set(f"k{i}", "x" * 100, px=10_000_000 if i % 2 else None)
            pipe.execute()
        rig.source.client(0).set("stays", 1)
        for client in rig.source._clients:
            client.close()
        writers = [Writer("w%d" % i, (rig.source, database)) for i, database in enumerate((5, 5, 10, 10))]
        other, refused = app(rig.source, 0, "other"), []

        def throughout(number):
            try:
                other.incr("n")
                time.sleep(0.002)
            except redis.RedisError as exc:
                refused.append(exc)

        with busy(throughout):
            for writer in writers:
                writer.start()
            try:
                time.sleep(0.3)
                yield rig, writers
                time.sleep(0.3)
            finally:
                # (the servers are another test's when this one has failed)
                for writer in writers:
                    writer.stop = True
                for writer in writers:
                    writer.join(20)
        assert refused == [] and int(other.get("n")) > 50
        assert sum(len(writer.acknowledged) for writer in writers) > 200

    return make


def switch(rig, writers, there):
    for writer, database in zip(writers, (5, 5, 10, 10)):
        writer.place = (rig.targets[database], 0) if there else (rig.source, database)
