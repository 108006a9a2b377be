# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The change feed: the engine attaches to a source as a replica that asks for no data, and gets every write in order.

The position of a command is the offset behind its last byte. The server streams raw bytes from wherever it was left, and does
not say again which database was selected: a position is therefore taken outside transactions only, together with the database.
"""

from __future__ import annotations

import dataclasses
import socket
import ssl
import time
import typing as t

from .. import connection
from ..errors import Away, UntangleError
from .server import Server

#: Seconds for which the source may be silent: it pings its replicas every 10 s by default.
SILENCE = 60.0
#: Attaching forks, waits for `repl-diskless-sync-delay`, and for a BGSAVE that runs already.
ATTACH_SECONDS = 600.0


class Lost(UntangleError):
    """The feed cannot be resumed: the source no longer has what comes next, or is another one. A snapshot must be taken anew."""


@dataclasses.dataclass
class Unit:
    """A command, or all of a transaction. ``end`` is the offset behind it, ``database`` the one selected by each command."""

    end: int
    commands: list[tuple[int, list[bytes]]]
    transaction: bool


class Listener:
    """A connection of its own, on which a server goes on telling."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name
        self.restarts = 0
        self._wire: t.Any = None
        #: What has come of a message that is not whole yet.
        self._rest = b""
        self._heard = 0.0

    @property
    def socket(self) -> socket.socket:
        return t.cast(socket.socket, self._wire._sock)

    @property
    def attached(self) -> bool:
        return self._wire is not None

    def _receive(self, most: int) -> bytes:
        """What has come, behind what was left, without waiting; at most about ``most`` bytes. ConnectionError when cut off."""
        parts, size = [self._rest], 0
        while size < most:
            try:
                data = self.socket.recv(262144)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
                break
            except OSError as exc:
                raise ConnectionError(str(exc)) from exc
            if not data:
                raise ConnectionError("closed by the source")
            parts.append(data)
            size += len(data)
        if size:
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > SILENCE:
            raise ConnectionError("silent for %d s" % SILENCE)
        return b"".join(parts)

    def detach(self) -> None:
        if self._wire is not None:
            self.server.drop(self._wire)
            self._wire = None
        self._rest = b""


class Feed(Listener):
    """``attach`` once, then ``read`` often: it never waits. ``acknowledge`` at least every second, or the source hangs up."""

    #: Whether commands come in the order in which they were run, each with its offset.
    exact = True

    def __init__(self, server: Server, name: str) -> None:
        super().__init__(server, name)
        self.replid = ""
        #: Offset behind the last whole unit, and the database selected there.
        self.position = 0
        self.database = 0
        self._offset = 0
        self._selected = 0
        self._open: list[tuple[int, list[bytes]]] | None = None

    @property
    def local_address(self) -> str:
        """How CLIENT LIST of the source calls this connection, where nothing between translates addresses."""
        if self._wire is None or self.socket.family == socket.AF_UNIX:
            return ""
        return "%s:%d" % self.socket.getsockname()[:2]

    def attach(self, wait: t.Callable[[float], None] = lambda seconds: None) -> None:
        """Attach anew. ``wait`` is called while the source prepares, with the seconds so far."""
        self._connect()
        self._send("PSYNC", "?", "-1")
        line = self._line(wait)
        if not line.startswith(b"+FULLRESYNC"):
            raise self._refused(line)
        _word, replid, offset = line.split()
        self.replid, self.position = replid.decode(), int(offset)
        self._skip_snapshot(wait)
        self._start(0)

    def resume(self, wait: t.Callable[[float], None] = lambda seconds: None) -> None:
        """Attach where the feed was left. Raises ``Lost`` where the source cannot go on from there."""
        self._connect()
        self._send("PSYNC", self.replid, str(self.position + 1))
        line = self._line(wait)
        if line.startswith(b"+FULLRESYNC"):
            self.detach()
            raise Lost("%s cannot go on from offset %d: %s" % (self.server.address, self.position, line.decode()))
        if not line.startswith(b"+CONTINUE"):
            raise self._refused(line)
        self.restarts += 1
        words = line.split()
        if len(words) > 1:
            # a failover: the new master goes on under a name of its own
            self.replid = words[1].decode()
        self._start(self.database)

    def _start(self, database: int) -> None:
        self._offset, self._selected, self._open = self.position, database, None
        self.database = database
        self._heard = time.monotonic()
        self.socket.setblocking(False)
        self.acknowledge(self.position)

    def _connect(self) -> None:
        import redis

        self.detach()
        try:
            self._wire = self.server.client.connection_pool.get_connection()
        except (redis.RedisError, OSError) as exc:
            raise connection.failure(exc, self.server.options, self.server.variable) from exc
        for command in (
            ("REPLCONF", "listening-port", "0"),
            # what INFO replication of the source shows
            ("REPLCONF", "ip-address", self.name),
            ("REPLCONF", "capa", "eof", "capa", "psync2"),
            # no data: 7.0 and later, and a Redis 6.0 sends it all
            ("REPLCONF", "rdb-filter-only", ""),
        ):
            self._send(*command)
            try:
                self._wire.read_response()
            except redis.ResponseError as exc:
                if command[1] != "rdb-filter-only":
                    raise connection.failure(exc, self.server.options, self.server.variable) from exc
            except (redis.RedisError, OSError) as exc:
                raise connection.failure(exc, self.server.options, self.server.variable) from exc

    def _refused(self, line: bytes) -> UntangleError:
        self.detach()
        if not line.startswith((b"-NOPERM", b"-ERR unknown")):
            # It loads its data, or waits for a master of its own.
            return Away("%s is not ready for a change feed: %s." % (self.server.address, line.decode(errors="replace")))
        return UntangleError("%s refuses its change feed (%s). Give the user of %s the rights +psync and +replconf." % (
            self.server.address, line.decode(errors="replace"), self.server.variable,
        ))  # fmt: skip

    def _send(self, *words: str) -> None:
        import redis

        try:
            self._wire.send_packed_command(self._wire.pack_command(*words))
        except (redis.RedisError, OSError) as exc:
            raise connection.failure(exc, self.server.options, self.server.variable) from exc

    def _more(self, wait: t.Callable[[float], None]) -> None:
        """Wait for more bytes while attaching."""
        began = time.monotonic()
        self.socket.settimeout(1.0)
        while True:
            try:
                data = self.socket.recv(65536)
            except socket.timeout:
                waited = time.monotonic() - began
                wait(waited)
                if waited > ATTACH_SECONDS:
                    raise UntangleError(
                        "%s did not begin its change feed within %d s. Look whether a BGSAVE or an AOF rewrite runs there."
                        % (self.server.address, ATTACH_SECONDS)
                    ) from None
                continue
            except OSError as exc:
                raise connection.failure(exc, self.server.options, self.server.variable) from exc
            if not data:
                raise Away("%s closed the connection of its change feed. See its log." % self.server.address)
            self._rest += data
            return

    def _line(self, wait: t.Callable[[float], None]) -> bytes:
        """One line; empty ones are the source's sign of life."""
        while True:
            self._rest = self._rest.lstrip(b"\n")
            head, found, rest = self._rest.partition(b"\r\n")
            if found:
                self._rest = rest
                return head
            self._more(wait)

    def _skip_snapshot(self, wait: t.Callable[[float], None]) -> None:
        head = self._line(wait)
        if head.startswith(b"$EOF:"):
            mark = head[5:]
            while mark not in self._rest:
                # the mark may lie across two reads
                self._rest = self._rest[-len(mark) :]
                self._more(wait)
            self._rest = self._rest.partition(mark)[2]
            return
        left = int(head[1:])
        while len(self._rest) < left:
            left -= len(self._rest)
            self._rest = b""
            self._more(wait)
        self._rest = self._rest[left:]

    def read(self, most: int = 1 << 20) -> list[Unit]:
        """Whole units that have come, without waiting; at most about ``most`` bytes. Raises ConnectionError when cut off."""
        units, self._rest = self._units(self._receive(most))
        return units

    def _units(self, data: bytes) -> tuple[list[Unit], bytes]:
        units: list[Unit] = []
        at = 0
        while True:
            found = command_at(data, at)
            if not found:
                return units, data[at:]
            words, end = found
            self._offset += end - at
            at = end
            name = words[0].upper()
            if name == b"SELECT":
                self._selected = int(words[1])
            elif name == b"MULTI":
                self._open = []
                continue
            elif name == b"EXEC" and self._open is not None:
                units.append(Unit(self._offset, self._open, True))
                self._open = None
            elif self._open is not None:
                self._open.append((self._selected, words))
                continue
            else:
                units.append(Unit(self._offset, [(self._selected, words)], False))
            if self._open is None:
                self.position, self.database = self._offset, self._selected

    def reach(self, offset: int) -> int:
        """The position at which all has been read that the server had done at this offset."""
        return offset

    def demand_told(self) -> None:
        """Everything is told."""

    def acknowledge(self, offset: int) -> None:
        """Tell the source how far its writes have come."""
        data = b"*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$%d\r\n%d\r\n" % (len(str(offset)), offset)
        try:
            self.socket.send(data)
        except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError):
            pass
        except OSError as exc:
            raise ConnectionError(str(exc)) from exc


def command_at(data: bytes, at: int) -> tuple[list[bytes], int] | None:
    """The command that begins at ``at`` and the offset behind it, or None where it is not whole yet."""
    line = data.find(b"\r\n", at)
    if line < 0:
        return None
    if data[at : at + 1] != b"*":
        # an inline command: a bare line end is a sign of life
        words = data[at:line].split()
        return (words or [b"PING"]), line + 2
    words, cursor = [], line + 2
    for _dummy in range(int(data[at + 1 : line])):
        line = data.find(b"\r\n", cursor)
        if line < 0:
            return None
        size = int(data[cursor + 1 : line])
        cursor = line + 2 + size + 2
        if cursor > len(data):
            return None
        words.append(data[line + 2 : cursor - 2])
    return words, cursor
