# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cutover and the return under the copy strategy: fence, last pass of differences, proof, commit.

The commit is one command on one server. Before it the side that served goes on serving, and a failure undoes the fence in
this same process; after it the other side is the truth, and a run that was broken off is finished by running it again.
"""

from __future__ import annotations

import os
import secrets
import time
import typing as t

from ..errors import UntangleError
from . import marks
from .compare import Comparer, Result, demand_equal
from .copy import Report, counters
from .link import release
from .route import Route, standing, unbounded
from .server import Server
from .snapshot import Limits
from .state import State, now, write_atomically

#: How often all is compared again where writers are said to be stopped and the source's counters moved all the same.
SECOND_LOOKS = 3


def own_login(server: Server, state: State) -> Server:
    """The same server as the engine's own user, whose password is made once and kept in the state directory."""
    if server.options.get("username") == marks.OWN_USER or not marks.may_mark(server):
        return server
    path = os.path.join(state.directory, "secrets", "source.engine")
    if os.path.exists(path):
        with open(path) as stream:
            password = stream.read()
    else:
        password = secrets.token_urlsafe(24)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        write_atomically(path, password)
    options = dict(server.options, username=marks.OWN_USER, password=password)
    try:
        return Server(options, server.database)
    except UntangleError:
        marks.own_user(server, password)
        return Server(options, server.database)


def cut_over(
    source_options: t.Mapping[str, t.Any],
    routes: t.Sequence[Route],
    state: State,
    by: str,
    report: Report,
    limits: Limits | None = None,
    fence: t.Sequence[str] | None = None,
    writers_stopped: bool = False,
    tolerance_ms: int = 0,
    rehearse: bool = False,
) -> dict[str, t.Any]:
    """Make every route's target the one that is written to. ``fence`` names users; None finds them.

    With ``writers_stopped`` nobody is fenced: the caller has stopped the applications, and a source that is written to all the
    same is refused. Returns who was fenced, for how long writes were refused, and per purpose the proof.
    """
    limits = limits or Limits()
    admin = Server(source_options, routes[0].database)
    targets = {r.purpose: r.open() for r in routes}
    sources = {r.purpose: Server(source_options, r.database) for r in routes}
    places = {r.purpose: standing(sources[r.purpose], targets[r.purpose], r, state) for r in routes}
    pending = [r for r in routes if places[r.purpose] not in ("cut_over", "retired")]
    for route in routes:
        # A live cutover that was broken off behind its fence, its job gone: the last pass does what the mirror cannot any more.
        if places[route.purpose] == "mirrored" and marks.fenced(admin):
            release(targets[route.purpose])
            places[route.purpose] = "copied"
        elif places[route.purpose] == "cut_over":
            release(targets[route.purpose])
    for route in pending:
        if places[route.purpose] != "copied":
            raise UntangleError(
                "%s is not in step (%s): %s does not hold a whole copy of database %d of %s. Run sync first; nothing was changed."
                % (route.purpose, places[route.purpose], route.where, route.database, admin.address)
            )
    if pending and admin.info("replication").get("role") != "master":
        raise UntangleError(
            "%s is a replica: what its master is told to write it writes too, whoever is fenced here. Name the master as source; "
            "nothing was changed." % admin.address
        )
    finished = not rehearse and _finish(sources, targets, [r for r in routes if r not in pending], places, state, by)
    if not pending:
        return {"changed": finished, "fenced": marks.fenced(admin), "purposes": {}}

    every = {r.database for r in routes}
    users = [] if writers_stopped else marks.choose(admin, every, fence or ())
    engine = {r.purpose: own_login(sources[r.purpose], state) for r in pending}
    first = engine[pending[0].purpose]
    before = counters(first)
    began, results = time.monotonic(), dict[str, Result]()

    def look(route: Route, repair: bool) -> Result:
        return _pass(engine[route.purpose], targets[route.purpose], route, report, limits, tolerance_ms, repair)

    try:
        # Within: what fails or is interrupted once the fence may be up takes it down again.
        if users:
            marks.put(first, users)
        for route in pending:
            results[route.purpose] = look(route, True)
        if writers_stopped:
            _demand_quiet(first, before, pending, every, lambda route: look(route, False))
    except BaseException:
        marks.lift(first, users)
        raise
    if rehearse:
        marks.lift(first, users)
        return {
            "changed": False,
            "rehearsed": True,
            "fenced": users,
            "write_refused_seconds": round(time.monotonic() - began, 3),
            "purposes": {name: {"state": "copied", **result.summary()} for name, result in results.items()},
        }
    # What the old databases hold from now on, noted while it can still be believed whatever breaks off.
    old = {r.purpose: {"old": {**(results[r.purpose].digest or {}), "counted": first.counted()}} for r in pending}
    state.update("", by, old)
    for route in pending:
        target = targets[route.purpose]
        mark = marks.read_target(target) or {}
        # The commit of this purpose.
        marks.write_target(target, {**mark, "state": "serving", "since": now(), "by": by})
        marks.set_moved(first, route.database, route.purpose, route.where, users)
    refused = time.monotonic() - began
    facts = {}
    for route in pending:
        result = results[route.purpose]
        facts[route.purpose] = {
            "state": "cut_over",
            "database": route.database,
            "source": admin.address,
            "target": route.where,
            "keys_before": result.source_keys,
            "keys_after": targets[route.purpose].size(),
            "differences": result.differences,
            "compare": result.summary(),
            "compared": result.compared,
            "last_pass_keys": result.repaired,
            "fence": users,
            "write_refused_seconds": round(refused, 3),
            "counted": targets[route.purpose].counted(),
        }
    state.update("cut over", by, facts)
    return {"changed": True, "fenced": users, "write_refused_seconds": round(refused, 3), "purposes": facts}


def _demand_quiet(
    source: Server,
    before: list[t.Any],
    routes: t.Sequence[Route],
    moving: t.Collection[int],
    look: t.Callable[[Route], Result],
) -> None:
    """Refuse a source that was written to since ``before``, its counters then, in one of the databases of these routes.

    Counters that stand still from the beginning of a look to its end prove it. They are the server's, though: where other
    databases are written to they always move, and the last look has the last word. What is left there is a write to a key
    that the last look had passed already; nothing but a fence rules that out. It stays in the old database.
    """
    for _dummy in range(SECOND_LOOKS):
        seen = counters(source)
        if seen == before:
            return
        before = seen
        for route in routes:
            found = look(route).differences
            if found:
                raise UntangleError(
                    "%s was written to during the last pass (%s, database %d: %d keys changed), though its applications were "
                    "said to be stopped. Nothing was switched over. Stop every writer (stop in redis_split_apps), or let "
                    "redis_cutover fence them." % (source.address, route.purpose, route.database, found)
                )
    # Expiry and the replicas' pings move the offset, but are no changes to be saved.
    seen = counters(source)
    if seen == before or (seen[0], *seen[2:]) == (before[0], *before[2:]):
        return
    if not marks.databases_in_use(source) - set(moving) - set(marks.moved(source)):
        raise UntangleError(
            "%s is written to all the time, though its applications were said to be stopped and no database stays there. "
            "Nothing was switched over. Stop every writer (stop in redis_split_apps), or let redis_cutover fence them."
            % source.address
        )


def _finish(
    sources: t.Mapping[str, Server],
    targets: t.Mapping[str, Server],
    routes: t.Sequence[Route],
    places: t.Mapping[str, str],
    state: State,
    by: str,
) -> bool:
    """Complete what a broken-off cutover left: the marks of purposes that are committed already."""
    changed = False
    for route in routes:
        source, target = sources[route.purpose], targets[route.purpose]
        mark = marks.read_target(target) or {}
        if mark.get("state") != "serving":
            # The target came back without its data and its mark (a cache does), or with what it had saved before the
            # cutover. It serves all the same; a way back must know what happened.
            write = {"source": source.address, "database": route.database, "purpose": route.purpose, "state": "serving"}
            marks.write_target(target, {**mark, **write, "lost": _lost(mark), "since": now(), "by": by})
            changed = True
        if not marks.is_moved(source, route.database):
            users = state.purpose(route.purpose).get("fence") or marks.fenced(source)
            marks.set_moved(own_login(source, state), route.database, route.purpose, route.where, users)
            changed = True
        if state.purpose(route.purpose).get("state") not in ("cut_over", "retired"):
            facts = {"state": "cut_over", "database": route.database, "source": source.address, "target": route.where}
            state.update("cut over (finished)", by, {route.purpose: facts})
            changed = True
        noted = state.purpose(route.purpose)
        lost = (
            sorted(set(noted.get("fence") or ()) - set(marks.fenced(source)))
            if places[route.purpose] == "cut_over"
            else []
        )
        if lost:
            # A source that restarted without saved users has forgotten its fence.
            marks.put(own_login(source, state), lost)
            changed = True
        if marks.fenced(target):
            # A way back was broken off before its commit: the target serves, so its users may write again.
            marks.lift(own_login(target, state))
            changed = True
    return changed


def _lost(mark: t.Mapping[str, t.Any]) -> str | None:
    """What the mark of a target that serves says about its data: None, or that it began anew (empty, or from an old file)."""
    if mark.get("state") == "serving":
        return t.cast("str | None", mark.get("lost"))
    return "old" if mark else "empty"


def _pass(
    source: Server, target: Server, route: Route, report: Report, limits: Limits, tolerance_ms: int, repair: bool
) -> Result:
    def progress(done: int, total: int) -> None:
        report(
            {
                "purpose": route.purpose,
                "phase": "last pass" if repair else "proof",
                "keys": done,
                "keys_total": total,
                "bytes": 0,
            }
        )

    mark = marks.read_target(target) or {}
    comparer = Comparer(
        source,
        target,
        limits,
        tolerance_ms,
        repair=repair,
        progress=progress,
        match=mark.get("match"),
        exclude=mark.get("exclude") or (),
    )
    if not repair:
        return comparer.run()
    with unbounded(target, mark):
        result = comparer.run()
    marks.write_target(target, mark)
    demand_equal(result, source, target, route.purpose)
    return result


def returned(
    source_options: t.Mapping[str, t.Any],
    routes: t.Sequence[Route],
    state: State,
    by: str,
    report: Report,
    limits: Limits | None = None,
    tolerance_ms: int = 0,
    accept_loss: t.Sequence[str] = (),
    followed: t.Callable[[Route, Server, int], bool] = lambda route, new, offset: False,
) -> dict[str, t.Any]:
    """The way back: fence the targets, bring back what changed there, prove it, and let the old databases be written again.

    ``followed`` tells of a route whether its old database has come up to this offset of the instance; else all is compared.
    """
    limits = limits or Limits()
    sources = {r.purpose: Server(source_options, r.database) for r in routes}
    admin = sources[routes[0].purpose]
    targets = {r.purpose: r.open() for r in routes}
    places = {r.purpose: standing(sources[r.purpose], targets[r.purpose], r, state) for r in routes}
    serving = [r for r in routes if places[r.purpose] in ("cut_over", "retired")]
    for route in serving:
        release(targets[route.purpose])
    lost = {r.purpose: _lost(marks.read_target(targets[r.purpose]) or {}) for r in serving}
    for route in serving:
        if lost[route.purpose] and route.purpose not in accept_loss:
            what = {
                "empty": "came back empty, so that it lost what was written since the cutover; what it took after that would be kept",
                "old": "came back with data from before the cutover, so that it lost what was written since; none of it would be kept",
            }[str(lost[route.purpose])]
            raise UntangleError(
                "%s: %s serves this purpose and %s. To go back to database %d of %s as it was at the cutover, name %s in "
                "redis_split_accept_loss. Nothing was changed."
                % (route.purpose, route.where, what, route.database, admin.address, route.purpose)
            )
    moved = marks.moved(admin)
    elsewhere = set[str]().union(
        *(users for number, users in moved.items() if number not in {r.database for r in routes})
    )
    shared = {r.purpose: sorted(moved.get(r.database, set()) & elsewhere) for r in serving}
    for purpose, users in shared.items():
        if users:
            raise UntangleError(
                "%s cannot go back alone: users %s of %s write to it and to purposes that stay cut over, and one fence holds "
                "both. Take all of them back together. Nothing was changed."
                % (purpose, ", ".join(users), admin.address)
            )
    results = dict[str, Result]()
    began = time.monotonic()
    fenced: list[tuple[Server, list[str]]] = []
    engine = {r.purpose: own_login(sources[r.purpose], state) for r in serving}
    quick = set[str]()
    try:
        for route in serving:
            target = targets[route.purpose] = own_login(targets[route.purpose], state)
            users = marks.choose(target, {route.target_database})
            fenced.append((target, users))
            offset = marks.put(target, users)
            if not lost[route.purpose] and followed(route, target, offset):
                quick.add(route.purpose)
        for route in serving:
            if lost[route.purpose] == "old" or route.purpose in quick:
                continue
            results[route.purpose] = _back(
                targets[route.purpose],
                engine[route.purpose],
                route,
                report,
                limits,
                tolerance_ms,
                extras=not lost[route.purpose],
            )
    except BaseException:
        for target, users in fenced:
            marks.lift(target, users)
        raise
    facts: dict[str, dict[str, t.Any]] = {}
    for route in serving:
        target = targets[route.purpose]
        mark = marks.read_target(target) or {
            "source": admin.address,
            "database": route.database,
            "purpose": route.purpose,
        }
        # The commit of the way back. Neither side takes writes between it and the lifting of the source's fence.
        marks.write_target(target, {**mark, "state": "returned", "since": now(), "by": by})
        done = results.get(route.purpose)
        facts[route.purpose] = {"state": "returned", "backups": [], "old": None}
        if route.purpose not in quick:
            facts[route.purpose]["returned_keys"] = done.repaired if done else 0
    for route in routes:
        if places[route.purpose] == "returned" and state.purpose(route.purpose).get("state") in ("cut_over", "retired"):
            # The commit of a return that was broken off right after it.
            facts[route.purpose] = {"state": "returned", "backups": [], "old": None}
    if facts:
        # Before the source's own mark goes: none of the three may say later that this purpose still serves.
        state.update("returned", by, facts)
    changed = bool(facts)
    for route in routes:
        if marks.is_moved(sources[route.purpose], route.database):
            marks.clear_moved(own_login(sources[route.purpose], state), route.database)
            changed = True
    if marks.fenced(admin):
        lifted = marks.lift(own_login(admin, state))
        changed = changed or bool(lifted)
    if changed and not facts:
        state.update("fence lifted", by, {})
    return {"changed": changed, "purposes": facts, "write_refused_seconds": round(time.monotonic() - began, 3)}


def _back(
    target: Server, source: Server, route: Route, report: Report, limits: Limits, tolerance_ms: int, extras: bool
) -> Result:
    def progress(done: int, total: int) -> None:
        report({"purpose": route.purpose, "phase": "return", "keys": done, "keys_total": total, "bytes": 0})

    mark = marks.read_target(target) or {}
    result = Comparer(
        target,
        source,
        limits,
        tolerance_ms,
        repair=True,
        extras=extras,
        progress=progress,
        match=mark.get("match"),
        exclude=mark.get("exclude") or (),
    ).run()
    demand_equal(result, target, source, route.purpose)
    return result
