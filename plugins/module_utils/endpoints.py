# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an application has to be told about its new instances, and what has to be run for it. Pure."""

from __future__ import annotations

import re
import typing as t

from .errors import UntangleError
from .plan import PARTS, endpoint

Purpose = t.Mapping[str, t.Any]
App = t.Mapping[str, t.Any]


def instances(
    purposes: t.Sequence[Purpose], passwords: t.Mapping[str, t.Any], missing: str | None = None
) -> dict[str, dict[str, str]]:
    """Purpose -> its parts. Raises UntangleError for a purpose without a password, unless ``missing`` may stand for it."""
    found = {}
    for purpose in purposes:
        name = str(purpose["name"])
        password = passwords.get(name, missing)
        if password is None:
            raise UntangleError("There is no password for purpose %s in app_endpoints_passwords." % name)
        found[name] = {part: str(endpoint(purpose, part, str(password))) for part in PARTS}
    return found


def values(
    wanted: t.Mapping[str, t.Any],
    purposes: t.Sequence[Purpose],
    passwords: t.Mapping[str, t.Any],
    missing: str | None = None,
) -> dict[str, str]:
    """The values of an env file: ``{"QUEUE_HOST": "pipeline.host"}`` -> ``{"QUEUE_HOST": "10.0.0.7"}``."""
    known = {str(purpose["name"]): purpose for purpose in purposes}
    split = {name: refer(name, wants, known) for name, wants in wanted.items()}
    used = {purpose for purpose, dummy in split.values()}
    found = instances([known[name] for name in known if name in used], passwords, missing)
    return {name: found[purpose][part] for name, (purpose, part) in split.items()}


def refer(name: str, wants: t.Any, known: t.Collection[str]) -> tuple[str, str]:
    """``pipeline.host`` -> ``("pipeline", "host")``. Raises UntangleError for what is no purpose or no part of one."""
    purpose, dot, part = str(wants).partition(".")
    if purpose in known and (part if dot else "url") in PARTS:
        return purpose, part if dot else "url"
    raise UntangleError(
        "%s is to be set to %r, which is no purpose of this plan or no part of one. Purposes: %s. Parts: %s, as in %s.host."
        % (name, str(wants), ", ".join(known) or "none", ", ".join(PARTS), next(iter(known), "cache"))
    )


def files(apps: t.Sequence[App], purposes: t.Sequence[Purpose]) -> list[dict[str, t.Any]]:
    """The files of all applications in one list: ``{app, path, set}`` or ``{app, path, template}``.

    Raises UntangleError for a file that has both or neither, for two entries about one file, and for unknown purposes.
    """
    known = [str(purpose["name"]) for purpose in purposes]
    found: list[dict[str, t.Any]] = []
    for app in apps:
        for file in app.get("files") or ():
            path, wanted, template = str(file["path"]), file.get("set"), file.get("template")
            if bool(wanted) == bool(template):
                raise UntangleError("%s of application %s needs either set or template." % (path, app["name"]))
            if path in (other["path"] for other in found):
                raise UntangleError("%s is named twice. Put all of its names into one entry." % path)
            for name, wants in (wanted or {}).items():
                refer(name, wants, known)
            found.append({"app": str(app["name"]), "path": path, "set": dict(wanted or {}), "template": template or ""})
    return found


def on_host(apps: t.Sequence[App], host: str) -> list[App]:
    """The applications that are on a host: those that name it in ``hosts``, and those that name no host."""
    return [app for app in apps if host in (app.get("hosts") or [host])]


def stops(apps: t.Sequence[App], found: t.Sequence[t.Mapping[str, t.Any]]) -> list[dict[str, str]]:
    """Applications that can be stopped: ``{app, run, mark}``. ``found`` are their files, as ``files`` gives them.

    The mark is a file that says *stopped by us*, so that a later run starts what an earlier one stopped. It lies beside the
    first file of the host, because an application may have no file of its own.
    """
    able = [app for app in apps if app.get("stop")]
    if able and not found:
        raise UntangleError(
            "Application %s can be stopped, but no application on its host has files." % able[0]["name"]
        )
    return [
        {
            "app": str(app["name"]),
            "run": str(app["stop"]),
            "mark": "%s.untangle-stopped-%s" % (found[0]["path"], re.sub(r"[^A-Za-z0-9_.-]", "_", str(app["name"]))),
        }
        for app in able
    ]


def commands(
    apps: t.Sequence[App], changed: t.Collection[str], stopped: t.Collection[str] = ()
) -> list[dict[str, str]]:
    """What has to be run so that applications use their files: ``{app, run, health}``, in the user's order.

    ``changed`` and ``stopped`` name applications. One that was stopped is started; one with changed files is restarted, or
    stopped and started where no ``restart`` is given; so is one without files of its own when those of any other changed.
    ``run`` is empty for an application that reads its file at every request.
    """
    found = []
    for app in apps:
        name = str(app["name"])
        stop, start, restart, health = (str(app.get(key) or "") for key in ("stop", "start", "restart", "health"))
        if name in stopped:
            run = start or restart
        elif name in changed or (changed and not app.get("files")):
            run = restart or "\n".join(command for command in (stop, start) if command)
        else:
            continue
        found.append({"app": name, "run": run, "health": health})
    return found
