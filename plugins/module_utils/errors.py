# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception of this collection: a sentence for the person who runs it."""

from __future__ import annotations


class UntangleError(Exception):
    """What is wrong, where, and what to do about it, as one sentence that can be shown as it is."""

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else ""


class Away(UntangleError):
    """A server cannot be reached, or is not ready, just now: whoever has time tries again."""
