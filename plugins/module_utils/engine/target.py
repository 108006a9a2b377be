# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing to a target: batches of RESTORE, sent without waiting, their replies counted one by one."""

from __future__ import annotations

import typing as t

from .. import connection
from ..errors import UntangleError
from .server import Server

_REPLACE = b"*%d\r\n$7\r\nRESTORE\r\n$%d\r\n%b\r\n$1\r\n0\r\n$%d\r\n%b\r\n$7\r\nREPLACE\r\n"
_KEEP = b"*%d\r\n$7\r\nRESTORE\r\n$%d\r\n%b\r\n$1\r\n0\r\n$%d\r\n%b\r\n"
_SET = b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
_OK = b"+OK\r\n"


def pack(keys: t.Iterable[tuple[bytes, bytes, int]], replace: bool = True) -> bytes:
    """RESTORE commands in wire form. One format per key: redis-py's general packer takes five times as long."""
    parts = []
    for key, payload, expiry in keys:
        if not expiry:
            if replace:
                parts.append(_REPLACE % (5, len(key), key, len(payload), payload))
            else:
                parts.append(_KEEP % (4, len(key), key, len(payload), payload))
            continue
        at = b"%d" % expiry
        words = [b"RESTORE", key, at, payload, b"ABSTTL"] + ([b"REPLACE"] if replace else [])
        parts.append(b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(w), w) for w in words]))
    return b"".join(parts)


def pack_strings(keys: t.Iterable[tuple[bytes, bytes, int]], replace: bool = True) -> bytes:
    """The same for the values of strings, which SET takes in less time than RESTORE."""
    parts = []
    for key, value, expiry in keys:
        if replace and not expiry:
            parts.append(_SET % (len(key), key, len(value), value))
            continue
        words = [b"SET", key, value] + ([b"PXAT", b"%d" % expiry] if expiry else []) + ([] if replace else [b"NX"])
        parts.append(b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(w), w) for w in words]))
    return b"".join(parts)


class TooOld(UntangleError):
    """The target does not take the data format of the source."""


class Writer:
    """Sends batches; at most two are under way. ``written`` and ``skipped`` count keys whose reply has come."""

    def __init__(self, server: Server, replace: bool = True) -> None:
        self.server = server
        self.replace = replace
        self.wire = server.wire()
        self.written = 0
        self.skipped = 0
        self.bytes = 0
        self._pending: list[int] = []

    def send(
        self, keys: t.Sequence[tuple[bytes, bytes, int]], strings: t.Sequence[tuple[bytes, bytes, int]] = ()
    ) -> None:
        import redis

        if not keys and not strings:
            return
        data = pack(keys, self.replace) + pack_strings(strings, self.replace)
        try:
            self.wire.send_packed_command([data])
        except (redis.RedisError, OSError) as exc:
            raise connection.failure(exc, self.server.options, self.server.variable) from exc
        self.bytes += len(data)
        self._pending.append(len(keys) + len(strings))
        if len(self._pending) > 2:
            self._read(self._pending.pop(0))

    def drain(self) -> None:
        """Wait until every key that was sent is answered for."""
        while self._pending:
            self._read(self._pending.pop(0))

    def _read(self, count: int) -> None:
        # Nearly always every reply is +OK, which needs no parsing: five bytes a key. Anything else is looked at line by line.
        data = self._receive(len(_OK) * count)
        if data == _OK * count:
            self.written += count
            return
        while data.count(b"\r\n") < count or not data.endswith(b"\r\n"):
            data += self._receive(1)
        # No reply is shorter than +OK, so what was received cannot reach into the next batch.
        lines = data.split(b"\r\n")[:-1]
        for line in lines:
            if line == b"+OK":
                self.written += 1
            elif not self.replace and (line.startswith(b"-BUSYKEY") or line == b"$-1"):
                self.skipped += 1
            else:
                raise (TooOld if b"payload version or checksum" in line else UntangleError)(self._refusal(line))

    def _receive(self, count: int) -> bytes:
        sock, parts, left = self.wire._sock, [], count
        while left:
            try:
                data = sock.recv(min(left, 65536))
            except OSError as exc:
                raise connection.failure(exc, self.server.options, self.server.variable) from exc
            if not data:
                raise UntangleError(
                    "%s closed the connection while keys were written. Check its log and memory, then run again: "
                    "what was written so far is overwritten." % self.server.address
                )
            parts.append(data)
            left -= len(data)
        return b"".join(parts)

    def _refusal(self, line: bytes) -> str:
        text = line.decode(errors="replace")
        if "OOM" in text:
            advice = "Give the instance more memory (maxmemory of its purpose), then run again."
        elif "payload version or checksum" in text:
            advice = "The source is newer (%s here): use a target that is at least as new." % self.server.release
        else:
            advice = "Mend that, then run again: keys written so far are overwritten."
        return "%s refuses a key: %s. %s" % (self.server.address, text, advice)

    def close(self) -> None:
        self.server.drop(self.wire)
