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

import collections
import dataclasses
import select
import time
import typing as t

from ..errors import UntangleError
from . import commands, marks
from .feed import Feed, Lost, Unit
from .link import Broken, Link
from .route import Route
from .server import Server
from .snapshot import Limits, Page, Reader
from .target import pack, pack_strings

#: Dirty keys asked for with one question.
_BATCH = 500
_FLUSH = b"*1\r\n$8\r\nFLUSHALL\r\n"


def pack_command(words: t.Sequence[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


class Lane:
    """One route: what its target has, what of it is dirty, and what is on its way."""

    def __init__(self, source: Server, route: Route, mark: t.Mapping[str, t.Any], limits: Limits, queue_bytes: int):
        self.source, self.route, self.limits, self.queue_bytes = source, route, limits, queue_bytes
        self.target = route.open()
        self.link = Link(self.target)
        self.mark = dict(mark)
        #: Key to the offset of the last write that its target may lack.
        self.dirty: dict[bytes, int] = {}
        #: Key to the watermark of a dump which the feed has not come up to yet.
        self.ahead: dict[bytes, int] = {}
        self._ahead: collections.deque[tuple[int, list[bytes]]] = collections.deque()
        #: Points of the link and of the feed that belong together: what the target acknowledges, in the feed's offsets.
        self._points: collections.deque[tuple[int, int]] = collections.deque()
        self.applied = 0
        #: Offset of the last write to this database.
        self.written = 0
        self.keys = self.bytes = self.again = self.commands = self.starts = 0
        self.reader = self._reader(limits)
        self._whole = self._reader(dataclasses.replace(limits, big_key_bytes=0))
        self._watermark = 0
        self._asked = False
        self.snapshot = True
        info = source.info("keyspace").get("db%d" % route.database) or {}
        self.dialect = commands.dialect(source.flavour, source.version, bool(int(info.get("subexpiry") or 0)))

    def _reader(self, limits: Limits) -> Reader:
        reader = Reader(self.source, limits, "copy")
        if reader.sha is None:
            raise UntangleError(
                "%s: the user of %s may not run scripts at %s, and without them no dump tells its offset. Grant +@scripting, or "
                "use redis_split_strategy: copy." % (self.route.purpose, self.source.variable, self.source.address)
            )
        return reader

    def begin(self) -> None:
        """Take the target and fill it from nothing."""
        self.link.open()
        self.start_over()

    def start_over(self) -> None:
        """Read the database anew: its target is emptied first."""
        self.link.send(_FLUSH)
        self.mark["state"] = "copying"
        self.remark()
        self.reader.close()
        self.reader = self._reader(self.limits)
        self._asked, self.snapshot, self._watermark = False, True, 0
        self.dirty.clear()
        self.ahead.clear()
        self._ahead.clear()
        self.keys = 0
        self.starts += 1

    def remark(self) -> None:
        """The mark comes down the link; before 7.0 it is a user, whom a replica keeps by itself."""
        if self.target.version >= (7, 0):
            self.link.send(pack_command([b"FUNCTION", b"LOAD", b"REPLACE", marks.library(self.mark).encode()]))

    def mend(self) -> None:
        """Take the target again where the link is broken or what it holds cannot be relied on."""
        self.link.close()
        self.target = self.route.open()
        self.link = Link(self.target)
        self._points.clear()
        self.applied = 0
        self.begin()

    # -- the feed -------------------------------------------------------------------------------------------------------

    def take(self, effects: t.Sequence[commands.Effect], unit: Unit) -> None:
        """A command, or a transaction, on this database."""
        if any(one.how in ("flush", "flushall", "swap") for one in effects):
            return self._emptied(effects, unit)
        writes = [key for one in effects for key in one.writes]
        if not writes:
            return None
        self.written = unit.end
        touched = {key for one in effects for key in (*one.writes, *one.reads)}
        exact = all(one.how == "apply" for one in effects if one.writes)
        if (
            exact
            and not self.snapshot
            and self.link.queued < self.queue_bytes
            and not any(key in self.dirty or self.ahead.get(key, -1) >= unit.end for key in touched)
        ):
            data = b"".join([pack_command(one.words) for one in effects if one.writes])
            if unit.transaction and len(effects) > 1:
                data = b"*1\r\n$5\r\nMULTI\r\n" + data + b"*1\r\n$4\r\nEXEC\r\n"
            self.link.send(data)
            self.commands += 1
            return None
        return self.spoil(writes, unit.end)

    def spoil(self, keys: t.Iterable[bytes], offset: int) -> None:
        """These keys were written at this offset, and the target does not have it, unless a dump does."""
        for key in keys:
            if key in self.dirty or self.ahead.get(key, -1) < offset:
                self.dirty[key] = offset

    def _emptied(self, effects: t.Sequence[commands.Effect], unit: Unit) -> None:
        if self.snapshot or any(one.how == "swap" for one in effects):
            return self.start_over()
        self.link.send(_FLUSH)
        self.dirty.clear()
        # What was dumped behind this point has just been wiped off the target; and the order within a transaction is lost.
        late = [key for key, watermark in self.ahead.items() if watermark >= unit.end]
        self.ahead.clear()
        self._ahead.clear()
        self.spoil([*late, *(key for one in effects for key in one.writes)], unit.end)
        return None

    # -- the database ---------------------------------------------------------------------------------------------------

    def work(self, position: int) -> None:
        """One page of the snapshot, or some of what is dirty. ``position`` is how far the feed has come."""
        while self._ahead and self._ahead[0][0] <= position:
            watermark, keys = self._ahead.popleft()
            for key in keys:
                if self.ahead.get(key) == watermark:
                    del self.ahead[key]
        if self.link.queued > self.queue_bytes // 2:
            return
        if self.snapshot:
            self._page(position)
        elif self.dirty:
            self._dump_again(position)
        elif self.mark["state"] != "mirrored":
            # For the first time, or again after it had to start over.
            self.mark["state"] = "mirrored"
            self.remark()

    def _page(self, position: int) -> None:
        if not self.reader.more and not self._asked:
            # Until the feed has come up to the last page, what it tells is in a page already.
            self.snapshot = position < self._watermark
            return
        if not self._asked:
            self.reader.ask()
        page = self.reader.answer()
        self._asked = self.reader.more
        if self._asked:
            self.reader.ask()
        self._watermark = max(self._watermark, page.offset)
        self._send(page)
        self.spoil(page.big, page.offset)
        self.keys += len(page.keys) + len(page.strings)

    def _dump_again(self, position: int) -> None:
        rest = [key for key, _n in zip(self.dirty, range(_BATCH))]
        while rest:
            self.reader.ask(rest)
            page = self.reader.answer()
            asked, rest = set(rest) - set(self.reader.rest), self.reader.rest
            for key in page.big:
                whole = self._whole.named([key])
                self._settle(whole, {key}, position)
            self._settle(page, asked - set(page.big), position)

    def _settle(self, page: Page, asked: set[bytes], position: int) -> None:
        """A dump of ``asked`` has come: what it does not hold is gone."""
        gone = asked.difference(key for key, _value, _at in (*page.keys, *page.strings))
        if gone:
            self.link.send(pack_command([b"DEL", *sorted(gone)]))
        self._send(page)
        for key in asked:
            self.dirty.pop(key, None)
            if page.offset > position:
                self.ahead[key] = page.offset
        if page.offset > position:
            self._ahead.append((page.offset, list(asked)))
        self.again += len(asked)

    def _send(self, page: Page) -> None:
        data = pack(page.keys) + pack_strings(page.strings)
        if data:
            self.link.send(data)
            self.bytes += len(data)

    # -- how far it is --------------------------------------------------------------------------------------------------

    def note(self, position: int) -> None:
        """The feed has come to ``position``, and all of it is on the link or dirty."""
        if not self._points or self._points[-1][1] != position:
            self._points.append((self.link.offset, position))
        while self._points and self._points[0][0] <= self.link.acknowledged:
            self.applied = self._points.popleft()[1]

    def facts(self, position: int) -> dict[str, t.Any]:
        return {
            "purpose": self.route.purpose,
            "phase": "snapshot" if self.snapshot else "dumping again" if self.dirty else "following",
            "keys": self.keys,
            "bytes": self.bytes,
            "dirty": len(self.dirty),
            "commands": self.commands,
            "dumped_again": self.again,
            "lag_bytes": max(0, position - self.applied),
            "starts": self.starts,
        }

    def close(self) -> None:
        self.reader.close()
        self._whole.close()
        self.link.close()


class Mirror:
    """``start``, then ``step`` for as long as it is to follow; ``in_step`` tells that every target has all there is."""

    def __init__(
        self,
        source_options: t.Mapping[str, t.Any],
        routes: t.Sequence[Route],
        limits: Limits | None = None,
        queue_bytes: int = 64 << 20,
    ):
        self.source = Server(source_options)
        self.feed = Feed(self.source, "untangle-mirror")
        limits = limits or Limits()
        self.lanes = [
            Lane(Server(source_options, route.database), route, self._mark(route), limits, queue_bytes)
            for route in routes
        ]
        self._acknowledged = 0.0

    def _mark(self, route: Route) -> dict[str, t.Any]:
        return {
            "state": "copying",
            "source": self.source.address,
            "database": route.database,
            "purpose": route.purpose,
        }

    def start(self, wait: t.Callable[[float], None] = lambda seconds: None) -> None:
        # Before the first page: from here on nothing that is written is missed.
        self.feed.attach(wait)
        for lane in self.lanes:
            lane.begin()

    def step(self, seconds: float = 0.05) -> None:
        """One turn: what the feed has, then some of what each database owes. Waits for up to ``seconds`` where nothing is due."""
        if not any(lane.snapshot or lane.dirty for lane in self.lanes):
            busy = [lane.link for lane in self.lanes if lane.link.queued]
            select.select([self.feed.socket, *(lane.link for lane in self.lanes)], busy, [], seconds)
        try:
            units = self.feed.read()
        except ConnectionError:
            return self._reconnect()
        for unit in units:
            self._take(unit)
        position = self.feed.position
        for lane in self.lanes:
            lane.work(position)
            lane.note(position)
            lane.link.pump()
        now = time.monotonic()
        if now - self._acknowledged > 0.5:
            self._acknowledged = now
            for lane in self.lanes:
                # a target acknowledges by itself every second; a sign of life brings its word up to date
                lane.link.send(b"*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n")
            try:
                self.feed.acknowledge(min(lane.applied for lane in self.lanes) or position)
            except ConnectionError:
                return self._reconnect()
        return None

    def _reconnect(self) -> None:
        try:
            self.feed.resume()
        except Lost:
            self.feed.attach()
            for lane in self.lanes:
                lane.start_over()

    def _take(self, unit: Unit) -> None:
        by_database: dict[int, list[commands.Effect]] = {}
        lanes = {lane.route.database: lane for lane in self.lanes}
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
            if effect.how == "swap":
                continue
            if effect.how == "flushall":
                for number in lanes:
                    by_database.setdefault(number, []).append(effect)
                continue
            if effect.how == "unknown" and lane:
                raise UntangleError(
                    "%s: %s was used on database %d of %s, and this version does not know which keys it writes. The mirror has "
                    "stopped; the shared server serves as before. Use redis_split_strategy: copy for this split."
                    % (lane.route.purpose, words[0].decode(errors="replace").upper(), database, self.source.address)
                )
            by_database.setdefault(database, []).append(effect)
        if unit.transaction and len(by_database) > 1:
            torn = [lanes[number].route.purpose for number in by_database if number in lanes]
            if torn and not any(one.how == "flushall" for effects in by_database.values() for one in effects):
                raise UntangleError(
                    "%s: a transaction at %s wrote to databases %s at once, which two instances cannot do. The mirror has stopped; "
                    "the shared server serves as before. Change the application, or leave these purposes on one server."
                    % (", ".join(torn), self.source.address, ", ".join(map(str, sorted(by_database))))
                )
        for number, effects in by_database.items():
            if number in lanes:
                lanes[number].take(effects, unit)

    def mend(self) -> None:
        """Start over the routes whose targets are not what they were."""
        for lane in self.lanes:
            try:
                lane.link.pump()
                lane.link.check()
            except Broken:
                lane.mend()

    def wrote_after(self, offset: int) -> bool:
        """Whether the feed brought a write to one of the routes behind this offset."""
        self.step(0.0)
        return any(lane.written > offset for lane in self.lanes)

    def in_step(self) -> bool:
        return all(not lane.snapshot and not lane.dirty for lane in self.lanes)

    def catch_up(self, offset: int, seconds: float = 60.0) -> None:
        """Follow until every target has run what the source had written at ``offset``, and refused none of it."""
        end = time.monotonic() + seconds
        while self.feed.position < offset or not self.in_step():
            if time.monotonic() > end:
                raise UntangleError(
                    "%s: not in step after %d s (%s)."
                    % (self.source.address, seconds, [lane.facts(self.feed.position) for lane in self.lanes])
                )
            self.step(0.001)
        for lane in self.lanes:
            lane.link.barrier(max(1.0, end - time.monotonic()))

    def facts(self) -> dict[str, t.Any]:
        return {
            "position": self.feed.position,
            "replid": self.feed.replid,
            "restarts": self.feed.restarts,
            "purposes": {lane.route.purpose: lane.facts(self.feed.position) for lane in self.lanes},
        }

    def close(self) -> None:
        self.feed.detach()
        for lane in self.lanes:
            lane.close()


__all__ = ["Broken", "Lane", "Mirror"]
