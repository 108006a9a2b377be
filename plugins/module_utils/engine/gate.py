# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How writers are kept off during a cutover: by a fence, by a pause, or by somebody who has stopped them."""

from __future__ import annotations

import time
import typing as t

from ..errors import Away, UntangleError
from . import marks
from .server import Server, offset_in, strangers

#: How long targets may take to come into step once writers are shut out, in seconds.
BARRIER_SECONDS = 10.0

#: What of a pause must be left when a commit begins, in seconds: it ends by itself, and then writers go on at the old place.
SPARE_SECONDS = 0.5


class Gate:
    """How writers are kept off during a cutover; this one trusts that somebody has stopped them."""

    name = "stopped by the user"
    #: Whether a write is impossible while the gate is closed.
    tight = False
    #: Whether it stays closed when this process is gone: a commit that was begun can be finished then.
    stays = True
    users: t.Sequence[str] = ()
    seconds = BARRIER_SECONDS

    def __init__(self, engine: Server) -> None:
        self.engine = engine

    def close(self) -> int:
        """Returns the source's offset, behind which nothing is written."""
        return self.engine.offset()

    def open(self) -> None:
        """Let writers in again: nothing has happened."""

    def demand_time(self) -> None:
        """Raise where the gate might open by itself before the commit is made."""

    def leave(self, databases: t.Collection[int]) -> None:
        """The commit is made. Those who write to databases that have moved are not let in again."""


class Fence(Gate):
    """Users who lose the right to write. The others go on, and what the fence cut off finds no way back to the old place."""

    name = "fence"
    tight = True

    def __init__(self, engine: Server, users: t.Sequence[str]) -> None:
        super().__init__(engine)
        self.users = users

    def close(self) -> int:
        return marks.put(self.engine, self.users)

    def open(self) -> None:
        marks.lift(self.engine, self.users)


class Pause(Gate):
    """Every write of the server waits, up to a deadline. Clients that come back to the old place are not kept off it."""

    name = "pause"
    tight = True
    stays = False

    def __init__(self, engine: Server, seconds: float) -> None:
        super().__init__(engine)
        self._allowed, self._end = seconds, time.monotonic() + seconds
        self.seconds = seconds - SPARE_SECONDS
        self.demand_time()

    def close(self) -> int:
        self._end = time.monotonic() + self._allowed
        pause = ("CLIENT", "PAUSE", int(self._allowed * 1000), "WRITE")
        replies = self.engine.batch([("MULTI",), pause, ("INFO", "replication"), ("EXEC",)])[-1]
        return offset_in(replies[-1])

    def open(self) -> None:
        self.engine.run("CLIENT", "UNPAUSE")

    def demand_time(self) -> None:
        left = self._end - time.monotonic()
        if left < SPARE_SECONDS:
            raise UntangleError(
                "%s: of %.1f s (redis_split_pause_max_seconds) only %.1f s are left, too little to commit in. Nothing was "
                "switched over; run it again when less is written, or give the users that move a fence of their own."
                % (self.engine.address, self._allowed, max(left, 0.0))
            )

    def leave(self, databases: t.Collection[int]) -> None:
        kill: list[tuple[str, ...]] = []
        while time.monotonic() < self._end:
            # What they wait to write is never executed. Who has come meanwhile is seen in the same transaction.
            *_dummy, (*_killed, listed) = self.engine.batch([("MULTI",), *kill, ("CLIENT", "LIST"), ("EXEC",)])
            here = [one for one in strangers(listed) if int(one.get("db") or 0) in databases]
            if not here:
                break
            kill = [("CLIENT", "KILL", "ID", one["id"]) for one in here]
        self.engine.run("CLIENT", "UNPAUSE")


def choose_gate(engine: Server, admin: Server, databases: t.Collection[int], request: t.Mapping[str, t.Any]) -> Gate:
    """A fence where users can be told apart; else a pause, where one is allowed."""
    if request.get("writers_stopped"):
        return Gate(engine)
    seconds = float(request.get("pause_max_seconds") or 0)
    try:
        return Fence(engine, marks.choose(admin, databases, request.get("fence") or ()))
    except UntangleError as exc:
        if isinstance(exc, Away) or not seconds:
            raise
        if engine.version < (7, 0):
            raise UntangleError("%s A pause needs Redis 7.0 or later here." % exc.message) from exc
    return Pause(engine, seconds)
