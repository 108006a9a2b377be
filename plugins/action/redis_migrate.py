# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's side of every module that talks to Redis: it brings redis-py to the host, and shows how long work gets on."""

from __future__ import annotations

import getpass
import os
import socket
import sys
import time
import typing as t
import zipfile

from ansible import constants as C
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()

#: Seconds between two looks at a job: short work is not held up, and a line of progress comes at least every ten seconds.
FIRST_WAIT, LONGEST_WAIT = 2.0, 8.0
#: How long a host may be out of reach before the task gives up. Its job goes on all the same.
PATIENCE_SECONDS = 600

#: Modules whose work is done by a job; the others answer at once.
JOBS = ("redis_migrate", "redis_cutover", "redis_compare", "redis_retire")


class ActionModule(ActionBase):
    TRANSFERS_FILES = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        arguments = dict(self._task.args)
        name = self._task.action.rsplit(".", 1)[-1]
        if not arguments.get("client_library"):
            arguments["client_library"] = self._bring(task_vars)
        if name in JOBS:
            arguments.setdefault("by", "%s@%s" % (getpass.getuser(), socket.gethostname()))
            arguments["wait"] = FIRST_WAIT
        result = self._call(name, arguments, task_vars)
        wait, shown = FIRST_WAIT, 0.0
        while result.get("running"):
            if time.monotonic() - shown >= FIRST_WAIT:
                display.display(
                    "[%s] %s" % (task_vars.get("inventory_hostname"), progress_line(result.get("progress") or {}))
                )
                shown = time.monotonic()
            arguments.update(job=result["job"], wait=wait)
            wait = min(wait * 1.5, LONGEST_WAIT)
            result = self._patiently(name, arguments, task_vars)
        return result

    def _call(self, name: str, arguments: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        return t.cast(
            "dict[str, t.Any]",
            self._execute_module(module_name="njoy.untangle." + name, module_args=arguments, task_vars=task_vars),
        )

    def _patiently(self, name: str, arguments: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._call(name, arguments, task_vars)
            except AnsibleConnectionFailure as exc:
                if time.monotonic() > end:
                    raise AnsibleConnectionFailure(
                        "The host cannot be reached any more (%s). Its job %s goes on by itself; run the phase again to see it."
                        % (exc, arguments.get("job"))
                    ) from exc
                display.display("[%s] out of reach, the job goes on: %s" % (task_vars.get("inventory_hostname"), exc))
                time.sleep(LONGEST_WAIT)

    def _bring(self, task_vars: dict[str, t.Any]) -> list[str]:
        """Put the controller's redis-py where the module can import it: no pip and no package on the host."""
        archives = client_archives()
        if self._connection.transport == "local" and not self._play_context.become:
            return archives
        directory = self._connection._shell.tmpdir or self._make_tmp_path()
        remote = [self._connection._shell.join_path(directory, os.path.basename(path)) for path in archives]
        for here, there in zip(archives, remote):
            self._transfer_file(here, there)
        self._fixup_perms2([directory, *remote])
        return remote


def progress_line(progress: dict[str, t.Any]) -> str:
    """What is on the way, as one line."""
    if not progress:
        return "starting"
    left = progress.get("seconds_left")
    return "%s: %s, %d of %d keys, %.1f MB, %d keys/s%s" % (
        progress["purpose"],
        progress["phase"],
        progress["keys"],
        progress["keys_total"],
        progress["bytes"] / 1e6,
        progress["rate"],
        "" if left is None else ", %d s left" % left,
    )


def client_archives() -> list[str]:
    """Archives of the controller's own redis-py (and what it imports on old Pythons), and of hiredis for a host with the same Python."""
    try:
        import redis
    except ImportError as exc:
        raise AnsibleActionFail(
            "The controller has no redis-py (%s), so it cannot be brought to the host. Run `make setup`, install the Python package "
            "redis beside ansible, or name a directory on the host in client_library." % exc
        ) from exc
    pure = os.path.join(C.DEFAULT_LOCAL_TMP, "redis-py-%s.zip" % redis.__version__)
    if not os.path.exists(pure):
        _pack(pure, ["redis", "async_timeout", "typing_extensions"])
    found = [pure]
    try:
        import hiredis
    except ImportError:
        return found
    compiled = os.path.join(
        C.DEFAULT_LOCAL_TMP, "hiredis-%s-%s.zip" % (hiredis.__version__, sys.implementation.cache_tag)
    )
    if not os.path.exists(compiled):
        _pack(compiled, ["hiredis"])
    return [*found, compiled]


def _pack(path: str, packages: list[str]) -> None:
    import importlib.util

    temporary = "%s.%d" % (path, os.getpid())
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in packages:
            spec = importlib.util.find_spec(package)
            if spec is None or spec.origin is None:
                continue
            root = (
                os.path.dirname(os.path.dirname(spec.origin))
                if spec.submodule_search_locations
                else os.path.dirname(spec.origin)
            )
            if not spec.submodule_search_locations:
                archive.write(spec.origin, os.path.relpath(spec.origin, root))
                continue
            for directory, _names, files in os.walk(os.path.dirname(spec.origin)):
                for name in sorted(files):
                    if name.endswith((".py", ".so")):
                        full = os.path.join(directory, name)
                        archive.write(full, os.path.relpath(full, root))
    os.rename(temporary, path)
