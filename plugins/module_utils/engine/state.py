# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one split knows beyond what its servers say: one file, written atomically, by the engine only."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import tempfile
import typing as t

from ..errors import UntangleError


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def default_directory() -> str:
    return "/var/lib/untangle" if os.geteuid() == 0 else os.path.expanduser("~/.local/state/untangle")


def write_atomically(path: str, text: str, mode: int = 0o600) -> None:
    """Replace a file so that a reader, or a crash, sees the old text or the new."""
    directory = os.path.dirname(path)
    handle, temporary = tempfile.mkstemp(dir=directory, prefix=".untangle-")
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


class State:
    """``split.json`` of one state directory: ``purposes`` by name, and a ``log`` of what was done."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.path = os.path.join(directory, "split.json")

    def read(self) -> dict[str, t.Any]:
        try:
            with open(self.path) as stream:
                return t.cast("dict[str, t.Any]", json.load(stream))
        except FileNotFoundError:
            return {"version": 1, "purposes": {}, "log": []}
        except ValueError as exc:
            raise UntangleError(
                "%s cannot be read (%s). Move it away: the servers' own marks say what was done, and sync adopts them after a "
                "clean compare." % (self.path, exc)
            ) from exc

    def purpose(self, name: str) -> dict[str, t.Any]:
        return t.cast("dict[str, t.Any]", self.read()["purposes"].get(name, {}))

    def update(self, what: str, by: str, purposes: t.Mapping[str, t.Mapping[str, t.Any]], **top: t.Any) -> None:
        """Merge facts into purposes and add one line to the log; none where nothing was done (``what`` is empty)."""
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        # A mirror cuts over while somebody compares: both write here.
        lock = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._update(what, by, purposes, top)
        finally:
            os.close(lock)

    def _update(
        self, what: str, by: str, purposes: t.Mapping[str, t.Mapping[str, t.Any]], top: t.Mapping[str, t.Any]
    ) -> None:
        data = self.read()
        stamp = now()
        for name, facts in purposes.items():
            entry = data["purposes"].setdefault(name, {})
            if facts.get("state") and facts["state"] != entry.get("state"):
                entry.update(since=stamp, by=by)
            entry.update(facts)
        data.update(top)
        if what:
            data["log"].append({"at": stamp, "what": what, "by": by, "purposes": sorted(purposes)})
        write_atomically(self.path, json.dumps(data, indent=1, sort_keys=True) + "\n")


class Lock:
    """Held by the process that works on a split; its text says who runs what since when. Dies with the process."""

    def __init__(self, directory: str, name: str = "lock") -> None:
        self.path = os.path.join(directory, name)
        self._stream: t.IO[str] | None = None

    def take(self, what: str, by: str) -> None:
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        stream = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            stream.seek(0)
            holder = stream.read().strip() or "another run"
            stream.close()
            raise UntangleError(
                "This split is being worked on: %s. Wait for it, or stop it with redis_migrate state: stopped." % holder
            ) from exc
        stream.truncate(0)
        stream.write("%s by %s since %s (pid %d)" % (what, by, now(), os.getpid()))
        stream.flush()
        self._stream = stream

    def release(self) -> None:
        if self._stream:
            self._stream.truncate(0)
            self._stream.close()
            self._stream = None
