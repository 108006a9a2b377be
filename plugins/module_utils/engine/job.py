# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The work of one job, by name, in this process: what modules, tests and the shell all call."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import traceback
import typing as t

from .. import connection
from ..errors import UntangleError
from . import compare, copy, cutover, jobs, live, marks, retire, state
from .desk import Desk
from .metrics import Metrics
from .route import Route, routes, standing
from .server import Server
from .snapshot import Limits

Options = t.Mapping[str, t.Any]


def perform(
    kind: str, options: Options, by: str, report: copy.Report, directory: str | None = None
) -> dict[str, t.Any]:
    """Do one kind of work: copied, mirrored, stopped, cut_over, returned, compare, retired or restored.

    ``directory`` is that of the job; only a mirror needs it, to be spoken to.
    """
    where = routes(options["routes"])
    split = state.State(options["state_dir"])
    limits = Limits(
        max_latency_ms=float(options.get("max_latency_ms") or 5),
        big_key_bytes=int(options.get("big_key_bytes") or 262144),
    )
    tolerance = int(options.get("tolerance_ms") or 0)
    source = options["source"]
    if kind == "copied":
        purposes = copy.copied(
            source,
            where,
            split,
            by,
            report,
            limits,
            options.get("on_conflict") or "replace",
            options.get("match"),
            options.get("exclude") or (),
        )
        return {"changed": any(p["changed"] for p in purposes.values()), "purposes": purposes}
    if kind == "mirrored":
        desk = Desk(str(directory))
        return live.mirrored(source, where, split, by, report, limits, desk, tolerance, options.get("feed") or "auto")
    if kind == "stopped":
        return _unmirrored(split, stopped(source, where, split, by))
    if kind == "cut_over":
        return cutover.cut_over(
            source,
            where,
            split,
            by,
            report,
            limits,
            options.get("fence") or None,
            bool(options.get("writers_stopped")),
            tolerance,
            bool(options.get("rehearse")),
        )
    if kind == "returned":
        done = cutover.returned(source, where, split, by, report, limits, tolerance, options.get("accept_loss") or ())
        return _unmirrored(split, done)
    if kind == "compare":
        return compared(
            source, where, split, report, limits, tolerance, options.get("sample"), options.get("details", True)
        )
    if kind == "retired":
        done = retire.retired(
            source, where, split, by, report, limits, float(options.get("watch_seconds") or 0), float(options.get("quiet_seconds") or 0),
            options.get("backup_dir"), options.get("server_command") or ["redis-server"], options.get("accept_loss") or (),
        )  # fmt: skip
        return _unmirrored(split, done)
    if kind == "restored":
        return retire.restored(source, where, split, by, report)
    raise UntangleError("There is no work called %s." % kind)


def _unmirrored(split: state.State, done: dict[str, t.Any]) -> dict[str, t.Any]:
    """A mirror that was killed before, and is not wanted any more, is nothing to be alarmed about. One that runs says so again."""
    Metrics(split.directory).forget()
    return done


def stopped(source_options: Options, where: t.Sequence[Route], split: state.State, by: str) -> dict[str, t.Any]:
    """Lift a fence that a broken-off cutover left, unless one of its purposes was committed: then only finishing or returning helps."""
    source = Server(source_options, where[0].database)
    if not marks.fenced(source):
        return {"changed": False, "purposes": {}}
    serving = [
        r.purpose
        for r in where
        if standing(Server(source_options, r.database), r.open(), r, split) in ("cut_over", "retired")
    ]
    if serving:
        return {"changed": False, "purposes": {}, "serving": serving}
    lifted = marks.lift(cutover.own_login(source, split))
    split.update("fence lifted", by, {})
    return {"changed": True, "purposes": {}, "lifted": lifted}


def compared(
    source_options: Options,
    where: t.Sequence[Route],
    split: state.State,
    report: copy.Report,
    limits: Limits,
    tolerance_ms: int,
    sample: int | None,
    keep_details: bool = True,
) -> dict[str, t.Any]:
    """Compare every route. ``drift`` says that a difference is explained: the source was written to since the copy."""
    purposes, kept, lines = dict[str, t.Any](), dict[str, t.Any](), list[str]()
    for route in where:
        source, target = Server(source_options, route.database), route.open()
        place = standing(source, target, route, split)

        def progress(done: int, total: int, route: Route = route) -> None:
            report({"purpose": route.purpose, "phase": "compare", "keys": done, "keys_total": total, "bytes": 0})

        result = compare.Comparer(source, target, limits, tolerance_ms, sample, progress=progress).run()
        noted = split.purpose(route.purpose)
        moved = place in ("cut_over", "retired", "returned") or (
            place == "copied" and noted.get("source_counters") != copy.counters(source)
        )
        found = purposes[route.purpose] = dict(
            result.summary(), state=place, in_step=not result.differences, drift=bool(result.differences) and moved
        )
        if place == "mirrored" and keep_details and standing(source, target, route, split) == place:
            # A cutover within milliseconds compares nothing: this is its proof.
            summary = dict(result.summary(), while_written=True)
            kept[route.purpose] = {"compare": summary, **{name: found[name] for name in ("compared", "differences")}}
        lines += [
            "%s\t%s\t%s" % (route.purpose, kind, key.decode("utf-8", "backslashreplace"))
            for kind, key in result.examples
        ]
    if kept:
        split.update("", "", kept)
    details = None
    if lines and keep_details:
        os.makedirs(split.directory, mode=0o700, exist_ok=True)
        details = os.path.join(split.directory, "differences.tsv")
        state.write_atomically(details, "\n".join(lines) + "\n")
    differences = sum(p["differences"] for p in purposes.values())
    return {
        "changed": False,
        "equal": not differences,
        "differences": differences,
        "purposes": purposes,
        "details": details,
    }


class Status:
    """``status.json`` of a job: what a progress line shows, at most twice a second."""

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, "status.json")
        self.began = time.time()
        self.written = 0.0
        self.phase: tuple[t.Any, ...] = ()
        self.phase_began = self.began

    def __call__(self, facts: dict[str, t.Any]) -> None:
        clock = time.time()
        phase = (facts.get("purpose"), facts.get("phase"))
        if phase != self.phase:
            self.phase, self.phase_began = phase, clock
        elif clock - self.written < 0.5:
            return
        seconds = max(clock - self.phase_began, 0.001)
        rate = facts["keys"] / seconds
        left = (facts["keys_total"] - facts["keys"]) / rate if rate else None
        facts = dict(
            facts,
            seconds=round(clock - self.began, 1),
            rate=round(rate),
            seconds_left=None if left is None else round(max(left, 0), 1),
        )
        state.write_atomically(self.path, json.dumps(facts))
        self.written = clock


def _ended(number: int, frame: t.Any) -> None:
    raise SystemExit(128 + number)


def _told(directory: str) -> dict[str, t.Any]:
    """What to do. It holds passwords, and is kept only where systemd starts us again: in memory, for as long as the unit lives."""
    path, memory = os.path.join(directory, "spec.json"), os.environ.get("RUNTIME_DIRECTORY")
    kept = memory and os.path.join(memory, "spec.json")
    again = bool(kept and os.path.exists(kept) and not os.path.exists(path))
    with open(str(kept) if again else path) as stream:
        spec: dict[str, t.Any] = json.load(stream)
    if again:
        # What was said, and asked, in the life before.
        for name in ("ready.json", "request.json"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))
        return spec
    if kept:
        state.write_atomically(kept, json.dumps(spec))
    os.unlink(path)
    return spec


def main(directory: str) -> int:
    """The process of a job. Its directory holds spec.json, which is taken away at once, and at the end result.json."""
    spec = _told(directory)
    jobs.register(directory, spec["job"], os.getpid())
    # Ended politely, the work undoes what must be undone.
    signal.signal(signal.SIGTERM, _ended)
    # A mirror goes on for days, and databases are compared meanwhile.
    lock = state.Lock(spec["options"]["state_dir"], "mirror.lock" if spec["kind"] == "mirrored" else "lock")
    result: dict[str, t.Any]
    try:
        connection.use_library(spec.get("client_library"))
        lock.take(spec["kind"], spec["by"])
        result = perform(spec["kind"], spec["options"], spec["by"], Status(directory), directory)
    except UntangleError as exc:
        result = {"failed": True, "msg": exc.message}
    except SystemExit:
        result = {
            "failed": True,
            "msg": "The job was stopped. What it had fenced was let go; run the phase again to go on.",
        }
    except BaseException as exc:
        traceback.print_exc()
        result = {
            "failed": True,
            "msg": "The engine failed: %s. Its log is %s." % (exc, os.path.join(directory, "log")),
        }
    finally:
        lock.release()
    state.write_atomically(os.path.join(directory, "result.json"), json.dumps(result))
    return 1 if result.get("failed") else 0
