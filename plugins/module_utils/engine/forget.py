# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a split leaves at its source and in its state directory, and how it is taken away."""

from __future__ import annotations

import contextlib
import os
import shutil
import typing as t

from ..errors import UntangleError
from . import jobs, marks
from .server import Server

#: What a split writes into the state directory. Backups of old databases stay: they may be the last copy.
FILES = (
    "split.json",
    "lock",
    "mirror.lock",
    "differences.tsv",
    "jobs",
    "lib",
    os.path.join("secrets", "source.engine"),
    "report.html",
    "report.html.audit.json",
)
#: Directories that are removed once nothing is left in them.
EMPTY = ("secrets", "instances", "backup", "")


def left(source: t.Mapping[str, t.Any], directory: str) -> list[str]:
    """What there is, as sentences begin with it. Raises UntangleError while it is still needed."""
    found = jobs.running(directory)
    if found:
        raise UntangleError(
            "This split is being worked on: %s by %s since %s. Wait for it, or stop it with redis_migrate state: stopped."
            % (found["kind"], found["by"], found["since"])
        )
    server = Server(source)
    names = marks.users(server)
    prefix = marks.MOVED.partition("%")[0]
    moved = sorted(name[len(prefix) :] for name in names if name.startswith(prefix))
    if moved:
        raise UntangleError(
            "Database %s of %s has moved to an instance that serves. Roll back first. Nothing was changed."
            % (", ".join(moved), server.address)
        )
    fenced = marks.fenced(server)
    if fenced:
        raise UntangleError(
            "%s still keeps %s from writing. Roll back first. Nothing was changed."
            % (server.address, ", ".join(fenced))
        )
    answer = []
    if marks.OWN_USER in names and source.get("username") != marks.OWN_USER:
        answer.append("user %s of %s" % (marks.OWN_USER, server.address))
    paths = [os.path.join(directory, name) for name in FILES]
    return answer + [path for path in paths if os.path.lexists(path)]


def forget(source: t.Mapping[str, t.Any], directory: str) -> list[str]:
    """Take it away. Returns what was there."""
    found = left(source, directory)
    if found and found[0].startswith("user "):
        marks.drop_own_user(Server(source))
    for name in FILES:
        path = os.path.join(directory, name)
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    for name in EMPTY:
        with contextlib.suppress(OSError):
            os.rmdir(os.path.join(directory, name) if name else directory)
    return found
