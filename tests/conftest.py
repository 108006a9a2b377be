# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for all tests. Plain pytest is enough: the collection's own name is importable without Ansible's loader."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COLLECTIONS = ROOT / ".venv" / "collections"

# `make setup` links the checkout to .venv/collections/ansible_collections/njoy/untangle: that is what makes
# `from ansible_collections.njoy.untangle.plugins... import` work here, as it will once installed.
sys.path.insert(0, str(COLLECTIONS))

# those that assert for many tests, and would else say nothing when they fail
pytest.register_assert_rewrite("dataset", "mirrors", "playbook_site", "rig", "writers")

import servers

each_version = pytest.mark.parametrize("version", servers.MAIN)
every_version = pytest.mark.parametrize("version", servers.ALL)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything is said to be here, a test that finds something missing has not passed."""
    report = yield
    if report.skipped and os.environ.get("UNTANGLE_ALL"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was left out, and nothing may be: {report.longrepr}"
    return report


@pytest.fixture
def server() -> Iterator[Callable[..., servers.Server]]:
    """`server("redis-8.0", maxmemory="100mb")` gives a running server; all of them end with the test."""
    started: list[servers.Server] = []

    def start(*args: object, **kwargs: object) -> servers.Server:
        made = servers.Server(*args, **kwargs)  # type: ignore[arg-type]
        started.append(made)
        return made.start()

    yield start
    for made in started:
        made.close()
