# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A route: one source database on its way to one target, where it stands, and what must hold before it is touched."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import typing as t

from .. import connection
from ..errors import UntangleError
from . import compare, marks
from .server import Server
from .state import State


@dataclasses.dataclass
class Route:
    """``target`` is a connection; ``purpose`` names both what the database is for and the instance that will serve it."""

    purpose: str
    database: int
    target: dict[str, t.Any]
    target_database: int = 0

    @property
    def where(self) -> str:
        return connection.address(self.target)

    def open(self) -> Server:
        return Server(self.target, self.target_database, "the target of " + self.purpose)


def routes(raw: t.Sequence[t.Mapping[str, t.Any]]) -> list[Route]:
    """Routes from module options. Two of them must not share a database, a purpose or a target."""
    found = [
        Route(str(r["purpose"]), int(r["database"]), dict(r["target"]), int(r.get("target_database") or 0)) for r in raw
    ]
    for what, values in (
        ("database", [str(r.database) for r in found]),
        ("purpose", [r.purpose for r in found]),
        ("target", ["%s/%d" % (r.where, r.target_database) for r in found]),
    ):
        twice = sorted({v for v in values if values.count(v) > 1})
        if twice:
            raise UntangleError("Two routes have the same %s: %s. Correct routes." % (what, ", ".join(twice)))
    return found


def standing(source: Server, target: Server, route: Route, state: State) -> str:
    """Where a purpose stands: planned, copying, copied, cut_over, returned or retired.

    Three witnesses say that it has moved, and any one is enough: the target's mark, the source's mark, split.json. The one
    exception is a target that says it was returned: that is written when the way back is complete.

    A target that belongs to another split is refused, and so is one to which this database has not moved, though it moved.
    """
    mark = marks.read_target(target) or {}
    noted = state.purpose(route.purpose)
    if mark and (mark.get("source"), mark.get("database")) != (source.address, route.database):
        raise UntangleError(
            "%s: %s is marked as the target of database %s of %s (%s). Give the purpose another port, or roll that split back."
            % (route.purpose, route.where, mark.get("database"), mark.get("source"), mark.get("state"))
        )
    if mark.get("state") == "returned":
        return "returned"
    if mark.get("state") == "serving":
        return "retired" if noted.get("state") == "retired" else "cut_over"
    moved = (marks.is_moved(source, route.database) or "").rpartition("@")[2]
    if not moved and noted.get("state") in ("cut_over", "retired"):
        moved = str(noted.get("target") or route.where)
    if moved and moved != route.where:
        raise UntangleError(
            "%s: database %d of %s has moved to %s, not to %s, which the plan names. Name the instance that serves, or go back "
            "first." % (route.purpose, route.database, source.address, moved, route.where)
        )
    if moved:
        return "retired" if noted.get("state") == "retired" else "cut_over"
    return str(mark.get("state") or "planned")


def check(source: Server, target: Server, route: Route) -> None:
    """What must hold before the first key is copied."""
    look(source, target, route)
    if marks.read_target(target) is None and not target.size():
        # Not where somebody else's keys are: those stay untouched, and at its limit a cache would evict for it.
        canary(source, target, route)


def look(source: Server, target: Server, route: Route) -> None:
    """What can be known about a pair of servers by reading alone."""
    if target.run_id == source.run_id:
        raise UntangleError(
            "%s: the target %s is the source itself. Give the purpose a port of its own." % (route.purpose, route.where)
        )
    for server in (source, target):
        if int(server.info("cluster").get("cluster_enabled") or 0):
            raise UntangleError(
                "%s is a Redis Cluster, which has no logical databases. Name a standalone server." % server.address
            )
    if str(target.info("replication").get("role")) != "master":
        raise UntangleError("%s: %s is a replica and takes no writes. Name its master." % (route.purpose, route.where))
    skew = abs(source.time_ms() - target.time_ms())
    if skew > 2000:
        raise UntangleError(
            "The clocks of %s and %s differ by %.1f s, and expiry is kept as points in time: keys would live longer or shorter. "
            "Set the clocks (NTP), then run again." % (source.address, route.where, skew / 1000.0)
        )


def canary(source: Server, target: Server, route: Route) -> None:
    """Restore one payload of the source on the target: the server knows better than any table which versions it takes."""
    cursor: t.Any = "0"
    names: list[bytes] = []
    while not names:
        cursor, names = source.raw("SCAN", cursor, "COUNT", 100)
        if cursor == b"0":
            break
    if not names:
        return
    # The smallest of some: dumping a key of any size would hold the source up.
    sizes = source.batch([("MEMORY", "USAGE", name, "SAMPLES", 1) for name in names])
    payload = source.run("DUMP", min(zip(sizes, names), key=lambda x: x[0] or 2**63)[1])
    if payload is None:
        return
    name = b"untangle:canary:" + os.urandom(8).hex().encode()
    try:
        # At once: of a process that is killed between the two a key would stay, and look like somebody's.
        target.batch([("MULTI",), ("RESTORE", name, 60000, payload), ("UNLINK", name), ("EXEC",)])
    except UntangleError as exc:
        if "payload version or checksum" in exc.message or "Bad data format" in exc.message:
            raise UntangleError(
                "%s: %s is %s %s and does not take the data format of %s %s at %s. Run an image or package of at least that "
                "version for this purpose." % (
                    route.purpose, route.where, target.flavour, target.release, source.flavour, source.release, source.address,
                )
            ) from exc  # fmt: skip
        if "maxmemory" not in exc.message:
            raise


@contextlib.contextmanager
def unbounded(target: Server, mark: t.MutableMapping[str, t.Any]) -> t.Iterator[None]:
    """The target without memory limit and eviction while it is filled; its own values afterwards, whatever happens.

    They are kept in the mark, so that they come back even when this process does not end by itself.
    """
    # Where a broken-off run left its own values, those in the mark are the target's; any other was set by somebody since.
    for name, ours in (("maxmemory", "0"), ("maxmemory-policy", "noeviction")):
        running = target.config(name)
        if name not in mark or running != ours:
            mark[name] = running
    marks.write_target(target, mark)
    target.run("CONFIG", "SET", "maxmemory-policy", "noeviction")
    target.run("CONFIG", "SET", "maxmemory", "0")
    try:
        yield
    except BaseException:
        if not over_limit(target, mark):
            restore_limits(target, mark)
            marks.write_target(target, mark)
        raise
    if over_limit(target, mark):
        # Never below what is there: a cache would begin to evict what was just copied, a queue to refuse.
        raise UntangleError(
            "%s holds more than its maxmemory of %s bytes. Raise maxmemory of the purpose, provision it, and run again."
            % (target.address, mark.get("maxmemory"))
        )
    restore_limits(target, mark)


def over_limit(target: Server, mark: t.Mapping[str, t.Any]) -> bool:
    limit = int(mark.get("maxmemory") or 0)
    return bool(limit) and int(target.info("memory").get("used_memory") or 0) > limit


def restore_limits(target: Server, mark: t.MutableMapping[str, t.Any]) -> None:
    for name in ("maxmemory", "maxmemory-policy"):
        if mark.get(name) is not None:
            target.run("CONFIG", "SET", name, mark[name])
    mark.pop("maxmemory", None)
    mark.pop("maxmemory-policy", None)


def returned_whole(source: Server, target: Server, route: Route, limits: t.Any) -> None:
    """Refuse a target that was given back and has lost its fence since, if it differs: somebody may have written there.

    Users of an instance come from a file that the server may not write to, so a restart takes the fence away.
    """
    if (marks.read_target(target) or {}).get("state") != "returned" or marks.fenced(target) or not target.size():
        return
    kinds = compare.Comparer(source, target, limits).run().kinds
    other = sum(count for kind, count in kinds.items() if kind != "missing")
    if other:
        raise UntangleError(
            "%s: %s was restarted since the way back, or its users were loaded again, so it took writes, and %d of its keys are not what "
            "database %d of %s holds. Empty it if nothing there is wanted, then run again. Nothing was changed."
            % (route.purpose, route.where, other, route.database, source.address)
        )


def adopt(source: Server, target: Server, route: Route, limits: t.Any, progress: compare.Progress) -> bool:
    """Whether a target that holds keys and no mark may be taken as ours: only if it equals the source, key by key."""
    sizes = source.size(), target.size()
    if abs(sizes[0] - sizes[1]) * 100 > max(sizes):
        return False
    return compare.Comparer(source, target, limits, progress=progress).run().differences == 0
