#!/usr/bin/env python
# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A role's defaults/main.yml and meta/argument_specs.yml say the same.

Every default is documented with the same value, every documented default exists, every option has a type and a
description, and a list says what its elements are. One line per disagreement; exit code 1 if there is any.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

NOTHING = object()


def load(path: Path) -> dict[str, Any]:
    return (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


def option_faults(path: str, option: dict[str, Any]) -> Iterator[str]:
    """What is missing in one option's description, and in those of its suboptions."""
    for key in ("type", "description"):
        if not option.get(key):
            yield f"{path}: no {key}"
    if option.get("type") == "list" and not option.get("elements"):
        yield f"{path}: a list without elements"
    if option.get("required") and "default" in option:
        yield f"{path}: required, and has a default"
    for name, inner in (option.get("options") or {}).items():
        yield from option_faults(f"{path}.{name}", inner)


def same(a: Any, b: Any) -> bool:
    """Equal, and of one type: 1 is not true, "6379" is not 6379."""
    return type(a) is type(b) and a == b


def role_faults(role: Path) -> Iterator[str]:
    defaults = load(role / "defaults" / "main.yml")
    specs_file = role / "meta" / "argument_specs.yml"
    if not specs_file.exists():
        yield f"{role.name}: no meta/argument_specs.yml"
        return
    entries = load(specs_file).get("argument_specs") or {}
    documented: set[str] = set()
    for entry, spec in entries.items():
        if not spec.get("short_description"):
            yield f"{role.name} {entry}: no short_description"
        for name, option in (spec.get("options") or {}).items():
            where = f"{role.name} {entry}: {name}"
            documented.add(name)
            yield from option_faults(where, option)
            in_spec, in_defaults = option.get("default", NOTHING), defaults.get(name, NOTHING)
            if in_spec is NOTHING and in_defaults is not NOTHING:
                yield f"{where}: defaults/main.yml says {in_defaults!r}, the specs give no default"
            elif in_defaults is NOTHING and in_spec is not NOTHING:
                yield f"{where}: the specs say {in_spec!r}, defaults/main.yml has no such variable"
            elif not same(in_spec, in_defaults):
                yield f"{where}: defaults/main.yml says {in_defaults!r}, the specs say {in_spec!r}"
    for name in defaults:
        if name not in documented and not name.startswith("__"):
            yield f"{role.name}: {name} is in defaults/main.yml and in no entry point of the specs"
    # each tasks file that a user may name in tasks_from is an entry point; what begins with _ is the role's own
    for tasks in entries:
        if not any((role / "tasks" / f"{tasks}.{ext}").exists() for ext in ("yml", "yaml")):
            yield f"{role.name}: entry point {tasks} has no tasks/{tasks}.yml"


def main(roles: Path) -> int:
    found = sorted(path for path in roles.glob("*") if (path / "tasks").is_dir())
    faults = [fault for role in found for fault in role_faults(role)]
    for fault in faults:
        print(fault)
    print(f"argument specs: {len(found)} roles, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "roles"))
