# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a phase would do, and where a split stands: only ever reading, and never in need of a target that answers."""

from __future__ import annotations

import typing as t

from ..errors import UntangleError
from . import job, jobs, marks, retire, route, state
from .route import Route
from .server import Server
from .snapshot import Limits

Options = t.Mapping[str, t.Any]


def _places(options: Options) -> list[tuple[Route, Server, Server | None, str]]:
    split = state.State(str(options["state_dir"]))
    found = []
    for where in route.routes(options["routes"]):
        source = Server(options["source"], where.database)
        try:
            target: Server | None = where.open()
        except UntangleError:
            # Before provision there is none; after it the job itself says what is wrong.
            target = None
        place = route.standing(source, target, where, split) if target else _without_target(source, where, split)
        found.append((where, source, target, place))
    return found


def _without_target(source: Server, where: Route, split: state.State) -> str:
    noted = split.purpose(where.purpose).get("state")
    if noted in ("cut_over", "retired") or marks.is_moved(source, where.database):
        return "retired" if noted == "retired" else "cut_over"
    return "planned"


def mirrored(options: Options) -> dict[str, t.Any]:
    return copied(options, "mirror", jobs.running(str(options["state_dir"]), "mirrored") is not None)


def copied(options: Options, verb: str = "copy", follows: bool = False) -> dict[str, t.Any]:
    purposes = {}
    for where, source, target, place in _places(options):
        todo = place not in ("copied" if verb == "copy" else "", "cut_over", "retired") and not follows
        if todo and target:
            if str(target.info("replication").get("role")) == "master" or not marks.read_target(target):
                route.look(source, target, where)
            mark = marks.read_target(target)
            if not mark and target.size() and options.get("on_conflict") != "skip" and target.size() != source.size():
                raise UntangleError(
                    "%s: %s holds %d keys that are not ours. Empty it, or give the purpose another port."
                    % (where.purpose, where.where, target.size())
                )
            route.returned_whole(source, target, where, Limits())
        keys = source.size()
        would = (
            "%s %d keys of database %d of %s to %s" % (verb, keys, where.database, source.address, where.where)
            if todo
            else "nothing: %s" % place
        )
        purposes[where.purpose] = {"state": place, "keys": keys, "would": would, "changed": todo}
    return {
        "changed": any(p["changed"] for p in purposes.values()),
        "purposes": purposes,
        "actions": _actions(purposes),
    }


def cut_over(options: Options) -> dict[str, t.Any]:
    places = _places(options)
    source = places[0][1]
    pending = [x for x in places if x[3] not in ("cut_over", "retired")]
    users: list[str] = []
    paused: list[str] = []
    if pending and not options.get("writers_stopped"):
        try:
            users = marks.choose(source, {x[0].database for x in places}, options.get("fence") or ())
        except UntangleError:
            if not options.get("pause_max_seconds"):
                raise
            paused = [
                "let every write of %s wait for up to %s s; who comes back to the old address afterwards is named by watch, and "
                "not prevented" % (source.address, options["pause_max_seconds"])
            ]
    purposes = {}
    for where, server, _target, place in places:
        todo = place not in ("cut_over", "retired")
        would = "make %s serve in place of database %d of %s, after a last pass over %d keys" % (
            where.where, where.database, server.address, server.size(),
        )  # fmt: skip
        purposes[where.purpose] = {"state": place, "would": would if todo else "nothing: %s" % place, "changed": todo}
    result: dict[str, t.Any] = {
        "changed": bool(pending),
        "fenced": users,
        "purposes": purposes,
        "actions": paused + _actions(purposes),
    }
    if users:
        result["actions"] = [
            "refuse writes of %s at %s from the last pass on" % (", ".join(users), source.address),
            *result["actions"],
        ]
    return result


def returned(options: Options) -> dict[str, t.Any]:
    purposes = {}
    for where, server, _target, place in _places(options):
        todo = place in ("cut_over", "retired")
        would = "bring what changed at %s back to database %d of %s, and let that be written again" % (
            where.where,
            where.database,
            server.address,
        )
        purposes[where.purpose] = {"state": place, "would": would if todo else "nothing: %s" % place, "changed": todo}
    return {
        "changed": any(p["changed"] for p in purposes.values()),
        "purposes": purposes,
        "actions": _actions(purposes),
    }


def retired(options: Options) -> dict[str, t.Any]:
    purposes = {}
    for where, server, _target, place in _places(options):
        keys = server.size()
        if place == "retired" and not keys:
            purposes[where.purpose] = {"state": place, "would": "nothing: retired", "changed": False}
            continue
        clients = retire.clients_on(server, where.database)
        if place not in ("cut_over", "retired"):
            would = "refuse: %s is %s, and database %d is the truth" % (where.purpose, place, where.database)
        elif clients:
            would = "refuse: %d clients have database %d selected" % (len(clients), where.database)
        else:
            would = "back up and empty database %d of %s (%d keys)" % (where.database, server.address, keys)
        purposes[where.purpose] = {"state": place, "would": would, "changed": not would.startswith("refuse")}
    return {
        "changed": any(p["changed"] for p in purposes.values()),
        "purposes": purposes,
        "actions": _actions(purposes),
    }


def restored(options: Options) -> dict[str, t.Any]:
    split = state.State(str(options["state_dir"]))
    purposes = {}
    for where in route.routes(options["routes"]):
        noted = split.purpose(where.purpose)
        todo = noted.get("state") == "retired" and bool(noted.get("backup"))
        would = "restore %s into database %d" % (noted.get("backup"), where.database) if todo else "nothing: no backup"
        purposes[where.purpose] = {"state": noted.get("state"), "would": would, "changed": todo}
    return {
        "changed": any(p["changed"] for p in purposes.values()),
        "purposes": purposes,
        "actions": _actions(purposes),
    }


def compared(options: Options) -> dict[str, t.Any]:
    """In check mode the targets may be missing; what cannot be compared is said."""
    missing = [
        where.purpose
        for where, _source, target, place in _places(options)
        if target is None or place in ("planned", "copying")
    ]
    if missing:
        return {
            "changed": False,
            "equal": None,
            "differences": None,
            "purposes": {},
            "actions": ["compare %s once they are copied" % ", ".join(missing)],
        }
    return job.perform("compare", dict(options, details=False), "check mode", lambda facts: None)


def _actions(purposes: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[str]:
    return ["%s: %s" % (name, facts["would"]) for name, facts in purposes.items() if facts["changed"]]


def info(options: Options) -> dict[str, t.Any]:
    """Where every purpose stands, who is fenced, who is still on the old databases, and what runs just now."""
    split = state.State(str(options["state_dir"]))
    data = split.read()
    purposes = {}
    fenced: list[str] = []
    for where in route.routes(options["routes"]):
        source: Server | None = None
        facts: dict[str, t.Any] = {
            "database": where.database,
            "target": where.where,
            "since": data["purposes"].get(where.purpose, {}).get("since"),
        }
        try:
            source = Server(options["source"], where.database)
            fenced = marks.fenced(source)
            facts.update(
                source_reachable=True,
                keys_source=source.size(),
                moved_to=marks.is_moved(source, where.database),
                clients=retire.clients_on(source, where.database),
            )
        except UntangleError as exc:
            facts.update(source_reachable=False, source_error=exc.message)
        try:
            target = where.open()
            memory = target.info("memory")
            facts.update(
                reachable=True,
                keys_target=target.size(),
                mark=(marks.read_target(target) or {}).get("state"),
                fenced=marks.fenced(target),
                **target.counted(data["purposes"].get(where.purpose, {}).get("counted")),
                policy=str(memory.get("maxmemory_policy")),
                maxmemory=int(memory.get("maxmemory") or 0),
                used_memory=int(memory.get("used_memory") or 0),
            )
            if source:
                facts["state"] = route.standing(source, target, where, split)
        except UntangleError as exc:
            facts.update(reachable=False, error=exc.message)
        if "state" not in facts:
            facts["state"] = (
                _without_target(source, where, split)
                if source
                else data["purposes"].get(where.purpose, {}).get("state", "unknown")
            )
        purposes[where.purpose] = facts
    return {
        "changed": False,
        "purposes": purposes,
        "fenced": fenced,
        "job": jobs.running(split.directory),
        "split": data,
    }
