# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the playbooks decide between their modules: options, routes, what stands in the way, the verdict. Pure."""

from __future__ import annotations

import errno
import math
import re
import typing as t

from . import plan as plans
from . import profiles, telling
from .errors import UntangleError
from .telling import MOVED

Facts = t.Mapping[str, t.Any]
Plan = t.Mapping[str, t.Any]

#: Below this many look-ups a hit rate says nothing.
ENOUGH_LOOKUPS = 100


# -- options --------------------------------------------------------------------------------------------------------------


def variables(given: Facts, defaults: Facts, elsewhere: Facts) -> dict[str, t.Any]:
    """The variables of a split by their names without prefix, the same on every host of it.

    `given` is what this host sees, `elsewhere` what the host sees that the engine runs on. A value of this host's own counts
    only where it is not the default, so that variables in the vars of one group are known to all.
    """
    found = {}
    for name, default in defaults.items():
        value = given.get(name, default)
        if value == default and name in elsewhere:
            value = elsewhere[name]
        found[name[len("redis_split_") :]] = value
    return found


def options(given: Facts, plan: Plan | None = None) -> dict[str, t.Any]:
    """All that is not the plan, every one in its final type; a value that was not said is the default. Raises UntangleError.

    Without a plan (an audit of a server that nobody has planned for yet) names of purposes are not looked up.
    """
    latency = _number(given, "max_latency_ms", 5.0, 0.1, 10_000)
    return {
        "state_dir": _path(given, "state_dir"),
        "fence": _words(given, "fence"),
        "accept_loss": _purposes(given, "accept_loss", plan),
        "min_hit_rate": _rates(given.get("min_hit_rate"), plan),
        "watch_seconds": int(_number(given, "watch_seconds", 86400, 0, 366 * 86400)),
        "rehearse": plans.boolean(given.get("rehearse"), "redis_split_rehearse"),
        "pause_max_seconds": _number(given, "pause_max_seconds", 0, 0, 60),
        "rollback_on_watch": plans.boolean(given.get("rollback_on_watch"), "redis_split_rollback_on_watch"),
        "memory_check": _one_of(given, "memory_check", ("refuse", "warn")),
        # redis_migrate takes whole milliseconds
        "max_latency_ms": max(1, round(latency)),
        "big_key_bytes": int(_number(given, "big_key_bytes", 262144, 1024, 512 << 20)),
        "image": str(given.get("image") or "redis:8.0"),
        "image_source": _one_of(given, "image_source", ("pull", "build")),
        "image_base": str(given.get("image_base") or ""),
        "monitoring": plans.boolean(given.get("monitoring"), "redis_split_monitoring"),
        "network": str(given.get("network") or ""),
        "host_settings": _one_of(given, "host_settings", ("report", "set")),
        "server": _path(given, "server"),
        "report_path": _path(given, "report_path"),
        # every application can be stopped: then nobody needs to be fenced
        "writers_stopped": bool(plan and plan["apps"])
        and all(app.get("stop") and app.get("start") for app in (plan or {})["apps"]),
    }


def source(given: Facts) -> dict[str, t.Any]:
    """The shared server's connection alone, for an audit without a plan."""
    return plans._source(given.get("source"))


def has(value: t.Any) -> bool:
    """Whether a list or mapping was given, be it as text."""
    return bool(plans._structure(value)) and value not in ("[]", "{}")


def _number(given: Facts, name: str, default: float, low: float, high: float) -> float:
    value = given.get(name)
    if value is None or str(value).strip() == "":
        return default
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise UntangleError("redis_split_%s is %r. Write a number from %s to %s." % (name, value, low, high))
    return number


def _path(given: Facts, name: str) -> str:
    value = str(given.get(name) or "").strip()
    if value and not value.startswith("/"):
        raise UntangleError("redis_split_%s is %s. Write it as an absolute path." % (name, value))
    return value.rstrip("/")


def _one_of(given: Facts, name: str, choices: t.Sequence[str]) -> str:
    value = str(given.get(name) or choices[0]).strip().lower()
    if value not in choices:
        raise UntangleError("redis_split_%s is %r. Choose one of %s." % (name, given.get(name), ", ".join(choices)))
    return value


def _words(given: Facts, name: str) -> list[str]:
    value = plans._structure(given.get(name))
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise UntangleError("redis_split_%s is %r. Write a list of names." % (name, value))
    return [str(one) for one in value]


def _purposes(given: Facts, name: str, plan: Plan | None) -> list[str]:
    found = _words(given, name)
    for one in found if plan is not None else ():
        try:
            plans.purpose_named(plan or {}, one)
        except UntangleError as exc:
            raise UntangleError("redis_split_%s: %s" % (name, exc.message)) from None
    return found


def _rates(value: t.Any, plan: Plan | None) -> dict[str, float]:
    """Purpose -> the least hit rate, 0 to 1. One number goes for every purpose that evicts any key, which are the caches."""
    value = plans._structure(value)
    if value is None or value == "":
        return {}
    if isinstance(value, t.Mapping):
        wanted = {str(name): rate for name, rate in value.items()}
    else:
        wanted = {one["name"]: value for one in (plan or {}).get("purposes", ()) if policy(one).startswith("allkeys-")}
        wanted = wanted or {"": value}
    found = {}
    for name, rate in wanted.items():
        if name and plan is not None:
            try:
                plans.purpose_named(plan, name)
            except UntangleError as exc:
                raise UntangleError("redis_split_min_hit_rate: %s" % exc.message) from None
        text = str(rate).strip()
        number = _number({"min_hit_rate": text.rstrip("%")}, "min_hit_rate", 0, 0, 100)
        # 85 and 85% can only mean 0.85
        found[name] = number / 100 if number > 1 or text.endswith("%") else number
    found.pop("", None)
    return found


def policy(purpose: Facts) -> str:
    return str(purpose["settings"].get("maxmemory-policy", "noeviction"))


# -- routes ---------------------------------------------------------------------------------------------------------------


def routes(plan: Plan, passwords: t.Mapping[str, str], only: t.Collection[str] | None = None) -> list[dict[str, t.Any]]:
    """The routes of a plan as the modules take them. `passwords`: purpose -> password of the engine's user."""
    return [
        {
            "purpose": one["name"],
            "database": one["database"],
            "target": {
                **plans.connection(one, passwords.get(one["name"], ""), tls=plan["tls"]),
                # what a mirror shows to an instance
                **{"tls_%s" % name: path for name, path in plan["tls"].items() if plan["strategy"] == "live"},
            },
        }
        for one in plan["purposes"]
        if only is None or one["name"] in only
    ]


# -- what stands in the way -----------------------------------------------------------------------------------------------


def source_problems(plan: Plan, facts: Facts, states: t.Mapping[str, Facts] | None = None) -> dict[str, list[str]]:
    """What redis_keyspace_info says against a plan: ``refuse`` and ``warn``, sentences."""
    by_number = {int(one["database"]): one for one in facts["databases"]}
    refuse: list[str] = []
    warn: list[str] = []
    for one in plan["purposes"]:
        found = by_number.get(one["database"]) or {}
        if found.get("exists") is False:
            has_numbers = facts["server"].get("databases")
            refuse.append(
                "redis_split_purposes, %s: %s has no database %d%s. Correct its number, or take the purpose out."
                % (
                    one["name"],
                    facts["address"],
                    one["database"],
                    " (it has 0 to %d)" % (has_numbers - 1) if has_numbers else "",
                )
            )
        elif found.get("keys") == 0 and (states or {}).get(one["name"], {}).get("state") not in MOVED:
            warn.append(
                "redis_split_purposes, %s: database %d of %s is empty. Go on if that is what it should be."
                % (one["name"], one["database"], facts["address"])
            )
        standing = (states or {}).get(one["name"]) or {}
        held = int(standing.get("keys_target") or 0)
        # as many as the source holds: perhaps our own copy, whose record was lost; the copy compares and adopts it
        if (
            standing.get("state") == "planned"
            and not standing.get("mark")
            and held not in (0, standing.get("keys_source"))
        ):
            refuse.append(
                "redis_split_purposes, %s: %s:%s holds %d keys that are not ours. Empty it, or give the purpose another port."
                % (one["name"], one["address"], one["port"], held)
            )
    needed = facts["server"].get("min_replicas_to_write") or 0
    if needed and plan["strategy"] == "live":
        warn.append(
            "%s takes writes with %d replicas only (min-replicas-to-write), and counts the mirror as one, in WAIT as well: as long as it "
            "runs, one real replica fewer is enough. Raise the setting by one meanwhile, or use redis_split_strategy: copy."
            % (facts["address"], needed)
        )
    seen = [kind for one in by_number.values() for kind in (one.get("clients") or {}).get("seen") or ()]
    if plan["strategy"] == "live" and any(kind["name"].startswith("sentinel-") for kind in seen):
        warn.append(
            "Sentinels watch %s. They list the mirror among its replicas, as untangle-mirror-..., at port 0, and cannot promote it. A "
            "failover is followed where redis_split_source names an address that moves with the master."
            % facts["address"]
        )
    planned = {one["database"] for one in plan["purposes"]}
    for number, one in sorted(by_number.items()):
        if one.get("keys") and number not in planned:
            warn.append(
                "Database %d of %s holds %d keys and has no purpose: it stays where it is. Add it to redis_split_purposes if it is to move."
                % (number, facts["address"], one["keys"])
            )
    return {"refuse": refuse, "warn": warn}


def unreachable(plan: Plan, host: str, results: t.Sequence[Facts]) -> list[str]:
    """What an application's host cannot connect to, of the answers of redis_keyspace_info, one per purpose.

    That nothing listens yet, or that what listens lets nobody in, shows that there is a way.
    """
    found = []
    for one, result in zip(plan.get("purposes") or (), results):
        said = str(result.get("msg") or "")
        connecting = re.search(r"\(Error (-?\d+) connecting to [^)]*?\. ([^)]*)\)", said)
        if connecting and int(connecting.group(1)) != errno.ECONNREFUSED:
            why = connecting.group(2).rstrip(".")
        elif " did not answer within " in said:
            why = "no answer"
        else:
            continue
        found.append(
            "redis_split_purposes, %s: %s cannot reach its address %s, port %s (%s). Give the purpose an address that %s can connect "
            "to, or open the way." % (one["name"], host, one["address"], one["port"], why, host)
        )
    return found


def memory_problems(
    plan: Plan, host: str, facts: Facts, states: t.Mapping[str, Facts], meminfo: str, check: str
) -> dict[str, list[str]]:
    """Whether a host and its instances can hold what is to come. `meminfo` is the text of its /proc/meminfo.

    Refused: what is used there, what the databases hold and a quarter more of that do not fit; a database that its container
    cannot hold, since the kernel would end the server again and again while it is filled. What an instance holds already is in
    use already. Warned about: limits, of containers where there are some, that together pass four fifths of the memory, and a database
    over its own.
    """
    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", meminfo, re.M)}
    total = kib.get("MemTotal", 0) << 10
    here = [one for one in plan["purposes"] if one["host"] == host]
    if not here or not total:
        return {"refuse": [], "warn": []}
    used = total - (kib.get("MemAvailable", kib.get("MemFree", 0)) << 10)
    refuse: list[str] = []
    warn: list[str] = []
    for one in here:
        held = _measured(one, facts) if _to_come(one, facts, states.get(one["name"]) or {}) else 0
        if held <= int(one["maxmemory"]):
            continue
        limit = profiles.container_memory(one["settings"])
        kills = plan["backend"] != "host" and held > limit
        sentence = "redis_split_purposes, %s: database %d of %s takes about %s, more than its maxmemory of %s%s. Raise it." % (
            one["name"], one["database"], facts["address"], telling.size(held), telling.size(int(one["maxmemory"])),
            " and than its container may use (%s), so that the kernel would end it while it is filled" % telling.size(limit)
            if kills else ", so that the instance cannot serve or evicts at once",
        )  # fmt: skip
        (refuse if kills and check == "refuse" else warn).append(sentence)
    coming = sum(_to_come(one, facts, states.get(one["name"]) or {}) for one in here)
    needed = used + coming + coming // 4
    if coming and needed > total:
        sentence = (
            "%s: its memory of %s does not hold what is used now (%s), what comes to it (%s) and a quarter more. Give some purposes "
            "of redis_split_purposes another host or the host more memory, or set redis_split_memory_check to warn."
            % (host, telling.size(total), telling.size(used), telling.size(coming))
        )
        (refuse if check == "refuse" else warn).append(sentence)
    contained = plan["backend"] != "host"
    limits = sum(profiles.container_memory(one["settings"]) if contained else int(one["maxmemory"]) for one in here)
    if limits * 5 > total * 4:
        warn.append(
            "%s: %s of %s are %s together, more than 80 %% of its memory of %s. When all of them fill up, the "
            "kernel ends one of them: lower maxmemory in redis_split_purposes."
            % (
                host,
                "the limits that follow from maxmemory for the containers" if contained else "the maxmemory values",
                ", ".join(one["name"] for one in here),
                telling.size(limits),
                telling.size(total),
            )
        )
    return {"refuse": refuse, "warn": warn}


def _database(purpose: Facts, facts: Facts) -> Facts:
    return next((one for one in facts["databases"] if int(one["database"]) == purpose["database"]), None) or {}


def _measured(purpose: Facts, facts: Facts) -> int:
    """Bytes that the database of a purpose takes at the source, 0 where that was not measured."""
    return int((_database(purpose, facts).get("memory") or {}).get("bytes") or 0)


def _to_come(purpose: Facts, facts: Facts, standing: Facts) -> int:
    """Bytes that a purpose will need beyond what its instance holds already."""
    if standing.get("state") in ("copied", "mirrored", *MOVED):
        return 0
    found = _database(purpose, facts)
    held = _measured(purpose, facts)
    if not found.get("memory") and found.get("keys") != 0:
        # not measured: no more than all that the server uses
        held = int(facts["server"].get("used_memory") or 0)
    there, of = int(standing.get("keys_target") or 0), int(found.get("keys") or 0)
    return held if not of else held * max(0, of - there) // of


# -- the watch ------------------------------------------------------------------------------------------------------------


def verdict(plan: Plan, states: t.Mapping[str, Facts], rates: t.Mapping[str, float]) -> dict[str, list[str]]:
    """How the purposes that were cut over do: ``bad`` (reasons to go back), ``warn`` and ``good``, sentences."""
    bad, warn, good = [], [], []
    for one in plan["purposes"]:
        name, standing = one["name"], states.get(one["name"]) or {}
        if standing.get("state") not in MOVED:
            good.append(
                "%s is %s: nothing to watch." % (name, str(standing.get("state") or "planned").replace("_", " "))
            )
            continue
        where = "%s:%s" % (one["address"], one["port"])
        if standing.get("reachable") is False:
            bad.append(
                "%s: the instance at %s does not answer. Look at it on %s, or go back." % (name, where, one["host"])
            )
            continue
        hits, misses = int(standing.get("hits") or 0), int(standing.get("misses") or 0)
        looked = hits + misses
        if name in rates:
            said = "%s: %.1f %% of %d look-ups were hits" % (name, 100.0 * hits / looked if looked else 0, looked)
            if looked < ENOUGH_LOOKUPS:
                warn.append("%s; too few to judge by redis_split_min_hit_rate." % said)
            elif hits < rates[name] * looked:
                bad.append("%s, less than the %.1f %% of redis_split_min_hit_rate." % (said, 100 * rates[name]))
            else:
                good.append("%s, at least %.1f %%." % (said, 100 * rates[name]))
        evicted = int(standing.get("evicted") or 0)
        if evicted and policy(one) == "noeviction":
            bad.append(
                "%s: %d keys were evicted at %s, where none may be. Somebody changed its maxmemory-policy: run provision, and go back if the keys matter."
                % (name, evicted, where)
            )
        elif evicted and not policy(one).startswith("allkeys-"):
            warn.append("%s: %d keys were evicted (%s). Raise its maxmemory." % (name, evicted, policy(one)))
        for client in standing.get("clients") or ():
            warn.append(
                "%s: %s still has the old database %d selected. Point it at %s."
                % (name, telling.client_named(client), one["database"], where)
            )
        if not any(line.startswith(name + ":") for line in [*bad, *warn, *good]):
            good.append(
                "%s: %d keys at %s, %d look-ups, nothing evicted, nobody on the old database."
                % (name, int(standing.get("keys_target") or 0), where, looked)
            )
    return {"bad": bad, "warn": warn, "good": good}


# -- the end --------------------------------------------------------------------------------------------------------------


def lacking(purposes: t.Mapping[str, Facts]) -> list[str]:
    """Purposes whose instance holds what the shared server lacks, of the answers of redis_compare."""
    return sorted(
        name
        for name, found in purposes.items()
        if any(count for kind, count in (found.get("kinds") or {}).items() if kind != "missing")
    )
