# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules that drive the engine have in common: their options, and the way from a call to a result."""

from __future__ import annotations

import typing as t

from .connection import CONNECTION_OPTIONS, use_library
from .engine import jobs, state
from .errors import UntangleError

#: The argument specification; the doc fragments ``njoy.untangle.connection`` and ``njoy.untangle.engine`` say it in words.
ENGINE_OPTIONS: dict[str, dict[str, t.Any]] = {
    "source": {"type": "dict", "required": True, "options": CONNECTION_OPTIONS},
    "routes": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "purpose": {"type": "str", "required": True},
            "database": {"type": "int", "required": True},
            "target": {"type": "dict", "required": True, "options": CONNECTION_OPTIONS},
            "target_database": {"type": "int", "default": 0},
        },
    },
    "client_library": {"type": "list", "elements": "path"},
    "state_dir": {"type": "path"},
    "max_latency_ms": {"type": "float", "default": 5.0},
    "big_key_bytes": {"type": "int", "default": 262144, "no_log": False},
    "tolerance_ms": {"type": "int", "default": 0},
    "by": {"type": "str"},
    "job": {"type": "str"},
    "wait": {"type": "float"},
}

_NOT_WORK = ("client_library", "by", "job", "wait", "state")

Preview = t.Callable[[dict[str, t.Any]], dict[str, t.Any]]


def run(module: t.Any, kind: str | None, preview: Preview, finish: Preview | None = None) -> None:
    """Answer a module call: in check mode by ``preview``, else by a job of ``kind``. ``finish`` has the last word on a result.

    ``module`` is an AnsibleModule; every error leaves it as one sentence.
    """
    params = module.params
    options = {name: value for name, value in params.items() if name not in _NOT_WORK}
    options["state_dir"] = params["state_dir"] or state.default_directory()
    try:
        use_library(params["client_library"])
        if not options["routes"]:
            raise UntangleError("routes is empty: name at least one database and its target.")
        if module.check_mode or kind is None:
            result = preview(options)
        else:
            result = jobs.call(params, kind, options, params["client_library"])
        if finish and not result.get("running") and not result.get("failed"):
            result = finish(result)
    except UntangleError as exc:
        module.fail_json(msg=exc.message)
        return
    if result.get("failed"):
        module.fail_json(**{"msg": "The job failed.", **result})
    module.exit_json(**result)
