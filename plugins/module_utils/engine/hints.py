# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The change feed of a server that has no PSYNC for us: keyspace notifications, as hints which keys were written.

They come in no order that could be applied, are not kept for a client that is away, and some writes send none. So every hint
makes its key dirty, a connection that was cut means that all starts over, the commands without a hint are counted, and keys
whose type changes silently (streams with groups) are dumped again whenever something depends on it.
"""

from __future__ import annotations

import select
import time
import typing as t

from .. import connection
from ..errors import Away, UntangleError
from .feed import Listener, Lost, Unit
from .server import Server

#: Commands that change whole databases and send no notification.
_SILENT = ("flushdb", "flushall", "swapdb")
_PREFIX = b"__keyevent@"
#: What a server must be told to send: all classes of events, by the name of the event.
NEEDED = "AE"


class Hints(Listener):
    """The same to its caller as ``feed.Feed``. A position counts signs of life that came back: what was sent before is read."""

    exact = False

    def __init__(self, server: Server, name: str) -> None:
        super().__init__(server, name)
        self.replid = ""
        self.position = self.asked = 0
        self.seen = 0
        self._pinged = 0.0
        self._counted: dict[str, int] = {}
        self._changed = 0

    @property
    def local_address(self) -> str:
        return ""

    def attach(self, wait: t.Callable[[float], None] = lambda seconds: None) -> None:
        """Subscribe. Raises UntangleError where the server says that it sends nothing, or not enough."""
        import redis

        self.detach()
        setting = self.server.config("notify-keyspace-events")
        if setting is not None and not _enough(setting):
            raise UntangleError(
                "%s does not tell which keys are written: its notify-keyspace-events is '%s'. Set it to %s (and take it back "
                "afterwards), or use redis_split_strategy: copy." % (self.server.address, setting, NEEDED)
            )
        try:
            self._wire = self.server.client.connection_pool.get_connection()
            self._wire.send_command("PSUBSCRIBE", _PREFIX.decode() + "*__:*")
        except (redis.RedisError, OSError) as exc:
            self.detach()
            raise connection.failure(exc, self.server.options, self.server.variable) from exc
        self.socket.setblocking(False)
        self._heard = time.monotonic()
        self._confirmed()
        # What was asked before is answered by starting over.
        self.position = self.asked
        self._counted, self._changed, self.seen = self._count(), self._changes(), 0

    def _confirmed(self) -> None:
        """Wait for the answer, and leave what comes behind it to be read."""
        end = time.monotonic() + 10.0
        while not (b"\r\n" in self._rest and (self._rest[:1] == b"-" or _reply_at(self._rest, 0))):
            if time.monotonic() > end:
                raise Away("%s did not answer a subscription within 10 s." % self.server.address)
            select.select([self.socket], [], [], 1.0)
            self._rest = self._receive(1)
        if self._rest[:1] == b"-":
            text = self._rest.partition(b"\r\n")[0].decode(errors="replace")
            self.detach()
            raise UntangleError(
                "%s refuses a subscription (%s). Give the user of %s the rights +psubscribe and allchannels."
                % (self.server.address, text, self.server.variable)
            )

    def resume(self, wait: t.Callable[[float], None] = lambda seconds: None) -> None:
        raise Lost("%s does not keep notifications for who was away." % self.server.address)

    def reach(self, offset: int) -> int:
        """The position at which everything has been read that the server did until now."""
        if not self.attached:
            return self.asked
        self.asked += 1
        self._send(b"*2\r\n$4\r\nPING\r\n$%d\r\n%d\r\n" % (len(str(self.asked)), self.asked))
        return self.asked

    def read(self, most: int = 1 << 20) -> list[Unit]:
        """Hints that have come, without waiting. Raises ConnectionError when cut off, or where one thing was not told."""
        data = self._receive(most)
        units: list[Unit] = []
        at = 0
        while found := _reply_at(data, at):
            words, at = found
            if words[0] == b"pong":
                self.position = max(self.position, int(words[1] or 0))
            elif words[0] == b"pmessage":
                self.seen += 1
                database = int(words[2][len(_PREFIX) :].partition(b"__")[0])
                # A command that every version of the table dumps again.
                units.append(Unit(0, [(database, [b"SPOP", words[3]])], False))
        self._rest = data[at:]
        if time.monotonic() - self._pinged > 1.0:
            self._pinged = time.monotonic()
            self.reach(0)
            self.demand_told()
        return units

    def demand_told(self) -> None:
        """That nothing has happened of which no hint comes. Raises ConnectionError: all starts over."""
        if self._count() != self._counted:
            raise ConnectionError("a whole database was changed by FLUSHDB, FLUSHALL or SWAPDB")
        if not self.seen and self._changes() > self._changed + 100:
            raise UntangleError(
                "%s was written to, and told of no key: its notifications are off. Set notify-keyspace-events to %s where the "
                "service is configured, or use redis_split_strategy: copy." % (self.server.address, NEEDED)
            )

    def _count(self) -> dict[str, int]:
        stats = self.server.info("commandstats")
        return {name: int((stats.get("cmdstat_" + name) or {}).get("calls") or 0) for name in _SILENT}

    def _changes(self) -> int:
        return int(self.server.info("persistence").get("rdb_changes_since_last_save") or 0)

    def _send(self, data: bytes) -> None:
        try:
            while data:
                select.select([], [self.socket], [], 1.0)
                data = data[self.socket.send(data) :]
        except OSError as exc:
            raise ConnectionError(str(exc)) from exc

    def acknowledge(self, offset: int) -> None:
        """Nobody asks."""


def _enough(setting: str) -> bool:
    return "E" in setting and ("A" in setting or set("g$lshzxetd") <= set(setting))


def _reply_at(data: bytes, at: int) -> tuple[list[bytes], int] | None:
    """The array of bulk strings that begins at ``at``, and the offset behind it; None where it is not whole yet."""
    line = data.find(b"\r\n", at)
    if line < 0:
        return None
    words, cursor = [], line + 2
    for _dummy in range(int(data[at + 1 : line])):
        line = data.find(b"\r\n", cursor)
        if line < 0:
            return None
        if data[cursor : cursor + 1] != b"$":
            # a number: how many subscriptions there are
            words.append(data[cursor + 1 : line])
            cursor = line + 2
            continue
        size = int(data[cursor + 1 : line])
        cursor = line + 2 + size + 2
        if cursor > len(data):
            return None
        words.append(data[line + 2 : cursor - 2])
    return words, cursor
