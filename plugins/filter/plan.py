# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What playbooks and templates ask the plan for. The work is done in module_utils; here only errors are translated."""

from __future__ import annotations

import functools
import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.njoy.untangle.plugins.module_utils import plan, profiles
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


@_sentences
def split_plan(variables: t.Mapping[str, t.Any], hosts: t.Mapping[str, t.Any]) -> plan.Plan:
    """See split_plan.yml."""
    return plan.normalise(variables, hosts)


@_sentences
def split_plan_public(value: t.Mapping[str, t.Any]) -> plan.Plan:
    """See split_plan_public.yml."""
    return plan.public(value)


@_sentences
def redis_settings(purpose: t.Mapping[str, t.Any], version: str, layout: t.Mapping[str, t.Any]) -> profiles.Settings:
    """See redis_settings.yml."""
    return profiles.instance_settings(purpose, profiles.parse_version(version), layout)


@_sentences
def redis_conf(settings: t.Mapping[str, str]) -> str:
    """See redis_conf.yml."""
    return "\n".join(profiles.conf_lines(settings)) + "\n"


@_sentences
def redis_acl(purpose: t.Mapping[str, t.Any], version: str, hashes: t.Mapping[str, str]) -> str:
    """See redis_acl.yml."""
    lines = profiles.acl_lines(
        purpose["user"], purpose["profile"], hashes, profiles.parse_version(version), purpose.get("acl") or ""
    )
    return "\n".join(lines) + "\n"


@_sentences
def redis_differences(settings: t.Mapping[str, str], answer: str) -> list[dict[str, t.Any]]:
    """See redis_differences.yml."""
    return profiles.differences(settings, profiles.parse_config(answer))


@_sentences
def redis_url(purpose: t.Mapping[str, t.Any], password: str = "") -> str:
    """See redis_url.yml."""
    return str(plan.endpoint(purpose, "url", password))


@_sentences
def redis_limits(purpose: t.Mapping[str, t.Any]) -> dict[str, int]:
    """See redis_limits.yml."""
    return {
        "memory": profiles.container_memory(purpose["settings"]),
        "stop_seconds": profiles.stop_seconds(purpose["settings"]),
    }


class FilterModule:
    """Filters around the plan of a split."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {
            "split_plan": split_plan,
            "split_plan_public": split_plan_public,
            "redis_settings": redis_settings,
            "redis_conf": redis_conf,
            "redis_acl": redis_acl,
            "redis_differences": redis_differences,
            "redis_url": redis_url,
            "redis_limits": redis_limits,
        }
