# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every route of a source in step with it, through one change feed, while applications write.

The feed is attached first, then each database is read page by page. Every page and every dump carries the source's offset at
which it was true, its watermark. What is written to a key before the watermark is in the dump; what comes after is applied, or
makes the key dirty, to be dumped again. So memory follows what was written meanwhile and not what is there, and nobody pauses.

All of it is one thread: the feed stands still while a dump is under way, so that the watermark of an answer is never behind
what the feed has told already.
"""

from __future__ import annotations

import secrets
import select
import socket
import time
import typing as t

from ..errors import Away, UntangleError
from . import commands, marks
from .feed import Feed, Lost, Unit
from .hints import Hints
from .lane import AGAIN_SECONDS, Lane
from .link import GETACK, Broken
from .route import Route
from .server import Server
from .snapshot import Limits
from .state import now


class Mirror:
    """``start``, then ``step`` for as long as it is to follow; ``in_step`` tells that every target has all there is."""

    def __init__(
        self,
        source_options: t.Mapping[str, t.Any],
        routes: t.Sequence[Route],
        limits: Limits | None = None,
        queue_bytes: int = 64 << 20,
        feed: str = "auto",
        by: str = "",
    ):
        self.source = Server(source_options)
        #: Who fills these targets, as their marks say: under this name the feed is seen at the source as well.
        self.owner = {
            "engine": marks.OWNER + secrets.token_hex(4),
            "host": socket.gethostname(),
            "by": by,
            "since": now(),
        }
        self.feed: Feed | Hints = (Hints if feed == "notifications" else Feed)(self.source, self.owner["engine"])
        self._choice = feed
        #: Why it is not the feed that a replica gets.
        self.because: str | None = None
        limits = limits or Limits()
        self.lanes = [
            Lane(Server(source_options, route.database), route, self._mark(route), limits, queue_bytes)
            for route in routes
        ]
        for lane in self.lanes:
            lane.breathe = self._breathe
        #: Routes for which nothing more can be done, while the others are followed.
        self.stopped: list[Lane] = []
        self._acknowledged = 0.0
        #: Why the source is not followed just now, whether its feed must begin anew, and when it is tried again.
        self.away: str | None = None
        self._anew = False
        self._retry = 0.0
        #: Called before a source that was away is tried again: it may have forgotten our user.
        self.log_in: t.Callable[[], None] = lambda: None
        self.starts = 0

    def _mark(self, route: Route) -> dict[str, t.Any]:
        return {
            "state": "copying",
            "source": self.source.address,
            "database": route.database,
            "purpose": route.purpose,
            **self.owner,
        }

    def start(self, wait: t.Callable[[float], None] = lambda seconds: None) -> None:
        # Before the first page: from here on nothing that is written is missed.
        try:
            self.feed.attach(wait)
        except UntangleError as exc:
            if isinstance(exc, Away) or self._choice != "auto":
                raise
            self.because = exc.message
            self.feed = Hints(self.source, self.owner["engine"])
            self.feed.attach()
        for lane in self.lanes:
            lane.exact = self.feed.exact
            lane.begin()

    def step(self, seconds: float = 0.05) -> None:
        """One turn: what the feed has, then some of what each database owes. Waits for up to ``seconds`` where nothing is due.

        Servers that are away are waited for: the feed goes on where it was left, or all starts over; a target starts over.
        """
        if self.away is None:
            self._wait(seconds)
            try:
                lanes = {lane.route.database: lane for lane in self.lanes}
                for unit in self.feed.read():
                    self._take(unit, lanes)
            except (ConnectionError, Away) as exc:
                self._went_away(str(exc))
        else:
            self._reach(seconds)
        position = self.feed.position
        for lane in list(self.lanes):
            try:
                if self.away is None:
                    lane.work(position)
                    lane.note(position)
            except Away as exc:
                self._went_away(exc.message)
            except UntangleError as exc:
                self._stop(lane, exc.message)
            self._pump(lane)
        if time.monotonic() - self._acknowledged > 0.5:
            self._acknowledge(position)

    def _wait(self, seconds: float) -> None:
        if any((lane.snapshot or lane.dirty) and not lane.lost for lane in self.lanes):
            return
        waiting = select.poll()
        waiting.register(self.feed.socket, select.POLLIN)
        for lane in self.lanes:
            if not lane.lost:
                waiting.register(lane.link, select.POLLIN | (select.POLLOUT if lane.link.queued else 0))
        waiting.poll(seconds * 1000)

    def _pump(self, lane: Lane) -> None:
        try:
            lane.pump()
        except Broken as exc:
            lane.lose(exc)

    def _breathe(self) -> None:
        """What cannot wait for the end of a long step."""
        for lane in self.lanes:
            self._pump(lane)
        if time.monotonic() - self._acknowledged > 0.5:
            self._acknowledge(self.feed.position)

    def _stop(self, lane: Lane, why: str) -> None:
        """Go on without this route."""
        lane.stop(why)
        self.lanes.remove(lane)
        self.stopped.append(lane)
        if not self.lanes:
            raise UntangleError(self.why_stopped)

    @property
    def why_stopped(self) -> str:
        return " ".join(dict.fromkeys(str(lane.lost) for lane in self.stopped))

    def go_on(self) -> None:
        """Try the routes again that were stopped: they start from nothing."""
        for lane in self.stopped:
            lane.go_on()
        self.lanes += self.stopped
        self.stopped = []

    def _acknowledge(self, position: int) -> None:
        self._acknowledged = time.monotonic()
        following = [lane for lane in self.lanes if not lane.lost]
        for lane in following:
            # a target acknowledges by itself every second; a sign of life brings its word up to date
            lane.link.send(GETACK)
        if self.away is None:
            try:
                # One that starts over needs nothing of what was before.
                self.feed.acknowledge(min([lane.applied or position for lane in following], default=position))
            except ConnectionError as exc:
                self._went_away(str(exc))

    def _went_away(self, why: str) -> None:
        self.away, self._retry = why, 0.0
        self.feed.detach()

    def _reach(self, seconds: float) -> None:
        """Attach again where the feed was left, or anew where the source cannot go on from there."""
        if time.monotonic() < self._retry:
            time.sleep(seconds)
            return
        self._retry = time.monotonic() + AGAIN_SECONDS

        def wait(_seconds: float) -> None:
            for lane in self.lanes:
                self._pump(lane)

        try:
            if not self._anew:
                try:
                    self.feed.resume(wait)
                except Lost:
                    self._anew = True
                except UntangleError as exc:
                    if isinstance(exc, Away):
                        raise
                    # A source that was started anew may know our user no longer.
                    self.log_in()
                    raise Away(exc.message) from exc
            if self._anew:
                self.feed.attach(wait)
                self.starts += 1
                for lane in self.lanes:
                    if not lane.lost:
                        lane.start_over()
                self._anew = False
        except Away as exc:
            self.away = exc.message
        except ConnectionError as exc:
            self.away = str(exc)
        else:
            self.away = None

    def _take(self, unit: Unit, lanes: dict[int, Lane]) -> None:
        """``lanes``: by their databases. Those that stop are taken out."""
        if not unit.transaction:
            ((database, words),) = unit.commands
            if words[0].upper() in commands.PLAIN:
                # Most of what comes, and all that it can do is here.
                if database in lanes:
                    lanes[database].take_plain(words, unit.end)
                return
        by_database: dict[int, list[commands.Effect]] = {}
        any_dialect = self.lanes[0].dialect
        for database, words in unit.commands:
            lane = lanes.get(database)
            effect = commands.effect(words, lane.dialect if lane else any_dialect)
            if effect.how == "ignore":
                continue
            for number, key in effect.elsewhere:
                if effect.how == "swap":
                    by_database.setdefault(number, []).append(effect)
                elif number in lanes:
                    lanes[number].spoil([key], unit.end)
                    lanes[number].written += 1
                    # It may be a hash with fields that expire.
                    lanes[number].dialect.field_expiry = True
            if effect.how == "swap":
                continue
            if effect.how == "flushall":
                for number in lanes:
                    by_database.setdefault(number, []).append(effect)
                continue
            if effect.how == "unknown" and lane:
                self._stop(
                    lanes.pop(database),
                    "%s: %s was used on database %d of %s, and this version does not know which keys it writes. This route is no "
                    "longer mirrored; the shared server serves as before. Use redis_split_strategy: copy for this split."
                    % (lane.route.purpose, words[0].decode(errors="replace").upper(), database, self.source.address),
                )
                continue
            by_database.setdefault(database, []).append(effect)
        if unit.transaction and len(by_database) > 1:
            torn = [lanes[number] for number in by_database if number in lanes]
            # What empties or swaps whole databases is in step again on each side by itself.
            if not any(one.how in ("flushall", "swap") for effects in by_database.values() for one in effects):
                why = (
                    "%s: a transaction at %s wrote to databases %s at once, which two instances cannot do. It is no longer mirrored; "
                    "the shared server serves as before. Change the application, or leave these purposes on one server."
                    % (
                        ", ".join(lane.route.purpose for lane in torn),
                        self.source.address,
                        ", ".join(map(str, sorted(by_database))),
                    )
                )
                for lane in torn:
                    del lanes[lane.route.database]
                    self._stop(lane, why)
        for number, effects in by_database.items():
            if number in lanes:
                lanes[number].take(effects, unit)

    def mend(self) -> None:
        """Look at every target, and start over the routes whose targets are not what they were."""
        for lane in self.lanes:
            try:
                lane.pump()
                lane.link.check()
            except (Broken, Away) as exc:
                lane.lose(exc)

    @property
    def written(self) -> int:
        """Writes to any of the routes that the feed has told of."""
        return sum(lane.written for lane in self.lanes)

    def in_step(self) -> bool:
        return self.away is None and all(not lane.snapshot and not lane.dirty and not lane.lost for lane in self.lanes)

    def catch_up(self, offset: int, seconds: float = 60.0, steadily: bool = False) -> None:
        """Follow until every target has run what the source had written at ``offset``, and refused none of it.

        ``steadily``: not where a server went away or a route has to start over meanwhile; writers wait for us.
        """
        end = time.monotonic() + seconds
        goal = self.feed.reach(offset)
        if not self.feed.exact:
            for lane in self.lanes:
                lane.spoil(lane.silent, 0)
        while self.feed.position < goal or not self.in_step():
            trouble = [self.away, *(lane.lost or ("it starts over" if lane.snapshot else None) for lane in self.lanes)]
            if steadily and any(trouble):
                raise Broken("%s: not in step: %s" % (self.source.address, next(filter(None, trouble))))
            if time.monotonic() > end:
                raise UntangleError(
                    "%s: not in step after %d s (%s)."
                    % (self.source.address, seconds, [lane.facts(self.feed.position) for lane in self.lanes])
                )
            self.step(0.001)
        for lane in self.lanes:
            lane.link.barrier(max(1.0, end - time.monotonic()))
        try:
            self.feed.demand_told()
        except ConnectionError as exc:
            self._went_away(str(exc))
            raise Broken("%s: not in step: %s" % (self.source.address, exc)) from exc

    def facts(self) -> dict[str, t.Any]:
        return {
            "feed": "replication" if self.feed.exact else "notifications",
            "feed_because": self.because,
            "position": self.feed.position,
            "replid": self.feed.replid,
            "restarts": self.feed.restarts + self.starts,
            "away": self.away,
            "purposes": {lane.route.purpose: lane.facts(self.feed.position) for lane in (*self.lanes, *self.stopped)},
        }

    def close(self) -> None:
        self.feed.detach()
        for lane in (*self.lanes, *self.stopped):
            lane.close()
