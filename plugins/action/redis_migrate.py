# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's side of every module that talks to Redis: it brings redis-py to the host, and shows how long work gets on."""

from __future__ import annotations

import getpass
import importlib.metadata
import importlib.util
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

# Ansible loads an action in its first process and forks one per task, of which each would compile the filters again.
# pylint: disable-next=unused-import
from ansible_collections.njoy.untangle.plugins.filter import app_endpoints, plan, report, split  # noqa: F401

display = Display()

#: Seconds to wait for a job in one call: short work is not held up, and a line of progress comes at least every ten seconds, the time
#: that a call itself takes on a slow host included.
FIRST_WAIT, LONGEST_WAIT = 2.0, 6.0
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
        if self._connection.transport == "local" and not self._play_context.become:
            return client_archives(compiled=True)
        archives = client_archives()
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
    left, lag = progress.get("seconds_left"), progress.get("lag_seconds")
    return "%s: %s, %d of %d keys, %.1f MB, %d keys/s%s%s" % (
        progress["purpose"],
        progress["phase"],
        progress["keys"],
        progress["keys_total"],
        progress["bytes"] / 1e6,
        progress["rate"],
        "" if left is None else ", %d s left" % left,
        ", %.1f s behind" % lag if lag else "",
    )


def client_archives(compiled: bool = False) -> list[str]:
    """Archives of the controller's own redis-py (and what it imports on old Pythons), and of hiredis for a host with the same Python.

    ``compiled`` adds the bytecode of this Python, which saves a task a third of a second and makes the archive ten times as big. Another
    Python takes the sources beside it.
    """
    # By what is installed: to import it would take each task a quarter of a second.
    here = {one: _version(one) for one in ("redis", "hiredis")}
    if not here["redis"]:
        raise AnsibleActionFail(
            "The controller has no redis-py (its Python is %s), so none can be brought to the host. Run `make setup`, install the package "
            "redis beside ansible, or name a directory on the host in client_library." % sys.executable
        )
    python = str(sys.implementation.cache_tag)
    name = "redis-py-%s%s.zip" % (here["redis"], "-" + python if compiled else "")
    found = [_packed(name, ["redis", "async_timeout", "typing_extensions"], compiled)]
    if not here["hiredis"]:
        return found
    return [*found, _packed("hiredis-%s-%s.zip" % (here["hiredis"], python), ["hiredis"])]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packed(name: str, packages: list[str], compiled: bool = False) -> str:
    """The path of an archive, made by the first task that needs it."""
    path = os.path.join(C.DEFAULT_LOCAL_TMP, name)
    if os.path.exists(path):
        return path
    temporary = "%s.%d" % (path, os.getpid())
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED if compiled else zipfile.ZIP_DEFLATED) as archive:
        for package in packages:
            for full, there in _files(package):
                archive.write(full, there)
                bytecode = importlib.util.cache_from_source(full) if compiled and full.endswith(".py") else ""
                if os.path.exists(bytecode):
                    with open(bytecode, "rb") as stream:
                        data = stream.read()
                    # Marked as not to be checked against its source: an archive does not keep the time of a file exactly.
                    archive.writestr(there + "c", data[:4] + b"\x01\0\0\0" + bytes(8) + data[16:])
    os.rename(temporary, path)
    return path


def _files(package: str) -> t.Iterator[tuple[str, str]]:
    """The files of a package or module that is installed here, each with its name below the import path."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return
    if not spec.submodule_search_locations:
        yield spec.origin, os.path.basename(spec.origin)
        return
    top = os.path.dirname(spec.origin)
    for directory, _names, files in os.walk(top):
        for name in sorted(files):
            if name.endswith((".py", ".so")):
                full = os.path.join(directory, name)
                yield full, os.path.relpath(full, os.path.dirname(top))
