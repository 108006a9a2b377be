# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The copy: a snapshot of each route's database, into a target that is marked as being filled."""

from __future__ import annotations

import time
import typing as t

from ..errors import UntangleError
from . import compare, link, marks, values
from .route import Route, adopt, canary, check, returned_whole, standing, unbounded
from .server import Server
from .snapshot import Limits, Reader
from .state import State
from .target import Writer

#: Called with what a progress line shows: purpose, phase, keys, keys_total, bytes.
Report = t.Callable[[dict[str, t.Any]], None]


def copied(
    source_options: t.Mapping[str, t.Any],
    routes: t.Sequence[Route],
    state: State,
    by: str,
    report: Report,
    limits: Limits | None = None,
    on_conflict: str = "replace",
    match: str | None = None,
    exclude: t.Sequence[str] = (),
) -> dict[str, t.Any]:
    """Bring every route's target to hold its source database. Returns per purpose what was done; nothing for one that is done.

    Every check of every route comes before the first change of any.
    """
    limits = limits or Limits()
    todo: list[tuple[Route, Server, Server, dict[str, t.Any]]] = []
    done: dict[str, t.Any] = {}
    for route in routes:
        source = Server(source_options, route.database)
        target = route.open()
        where = standing(source, target, route, state)
        mark = marks.read_target(target)
        if where in ("cut_over", "retired"):
            done[route.purpose] = {"state": where, "changed": False}
            continue
        if where == "returned" and marks.is_moved(source, route.database):
            raise UntangleError(
                "%s: the way back to database %d of %s was broken off before its end. Run rollback again first; nothing was changed."
                % (route.purpose, route.database, source.address)
            )
        if where in ("copying", "mirrored"):
            link.release(target)
        check(source, target, route)
        returned_whole(source, target, route, limits)
        if where == "copied":
            done[route.purpose] = {"state": where, "changed": False}
            continue
        strange = not mark and target.size() > 0 and on_conflict != "skip"
        if strange and not adopt(source, target, route, limits, lambda a, b: None):
            raise UntangleError(
                "%s: %s holds %d keys that are not ours. Nothing was changed. Empty it, give the purpose another port, or, "
                "beside an application that writes to both sides, set on_conflict: skip."
                % (route.purpose, route.where, target.size())
            )
        if not mark and target.size():
            canary(source, target, route)
        todo.append((route, source, target, mark or {}))
    for route, source, target, mark in todo:
        done[route.purpose] = _copy(route, source, target, mark, state, by, report, limits, on_conflict, match, exclude)
    return done


def _copy(
    route: Route,
    source: Server,
    target: Server,
    mark: dict[str, t.Any],
    state: State,
    by: str,
    report: Report,
    limits: Limits,
    on_conflict: str,
    match: str | None,
    exclude: t.Sequence[str],
) -> dict[str, t.Any]:
    again = bool(mark) or bool(target.size())
    if again:
        _sweep(target)
    fresh = {"state": "copying", "source": source.address, "database": route.database, "purpose": route.purpose}
    # What was left out of the copy stays out of every later pass over this target.
    chosen = {name: value for name, value in (("match", match), ("exclude", list(exclude))) if value}
    kept = {name: mark[name] for name in ("maxmemory", "maxmemory-policy") if name in mark}
    # What it held while it served went back with the return: its users are let in again.
    marks.lift(target)
    marks.write_target(target, {**fresh, **chosen, **kept}, first=not mark)
    mark = {**fresh, **chosen, **kept}
    began, evicted = time.monotonic(), _evicted(target)
    total = source.size()
    replace = on_conflict == "replace"

    def tell(keys: int, size: int, phase: str = "copy", of: int | None = None) -> None:
        report({"purpose": route.purpose, "phase": phase, "keys": keys, "keys_total": of or total, "bytes": size})

    with unbounded(target, mark):
        # SET cannot say when a key ends before 6.2
        what = "copy" if target.version >= (6, 2) else "dump"
        reader, writer = Reader(source, limits, what, match), Writer(target, replace)
        big_keys = big_bytes = 0
        try:
            for page in reader.pages():
                keys, strings = page.keys, page.strings
                if exclude:
                    keys = [key for key in keys if not compare.excluded(key[0], exclude)]
                    strings = [key for key in strings if not compare.excluded(key[0], exclude)]
                writer.send(keys, strings)
                for key in page.big:
                    if not compare.excluded(key, exclude) and (replace or not target.run("EXISTS", key)):
                        sent = values.copy_in_chunks(source, key, target, replace)
                        big_bytes += sent or 0
                        big_keys += sent is not None
                tell(writer.written + writer.skipped + big_keys, writer.bytes + big_bytes)
            writer.drain()
        finally:
            reader.close()
            writer.close()
        copied_seconds = time.monotonic() - began
        if again and replace:
            # A copy before this one was broken off: what the source has deleted since must not stay.
            compare.Comparer(
                source,
                target,
                limits,
                match=match,
                exclude=exclude,
                repair=True,
                progress=lambda a, b: tell(a, writer.bytes, "difference", b),
            ).run()
        if _evicted(target) != evicted:
            raise UntangleError(
                "%s evicted keys while it was filled. Give its host more memory, then run again." % route.where
            )
    # With on_conflict: skip the application writes to both sides: the target was never ours alone.
    marks.write_target(target, {**mark, "state": "copied"})
    written = writer.written + big_keys
    facts = {
        "state": "copied",
        "database": route.database,
        "source": source.address,
        "target": route.where,
        "keys_before": total,
        "keys_copied": written,
        "keys_skipped": writer.skipped,
        "bytes": writer.bytes + big_bytes,
        "copy_seconds": round(copied_seconds, 3),
        "source_slowest_ms": round(reader.slowest_us / 1000.0, 1),
        "source_counters": counters(source),
    }
    state.update("copied", by, {route.purpose: facts})
    return dict(facts, changed=True)


def _sweep(target: Server) -> None:
    """Take away what a copy that was killed left half put together: no pattern of the user's would ever find it."""
    cursor = b"0"
    while True:
        cursor, names = target.raw("SCAN", cursor, "COUNT", 1000, "MATCH", values.PART + b"*")
        if names:
            target.run("UNLINK", *names)
        if cursor == b"0":
            return


def _evicted(server: Server) -> int:
    return int(server.info("stats").get("evicted_keys") or 0)


def counters(server: Server) -> list[t.Any]:
    """What moves when anything is written to a server, whichever database: equal counters prove that nothing was."""
    replication, persistence = server.info("replication"), server.info("persistence")
    return [
        replication.get("master_replid"),
        replication.get("master_repl_offset"),
        persistence.get("rdb_changes_since_last_save"),
        persistence.get("rdb_last_save_time"),
    ]
