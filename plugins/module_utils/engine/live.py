# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mirror that goes on until it is told to cut over or to stop, and the cutover in its process.

Whoever wants something of a running mirror leaves a request on its desk, two files in the directory of its job.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import typing as t

from ..errors import UntangleError
from . import marks
from .copy import Report
from .cutover import own_login
from .link import Broken
from .mirror import Lane, Mirror
from .route import Route, canary, look, standing
from .server import Server
from .snapshot import Limits
from .state import State, now, write_atomically

#: How long targets may take to come into step once writers are shut out, in seconds.
BARRIER_SECONDS = 10.0


class Desk:
    """``ready.json`` says that the mirror is in step; ``request.json`` asks for a cutover, ``answer.json`` is what came of it."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name + ".json")

    def _read(self, name: str) -> dict[str, t.Any] | None:
        try:
            with open(self._path(name)) as stream:
                return t.cast("dict[str, t.Any]", json.load(stream))
        except FileNotFoundError:
            return None

    def ready(self) -> dict[str, t.Any] | None:
        return self._read("ready")

    def say_ready(self, facts: t.Mapping[str, t.Any]) -> None:
        write_atomically(self._path("ready"), json.dumps(facts))

    def request(self) -> dict[str, t.Any] | None:
        found = self._read("request")
        if found is not None:
            os.unlink(self._path("request"))
        return found

    def answer(self, facts: t.Mapping[str, t.Any]) -> None:
        write_atomically(self._path("answer"), json.dumps(facts))

    def ask(self, request: t.Mapping[str, t.Any], alive: t.Callable[[], bool], seconds: float) -> dict[str, t.Any]:
        """Leave a request and wait for its answer."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path("answer"))
        write_atomically(self._path("request"), json.dumps(request))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self._read("answer")
            if found is not None:
                return found
            if not alive():
                break
            time.sleep(0.005)
        raise UntangleError("The mirror did not answer within %d s. See the log in %s." % (seconds, self.directory))


def mirrored(
    source_options: t.Mapping[str, t.Any],
    routes: t.Sequence[Route],
    state: State,
    by: str,
    report: Report,
    limits: Limits,
    desk: Desk,
) -> dict[str, t.Any]:
    """Bring every route that has not moved into step and keep it so. Ends with a cutover, and never by itself."""
    admin = Server(source_options, routes[0].database)
    done, todo = dict[str, t.Any](), list[Route]()
    for route in routes:
        source, target = Server(source_options, route.database), route.open()
        place = standing(source, target, route, state)
        if place in ("cut_over", "retired"):
            done[route.purpose] = {"state": place, "changed": False}
            continue
        _refuse(source, target, route, place)
        todo.append(route)
    if not todo:
        return {"changed": False, "purposes": done}
    if admin.info("replication").get("role") != "master":
        raise UntangleError("%s is a replica. Name its master as source; nothing was changed." % admin.address)
    # A fence cuts off the user that we came as.
    engine = own_login(admin, state)
    for route in todo:
        target = route.open()
        if str(target.info("replication").get("role")) != "master":
            target.run("REPLICAOF", "NO", "ONE")
        mark = marks.read_target(target)
        if mark and mark.get("state") == "returned":
            marks.lift(target)
        if not mark:
            # Whoever comes second is refused by the server itself.
            marks.write_target(target, _mark(admin, route, "copying"), first=True)
    mirror = Mirror(engine.options, todo, limits)
    try:
        mirror.start(lambda seconds: _tell(mirror, report))
        _follow(mirror, state, by, report, desk)
        return _serve(mirror, engine, admin, todo, state, by, report, desk, done)
    except BaseException:
        for lane in mirror.lanes:
            # Stopped politely: the target is a master again, and holds a copy that nobody keeps in step.
            with contextlib.suppress(UntangleError):
                if str(lane.target.info("replication").get("role")) != "master":
                    lane.target.run("REPLICAOF", "NO", "ONE")
                    marks.write_target(lane.target, _mark(admin, lane.route, "copying"))
        raise
    finally:
        mirror.close()


def _refuse(source: Server, target: Server, route: Route, place: str) -> None:
    mark = marks.read_target(target)
    role = target.info("replication")
    if str(role.get("role")) != "master":
        if role.get("master_link_status") == "up":
            raise UntangleError(
                "%s: %s is being filled by the engine at %s:%s. Stop that one, or wait for it; nothing was changed."
                % (route.purpose, route.where, role.get("master_host"), role.get("master_port"))
            )
        if not mark:
            raise UntangleError("%s: %s is a replica and not ours. Name its master." % (route.purpose, route.where))
        return
    look(source, target, route)
    if not mark and target.size():
        raise UntangleError(
            "%s: %s holds %d keys that are not ours. Nothing was changed. Empty it, or give the purpose another port."
            % (route.purpose, route.where, target.size())
        )
    if place == "planned":
        canary(source, target, route)


def _mark(source: Server, route: Route, state: str, **facts: t.Any) -> dict[str, t.Any]:
    return {"state": state, "source": source.address, "database": route.database, "purpose": route.purpose, **facts}


def _tell(mirror: Mirror, report: Report) -> None:
    for lane in mirror.lanes:
        facts = lane.facts(mirror.feed.position)
        report({**facts, "keys_total": max(facts["keys"], lane.source.size())})


def _turn(mirror: Mirror, seconds: float = 0.05) -> None:
    """One step of the mirror; a target that is not what it was starts over, a source that is gone is waited for."""
    try:
        mirror.step(seconds)
    except Broken:
        mirror.mend()


def _follow(mirror: Mirror, state: State, by: str, report: Report, desk: Desk) -> None:
    """Until everything is in step for the first time."""
    told = 0.0
    while not mirror.in_step():
        _turn(mirror)
        if time.monotonic() - told > 0.5:
            told = time.monotonic()
            _tell(mirror, report)
    mirror.catch_up(mirror.source.offset())
    facts = {}
    for lane in mirror.lanes:
        facts[lane.route.purpose] = {
            "state": "mirrored",
            "database": lane.route.database,
            "source": mirror.source.address,
            "target": lane.route.where,
            "keys_before": lane.source.size(),
            "keys_copied": lane.keys,
            "bytes": lane.bytes,
        }
    mirror.catch_up(mirror.source.offset())
    state.update("mirrored", by, facts)
    desk.say_ready({"purposes": facts, "since": now()})


def _serve(
    mirror: Mirror,
    engine: Server,
    admin: Server,
    routes: t.Sequence[Route],
    state: State,
    by: str,
    report: Report,
    desk: Desk,
    done: dict[str, t.Any],
) -> dict[str, t.Any]:
    """Follow, and do what is asked for, until a cutover has been made."""
    told = asked = 0.0
    while True:
        _turn(mirror)
        clock = time.monotonic()
        if clock - told > 0.5:
            told = clock
            _tell(mirror, report)
        if clock - asked < 0.02:
            continue
        asked = clock
        request = desk.request()
        if request is None:
            continue
        try:
            result = cut_over(mirror, engine, admin, routes, state, str(request.get("by") or by), request)
        except UntangleError as exc:
            desk.answer({"failed": True, "msg": exc.message})
            if isinstance(exc, Broken):
                mirror.mend()
            continue
        desk.answer(result)
        return {**result, "purposes": {**done, **result["purposes"]}}


def cut_over(
    mirror: Mirror,
    engine: Server,
    admin: Server,
    routes: t.Sequence[Route],
    state: State,
    by: str,
    request: t.Mapping[str, t.Any],
) -> dict[str, t.Any]:
    """Fence, wait until every target has all, commit. What fails before the commit lifts the fence again."""
    _settle(mirror)
    users = (
        []
        if request.get("writers_stopped")
        else marks.choose(admin, {route.database for route in routes}, request.get("fence") or ())
    )
    began = time.monotonic()
    try:
        offset = marks.put(engine, users) if users else engine.offset()
        mirror.catch_up(offset, BARRIER_SECONDS)
        counts = {lane.route.purpose: _equal_counts(mirror, lane) for lane in mirror.lanes}
        if not users and mirror.wrote_after(offset):
            raise UntangleError(
                "%s was written to though its applications were said to be stopped. Nothing was switched over. Stop every writer "
                "(stop in redis_split_apps), or let redis_cutover fence them." % admin.address
            )
    except BaseException:
        marks.lift(engine, users)
        raise
    # The commit: from here on the targets are the truth, and nothing of the feed reaches them any more.
    for lane in mirror.lanes:
        lane.link.promote()
        marks.write_target(lane.target, _mark(admin, lane.route, "serving", since=now(), by=by))
    refused = time.monotonic() - began
    for lane in mirror.lanes:
        marks.set_moved(engine, lane.route.database, lane.route.purpose, lane.route.where, users)
    facts = {
        lane.route.purpose: {
            "state": "cut_over",
            "database": lane.route.database,
            "source": admin.address,
            "target": lane.route.where,
            "keys_before": counts[lane.route.purpose],
            "keys_after": counts[lane.route.purpose],
            "fence": users,
            "write_refused_seconds": round(refused, 4),
            "counted": lane.target.counted(),
        }
        for lane in mirror.lanes
    }
    state.update("cut over", by, facts)
    return {"changed": True, "fenced": users, "write_refused_seconds": round(refused, 4), "purposes": facts}


def _settle(mirror: Mirror) -> None:
    """Everything slow before the fence: no key dirty, every target up to date, little on its way."""
    end = time.monotonic() + 60
    while not mirror.in_step():
        _turn(mirror)
        if time.monotonic() > end:
            raise UntangleError(
                "Not in step within 60 s: %s. Keys are written faster than they can be dumped again; nothing was changed."
                % mirror.facts()["purposes"]
            )


def _equal_counts(mirror: Mirror, lane: Lane) -> int:
    """The number of keys, the same on both sides. Only what the source expires meanwhile may make them differ for a moment."""
    for _again in range(20):
        here, there = lane.source.size(), lane.target.size()
        if here == there:
            return here
        mirror.catch_up(lane.source.offset(), BARRIER_SECONDS)
    raise UntangleError(
        "%s: database %d holds %d keys and %s %d. Nothing was switched over."
        % (lane.route.purpose, lane.route.database, here, lane.route.where, there)
    )
