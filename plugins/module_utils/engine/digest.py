# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a database holds, in a few numbers: so that it can be told much later whether anybody has written to it.

Each number is a sum over keys, whatever their order. Keys that expire are summed by the time at which they do: once a span has
begun, some of its keys are gone and its sum says nothing more.
"""

from __future__ import annotations

import typing as t
import zlib

HOUR = 3_600_000

#: Behind so many hours a sum is one of a day: a year of expiries must not make a file of thousands of lines.
HOURS = 100

_MASK = (1 << 64) - 1


class Digest:
    """``add`` every key as a ``snapshot.Reader`` of ``what`` (digest | meaning) gives it. ``since`` is when it is made, in ms."""

    def __init__(self, since: int, what: str, spans: t.Sequence[int] = (HOUR, 24 * HOUR)) -> None:
        self.since, self.what, self.spans = since, what, spans
        self.sums: dict[str, int] = {}

    def add(self, key: bytes, digest: bytes, at: int) -> None:
        span = self.spans[at - self.since > HOURS * HOUR] if at else 0
        where = "%d+%d" % (at - at % span, span) if at else "kept"
        # Writers are shut out while this runs: a good hash would take four times as long, and nobody forges a sum here. The
        # product binds a value to its key: of checksums alone two that change places would add up to the same.
        name = zlib.crc32(key)
        self.sums[where] = (self.sums.get(where, 0) + zlib.crc32(digest, name) * (name | 1) + at) & _MASK

    def facts(self) -> dict[str, t.Any]:
        """What ``differs`` takes, as JSON has it."""
        sums = {where: "%x" % number for where, number in self.sums.items()}
        return {"since": self.since, "what": self.what, "sums": sums}


def differs(one: t.Mapping[str, t.Any], other: t.Mapping[str, t.Any], clock: int) -> bool:
    """Whether one database cannot have held both, the later of them read until ``clock`` (unix ms)."""
    return any(
        one["sums"].get(where) != other["sums"].get(where)
        for where in {*one["sums"], *other["sums"]}
        if where == "kept" or int(where.partition("+")[0]) > clock
    )
