# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Applications that write through all of it, and know of every key what it must hold."""

from __future__ import annotations

import collections
import contextlib
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import servers

from .items import (
    Big,
    Cell,
    Command,
    Counter,
    Effect,
    Fields,
    Heap,
    Item,
    Members,
    Once,
    Queue,
    Renamed,
    Scores,
    Scripted,
    Session,
    Stream,
    Transaction,
    View,
    Violation,
)  # fmt: skip

#: Refusals, in the server's words or as redis-py calls them: the command was not run.
ELSEWHERE = ("READONLY", "ReadOnlyError", "NOPERM", "NoPermissionError", "permission")
NOT_DONE = (*ELSEWHERE, "OOM", "OutOfMemoryError", "MISCONF", "BusyLoadingError", "MasterDownError")
#: Strings that each writer has from the start, so that there is something to read while it writes.
OLD_KEYS = 1500


class Refused(Exception):
    """Not run. ``elsewhere`` says that another server may take it."""

    def __init__(self, text: str, elsewhere: bool) -> None:
        super().__init__(text)
        self.elsewhere = elsewhere


class Line:
    """A connection to one server. No command is ever sent twice."""

    def __init__(self, server: servers.Server, database: int) -> None:
        self.server, self.database = server, database
        self._wire: Any = None

    def ask(self, commands: list[Command]) -> Any:
        """The reply of a command, or of a transaction. Raises Refused, or ConnectionError where nobody knows."""
        whole = [("MULTI",), *commands, ("EXEC",)] if len(commands) > 1 else commands
        try:
            if self._wire is None:
                self._wire = self._connect()
        except (redis.RedisError, OSError) as exc:
            raise Refused(str(exc), False) from exc
        try:
            self._wire.send_packed_command(self._wire.pack_commands(whole))
            replies = [self._reply() for _command in whole]
        except (redis.RedisError, OSError) as exc:
            self.close()
            raise ConnectionError(str(exc)) from exc
        reply = replies[-1]
        if isinstance(reply, Exception):
            text = "; ".join("%s: %s" % (type(one).__name__, one) for one in replies if isinstance(one, Exception))
            if any(word in text for word in NOT_DONE):
                raise Refused(text, any(word in text for word in ELSEWHERE))
            raise Violation("%s: %s" % (commands, text))
        if len(commands) > 1 and any(isinstance(one, Exception) for one in reply):
            raise Violation("%s: %r" % (commands, reply))
        return reply

    def _connect(self) -> Any:
        wire = redis.Connection(
            host=self.server.host, port=self.server.port, db=self.database, username="app", password="x",
            retry=Retry(NoBackoff(), 0), socket_timeout=30, protocol=2, lib_name=None, lib_version=None,
        )  # fmt: skip
        wire.connect()
        return wire

    def _reply(self) -> Any:
        try:
            return self._wire.read_response(disable_decoding=True)
        except (redis.ResponseError, redis.BusyLoadingError) as exc:
            return exc

    def close(self) -> None:
        if self._wire is not None:
            with contextlib.suppress(Exception):
                self._wire.disconnect()
            self._wire = None


class Application(threading.Thread):
    """One writer of one database.

    Refused, it looks whether the other server is the one that serves, as a flip asks before it points an application there, and
    goes over. A server that does not answer is tried again: nobody said that the purpose had moved.
    """

    def __init__(self, name: str, places: list[tuple[servers.Server, int]], seed: int) -> None:
        super().__init__(daemon=True)
        self.name = name
        self.lines = [Line(*place) for place in places]
        self.at = 0
        self.rng = random.Random(seed)
        self.number = 0
        self.failed: BaseException | None = None
        self.stop = False
        self.counts: collections.Counter[str] = collections.Counter()
        self.served: collections.Counter[int] = collections.Counter()
        self._go, self._idle = threading.Event(), threading.Event()
        self._beat = (name + ":beat").encode()

        def own(*names: str) -> list[str]:
            return [f"{name}:{one}" for one in names]

        self.busy: list[Item] = [
            Counter(*own("counter")), Queue(*own("jobs", "work")), Members(*own("set")), Fields(*own("hash")), Scores(*own("zset")),
            Transaction(*own("tv", "tl", "th")), Renamed(*own("draft", "public")), Scripted(*own("sn", "sl")), Stream(*own("stream")),
            *[View(*own("bag%d" % n, "view%d" % n)) for n in range(6)], *[Session(*own("session%d" % n)) for n in range(6)],
        ]  # fmt: skip
        self.old: list[Item] = [Cell(*own("old%d" % n)) for n in range(OLD_KEYS)]
        self.once: list[Item] = []
        self.big: list[Item] = []
        #: Items whose state is not certain: they are read again with the next write that succeeds.
        self._vague: collections.deque[Item] = collections.deque()

    @property
    def items(self) -> list[Item]:
        return [*self.busy, *self.old, *self.once, *self.big]

    def word(self) -> bytes:
        self.number += 1
        return b"<%s-%d" % (self.name.encode(), self.number)

    # -- writing -----------------------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """What is there before anything begins."""
        words = {item.keys[0]: self.word() for item in self.old}
        self.lines[0].ask([("MSET", *[part for pair in words.items() for part in pair])])
        for item in self.old:
            item.states = {words[item.keys[0]]}

    def run(self) -> None:
        try:
            while not self.stop:
                if not self._go.is_set():
                    self._idle.set()
                    self._go.wait(0.05)
                    continue
                self._idle.clear()
                if not self.turn():
                    time.sleep(0.01)
                time.sleep(0.0015)
        except BaseException as exc:
            self.failed = exc
        finally:
            self._idle.set()

    def turn(self) -> bool:
        """One write; whether it was done."""
        if self._vague and self.rng.random() < 0.5:
            return self._look(self._vague[0])
        kind = self.rng.random()
        if kind < 0.15:
            item: Item = Once("%s:once%d" % (self.name, self.number + 1))
            self.once.append(item)
        elif kind < 0.35:
            item = self.rng.choice(self.old)
        elif kind < 0.37 and self.big:
            item = self.rng.choice(self.big)
        else:
            item = self.rng.choice(self.busy)
        word = self.word()
        commands, effect = item.op(self.rng, word)
        return self.write(item, commands, effect)

    def write(self, item: Item, commands: list[Command], effect: Effect) -> bool:
        began = time.time()
        line = self.lines[self.at]
        try:
            reply = line.ask(commands)
        except Refused as exc:
            self.counts["refused"] += 1
            if exc.elsewhere:
                self._go_over()
            return False
        except ConnectionError:
            self.counts["unknown"] += 1
            item.unknown(commands, effect)
            self._vague.append(item)
            return False
        self.counts["acknowledged"] += 1
        self.served[line.server.port] += 1
        item.acknowledged(commands, effect, reply, began)
        return True

    def _look(self, item: Item) -> bool:
        """Read an item together with a write, so that only the server which serves can answer."""
        began = time.time()
        try:
            reply = self.lines[self.at].ask([("SET", self._beat, b"1"), *item.reads()])
        except Refused as exc:
            if exc.elsewhere:
                self._go_over()
            return False
        except ConnectionError:
            return False
        item.found(reply[1:], began)
        self._vague.popleft()
        return True

    def _go_over(self) -> None:
        """To the target only where its mark says that it serves: one that was restarted while it was filled takes writes too."""
        if self.at == 0:
            with contextlib.suppress(Refused, ConnectionError):
                found = self.lines[1].ask([("FUNCTION", "LIST", "LIBRARYNAME", "untangle", "WITHCODE")])
                self.at = int(b'"state": "serving"' in b"".join(_flat(found)))
        else:
            self.at = 0

    # -- standing still ----------------------------------------------------------------------------------------------------

    def go(self) -> None:
        self._idle.clear()
        self._go.set()

    def pause(self, seconds: float = 60) -> None:
        self._go.clear()
        if not self._idle.wait(seconds):
            raise AssertionError("%s does not come to rest" % self.name)

    def check(self, client: redis.Redis) -> set[bytes]:
        """Compare everything with what it must be; returns the keys that must be there."""
        if self.failed:
            raise self.failed
        began, items, wanted = time.time(), self.items, {self._beat}
        with client.pipeline(transaction=False) as pipe:
            # as the server says it, not as redis-py would have it
            pipe.response_callbacks = {}
            for item in items:
                for command in item.reads():
                    pipe.execute_command(*command)
            replies = iter(pipe.execute())
        for item in items:
            state = item.found([next(replies) for _command in item.reads()], began)
            wanted |= set(item.keys) if isinstance(item, Session) else item.holds(state)
        self._vague.clear()
        return wanted


def _flat(reply: Any) -> Iterator[bytes]:
    for one in reply if isinstance(reply, list) else ():
        if isinstance(one, bytes):
            yield one
        else:
            yield from _flat(one)


@contextlib.contextmanager
def resting(applications: list[Application]) -> Iterator[None]:
    """Nobody writes meanwhile."""
    for one in applications:
        one.pause()
    try:
        yield
    finally:
        for one in applications:
            one.go()


__all__ = ["Application", "Big", "Heap", "Line", "Refused", "resting"]
