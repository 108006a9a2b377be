# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One route of a mirror: what its target has, what of it must be dumped again, and when which was true."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import time
import typing as t

from ..errors import Away, UntangleError
from . import commands, marks, values
from .feed import Unit
from .link import Broken, Down, Link, Refused, pack_command
from .route import Route
from .server import Server
from .snapshot import Limits, Page, Reader
from .target import pack, pack_strings

#: Dirty keys asked for with one question.
_BATCH = 500
#: Seconds until a server that is away is tried again, and between two looks at a target that it is still what it was.
AGAIN_SECONDS, CHECK_SECONDS = 1.0, 5.0
#: A target that has not answered by then is not looked at.
ANSWER_SECONDS = 1.0
#: How often a big key that is written to all the while is put together from chunks, before it is dumped whole.
_TRIES = 3
#: What may wait for a target while a big key is sent to it, in bytes, and for how many seconds without any of it being taken.
_WAITING, _PATIENCE = 8 << 20, 5.0
#: The first byte of a stream's payload.
_STREAMS = (15, 19, 21)
_FLUSH = b"*1\r\n$8\r\nFLUSHALL\r\n"


class _Stuck(Exception):
    """The target takes nothing: the key stays dirty."""


class Lane:
    """One route: what its target has, what of it is dirty, and what is on its way."""

    #: Whether dumps are told apart by their offset; else a key is dirty that was written since it was asked for.
    exact = True

    def __init__(self, source: Server, route: Route, mark: t.Mapping[str, t.Any], limits: Limits, queue_bytes: int):
        self.source, self.route, self.limits, self.queue_bytes = source, route, limits, queue_bytes
        self.target = route.open()
        self.link = Link(self.target)
        self.mark = dict(mark)
        #: Why the target is not followed just now, and when it is tried again.
        self.lost: str | None = None
        self._retry = 0.0
        self._checked: tuple[float, int] = (0.0, 0)
        #: Key to the offset of the last write that its target may lack.
        self.dirty: dict[bytes, int] = {}
        #: Key to the watermark of a dump which the feed has not come up to yet.
        self.ahead: dict[bytes, int] = {}
        #: Key to the offset up to which a value that was read in chunks may hold some of its writes, and not others.
        self.mixed: dict[bytes, int] = {}
        self._passed: collections.deque[tuple[int, list[bytes]]] = collections.deque()
        #: How often a key was written to while it was read in chunks; and whether any key is read so.
        self._torn: collections.Counter[bytes] = collections.Counter()
        self._chunks = True
        #: Called while a big key is on its way: other links and the feed want to be looked after.
        self.breathe: t.Callable[[], None] = lambda: None
        #: Nothing more can be done for this route; ``lost`` says why.
        self.stopped = False
        #: Points of the link and of the feed that belong together: what the target acknowledges, in the feed's offsets.
        self._points: collections.deque[tuple[int, int, float]] = collections.deque()
        self.applied = 0
        #: Writes to this database that the feed has told of.
        self.written = 0
        #: Keys that change without a hint: streams, by their groups.
        self.silent: set[bytes] = set()
        self.keys = self.bytes = self.again = self.commands = self.starts = 0
        self.reader: Reader | None = None
        self._whole: Reader | None = None
        self._watermark = 0
        self._asked = False
        self.snapshot = True
        self.dialect = self._dialect()

    def _dialect(self) -> commands.Dialect:
        info = self.source.info("keyspace").get("db%d" % self.route.database) or {}
        return commands.dialect(self.source.flavour, self.source.version, bool(int(info.get("subexpiry") or 0)))

    def _reader(self, limits: Limits) -> Reader:
        # SET cannot say when a key ends before 6.2
        reader = Reader(self.source, limits, "copy" if self.target.version >= (6, 2) else "dump")
        if reader.sha is None and self.exact:
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
        self.hang_up()
        # Another database may have taken this one's place, with fields that expire.
        self.dialect.field_expiry = True
        with contextlib.suppress(Away):
            self.dialect = self._dialect()
        self._asked, self.snapshot, self._watermark = False, True, 0
        for known in (self.dirty, self.ahead, self.mixed, self._passed, self._torn):
            known.clear()
        self.keys = 0
        self.starts += 1

    def remark(self) -> None:
        """The mark comes down the link; before 7.0 it is a user, whom a replica keeps by itself."""
        if self.target.version >= (7, 0):
            self.link.send(pack_command([b"FUNCTION", b"LOAD", b"REPLACE", marks.library(self.mark).encode()]))

    def hang_up(self) -> None:
        """Forget the connections on which the database is read: they are made anew."""
        for reader in (self.reader, self._whole):
            if reader is not None:
                reader.close()
        self.reader = self._whole = None
        self._asked = False

    def lose(self, why: Away) -> None:
        """The target is not what it was: what it holds cannot be relied on, and nothing is sent to it for now."""
        self.lost, self._retry = why.message, time.monotonic()
        # A dump can be refused by no target that has taken others.
        self._chunks = self._chunks and not isinstance(why, Refused)
        self.link.close()
        self._points.clear()
        self.applied = 0

    def restore(self) -> None:
        """Take the target again, and fill it from nothing. One that is away is tried again later."""
        if time.monotonic() < self._retry:
            return
        self._retry = time.monotonic() + AGAIN_SECONDS
        try:
            self.target = self.route.open()
            demand_ours(self.source, self.target, self.route, self.mark)
            self.link = Link(self.target)
            self.begin()
        except (Away, Broken):
            return
        self.lost = None

    def stop(self, why: str) -> None:
        """The target is left as it is, a copy that nobody keeps in step. One that is not ours is not touched."""
        ours, self.lost, self.stopped = not self.lost, why, True
        self.hang_up()
        if ours:
            self.mark["state"] = "copying"
            with contextlib.suppress(UntangleError):
                self.link.promote()
                marks.write_target(self.target, self.mark)
        self.link.close()
        self._points.clear()

    def go_on(self) -> None:
        """Try again what was stopped."""
        self.stopped, self._retry = False, 0.0

    # -- the feed -------------------------------------------------------------------------------------------------------

    def take(self, effects: t.Sequence[commands.Effect], unit: Unit) -> None:
        """A command, or a transaction, on this database."""
        if self.lost:
            # It starts from nothing.
            self.written += 1
            return None
        if any(one.how in ("flush", "flushall", "swap") for one in effects):
            self.written += 1
            return self._emptied(effects, unit)
        writes = [key for one in effects for key in one.writes]
        if not writes:
            return None
        self.written += 1
        touched = {key for one in effects for key in (*one.writes, *one.reads)}
        exact = all(one.how == "apply" for one in effects if one.writes)
        if exact and self._follows(touched, unit.end):
            data = b"".join([pack_command(one.words) for one in effects if one.writes])
            if unit.transaction and len(effects) > 1:
                data = b"*1\r\n$5\r\nMULTI\r\n" + data + b"*1\r\n$4\r\nEXEC\r\n"
            self.link.send(data)
            self.commands += 1
            return None
        return self.spoil(writes, unit.end)

    def take_plain(self, words: commands.Words, end: int) -> None:
        """A command on one key that may be applied as it comes."""
        self.written += 1
        if self.lost:
            return
        if self._follows(words[1:2], end):
            self.link.send(pack_command(words))
            self.commands += 1
        else:
            self.spoil(words[1:2], end)

    def _follows(self, keys: t.Iterable[bytes], end: int) -> bool:
        """Whether the target holds these keys as they were before what ends there."""
        if not self.exact or self.snapshot or self.link.queued >= self.queue_bytes:
            return False
        return not any(
            key in self.dirty or self.ahead.get(key, -1) >= end or self.mixed.get(key, -1) >= end for key in keys
        )

    def spoil(self, keys: t.Iterable[bytes], offset: int) -> None:
        """These keys were written at this offset, and the target does not have it, unless a dump does."""
        for key in keys:
            if key in self.dirty or self.ahead.get(key, -1) < offset:
                self.dirty[key] = offset
                if self.mixed.get(key, -1) >= offset:
                    self._torn[key] += 1

    def _emptied(self, effects: t.Sequence[commands.Effect], unit: Unit) -> None:
        if self.snapshot or any(one.how == "swap" for one in effects):
            return self.start_over()
        self.link.send(_FLUSH)
        self.dirty.clear()
        # What was dumped behind this point has just been wiped off the target; and the order within a transaction is lost.
        late = [key for known in (self.ahead, self.mixed) for key, offset in known.items() if offset >= unit.end]
        for known in (self.ahead, self.mixed, self._passed):
            known.clear()
        self.spoil([*late, *(key for one in effects for key in one.writes)], unit.end)
        return None

    # -- the database ---------------------------------------------------------------------------------------------------

    def work(self, position: int) -> None:
        """One page of the snapshot, or some of what is dirty. ``position`` is how far the feed has come."""
        while self._passed and self._passed[0][0] <= position:
            offset, keys = self._passed.popleft()
            for known, key in itertools.product((self.ahead, self.mixed), keys):
                if known.get(key) == offset:
                    del known[key]
        if self.lost:
            return self.restore()
        if self.link.queued > self.queue_bytes // 2:
            return None
        try:
            if self.snapshot:
                self._page(position)
            elif self.dirty:
                self._dump_again(position)
        except Away:
            if self.snapshot:
                # A cursor is good for one life of one server.
                self.start_over()
            self.hang_up()
            raise
        if self.snapshot or self.dirty:
            return None
        if self.mark["state"] != "mirrored":
            # For the first time, or again after it had to start over.
            self.mark["state"] = "mirrored"
            self.remark()
        return None

    def _page(self, position: int) -> None:
        reader = self.reader = self.reader or self._reader(self.limits)
        if not reader.more and not self._asked:
            # Until the feed has come up to the last page, what it tells is in a page already.
            self.snapshot = position < self._watermark
            return
        if not self._asked:
            reader.ask()
        page = self._told(reader.answer())
        self._asked = reader.more
        if self._asked:
            reader.ask()
        self._watermark = max(self._watermark, page.offset)
        self._send(page)
        self.spoil(page.big, page.offset)
        self.keys += len(page.keys) + len(page.strings)

    def _dump_again(self, position: int) -> None:
        reader = self.reader = self.reader or self._reader(self.limits)
        rest = list(itertools.islice(self.dirty, _BATCH))
        while rest:
            reader.ask(rest)
            page = self._told(reader.answer())
            asked, rest = set(rest) - set(reader.rest), reader.rest
            for key in page.big:
                if self._chunks and self._torn[key] < _TRIES:
                    self._put_together(key, position)
                    continue
                self._whole = self._whole or self._reader(dataclasses.replace(self.limits, big_key_bytes=0))
                self._settle(self._told(self._whole.named([key])), {key}, position)
            self._settle(page, asked - set(page.big), position)

    def _put_together(self, key: bytes, position: int) -> None:
        """A big key, chunk by chunk. What is written to it meanwhile is in it or not: any such write makes it dirty again."""
        since = self.source.offset() if self.exact else 0
        try:
            if values.copy_in_chunks(self.source, key, t.cast(Server, Down(self.link, self._make_way))) is None:
                self.link.send(pack_command([b"DEL", key]))
        except _Stuck:
            return
        self.dirty.pop(key, None)
        self.again += 1
        if self.exact:
            self.mixed[key] = self.source.offset()
            if since > position:
                self.ahead[key] = since
                self._passed.append((since, [key]))
            self._passed.append((self.mixed[key], [key]))

    def _make_way(self) -> None:
        """Wait where the target does not take as fast as the source gives, and see to what cannot wait."""
        self.breathe()
        queued, end = self.link.queued, time.monotonic() + _PATIENCE
        while not self.lost and self.link.queued > _WAITING:
            time.sleep(0.002)
            self.breathe()
            if self.link.queued < queued:
                queued, end = self.link.queued, time.monotonic() + _PATIENCE
            if time.monotonic() > end:
                raise _Stuck
        if self.lost:
            raise _Stuck

    def _told(self, page: Page) -> Page:
        if not self.exact:
            page.offset = 0
            self.silent.update(key for key, payload, _at in page.keys if payload[0] in _STREAMS)
        return page

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
            self._passed.append((page.offset, list(asked)))
        self.again += len(asked)

    def _send(self, page: Page) -> None:
        data = pack(page.keys) + pack_strings(page.strings)
        if data:
            self.link.send(data)
            self.bytes += len(data)

    # -- how far it is --------------------------------------------------------------------------------------------------

    def note(self, position: int) -> None:
        """The feed has come to ``position``, and all of it is on the link or dirty."""
        if self.lost:
            return
        if position != (self._points[-1][1] if self._points else self.applied):
            self._points.append((self.link.offset, position, time.monotonic()))
        while self._points and self._points[0][0] <= self.link.acknowledged:
            self.applied = self._points.popleft()[1]

    def pump(self) -> None:
        """Move bytes, and see from time to time that the target is still what it was. Raises ``Broken``."""
        if self.lost:
            return
        self.link.pump()
        (checked, acknowledged), clock = self._checked, time.monotonic()
        # One that answers nothing would keep all of us waiting.
        if clock - checked > CHECK_SECONDS and self.link.acknowledged > acknowledged:
            self._checked = clock, self.link.acknowledged
            try:
                if self.target.answers(ANSWER_SECONDS):
                    self.link.check()
            except Broken:
                raise
            except Away:
                # The link itself says when it is gone.
                pass

    @property
    def lag_seconds(self) -> float:
        """How long ago the oldest write came that the target has not acknowledged."""
        return time.monotonic() - self._points[0][2] if self._points else 0.0

    def facts(self, position: int) -> dict[str, t.Any]:
        return {
            "purpose": self.route.purpose,
            "phase": "stopped"
            if self.stopped
            else "waiting for its target"
            if self.lost
            else "snapshot"
            if self.snapshot
            else "dumping again"
            if self.dirty
            else "following",
            "keys": self.keys,
            "bytes": self.bytes,
            "dirty": len(self.dirty),
            "commands": self.commands,
            "dumped_again": self.again,
            "lag_bytes": max(0, position - self.applied),
            "lag_seconds": round(self.lag_seconds, 1),
            "starts": self.starts,
            "because": self.lost,
        }

    def close(self) -> None:
        self.hang_up()
        self.link.close()


def demand_ours(source: Server, target: Server, route: Route, mark: t.Mapping[str, t.Any]) -> None:
    """Becoming a replica wipes a target: only where it is the one that we have filled, or holds nothing."""
    found = marks.read_target(target)
    if found is None and not target.size():
        return
    if found and found.get("state") in ("copying", "mirrored"):
        same = all(found.get(name) == mark[name] for name in ("source", "database", "purpose"))
        # Our name may not have been on its disk yet: then it comes back with that of an engine before us, or with none.
        engine = str(found.get("engine"))
        if same and (engine == mark["engine"] or not marks.follows(source, engine)):
            return
    raise UntangleError(
        "%s: %s came back with %s, which is not this mirror's copy. Nothing of it was changed. Empty it, or give the purpose another "
        "port, then run sync again."
        % (route.purpose, route.where, "the mark %s" % found.get("state") if found else "%d keys" % target.size())
    )
