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


def split_inventory(groups: t.Mapping[str, t.Any], hostvars: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """See split_inventory.yml."""
    found: dict[str, t.Any] = {
        "instances": list(groups.get(guard.INSTANCES) or ()),
        "apps": list(groups.get(guard.APPS) or ()),
    }
    found["vars"] = {
        host: {name: hostvars[host][name] for name in ("ansible_host", "ansible_connection") if name in hostvars[host]}
        for host in [*found["instances"], *found["apps"]]
    }
    return found


def split_refusals(
    groups: t.Mapping[str, t.Any], hostvars: t.Mapping[str, t.Any], run: t.Mapping[str, t.Any], known: list[str]
) -> list[str]:
    """See split_refusals.yml."""
    hosts = [*(groups.get(guard.INSTANCES) or ()), *(groups.get(guard.APPS) or ())]
    defined = {host: [name for name in hostvars[host] if str(name).startswith("redis_split_")] for host in hosts}
    apps = run["apps"] or any(phases.has(hostvars[host]["redis_split_apps"]) for host in hosts if "redis_split_apps" in defined[host])
    here = [str(name) for name in run["here"]]
    strange = [name for name in here if name not in known]
    if strange:
        # the variables of the play itself, which no host knows of
        defined.setdefault("this play", []).extend(strange)
    return guard.refusals(dict(run, apps=apps), groups, defined, known)


def split_passwords(results: list[t.Mapping[str, t.Any]], kind: str) -> dict[str, str]:
    """See split_passwords.yml."""
    found = {}
    for result in results:
        for line in result.get("stdout", "").splitlines():
            said, name, password = line.split(" ", 2)
            if said == kind:
                found[name] = base64.b64decode(password).decode().rstrip("\n")
    return found


def split_problems(given: t.Mapping[str, t.Any], hosts: t.Mapping[str, t.Any], planned: bool) -> list[str]:
    """See split_problems.yml."""
    try:
        phases.options(given, plan.normalise(given, hosts) if planned else None)
        phases.source(given)
    except UntangleError as exc:
        return [exc.message]
    return []


class FilterModule:
    """Filters around the phases of a split."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {
            "split_given": phases.has,
            "split_inventory": split_inventory,
            "split_lacking": phases.lacking,
            "split_memory_problems": _sentences(phases.memory_problems),
            "split_options": _sentences(phases.options),
            "split_passwords": split_passwords,
            "split_problems": split_problems,
            "split_refusals": split_refusals,
            "split_routes": _sentences(phases.routes),
            "split_source": _sentences(phases.source),
            "split_source_problems": _sentences(phases.source_problems),
            "split_tell": telling.tell,
            "split_variables": phases.variables,
            "split_verdict": phases.verdict,
            "split_way_back": telling.way_back,
        }
