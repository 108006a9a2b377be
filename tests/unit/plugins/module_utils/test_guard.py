# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps a run of the playbooks from beginning: each refusal names what is wrong and the fix."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.njoy.untangle.plugins.module_utils import guard

GROUPS = {"all": ["redis1", "web1"], "redis_split_hosts": ["redis1"], "redis_split_app_hosts": ["web1"]}
KNOWN = ["redis_split_source", "redis_split_purposes", "redis_split_until", "redis_split_apps"]
DEFINED = {"redis1": ["redis_split_source"], "web1": ["redis_split_source"]}
WHOLE = {"limit": "", "limited": [], "tags": ["all"], "skip_tags": [], "apps": True}


def refusals(groups: Any = None, defined: Any = None, **run: Any) -> str:
    return " ".join(guard.refusals({**WHOLE, **run}, groups or GROUPS, defined or DEFINED, KNOWN))


def test_a_whole_run_begins() -> None:
    assert refusals() == ""
    assert refusals(limit="redis1,web1", limited=["redis1", "web1"]) == ""


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({}, ["redis_split_hosts is not in the inventory", "redis_split_app_hosts is not in the inventory"]),
        ({"redis_split_hosts": [], "redis_split_app_hosts": ["web1"]}, ["redis_split_hosts is empty"]),
        (
            {"redis_split_hosts": ["redis1"], "redis_split_apphosts": ["web1"]},
            ["redis_split_apphosts", "correct its name"],
        ),
    ],
)
def test_groups(groups: dict[str, list[str]], words: list[str]) -> None:
    said = " ".join(guard.refusals(WHOLE, groups, {}, KNOWN))
    for word in words:
        assert word in said


def test_without_applications_nobody_needs_their_group() -> None:
    assert refusals({"redis_split_hosts": ["redis1"]}, apps=False) == ""


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({"limit": "redis1", "limited": ["redis1"]}, ["--limit redis1 leaves out web1"]),
        ({"limit": "localhost", "limited": ["localhost"]}, ["leaves out redis1, web1"]),
        ({"tags": ["sync"]}, ["--tags sync", "redis_split_until"]),
        ({"skip_tags": ["always"]}, ["--skip-tags always"]),
    ],
)
def test_a_run_in_part(run: dict[str, Any], words: list[str]) -> None:
    for word in words:
        assert word in refusals(**run)


def test_a_limit_may_hide_hosts_of_applications_where_there_are_none() -> None:
    assert refusals(limit="redis1", limited=["redis1"], apps=False) == ""


def test_variables() -> None:
    assert "Is it redis_split_until?" in refusals(
        defined={**DEFINED, "redis1": ["redis_split_source", "redis_split_untill"]}
    )
    assert "Known are" in refusals(defined={**DEFINED, "redis1": ["redis_split_source", "redis_split_xyzzy"]})
    said = refusals(defined={"redis1": ["redis_split_source"], "web1": ["redis_split_source", "redis_split_apps"]})
    assert "redis_split_apps is set for web1 and not for redis1" in said
    assert "group_vars/all" in said
