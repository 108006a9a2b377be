# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proving that a target holds what its source database holds, and, when told to, making it so.

Both sides are read, both ways, by digests that do not depend on encodings; whatever these cannot settle is compared by meaning,
element by element. A difference is looked at again before it counts: a key that is written to
while both servers are read is no difference. Nor is one whose copy is what the source held a moment ago: a mirror that follows
a counter is never level with it. The pass of differences before a cutover is this comparison with ``repair``.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import time
import typing as t

from ..errors import UntangleError
from . import values
from .digest import Digest
from .server import Server
from .snapshot import Limits, Reader
from .target import TooOld, Writer

Progress = t.Callable[[int, int], None]

#: How often a difference is looked at before it counts, and how long after the first time it is looked at again (then twice as
#: long, and so on): a key that is written to all the time may be met half written more than once.
LOOKS, PAUSE_SECONDS = 6, 0.05

#: What still moves then is looked at for so long without a pause, to catch the source in the state in which the target is next.
QUICK_SECONDS = 5.0

#: How long a big key is read again to see whether it changes at all.
MOVING_SECONDS = 1.0

#: What a look sees of a key: digest and expiry in unix ms, or None where it is too big for a page, or ABSENT.
State = t.Optional[tuple[bytes, int]]
ABSENT: State = (b"", -1)


@dataclasses.dataclass
class Result:
    """``compared`` keys of both sides; ``kinds`` counts differences by name; ``examples`` are (kind, key), at most 1000."""

    compared: int = 0
    source_keys: int = 0
    target_keys: int = 0
    #: Keys over ``big_key_bytes`` that both sides write to all the time: they could not be compared.
    moving: int = 0
    repaired: int = 0
    bytes_sent: int = 0
    kinds: dict[str, int] = dataclasses.field(default_factory=dict)
    examples: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)
    sampled: bool = False
    seconds: float = 0.0
    #: Of a pass that repaired: what the source held (``digest.Digest``).
    digest: dict[str, t.Any] | None = None

    @property
    def differences(self) -> int:
        return sum(self.kinds.values())

    def add(self, kind: str, key: bytes) -> None:
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if len(self.examples) < 1000:
            self.examples.append((kind, key))

    def summary(self) -> dict[str, t.Any]:
        return {
            "compared": self.compared,
            "source_keys": self.source_keys,
            "target_keys": self.target_keys,
            "differences": self.differences,
            "kinds": dict(sorted(self.kinds.items())),
            "moving": self.moving,
            "repaired": self.repaired,
            "sampled": self.sampled,
            "seconds": round(self.seconds, 3),
        }


def excluded(key: bytes, exclude: t.Sequence[str]) -> bool:
    """Whether a key matches one of the patterns that stay behind, by the rules of SCAN's MATCH."""
    return any(_glob(pattern).fullmatch(key) for pattern in exclude)


@functools.cache
def _glob(pattern: str) -> re.Pattern[bytes]:
    """The server's own glob: bytes, ``^`` negates a class, a backslash makes the next byte plain, also inside a class."""
    signs, parts, i = pattern.encode(), list[bytes](), 0
    while i < len(signs):
        sign = signs[i : i + 1]
        i += 1
        if sign == b"*":
            parts.append(b".*")
        elif sign == b"?":
            parts.append(b".")
        elif sign == b"\\" and i < len(signs):
            parts.append(re.escape(signs[i : i + 1]))
            i += 1
        elif sign == b"[":
            negated = signs[i : i + 1] == b"^"
            i += negated
            members = set[int]()
            while i < len(signs) and signs[i : i + 1] != b"]":
                if signs[i : i + 1] == b"\\" and i + 1 < len(signs):
                    members.add(signs[i + 1])
                    i += 2
                elif signs[i + 1 : i + 2] == b"-" and i + 2 < len(signs):
                    low, high = sorted((signs[i], signs[i + 2]))
                    members.update(range(low, high + 1))
                    i += 3
                else:
                    members.add(signs[i])
                    i += 1
            i += 1
            hits = b"".join(b"\\x%02x" % member for member in range(256) if (member in members) != negated)
            parts.append(b"[" + hits + b"]" if hits else b"(?!)")
        else:
            parts.append(re.escape(sign))
    return re.compile(b"".join(parts), re.DOTALL)


class Comparer:
    """One source database against one target database."""

    def __init__(
        self,
        source: Server,
        target: Server,
        limits: Limits | None = None,
        tolerance_ms: int = 0,
        sample: int | None = None,
        match: str | None = None,
        exclude: t.Sequence[str] = (),
        repair: bool = False,
        extras: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self.source, self.target = source, target
        self.limits = limits or Limits()
        self.tolerance_ms, self.sample = tolerance_ms, sample
        self.match, self.exclude = match, exclude
        self.repair, self.extras = repair, extras
        self.progress = progress or (lambda done, total: None)
        self.result = Result(sampled=sample is not None)
        self._suspects: set[bytes] = set()
        #: The states in which the source was seen since its keys are suspected.
        self._held: dict[bytes, set[State]] = {}
        self._big: set[bytes] = set()
        #: Whether the target refuses the source's payloads.
        self.older = False

    def run(self) -> Result:
        began = time.monotonic()
        self.result.source_keys, self.result.target_keys = self.source.size(), self.target.size()
        total = self.result.source_keys + (self.result.target_keys if self.extras else 0)
        self._forward(total)
        if self.extras:
            self._backward(total)
        self._settle()
        self.result.seconds = time.monotonic() - began
        return self.result

    def suspects(self) -> set[bytes]:
        """Keys that were not the same at the first look, on whichever side. Nothing is looked at again, and nothing repaired."""
        total = self.source.size() + self.target.size()
        self._forward(total)
        self._backward(total)
        found, self._suspects = self._suspects, set()
        return found

    def _forward(self, total: int) -> None:
        """Every key of the source must be there and be the same."""
        here, there = self._readers(self.match)
        digests = Digest(self.source.time_ms(), here.what) if self.repair else None
        try:
            for page in here.pages():
                wanted = [x for x in page.keys if not excluded(x[0], self.exclude)] if self.exclude else page.keys
                if wanted:
                    answer = there.named([key for key, _digest, _at in wanted])
                    have = {key: (digest, at) for key, digest, at in answer.keys}
                    for key, digest, at in wanted:
                        if digests:
                            digests.add(key, digest, at)
                        if have.get(key) != (digest, at) and not self._close_enough(have.get(key), digest, at):
                            self._suspect(key)
                for key in page.big:
                    if not excluded(key, self.exclude):
                        self._big.add(key)
                        self._suspect(key)
                self.result.compared += len(wanted) + len(page.big)
                self.progress(self.result.compared, total)
                if self.sample is not None and self.result.compared >= self.sample:
                    return
            if digests:
                self.result.digest = digests.facts()
        finally:
            here.close()
            there.close()

    def _readers(self, match: str | None = None) -> tuple[Reader, Reader]:
        """Both sides by digests that mean the same; where one of them runs no scripts, by those of the serialised bytes."""
        sides = Reader(self.source, self.limits, "meaning", match), Reader(self.target, self.limits, "meaning")
        if not all(side.sha for side in sides):
            for side in sides:
                side.what = "digest"
        return sides

    def _close_enough(self, have: tuple[bytes, int] | None, digest: bytes, at: int) -> bool:
        if have is None or have[0] != digest or bool(have[1]) != bool(at):
            return False
        return abs(have[1] - at) <= self.tolerance_ms

    def _backward(self, total: int) -> None:
        """No key of the target may be one that the source does not have."""
        there = Reader(self.target, self.limits, "exists", self.match)
        here = Reader(self.source, self.limits, "exists")
        seen = 0
        try:
            for page in there.pages():
                names = [key for key, _digest, _at in page.keys if not excluded(key, self.exclude)]
                if names:
                    found = {key for key, _digest, _at in here.named(names).keys}
                    for key in names:
                        if key not in found:
                            self._suspect(key)
                seen += len(page.keys)
                self.progress(min(total, self.result.compared + seen), total)
                if self.sample is not None and seen >= self.sample:
                    break
        finally:
            here.close()
            there.close()

    def _suspect(self, key: bytes) -> None:
        self._suspects.add(key)
        # Repairing as one goes keeps memory flat when much has changed.
        if self.repair and len(self._suspects) >= 5000:
            self._settle()

    def _settle(self) -> None:
        """Look again at what differed; repair it if told to, and look once more at what was repaired."""
        suspects, self._suspects, self._held = sorted(self._suspects), set(), {}
        if not suspects:
            return
        if self.repair:
            # Whatever is not equal byte for byte is sent again: that costs less than finding out whether it means the same.
            # Not so for big keys, most of which stand still.
            big = self._look([key for key in suspects if key in self._big])
            suspects = [key for key in suspects if key not in self._big] + [key for key, _kind in big]
            self.bring(suspects)
            self._big.clear()
        different = self._look(suspects)
        if self.repair and different:
            self._mend_whole([key for key, kind in different if kind not in ("extra", "missing")])
            different = self._look([key for key, _kind in different])
        for number in range(LOOKS - 1):
            if not different:
                return
            time.sleep(PAUSE_SECONDS * 2**number)
            different = self._look([key for key, _kind in different])
        end = time.monotonic() + QUICK_SECONDS
        while time.monotonic() < end:
            moving = [key for key, _kind in different if len(self._held[key]) > 1]
            if not moving:
                break
            caught = set(moving).difference(key for key, _kind in self._look(moving))
            different = [(key, kind) for key, kind in different if key not in caught]
        for key, kind in different:
            if (
                not self.repair
                and self._held[key] == {None}
                and self._moves(self.source, key)
                and self._moves(self.target, key)
            ):
                # Too big to be caught in one state of many.
                self.result.moving += 1
            else:
                self.result.add(kind, key)

    @staticmethod
    def _moves(server: Server, key: bytes) -> bool:
        """Whether a key changes while it is read: then it differs from itself."""
        end = time.monotonic() + MOVING_SECONDS
        while time.monotonic() < end:
            if values.differs(server, key, server):
                return True
        return False

    def _look(self, keys: t.Sequence[bytes]) -> list[tuple[bytes, str]]:
        """Which of these keys differ, and how. Pages answer for hundreds at once; only what they cannot settle is read by meaning."""
        sides: list[dict[bytes, State]] = []
        for reader in self._readers():
            try:
                page = reader.named(keys)
            finally:
                reader.close()
            sides.append({**{key: (digest, at) for key, digest, at in page.keys}, **dict.fromkeys(page.big)})
        here, there = sides
        found = []
        for key in keys:
            if key not in here and key not in there:
                continue
            held = self._held.setdefault(key, set())
            held.add(here.get(key, ABSENT))
            # Not where differences are being repaired: there the source has to have the last word.
            if not self.repair and there.get(key, ABSENT) in held - {None}:
                continue
            if key not in there:
                found.append((key, "missing"))
            elif key not in here:
                found.append((key, "extra"))
            elif here[key] is None or here[key] != there[key]:
                kind = values.differs(self.source, key, self.target, self.tolerance_ms)
                if kind:
                    found.append((key, kind))
        return found

    def bring(self, keys: t.Sequence[bytes]) -> None:
        """Make the target's copy of these keys what the source holds, or take them away."""
        try:
            rest = self._send_values(keys) if self.older else self._send(keys)
        except TooOld:
            # On the way back to an older server: it refuses payloads, but not commands.
            self.older = True
            rest = self._send_values(keys)
        gone = []
        for key in rest:
            sent = values.copy_in_chunks(self.source, key, self.target)
            self.result.bytes_sent += sent or 0
            if sent is None and values.kind(self.source, key) == "none":
                gone.append(key)
        self._take_away(gone)
        self.result.repaired += len(keys)

    def _send(self, keys: t.Sequence[bytes]) -> list[bytes]:
        """Send what is there as payloads, take away what is not. Returns the names of keys that are too big for that."""
        reader, writer = Reader(self.source, self.limits), Writer(self.target)
        gone, big = set(keys), list[bytes]()
        try:
            for page in reader.named_pages(keys):
                writer.send(page.keys)
                gone.difference_update(key for key, _payload, _at in page.keys)
                big += page.big
            writer.drain()
        finally:
            reader.close()
            writer.close()
            self.result.bytes_sent += writer.bytes
        self._take_away(sorted(gone.difference(big)))
        return big

    def _send_values(self, keys: t.Sequence[bytes]) -> list[bytes]:
        """The same by commands. Returns the names of keys that no single command makes."""
        reader = Reader(self.source, self.limits, "values")
        gone, rest = set(keys), list[bytes]()
        try:
            if reader.sha is None:
                return list(keys)
            for page in reader.named_pages(keys):
                todo = list[tuple[t.Any, ...]]()
                for key, (kind, items), at in page.values:
                    todo += values.commands(key, kind, items, at)
                    gone.discard(key)
                    self.result.bytes_sent += sum(map(len, items))
                self.target.batch(todo)
                rest += page.big
        finally:
            reader.close()
        self._take_away(sorted(gone.difference(rest)))
        return rest

    def _take_away(self, keys: t.Sequence[bytes]) -> None:
        for start in range(0, len(keys), 500):
            self.target.run("UNLINK", *keys[start : start + 500])

    def _mend_whole(self, keys: t.Sequence[bytes]) -> None:
        """What chunks cannot say goes as a whole, however big."""
        if self.older:
            return
        reader, writer = Reader(self.source, dataclasses.replace(self.limits, big_key_bytes=0)), Writer(self.target)
        try:
            writer.send(reader.named(keys).keys)
            writer.drain()
        finally:
            reader.close()
            writer.close()


def demand_equal(result: Result, source: Server, target: Server, purpose: str) -> None:
    """Raise the sentence that stops a run when a proof failed."""
    if result.differences:
        raise UntangleError(
            "%s: %s differs from database %s of %s in %d of %d keys (%s). Nothing was switched over. Run sync again; if it "
            "stays, someone writes to either side."
            % (
                purpose, target.address, source.database, source.address, result.differences, result.compared,
                ", ".join("%s: %d" % item for item in sorted(result.kinds.items())),
            )
        )  # fmt: skip
