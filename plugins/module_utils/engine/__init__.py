# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a database moves. This package knows nothing of Ansible: modules, jobs, tests and benchmarks drive the same code.

All of its files are imported here, because only what is imported statically travels to a managed host.
"""

from __future__ import annotations

from . import (
    back,
    commands,
    compare,
    copy,
    cutover,
    desk,
    digest,
    feed,
    forget,
    gate,
    hints,
    job,
    jobs,
    lane,
    link,
    live,
    marks,
    metrics,
    mirror,
    preview,
    retire,
    route,
    server,
    snapshot,
    state,
    target,
    values,
)

__all__ = [
    "back",
    "commands",
    "compare",
    "copy",
    "cutover",
    "desk",
    "digest",
    "feed",
    "forget",
    "gate",
    "hints",
    "job",
    "jobs",
    "lane",
    "link",
    "live",
    "marks",
    "metrics",
    "mirror",
    "preview",
    "retire",
    "route",
    "server",
    "snapshot",
    "state",
    "target",
    "values",
]
