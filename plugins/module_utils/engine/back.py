# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way kept open: what is written to an instance that serves is brought to the old database, so that a return takes little.

The old database is part of a server with others on it, and expires keys by its own clock: a command cannot be trusted to find
there what it found here. So nothing is applied. The feed tells which keys were written, and these are dumped and restored
whole, which is right whatever the old database holds.
"""

from __future__ import annotations

import contextlib
import itertools
import time
import typing as t

from ..errors import Away, UntangleError
from . import commands, marks
from .compare import Comparer
from .feed import Feed, Lost
from .lane import AGAIN_SECONDS
from .route import Route
from .server import Server
from .snapshot import Limits

#: Seconds between two rounds: a key that is written to all the time is brought once in each.
ROUND_SECONDS = 0.25
_BATCH = 500


@contextlib.contextmanager
def _at_once(server: Server) -> t.Iterator[None]:
    """A server waits 5 s by default for more replicas to come before it begins with one."""
    name, before = "repl-diskless-sync-delay", server.config("repl-diskless-sync-delay")
    if before is None:
        yield
        return
    server.run("CONFIG", "SET", name, 0)
    try:
        yield
    finally:
        server.run("CONFIG", "SET", name, before)


class Follower:
    """One purpose on its way back. ``step`` often; ``drain`` when its writers are shut out."""

    def __init__(
        self,
        route: Route,
        log_in: t.Callable[[], Server],
        limits: Limits,
        alive: t.Callable[[], None] = lambda: None,
    ) -> None:
        #: ``log_in`` opens the old database: a server that was restarted may know our user no longer. ``alive`` is called often,
        #: in long work too.
        self.route, self._log_in, self.limits, self._alive = route, log_in, limits, alive
        self.old = log_in()
        self.new = route.open()
        self.feed = Feed(self.new, "untangle-back")
        #: Keys written since they were brought, in order, and when (monotonic).
        self.dirty: dict[bytes, float] = {}
        #: Whether the feed cannot tell what was written: then all is compared.
        self.everything = True
        self.away: str | None = None
        self.brought = 0
        self._older = False
        self._anew = True
        self._retry = self._round = self._acknowledged = 0.0
        self._dialect = commands.dialect(self.new.flavour, self.new.version, True)

    def step(self) -> None:
        """What the feed has, and a round of what is due. A server that is away is tried again."""
        try:
            if not self.feed.attached:
                self._reach()
                return
            self.read()
            if self.away is not None and not self._back_again():
                return
            if self.everything:
                self._compare()
            elif self.dirty and time.monotonic() - self._round > ROUND_SECONDS:
                self._round = time.monotonic()
                self._bring(len(self.dirty))
        except (UntangleError, ConnectionError) as exc:
            # Whatever it is, the instance serves, and what is brought back waits.
            self.away = str(exc)
            self._retry = time.monotonic() + AGAIN_SECONDS

    def _back_again(self) -> bool:
        """Open the old database again. One whose server was restarted may hold less than it was brought."""
        if time.monotonic() < self._retry:
            return False
        run_id, self.old = self.old.run_id, self._log_in()
        self.everything = self.everything or self.old.run_id != run_id
        self.away = None
        return True

    def _reach(self) -> None:
        if time.monotonic() < self._retry:
            return
        self._retry = time.monotonic() + AGAIN_SECONDS
        if not self._anew:
            try:
                self.feed.resume()
            except Lost:
                self._anew = True
        if self._anew:
            self.new = self.route.open()
            self.feed.server = self.new
            with _at_once(self.new):
                self.feed.attach()
            # What was written while nobody listened.
            self.everything, self._anew = True, False
        self.away = None

    def read(self) -> None:
        """What was written since: which keys. Raises ConnectionError where the feed is cut off."""
        self._alive()
        try:
            units = self.feed.read()
        except ConnectionError:
            self.feed.detach()
            raise
        now = time.monotonic()
        for unit in units:
            for database, words in unit.commands:
                effect = commands.effect(words, self._dialect)
                if effect.how in ("flushall", "swap", "unknown") or (
                    effect.how == "flush" and database == self.route.target_database
                ):
                    self.everything = True
                for number, key in effect.elsewhere:
                    if number == self.route.target_database and effect.how != "swap":
                        self.dirty.setdefault(key, now)
                if database == self.route.target_database:
                    for key in effect.writes:
                        self.dirty.setdefault(key, now)
        if time.monotonic() - self._acknowledged > 0.5:
            self._acknowledged = time.monotonic()
            self.feed.acknowledge(self.feed.position)

    def _compare(self) -> None:
        """A look at all of both sides: what differs is dirty, and so is what is written meanwhile."""
        self._demand_serving()
        self.everything = False
        mark = marks.read_target(self.new) or {}
        comparer = Comparer(
            self.new,
            self.old,
            self.limits,
            match=mark.get("match"),
            exclude=mark.get("exclude") or (),
            progress=lambda done, total: self.read(),
        )
        try:
            found = comparer.suspects()
        except BaseException:
            self.everything = True
            raise
        # Since when they differ nobody knows; those that were written meanwhile keep their time, and their place.
        now = time.monotonic()
        for key in found:
            self.dirty.setdefault(key, now)

    def _demand_serving(self) -> None:
        """An instance that has lost its data, as a cache does when it restarts, must not take the old database with it."""
        mark = marks.read_target(self.new) or {}
        if mark.get("state") != "serving" or mark.get("lost"):
            raise Away("%s: %s does not hold all that it was given." % (self.route.purpose, self.route.where))

    def _demand_same(self) -> None:
        """A server that was restarted may have come back with less, before a key is taken for gone, or for brought."""
        if str(self.new.info("server").get("run_id")) != self.new.run_id:
            # Its feed finds out what it has.
            self.feed.detach()
            raise Away("%s was restarted." % self.route.where)
        if str(self.old.info("server").get("run_id")) != self.old.run_id:
            raise Away("%s was restarted." % self.old.address)

    def _bring(self, count: int) -> None:
        """The oldest ``count`` dirty keys. They stay dirty until they have been brought."""
        comparer = Comparer(self.new, self.old, self.limits, repair=True)
        comparer.older = self._older
        while count > 0 and self.dirty and not self.everything:
            # Before they are read: what comes of one from here on makes it dirty again.
            batch = {key: self.dirty.pop(key) for key in list(itertools.islice(self.dirty, min(count, _BATCH)))}
            count -= len(batch)
            try:
                self._demand_same()
                comparer.bring(list(batch))
            except BaseException:
                self.dirty = {**batch, **self.dirty}
                raise
            self._older = comparer.older
            self.brought += len(batch)
            self.read()

    def drain(self, new: Server, offset: int) -> bool:
        """Bring what is left up to this offset, with ``new`` as a login that is not fenced. False: all must be compared."""
        if not self.feed.attached or self.everything or self.away is not None:
            return False
        self.new = new
        end = time.monotonic() + 10.0
        try:
            self._demand_same()
            while self.feed.position < offset or self.dirty:
                self.read()
                self._bring(len(self.dirty))
                if self.everything or time.monotonic() > end:
                    return False
            return self.new.size() == self.old.size()
        except (UntangleError, ConnectionError):
            # Whatever it was, a pass over everything finds out, and says so.
            return False

    def facts(self) -> dict[str, t.Any]:
        return {
            "purpose": self.route.purpose,
            "phase": "waiting for its server" if self.away else "comparing" if self.everything else "following back",
            "keys": self.brought,
            "keys_total": self.brought + len(self.dirty),
            "bytes": 0,
            "dirty": len(self.dirty),
            "lag_seconds": round(time.monotonic() - next(iter(self.dirty.values())), 1) if self.dirty else 0.0,
            "away": self.away,
        }

    def close(self) -> None:
        self.feed.detach()
