# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mirror that goes on until it is told to cut over or to stop, and the cutover in its process."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
import typing as t

from ..errors import Away, UntangleError
from . import cutover, marks
from .back import Follower
from .copy import Report
from .cutover import own_login
from .desk import Desk
from .gate import BARRIER_SECONDS, Gate, choose_gate
from .lane import Lane
from .link import certificate, release
from .metrics import Metrics
from .mirror import Mirror
from .route import Route, canary, look, returned_whole, standing
from .server import Server
from .snapshot import Limits
from .state import State, now

#: How long a cutover waits, before it shuts anybody out, for targets that are not ready.
SETTLE_SECONDS = 60


class Held(UntangleError):
    """A cutover came to nothing, and the fence of ``users`` could not be lifted yet."""

    def __init__(self, text: str, users: t.Sequence[str]) -> None:
        super().__init__(text)
        self.users = users


class Undecided(UntangleError):
    """A cutover was broken off after the first of its marks."""


def mirrored(
    source_options: t.Mapping[str, t.Any],
    routes: t.Sequence[Route],
    state: State,
    by: str,
    report: Report,
    limits: Limits,
    desk: Desk,
    tolerance_ms: int = 0,
    feed: str = "auto",
) -> dict[str, t.Any]:
    """Bring every route that has not moved into step and keep it so, and keep the way back of those open that have moved.

    It ends when nothing is left to keep: returned, retired, or stopped.
    """
    admin = Server(source_options, routes[0].database)
    done, todo, moved = dict[str, t.Any](), list[Route](), list[Route]()
    for route in routes:
        source, target = Server(source_options, route.database), route.open()
        place = standing(source, target, route, state)
        if place in ("cut_over", "retired"):
            done[route.purpose] = {"state": place, "changed": False}
            if place == "cut_over":
                release(target)
                moved.append(route)
            continue
        _refuse(source, target, route, place)
        returned_whole(source, target, route, limits)
        todo.append(route)
    if not todo and not moved:
        Metrics(state.directory).forget()
        return {"changed": False, "purposes": done}
    if admin.info("replication").get("role") != "master":
        raise UntangleError("%s is a replica. Name its master as source; nothing was changed." % admin.address)
    # A fence cuts off the user that we came as.
    engine = own_login(admin, state)
    for route in todo:
        target = route.open()
        # One that follows an engine which has died goes on doing so until it follows this one: it takes nobody's writes meanwhile.
        mark = marks.read_target(target)
        if mark and mark.get("state") == "returned":
            marks.lift(target)
            # Without its fence it would be one that somebody may have written to.
            marks.write_target(target, {**mark, "state": "copying"})
        if not mark:
            # Whoever comes second is refused by the server itself.
            marks.write_target(target, _mark(admin, route, "copying"), first=True)
    work = Work(source_options, engine, admin, routes, state, by, report, limits, desk, tolerance_ms)
    mirror = work.mirror = Mirror(engine.options, todo, limits, feed=feed, by=by) if todo else None
    try:
        if mirror:
            mirror.log_in = lambda: t.cast(None, own_login(Server(source_options, routes[0].database), state))
            mirror.start(lambda seconds: work.tell())
            work.catch_up()
        for route in moved:
            work.follow_back(route)
        work.say_ready(done)
        return work.serve()
    except Undecided:
        raise
    except BaseException:
        for lane in mirror.lanes if mirror else ():
            # Stopped politely: the target is a master again, and holds a copy that nobody keeps in step.
            with contextlib.suppress(UntangleError):
                if str(lane.target.info("replication").get("role")) != "master":
                    lane.target.run("REPLICAOF", "NO", "ONE")
                    marks.write_target(lane.target, _mark(admin, lane.route, "copying"))
        raise
    finally:
        work.close()


def _refuse(source: Server, target: Server, route: Route, place: str) -> None:
    mark = marks.read_target(target) or {}
    role = target.info("replication")
    linked = str(role.get("role")) != "master" and role.get("master_link_status") == "up"
    if linked or marks.follows(source, str(mark.get("engine"))):
        raise UntangleError(
            "%s: %s is being filled by the engine on %s, for %s since %s. Stop that one (redis_migrate state: stopped there), or wait "
            "for it; nothing was changed."
            % (
                route.purpose,
                route.where,
                mark.get("host") or role.get("master_host"),
                mark.get("by") or "somebody",
                mark.get("since") or "some time ago",
            )
        )
    if str(role.get("role")) != "master":
        if not mark:
            raise UntangleError("%s: %s is a replica and not ours. Name its master." % (route.purpose, route.where))
        return
    certificate(target)
    look(source, target, route)
    if target.version < (7, 0):
        raise UntangleError(
            "%s: %s (%s %s) does not tell what it refuses of its master's commands, so nobody could tell that a mirror is in step. "
            "Use Redis 7.0 or later, or redis_split_strategy: copy. Nothing was changed."
            % (route.purpose, route.where, target.flavour, target.release)
        )
    if not mark and target.size():
        raise UntangleError(
            "%s: %s holds %d keys that are not ours. Nothing was changed. Empty it, or give the purpose another port."
            % (route.purpose, route.where, target.size())
        )
    if place == "planned":
        canary(source, target, route)


def _mark(source: Server, route: Route, state: str, **facts: t.Any) -> dict[str, t.Any]:
    return {"state": state, "source": source.address, "database": route.database, "purpose": route.purpose, **facts}


class Work:
    """What one job keeps going: a mirror of what has not moved, the way back of what has, and an open ear."""

    def __init__(
        self,
        source_options: t.Mapping[str, t.Any],
        engine: Server,
        admin: Server,
        routes: t.Sequence[Route],
        state: State,
        by: str,
        report: Report,
        limits: Limits,
        desk: Desk,
        tolerance_ms: int,
    ) -> None:
        self.source_options, self.engine, self.admin, self.routes = source_options, engine, admin, routes
        self.state, self.by, self.report, self.limits = state, by, report, limits
        self.desk, self.tolerance_ms = desk, tolerance_ms
        self.mirror: Mirror | None = None
        self.followers: dict[str, Follower] = {}
        self._purposes: dict[str, t.Any] = {}
        #: Why some routes are no longer mirrored, as far as anybody was told.
        self._stopped = ""
        self._told = self._looked = 0.0
        self.metrics = Metrics(state.directory)
        #: Users whose fence is to be lifted as soon as their server is back.
        self._held: t.Sequence[str] = ()

    def close(self) -> None:
        for one in (self.mirror, *self.followers.values()):
            if one is not None:
                one.close()
        # One that failed, or whose host goes down, stays in the figures as one that says nothing any more. Who has it stopped
        # takes them away afterwards.
        if sys.exc_info()[0] is None:
            self.metrics.forget()

    def follow_back(self, route: Route) -> None:
        def log_in() -> Server:
            return own_login(Server(self.source_options, route.database), self.state)

        self.followers[route.purpose] = Follower(route, log_in, self.limits, self.figures)

    # -- what it says -----------------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, t.Any]:
        everything: dict[str, t.Any] = self.mirror.facts() if self.mirror else {"purposes": {}}
        everything["purposes"].update({name: follower.facts() for name, follower in self.followers.items()})
        return everything

    def figures(self) -> None:
        """For who watches, from the middle of long work too: a mirror that compares is not one that is gone."""
        self.metrics.write(self.facts)

    def tell(self) -> None:
        """Twice a second: where each purpose stands, and what the mirror costs the source."""
        self.figures()
        if time.monotonic() - self._told < 0.5:
            return
        self._told = time.monotonic()
        everything, totals = self.facts(), {}
        if self.mirror:
            with contextlib.suppress(Away):
                everything["source_offset"] = self.mirror.source.offset()
                everything["source_buffer_bytes"] = _buffer(self.mirror)
                totals = {lane.route.purpose: lane.source.size() for lane in self.mirror.lanes}
        for name, facts in everything["purposes"].items():
            total = max(facts["keys"], totals.get(name) or facts.get("keys_total") or 0)
            self.report({**facts, "keys_total": total, "mirror": everything})

    def say_ready(self, purposes: t.Mapping[str, t.Any]) -> None:
        self._purposes.update(purposes)
        forward = [lane.route.purpose for lane in self.mirror.lanes] if self.mirror else []
        self._stopped = self.mirror.why_stopped if self.mirror else ""
        ready = {"purposes": self._purposes, "forward": forward, "stopped": self._stopped, "since": now()}
        self.desk.say_ready(ready)

    # -- what it does -----------------------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Until everything is in step for the first time."""
        mirror, began = t.cast(Mirror, self.mirror), time.monotonic()
        while True:
            mirror.step()
            self.tell()
            if not mirror.in_step():
                continue
            try:
                mirror.catch_up(mirror.source.offset())
                facts = {
                    lane.route.purpose: {
                        "state": "mirrored",
                        "database": lane.route.database,
                        "source": mirror.source.address,
                        "target": lane.route.where,
                        "keys_before": lane.source.size(),
                        "keys_copied": lane.keys,
                        "bytes": lane.bytes,
                        "copy_seconds": round(time.monotonic() - began, 1),
                        "feed": "replication" if mirror.feed.exact else "notifications",
                        "feed_because": mirror.because,
                        # what was proved of another copy
                        "compare": None,
                        "compared": None,
                        "differences": None,
                    }
                    for lane in mirror.lanes
                }
                mirror.catch_up(mirror.source.offset())
            except Away:
                mirror.mend()
                continue
            break
        self.state.update("mirrored", self.by, facts)
        self._purposes.update(facts)

    def serve(self) -> dict[str, t.Any]:
        """Follow, and do what is asked for, until nothing is left to follow."""
        while self.mirror or self.followers:
            if self.mirror:
                self.mirror.step()
            else:
                time.sleep(0.02)
            for follower in self.followers.values():
                follower.step()
            self.tell()
            if self._held:
                # A cutover that came to nothing, at a source that was away when its fence was to be lifted.
                with contextlib.suppress(Away):
                    marks.lift(self.engine, self._held)
                    self._held = ()
            if time.monotonic() - self._looked < 0.02:
                continue
            self._looked = time.monotonic()
            if self.mirror and self.mirror.why_stopped != self._stopped:
                self.say_ready({})
            request = self.desk.request()
            if request is not None:
                self._answer(request)
                if self.mirror and self.desk.ready() is None:
                    self.catch_up()
                    self.say_ready({})
        return {"changed": True, "purposes": self._purposes}

    def _answer(self, request: t.Mapping[str, t.Any]) -> None:
        does = {"cut_over": self._cut_over, "returned": self._returned, "mirrored": self._go_on}
        try:
            answer = does.get(str(request["what"]), self._let_go)(request)
        except UntangleError as exc:
            self.desk.answer(request, {"failed": True, "msg": exc.message})
            if isinstance(exc, Undecided):
                raise
            if isinstance(exc, Held):
                self._held = exc.users
            elif self.mirror:
                self.mirror.mend()
        else:
            # Whoever asked waits for the end of a job that has nothing left to do: the next call would find it still there.
            self.desk.answer(request, {**answer, "ends": not (self.mirror or self.followers)})

    def _cut_over(self, request: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        mirror = self.mirror
        if mirror is None:
            # Two have asked at once, and this is the second.
            return {
                "changed": False,
                "purposes": {name: dict(found, changed=False) for name, found in self._purposes.items()},
            }
        routes = [lane.route for lane in mirror.lanes]
        by = str(request.get("by") or self.by)
        result = cut_over(mirror, self.engine, self.admin, routes, self.state, by, request)
        if result.get("rehearsed"):
            return result
        mirror.close()
        self.mirror = None
        for route in routes:
            self.follow_back(route)
        self.say_ready({name: {"state": "cut_over"} for name in result["purposes"]})
        return result

    def _go_on(self, request: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        """Whoever asks waits for them as for the first time."""
        if self.mirror:
            self.mirror.go_on()
            self.desk.say_late()
        return {"changed": True}

    def _returned(self, request: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        names = request["purposes"]

        def report(facts: dict[str, t.Any]) -> None:
            self.figures()
            self.report(facts)

        result = cutover.returned(
            self.source_options,
            [route for route in self.routes if route.purpose in names],
            self.state,
            str(request.get("by") or self.by),
            report,
            self.limits,
            self.tolerance_ms,
            request.get("accept_loss") or (),
            lambda route, new, offset: (
                route.purpose in self.followers and self.followers[route.purpose].drain(new, offset)
            ),
        )
        self._let_go(request)
        return result

    def _let_go(self, request: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        """Their old databases are about to be written to by others, or emptied."""
        for name in request["purposes"]:
            follower = self.followers.pop(name, None)
            if follower:
                follower.close()
        return {"changed": False}


def _buffer(mirror: Mirror) -> int:
    """What the source holds for our feed: its output buffer, in bytes."""
    for one in mirror.source.clients("TYPE", "replica"):
        if one.get("addr") == mirror.feed.local_address:
            return int(one.get("omem") or 0)
    return 0


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
    for lane in mirror.lanes:
        _demand_room(lane)
    gate = choose_gate(engine, admin, {route.database for route in routes}, request)
    began = time.monotonic()
    try:
        mirror.catch_up(gate.close(), gate.seconds, steadily=True)
        written = mirror.written
        counts = {lane.route.purpose: _equal_counts(mirror, lane) for lane in mirror.lanes}
        if not gate.tight:
            # A moment in which a writer shows itself whom nobody has thought of.
            time.sleep(0.2)
            mirror.catch_up(engine.offset(), BARRIER_SECONDS, steadily=True)
            if mirror.written != written:
                raise UntangleError(
                    "%s was written to though its applications were said to be stopped. Nothing was switched over. Stop every "
                    "writer (stop in redis_split_apps), or let redis_cutover fence them." % admin.address
                )
        # The feed may have told meanwhile of what stops a route.
        _demand_all(mirror)
        gate.demand_time()
        if request.get("rehearse"):
            gate.open()
            return _rehearsed(mirror, gate, counts, time.monotonic() - began)
        if not gate.stays:
            # Without a mark they serve nobody yet, and the mark that follows waits for nothing.
            for lane in mirror.lanes:
                lane.link.promote()
            gate.demand_time()
    except BaseException as exc:
        try:
            gate.open()
        except Away as gone:
            raise Held("%s Its writers are let in as soon as %s" % (exc, gone.message), gate.users) from exc
        if isinstance(exc, Away):
            # Who went away says no more than that.
            why = "%s Nothing was switched over, and writers go on where they were. Run cutover again when it is back."
            raise UntangleError(why % exc.message) from exc
        raise
    with _uninterrupted():
        return _commit(mirror, engine, admin, gate, counts, began, state, by)


def _rehearsed(mirror: Mirror, gate: Gate, counts: t.Mapping[str, int], seconds: float) -> dict[str, t.Any]:
    """What a cutover would have taken."""
    return {
        "changed": False,
        "rehearsed": True,
        "fenced": list(gate.users),
        "kept_off_by": gate.name,
        "write_refused_seconds": round(seconds, 4),
        "purposes": {
            lane.route.purpose: {"state": "mirrored", "keys_before": counts[lane.route.purpose]}
            for lane in mirror.lanes
        },
    }


@contextlib.contextmanager
def _uninterrupted() -> t.Iterator[None]:
    """Whoever asks this process to end waits until it has done this."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _commit(
    mirror: Mirror,
    engine: Server,
    admin: Server,
    gate: Gate,
    counts: t.Mapping[str, int],
    began: float,
    state: State,
    by: str,
) -> dict[str, t.Any]:
    """From the first mark on there is only forward: what is broken off here is finished by running it again.

    Under a fence, which stands until then, the marks come down the links, behind everything else; under a pause, which ends by
    itself, the targets are masters already.
    """
    try:
        for lane in mirror.lanes:
            lane.mark.update(state="serving", since=now(), by=by)
            if gate.stays:
                lane.remark()
            else:
                marks.write_target(lane.target, lane.mark)
        for lane in mirror.lanes if gate.stays else ():
            lane.link.barrier(BARRIER_SECONDS)
            lane.link.promote()
        refused = time.monotonic() - began
        for lane in mirror.lanes:
            marks.set_moved(engine, lane.route.database, lane.route.purpose, lane.route.where, gate.users)
        gate.leave({lane.route.database for lane in mirror.lanes})
    except UntangleError as exc:
        raise Undecided(
            "%s The cutover was broken off in its commit; run it again to finish it." % exc.message
        ) from exc
    facts = {
        lane.route.purpose: {
            "state": "cut_over",
            "database": lane.route.database,
            "source": admin.address,
            "target": lane.route.where,
            "keys_before": counts[lane.route.purpose],
            "keys_after": counts[lane.route.purpose],
            "fence": list(gate.users),
            "kept_off_by": gate.name,
            "write_refused_seconds": round(refused, 4),
            "counted": lane.target.counted(),
        }
        for lane in mirror.lanes
    }
    state.update("cut over", by, facts)
    return {
        "changed": True,
        "fenced": list(gate.users),
        "kept_off_by": gate.name,
        "write_refused_seconds": round(refused, 4),
        "purposes": facts,
    }


def _demand_all(mirror: Mirror) -> None:
    """What belongs to one split moves as a whole, or not at all."""
    if mirror.stopped:
        raise UntangleError(
            "%s Nothing was switched over. When that is mended, run sync again, and then cutover." % mirror.why_stopped
        )


def _settle(mirror: Mirror) -> None:
    """Everything slow before the fence: no key dirty, every target up to date and its file written, little on its way."""
    end = time.monotonic() + SETTLE_SECONDS
    while True:
        _demand_all(mirror)
        in_step = mirror.in_step()
        unkept = [lane for lane in mirror.lanes if in_step and not lane.link.kept()]
        if in_step and not unkept:
            return
        if time.monotonic() > end:
            break
        mirror.step()
    if unkept:
        raise UntangleError(
            "%s: %s has not written its append-only file since it follows the engine (aof_last_bgrewrite_status: %s): killed now, it "
            "would come back empty. Nothing was switched over. See its log (a full disk? no memory to fork?), and run cutover again."
            % (
                unkept[0].route.purpose,
                unkept[0].route.where,
                unkept[0].target.info("persistence").get("aof_last_bgrewrite_status"),
            )
        )
    raise UntangleError(
        "Not in step within %d s: %s. Keys are written faster than they can be dumped again; nothing was changed."
        % (SETTLE_SECONDS, mirror.facts()["purposes"])
    )


def _demand_room(lane: Lane) -> None:
    """A replica takes what its master sends, whatever its own limit is; a master evicts or refuses from its first write on."""
    memory = lane.target.info("memory")
    limit, used = int(memory.get("maxmemory") or 0), int(memory.get("used_memory") or 0)
    if limit and used > limit:
        raise UntangleError(
            "%s: %s holds %d bytes, more than its maxmemory of %d. Nothing was switched over. Raise maxmemory of the purpose, "
            "provision it, and run again." % (lane.route.purpose, lane.route.where, used, limit)
        )


def _equal_counts(mirror: Mirror, lane: Lane) -> int:
    """The number of keys, the same on both sides. Only what the source expires meanwhile may make them differ for a moment."""
    for _again in range(20):
        here, there = lane.source.size(), lane.target.size()
        if here == there:
            return here
        mirror.catch_up(lane.source.offset(), BARRIER_SECONDS, steadily=True)
    raise UntangleError(
        "%s: database %d holds %d keys and %s %d. Nothing was switched over."
        % (lane.route.purpose, lane.route.database, here, lane.route.where, there)
    )
