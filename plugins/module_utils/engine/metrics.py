# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mirror's figures as a file that node_exporter reads: metrics/mirror.prom below the state directory, where somebody made metrics/.

As text, since managed hosts have no prometheus_client: its format is a line per figure.
"""

from __future__ import annotations

import contextlib
import os
import time
import typing as t

from .state import write_atomically

#: Seconds between two; who scrapes more often gets the same again.
SECONDS = 1.0
#: A figure of a purpose, its type, and what it tells.
PURPOSE = (
    ("lag_seconds", "gauge", "Age of the oldest write that the target has not run."),
    ("lag_bytes", "gauge", "What the target has not run, in bytes of the source's replication stream."),
    ("dirty", "gauge", "Keys that are to be dumped again."),
    ("keys", "gauge", "Keys that were brought."),
    ("commands", "counter", "Commands that were passed on."),
    ("starts", "counter", "How often the database was read from its beginning."),
)
_HALTED = ("stopped", "waiting for its source", "waiting for its target", "waiting for its server")


def text(mirror: t.Mapping[str, t.Any], now: float) -> str:
    """``mirror`` as ``Work.facts`` has it."""
    purposes: t.Mapping[str, t.Mapping[str, t.Any]] = mirror["purposes"]
    lines = list[str]()
    for name, kind, what in PURPOSE:
        full = "untangle_mirror_%s%s" % (name, "_total" if kind == "counter" else "")
        values = [(purpose, facts[name]) for purpose, facts in purposes.items() if name in facts]
        lines += _figure(full, kind, what, [('purpose="%s"' % _quoted(purpose), value) for purpose, value in values])
    halted = []
    for purpose, facts in purposes.items():
        # one that follows back has a word of its own for it
        phase = "waiting for its source" if mirror.get("away") and "away" not in facts else facts["phase"]
        halted.append(('purpose="%s",phase="%s"' % (_quoted(purpose), phase), int(phase in _HALTED)))
    lines += _figure("untangle_mirror_halted", "gauge", "Whether a purpose is not kept in step just now.", halted)
    lines += _figure("untangle_mirror_time_seconds", "gauge", "When the mirror last said so.", [("", round(now, 1))])
    return "".join(line + "\n" for line in lines)


def _figure(name: str, kind: str, what: str, values: t.Sequence[tuple[str, t.Any]]) -> list[str]:
    if not values:
        return []
    found = ["%s%s %s" % (name, "{%s}" % labels if labels else "", value) for labels, value in values]
    return ["# HELP %s %s" % (name, what), "# TYPE %s %s" % (name, kind), *found]


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Metrics:
    def __init__(self, state_directory: str) -> None:
        self.path = os.path.join(state_directory, "metrics", "mirror.prom")
        self._written = 0.0

    def write(self, facts: t.Callable[[], t.Mapping[str, t.Any]]) -> None:
        """``facts`` is asked where it is time."""
        if time.monotonic() - self._written < SECONDS or not os.path.isdir(os.path.dirname(self.path)):
            return
        self._written = time.monotonic()
        # A full disk is no reason to end a mirror.
        with contextlib.suppress(OSError):
            write_atomically(self.path, text(facts(), time.time()), 0o644)

    def forget(self) -> None:
        """A mirror that was ended is not one that is behind."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
