# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role redis_split asks between its modules. The work is done in module_utils; here only errors are translated."""

from __future__ import annotations

import base64
import functools
import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.njoy.untangle.plugins.module_utils import guard, phases, plan, telling
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

_F = t.TypeVar("_F", bound=t.Callable[..., t.Any])


def _sentences(function: _F) -> _F:
    """Let Ansible show the sentence of an UntangleError and nothing else."""

    @functools.wraps(function)
    def called(*args: t.Any, **kwargs: t.Any) -> t.Any:
        try:
            return function(*args, **kwargs)
        except UntangleError as exc:
            raise AnsibleFilterError(exc.message) from None

    return t.cast(_F, called)


def _inventory(groups: t.Mapping[str, t.Any], hostvars: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """What a plan has to know of the inventory."""
    found: dict[str, t.Any] = {
        "instances": list(groups.get(guard.INSTANCES) or ()),
        "apps": list(groups.get(guard.APPS) or ()),
    }
    found["vars"] = {
        host: {name: hostvars[host][name] for name in ("ansible_host", "ansible_connection") if name in hostvars[host]}
        for host in [*found["instances"], *found["apps"]]
    }
    return found


def _refusals(
    groups: t.Mapping[str, t.Any],
    hostvars: t.Mapping[str, t.Any],
    run: t.Mapping[str, t.Any],
    here: t.Mapping[str, t.Any],
    known: t.Collection[str],
) -> list[str]:
    hosts = [*(groups.get(guard.INSTANCES) or ()), *(groups.get(guard.APPS) or ())]
    defined = {host: [name for name in hostvars[host] if str(name).startswith("redis_split_")] for host in hosts}
    apps = [here["redis_split_apps"]] + [
        hostvars[host]["redis_split_apps"] for host in hosts if "redis_split_apps" in defined[host]
    ]
    strange = [str(name) for name in run["here"] if name not in known]
    if strange:
        # the variables of the play itself, which no host knows of
        defined["this play"] = strange
    return guard.refusals(dict(run, apps=any(map(phases.has, apps))), groups, defined, known)


def _variables(
    groups: t.Mapping[str, t.Any],
    hostvars: t.Mapping[str, t.Any],
    here: t.Mapping[str, t.Any],
    defaults: t.Mapping[str, t.Any],
) -> dict[str, t.Any]:
    return phases.variables(here, defaults, hostvars[groups[guard.INSTANCES][0]])


def split_begin(
    groups: t.Mapping[str, t.Any],
    hostvars: t.Mapping[str, t.Any],
    run: t.Mapping[str, t.Any],
    here: t.Mapping[str, t.Any],
    defaults: t.Mapping[str, t.Any],
) -> dict[str, t.Any]:
    """See split_begin.yml."""
    found: dict[str, t.Any] = {"plan": {}, "options": {}, "names": list(defaults), "defaults": dict(defaults)}
    found["refusals"] = _refusals(groups, hostvars, run, here, list(defaults))
    if not found["refusals"]:
        given = _variables(groups, hostvars, here, defaults)
        try:
            whole = None
            if phases.has(given["purposes"]) or not run["planless"]:
                whole = plan.normalise(given, _inventory(groups, hostvars))
                found["plan"] = plan.public(whole)
            found["options"] = phases.options(given, whole)
            phases.source(given)
        except UntangleError as exc:
            found["refusals"] = [exc.message]
    return found


def split_whole(
    groups: t.Mapping[str, t.Any],
    hostvars: t.Mapping[str, t.Any],
    here: t.Mapping[str, t.Any],
    defaults: t.Mapping[str, t.Any],
) -> dict[str, t.Any]:
    """See split_whole.yml."""
    given = _variables(groups, hostvars, here, defaults)
    purposes = []
    if phases.has(given["purposes"]):
        purposes = plan.normalise(given, _inventory(groups, hostvars))["purposes"]
    return {"source": phases.source(given), "purposes": purposes}


def split_passwords(results: list[t.Mapping[str, t.Any]], kind: str) -> dict[str, str]:
    """See split_passwords.yml."""
    found = {}
    for result in results:
        for line in result.get("stdout", "").splitlines():
            said, name, password = line.split(" ", 2)
            if said == kind:
                found[name] = base64.b64decode(password).decode().rstrip("\n")
    return found


class FilterModule:
    """Filters around the phases of a split."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {
            "split_begin": split_begin,
            "split_lacking": phases.lacking,
            "split_memory_problems": _sentences(phases.memory_problems),
            "split_passwords": split_passwords,
            "split_routes": _sentences(phases.routes),
            "split_source_problems": _sentences(phases.source_problems),
            "split_tell": telling.tell,
            "split_unreachable": phases.unreachable,
            "split_verdict": phases.verdict,
            "split_way_back": telling.way_back,
            "split_whole": _sentences(split_whole),
        }
