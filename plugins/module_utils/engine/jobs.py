# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting the engine as a process of its own, and asking how it is getting on.

A lost controller stops nothing: the job is detached from the task that started it, and a second call finds it. The code
travels with the task (AnsiballZ) and is laid down in the state directory, by its digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import typing as t
import zipfile

from ..errors import UntangleError
from . import state
from .desk import Desk

_PACKAGE = __name__.rsplit(".", 1)[0]
_ROOT = "ansible_collections/njoy/untangle/plugins/module_utils/"


def call(
    params: t.Mapping[str, t.Any], kind: str, options: t.Mapping[str, t.Any], library: t.Sequence[str] | None
) -> dict[str, t.Any]:
    """Start a job, or join the one named by ``params['job']``, and wait for it for ``params['wait']`` seconds (None: to its end).

    Returns its result, or ``running`` with ``job`` and ``progress``.
    """
    directory = str(options["state_dir"])
    by = str(params.get("by") or "unknown")
    if not params.get("job"):
        answer = _ask_mirror(directory, kind, options, by)
        if answer is not None:
            return answer
    found = None if params.get("job") else find(directory, kind, options)
    job = str(params.get("job") or found or start(directory, kind, options, by, library))
    desk = Desk(os.path.join(directory, "jobs", job))
    joined = bool(found and desk.ready())
    wait = params.get("wait")
    end = None if wait is None else time.monotonic() + float(wait)
    while True:
        answer = poll(directory, job)
        ready = desk.ready() if answer.get("running") else None
        if ready:
            # In step, and the job goes on.
            forward = [] if joined else ready["forward"]
            purposes = {name: {**facts, "changed": name in forward} for name, facts in ready["purposes"].items()}
            stopped = {"failed": True, "msg": ready["stopped"]} if ready.get("stopped") else {}
            return {"changed": bool(forward), "purposes": purposes, "job": job, **stopped}
        if not answer.get("running") or (end is not None and time.monotonic() >= end):
            return answer
        time.sleep(0.1)


def _ask_mirror(directory: str, kind: str, options: t.Mapping[str, t.Any], by: str) -> dict[str, t.Any] | None:
    """What a running mirror does itself: nobody else could end it, or what it follows, at the right moment."""
    mirror = running(directory, "mirrored")
    if not mirror:
        return None
    desk = Desk(os.path.join(directory, "jobs", str(mirror["job"])))
    request = {
        "what": kind,
        "by": by,
        "purposes": [route["purpose"] for route in options["routes"]],
        **{
            name: options.get(name)
            for name in ("fence", "writers_stopped", "accept_loss", "pause_max_seconds", "rehearse")
        },
    }

    def ask(seconds: float) -> dict[str, t.Any]:
        answer = desk.ask(request, lambda: running(directory, "mirrored") is not None, seconds)
        if answer.pop("ends", False):
            _wait_for_its_end(directory)
        return answer

    if kind == "cut_over" and not _only_back(desk):
        return ask(120)
    if kind == "returned":
        if _only_back(desk):
            # It may have to compare everything.
            return ask(24 * 3600)
        stop(directory)
    if kind in ("retired", "restored") and _only_back(desk):
        ask(120)
    if kind == "mirrored":
        same = find(directory, kind, options) if desk.ready() else None
        if same and (desk.ready() or {}).get("stopped"):
            ask(120)
        elif _only_back(desk) and not same:
            # The plan has grown since.
            stop(directory)
    return None


def _only_back(desk: Desk) -> bool:
    """Whether a mirror has nothing left to do but to keep the way back open: then others may work beside it."""
    ready = desk.ready()
    return ready is not None and not ready["forward"]


#: What a mirror is known by, to a later release of this collection too.
_MIRROR = ("source", "routes", "state_dir", "feed", "tolerance_ms", "max_latency_ms", "big_key_bytes")


def _fingerprint(kind: str, options: t.Mapping[str, t.Any]) -> str:
    if kind == "mirrored":
        options = {name: options.get(name) for name in _MIRROR}
    return hashlib.sha256(json.dumps([kind, options], sort_keys=True, default=str).encode()).hexdigest()


def _jobs(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(os.path.join(directory, "jobs")))
    except FileNotFoundError:
        return []


def find(directory: str, kind: str, options: t.Mapping[str, t.Any]) -> str | None:
    """A running job that does just this; a sentence where one runs that does something else."""
    for job in reversed(_jobs(directory)):
        facts = _read(os.path.join(directory, "jobs", job, "job.json"))
        if facts and _alive(facts) and not os.path.exists(os.path.join(directory, "jobs", job, "result.json")):
            if facts["fingerprint"] == _fingerprint(kind, options):
                return job
            beside = kind == "compare" or _only_back(Desk(os.path.join(directory, "jobs", job)))
            if facts["kind"] == "mirrored" and beside:
                continue
            raise UntangleError(
                "This split is being worked on: %s by %s since %s (pid %d). Wait for it, or stop it with redis_migrate state: stopped."
                % (facts["kind"], facts["by"], facts["since"], facts["pid"])
            )
    return None


def running(directory: str, kind: str | None = None) -> dict[str, t.Any] | None:
    """The job that runs just now, perhaps of one kind, with its progress."""
    for job in reversed(_jobs(directory)):
        facts = _read(os.path.join(directory, "jobs", job, "job.json"))
        if (
            facts
            and kind in (None, facts["kind"])
            and _alive(facts)
            and not os.path.exists(os.path.join(directory, "jobs", job, "result.json"))
        ):
            progress = _read(os.path.join(directory, "jobs", job, "status.json"))
            return {
                "job": job,
                "kind": facts["kind"],
                "by": facts["by"],
                "since": facts["since"],
                "pid": facts["pid"],
                "progress": progress or {},
            }
    return None


def stop(directory: str, seconds: float = 30) -> bool:
    """End the job that runs, politely, so that it undoes what it must. Returns whether there was one."""
    found = running(directory)
    if found:
        os.kill(int(found["pid"]), 15)
        _wait_for_its_end(directory, seconds)
    for job in _jobs(directory):
        facts = _read(os.path.join(directory, "jobs", job, "job.json")) or {}
        if facts.get("unit") and not os.path.exists(os.path.join(directory, "jobs", job, "result.json")):
            # It is dead just now, and about to be started again.
            subprocess.run(["systemctl", "stop", facts["unit"]], capture_output=True, check=False)
    return bool(found)


def _wait_for_its_end(directory: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while running(directory) and time.monotonic() < end:
        time.sleep(0.05)


def start(directory: str, kind: str, options: t.Mapping[str, t.Any], by: str, library: t.Sequence[str] | None) -> str:
    job = "%s-%s-%s" % (
        state.now().replace(":", "").replace("-", "")[:15],
        kind.replace("_", "-"),
        secrets.token_hex(3),
    )
    place = os.path.join(directory, "jobs", job)
    os.makedirs(place, mode=0o700)
    code, libraries = lay_down(directory, library)
    facts = {"kind": kind, "by": by, "since": state.now(), "fingerprint": _fingerprint(kind, options)}
    # A mirror goes on for days: where it is killed, systemd starts it again.
    if kind == "mirrored" and os.path.isdir("/run/systemd/system") and not os.geteuid():
        facts["unit"] = "untangle-%s" % job
    spec = {"kind": kind, "options": dict(options), "by": by, "client_library": libraries, "job": facts}
    state.write_atomically(os.path.join(place, "spec.json"), json.dumps(spec))
    command = [
        sys.executable,
        "-c",
        "import sys; from %s.job import main; sys.exit(main(sys.argv[1]))" % _PACKAGE,
        place,
    ]
    environment = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER")}
    environment["PYTHONPATH"] = os.pathsep.join([code, *libraries])
    with open(os.path.join(place, "log"), "wb") as log:
        os.chmod(log.name, 0o600)
        if facts.get("unit"):
            _start_unit(place, facts["unit"], command, environment)
        else:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=place, env=environment,
                start_new_session=True, close_fds=True,
            )  # fmt: skip
            register(place, facts, process.pid)
    for old in _jobs(directory)[:-20]:
        gone = os.path.join(directory, "jobs", old)
        # a mirror is older than what was done beside it
        if not _alive(_read(os.path.join(gone, "job.json")) or {}):
            shutil.rmtree(gone, ignore_errors=True)
    return job


def _start_unit(place: str, unit: str, command: t.Sequence[str], environment: t.Mapping[str, str]) -> None:
    """As a transient unit, which is gone once the job has ended. What the job was told, passwords too, stays in memory beside it."""
    kept = "/run/" + unit
    properties = (
        "Restart=on-abnormal", "RestartSec=1", "RuntimeDirectory=" + unit, "RuntimeDirectoryMode=0700",
        "RuntimeDirectoryPreserve=restart",
    )  # fmt: skip
    log = 'log=$1; shift; exec "$@" >> "$log" 2>&1'
    done = subprocess.run(
        [
            "systemd-run", "--quiet", "--collect", "--unit=" + unit, *["--property=" + one for one in properties],
            *["--setenv=%s=%s" % pair for pair in {**environment, "RUNTIME_DIRECTORY": kept}.items()],
            "/bin/sh", "-c", log, "sh", os.path.join(place, "log"), *command,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    end = time.monotonic() + 30
    while done.returncode or not os.path.exists(os.path.join(place, "job.json")):
        if done.returncode or time.monotonic() > end:
            raise UntangleError("systemd did not start %s: %s See its journal." % (unit, done.stderr.strip()))
        time.sleep(0.02)


def register(place: str, facts: t.Mapping[str, t.Any], pid: int) -> None:
    """Write down who works here. Both sides do: a caller killed right after the start would leave a job that nobody can find."""
    text = json.dumps({"pid": pid, "started": _started(pid), **facts})
    state.write_atomically(os.path.join(place, "job.json"), text)


def poll(directory: str, job: str) -> dict[str, t.Any]:
    place = os.path.join(directory, "jobs", job)
    result = _read(os.path.join(place, "result.json"))
    if result is not None:
        return result
    facts = _read(os.path.join(place, "job.json"))
    if facts is None:
        raise UntangleError("There is no job %s in %s." % (job, directory))
    if not _alive(facts):
        # It may have ended between the two looks.
        result = _read(os.path.join(place, "result.json"))
        if result is None:
            raise UntangleError(
                "The job %s (pid %d) ended without a result; its log is %s. Run the phase again: it goes on from what the servers say."
                % (job, facts["pid"], os.path.join(place, "log"))
            )
        return result
    return {"running": True, "job": job, "progress": _read(os.path.join(place, "status.json")) or {}, "changed": False}


def _read(path: str) -> dict[str, t.Any] | None:
    try:
        with open(path) as stream:
            return t.cast("dict[str, t.Any]", json.load(stream))
    except FileNotFoundError:
        return None


def _started(pid: int) -> str:
    """When a process began, in clock ticks since boot: with the pid it names a process for good."""
    try:
        with open("/proc/%d/stat" % pid) as stream:
            words = stream.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if words[0] == "Z" else words[19]


def _alive(facts: t.Mapping[str, t.Any]) -> bool:
    return bool(facts.get("started")) and _started(int(facts["pid"])) == facts["started"]


def lay_down(directory: str, library: t.Sequence[str] | None) -> tuple[str, list[str]]:
    """Put the engine's code and its client library where they outlive the task. Returns the import paths."""
    place = os.path.join(directory, "lib")
    os.makedirs(place, mode=0o700, exist_ok=True)
    archive = getattr(globals().get("__loader__"), "archive", None)
    if archive:
        with zipfile.ZipFile(archive) as code:
            names = [n for n in code.namelist() if n.startswith(_ROOT) and n.endswith(".py")]
            digest = hashlib.sha256(b"".join(code.read(n) for n in sorted(names))).hexdigest()[:12]
            root = os.path.join(place, "engine-" + digest)
            if not os.path.isdir(root):
                code.extractall(root + ".part", names)
                _settle(root)
    else:
        # A plain import: the checkout itself.
        root = os.path.abspath(os.path.join(os.path.dirname(__file__), *[".."] * len(_PACKAGE.split("."))))
    paths = []
    for path in library or ():
        if os.path.isdir(path) or os.path.dirname(os.path.abspath(path)) == place:
            paths.append(path)
            continue
        if os.path.basename(path).startswith("hiredis") and str(sys.implementation.cache_tag) not in path:
            # Made for another Python than this host's.
            continue
        with open(path, "rb") as stream:
            digest = hashlib.sha256(stream.read()).hexdigest()[:12]
        name = os.path.basename(path)
        kept = os.path.join(place, "%s-%s" % (digest, name))
        # Compiled parts cannot be imported from an archive.
        if name.startswith("hiredis") and not os.path.isdir(kept):
            with zipfile.ZipFile(path) as wheel:
                wheel.extractall(kept + ".part")
            _settle(kept)
        elif not os.path.exists(kept):
            shutil.copyfile(path, kept + ".part")
            _settle(kept)
        paths.append(kept)
    return root, paths


def _settle(path: str) -> None:
    try:
        os.rename(path + ".part", path)
    except OSError:
        # Another call was faster.
        if not os.path.exists(path):
            raise
