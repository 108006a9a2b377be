# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing to an old and a new Redis (7.0 or later) while one takes over from the other: see docs/dual_write.md."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import redis

log = logging.getLogger(__name__)
Write = Callable[[redis.Redis], Any]


class Dual:
    """Both servers as one: every write goes to both, every read to the first, which is the truth.

    The first one's answers and errors are the application's. An error of the second fails nobody; the key is noted.
    """

    def __init__(self, old: redis.Redis, new: redis.Redis, read_new: bool = False):
        self.first, self.second = (new, old) if read_new else (old, new)
        self.doubtful: set[str] = set()  # keys that may differ on the second server, until mend() has looked at them

    def set(self, key: str, value: Any, seconds: float) -> None:
        """A whole value. Its expiry is a point in time, so that it is the same on both sides."""
        at = milliseconds(seconds)
        self.both(key, lambda server: server.set(key, value, pxat=at))

    def update(self, key: str, write: Write) -> Any:
        """A write that builds on what is there (HSET, INCR, SADD, PEXPIREAT): the key is brought over before it."""
        self.tell(key, lambda second: self.bring(key))
        return self.both(key, write)

    def delete(self, key: str) -> None:
        """A copy that read the key just before may put it back just after, so it has to be looked at again."""
        self.doubtful.add(key)
        self.both(key, lambda server: server.delete(key))

    def set_if_absent(self, key: str, value: Any, seconds: float) -> bool:
        """A lock: one server decides, the other is told."""
        at = milliseconds(seconds)
        if not self.first.set(key, value, nx=True, pxat=at):
            return False
        self.tell(key, lambda second: second.set(key, value, pxat=at))
        return True

    def append(self, stream: str, fields: dict[str, Any]) -> Any:
        """An entry of a stream: one server makes its id, the other is given that id."""
        self.tell(stream, lambda second: self.bring(stream))
        entry = self.first.xadd(stream, fields)
        self.tell(stream, lambda second: second.xadd(stream, fields, id=entry))
        return entry

    def both(self, key: str, write: Write) -> Any:
        answer = write(self.first)
        self.tell(key, write)
        return answer

    def tell(self, key: str, write: Write) -> None:
        try:
            write(self.second)
        except redis.RedisError as error:
            self.doubtful.add(key)
            log.warning("%s was not written to the second server: %s", key, error)

    def bring(self, key: str, replace: bool = False) -> None:
        """Copy one key to the second server unless it is there. Whoever comes first wins: this, another process, the copy."""
        if not replace and self.second.exists(key):
            return
        value, at = self.first.pipeline().dump(key).pexpiretime(key).execute()
        if value is None:
            if replace:
                self.second.delete(key)
            return
        try:
            self.second.restore(key, max(at, 0), value, replace=replace, absttl=True)
        except redis.ResponseError as error:
            if "BUSYKEY" not in str(error):
                raise

    def mend(self) -> int:
        """Make the second server hold what the first one does, for every doubtful key. After the copy, until it returns 0."""
        keys, self.doubtful = self.doubtful, set()
        for key in keys:
            self.tell(key, lambda second, key=key: self.bring(key, replace=True))
        return len(keys)


def milliseconds(seconds: float) -> int:
    return round((time.time() + seconds) * 1000)
