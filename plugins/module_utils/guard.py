# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What makes a run of playbooks refuse to begin: a wrong inventory, a wrong variable name, a part of the run left out. Pure.

A play whose hosts are missing is skipped in green, and so is a task whose tag was not asked for. A cutover of which only
the last play runs would point applications at instances that hold nothing.
"""

from __future__ import annotations

import difflib
import typing as t

INSTANCES = "redis_split_hosts"
APPS = "redis_split_app_hosts"
PREFIX = "redis_split_"


def refusals(
    run: t.Mapping[str, t.Any],
    groups: t.Mapping[str, t.Sequence[str]],
    defined: t.Mapping[str, t.Collection[str]],
    known: t.Collection[str],
) -> list[str]:
    """Sentences, each with its fix; none if the run may begin.

    `run`: ``limit`` (the text of --limit, empty without), ``limited`` (the hosts that it leaves), ``tags``, ``skip_tags`` and
    ``apps`` (whether there are applications). `groups` are the inventory's. `defined`: host -> the names of its variables
    that begin with ``redis_split_``. `known`: the names that mean something.
    """
    return [
        *_groups(groups, bool(run.get("apps"))),
        *_parts(run, groups),
        *_names(groups, defined, known),
    ]


def _groups(groups: t.Mapping[str, t.Sequence[str]], apps: bool) -> list[str]:
    found = []
    for name in sorted(groups):
        if name.startswith("redis_split") and name not in (INSTANCES, APPS):
            found.append(
                "The inventory has a group %s, which means nothing here. The groups are %s and %s: correct its name."
                % (name, INSTANCES, APPS)
            )
    if not groups.get(INSTANCES):
        found.append(
            "The group %s is %s. Put the host that the new instances run on into it."
            % (INSTANCES, "empty" if INSTANCES in groups else "not in the inventory")
        )
    if apps and not groups.get(APPS):
        found.append(
            "redis_split_apps is set and the group %s is %s. Put the hosts of the applications' files into it."
            % (APPS, "empty" if APPS in groups else "not in the inventory")
        )
    return found


def _parts(run: t.Mapping[str, t.Any], groups: t.Mapping[str, t.Sequence[str]]) -> list[str]:
    found = []
    if run.get("limit"):
        wanted = [*groups.get(INSTANCES, ()), *(groups.get(APPS, ()) if run.get("apps") else ())]
        hidden = sorted(set(wanted) - set(run.get("limited") or ()))
        if hidden:
            found.append(
                "--limit %s leaves out %s. A split is made on all of its hosts or not at all: run without --limit."
                % (run["limit"], ", ".join(hidden))
            )
    for option, value in (
        ("--tags", [tag for tag in run.get("tags") or () if tag != "all"]),
        # Molecule always names some of these, which no task here carries.
        ("--skip-tags", [tag for tag in run.get("skip_tags") or () if not tag.endswith("notest")]),
    ):
        if value:
            found.append(
                "%s %s would leave out steps of a phase. Run a phase by its own playbook (audit, provision, sync, verify, "
                "cutover, watch), or stop after one with redis_split_until." % (option, ",".join(map(str, value)))
            )
    return found


def _names(
    groups: t.Mapping[str, t.Sequence[str]], defined: t.Mapping[str, t.Collection[str]], known: t.Collection[str]
) -> list[str]:
    found = []
    strange: dict[str, None] = {}
    for names in defined.values():
        strange.update(dict.fromkeys(sorted(set(names) - set(known))))
    for name in strange:
        # the prefix is in all of them and would make anything look alike
        near = [
            PREFIX + one
            for one in difflib.get_close_matches(name[len(PREFIX) :], [one[len(PREFIX) :] for one in known], 1)
        ]
        found.append(
            "There is no variable %s. %s"
            % (name, "Is it %s?" % near[0] if near else "Known are %s." % ", ".join(sorted(known)))
        )
    engine = next(iter(groups.get(INSTANCES) or ()), None)
    if engine is not None and engine in defined:
        for host, names in sorted(defined.items()):
            apart = sorted((set(names) & set(known)) - set(defined[engine]))
            if apart:
                found.append(
                    "%s %s set for %s and not for %s, where the engine runs. Set the variables of a split for both groups, for "
                    "example in group_vars/all." % (", ".join(apart), "is" if len(apart) == 1 else "are", host, engine)
                )
    return found
