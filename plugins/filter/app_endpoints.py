# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role app_endpoints in Python: each filter is one function of module_utils/endpoints.py."""

from __future__ import annotations

import functools
import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.njoy.untangle.plugins.module_utils import endpoints
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError


def _speaking(function: t.Callable[..., t.Any]) -> t.Callable[..., t.Any]:
    @functools.wraps(function)
    def call(*args: t.Any, **kwargs: t.Any) -> t.Any:
        try:
            return function(*args, **kwargs)
        except UntangleError as error:
            raise AnsibleFilterError(error.message) from error

    return call


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {
            "app_files": _speaking(endpoints.files),
            "app_values": _speaking(endpoints.values),
            "app_instances": _speaking(endpoints.instances),
            "app_commands": _speaking(endpoints.commands),
            "app_stops": _speaking(endpoints.stops),
            "apps_on_host": _speaking(endpoints.on_host),
        }
