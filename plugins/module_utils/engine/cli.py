# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine from a shell, for two servers at hand: ``python -m ….engine.cli copy|compare SOURCE TARGET``.

SOURCE and TARGET are ``redis://[user[:password]@]host:port/database`` (``rediss`` for TLS). A password on the command line is
seen by every user of the host: ``UNTANGLE_SOURCE_PASSWORD`` and ``UNTANGLE_TARGET_PASSWORD`` are taken where the URL has none.
This file is the only one of the package that does not travel to managed hosts.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import typing as t
import urllib.parse

from ..errors import UntangleError
from . import compare, copy
from .route import Route
from .server import Server
from .snapshot import Limits
from .state import State


def connection_of(url: str, variable: str) -> tuple[dict[str, t.Any], int]:
    """A connection and a database number from a Redis URL."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise UntangleError("%s is not a redis:// or rediss:// URL." % url.split("@")[-1])
    password = urllib.parse.unquote(parts.password) if parts.password else os.environ.get(variable)
    options = {
        "host": parts.hostname,
        "port": parts.port or 6379,
        "username": urllib.parse.unquote(parts.username) if parts.username else None,
        "password": password,
        "tls": parts.scheme == "rediss",
    }
    return options, int(parts.path.strip("/") or 0)


def main(arguments: t.Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="engine", description="Copy or compare one Redis database.")
    parser.add_argument("work", choices=["copy", "compare"])
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--on-conflict", choices=["replace", "skip"], default="replace")
    parser.add_argument("--max-latency-ms", type=float, default=5.0)
    chosen = parser.parse_args(arguments)
    limits = Limits(max_latency_ms=chosen.max_latency_ms)
    try:
        source, number = connection_of(chosen.source, "UNTANGLE_SOURCE_PASSWORD")
        target, target_number = connection_of(chosen.target, "UNTANGLE_TARGET_PASSWORD")
        if chosen.work == "compare":
            result = compare.Comparer(Server(source, number), Server(target, target_number), limits).run()
            sys.stdout.write("%s\n" % result.summary())
            return 1 if result.differences else 0
        # The marks on the servers say the rest: nothing is kept of a run from the shell.
        with tempfile.TemporaryDirectory() as directory:
            route = Route("shell", number, target, target_number)
            done = copy.copied(
                source, [route], State(directory), "shell", lambda facts: None, limits, chosen.on_conflict
            )
        sys.stdout.write("%s\n" % done["shell"])
        return 0
    except UntangleError as exc:
        sys.stderr.write(exc.message + "\n")
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
