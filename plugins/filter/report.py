# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the report page needs; the work is done in module_utils/report.py."""

from __future__ import annotations

import typing as t

from ansible_collections.njoy.untangle.plugins.module_utils import report


class FilterModule:
    """The filter of the role split_report."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"split_report": report.view}
