# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every module that talks to Redis takes its connection the same way, and gets redis-py from the controller."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[4]
RUNTIME = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())
MODULES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("redis_*.py"))


def test_the_action_group_holds_all_of_them():
    assert len(MODULES) >= 7
    assert sorted(RUNTIME["action_groups"]["redis"]) == MODULES


@pytest.mark.parametrize("name", MODULES)
def test_one_connection_and_one_action(name):
    module = importlib.import_module("ansible_collections.njoy.untangle.plugins.modules." + name)
    words = yaml.safe_load(module.DOCUMENTATION)
    assert words["module"] == name
    assert {"njoy.untangle.connection", "njoy.untangle.connection.actiongroup_redis"} <= set(
        words["extends_documentation_fragment"]
    )
    # redis_migrate has the action plugin of its own name
    routed = RUNTIME["plugin_routing"]["modules"].get(name, {}).get("action_plugin")
    assert routed == (None if name == "redis_migrate" else "njoy.untangle.redis_migrate")
