# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's own client, which knows how to reach it and how to log in to registries."""

from __future__ import annotations

import os
import subprocess
import typing as t

from .errors import UntangleError


def docker(
    *words: str,
    stdin: str = "",
    timeout: float = 600,
    environment: t.Mapping[str, str] | None = None,
    both: bool = False,
    directory: str | None = None,
) -> str:
    """What the engine's client says, or a sentence. ``both``: with what it says beside it, as where logs are.

    It runs in ``directory``.
    """
    try:
        done = subprocess.run(
            ["docker", *words],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if both else subprocess.PIPE,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, **environment} if environment else None,
            cwd=directory,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise UntangleError(
            "docker %s did not run (%s). Install Docker, or start its engine." % (words[0], exc)
        ) from exc
    if done.returncode:
        raise UntangleError("docker %s failed: %s" % (" ".join(words[:2]), (done.stderr or done.stdout).strip()))
    return done.stdout
