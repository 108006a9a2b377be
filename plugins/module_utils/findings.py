# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the facts of an instance mean for the applications that share it: five checks, each with evidence and advice.

Pure: facts in, findings out. Every check is always in the list, in this order, so that "nothing found" can be told from
"not looked at". ``severity`` is one of

* ``ok``: looked at, nothing found;
* ``unknown``: the server would not say;
* ``info``: good to know, harms nobody today;
* ``warning``: one database can harm another;
* ``critical``: one database has harmed another, or the plan cannot work.
"""

from __future__ import annotations

import typing as t

Facts = t.Mapping[str, t.Any]
Finding = dict[str, str]

#: From this many milliseconds on, a pause is felt by people who wait for a page, not by dashboards alone.
LONG_PAUSE_MS = 100
#: Above this share of keys with an expiry a database is taken for one that expires, below its complement for one that lasts.
EXPIRING_SHARE = 0.9
#: What is said of databases by the share of their keys that expire.
KINDS = {"expiring": "Keys of %s expire", "lasting": "those of %s never do", "mixed": "of those of %s some do"}
ALLOW_INFO = "Allow INFO to this user."


def findings(facts: Facts) -> list[Finding]:
    """The five checks on what ``keyspace.facts`` found."""
    return [check(facts) for check in (databases_in_use, one_policy, cluster, flush_seen, slow_commands)]


def _finding(check: str, severity: str, evidence: str, advice: str = "") -> Finding:
    return {"check": check, "severity": severity, "evidence": evidence, "advice": advice}


def _name(database: Facts) -> str:
    return (
        "db %s (%s)" % (database["database"], database["purpose"])
        if database["purpose"]
        else "db %s" % database["database"]
    )


def _names(databases: t.Iterable[Facts]) -> str:
    return ", ".join(_name(database) for database in databases)


def _used(facts: Facts) -> list[Facts]:
    return [database for database in facts["databases"] if database["keys"]]


def _keyspace_known(facts: Facts) -> bool:
    # INFO is one command: where it is refused nothing at all is known of the server
    return facts["server"]["flavour"] is not None


def _times(count: int) -> str:
    return "once" if count == 1 else "%d times" % count


def _since(facts: Facts) -> str:
    seconds = facts["server"]["uptime_seconds"]
    if seconds is None:
        return "since the statistics began"
    amount, unit = (seconds / 86400, "days") if seconds >= 86400 else (seconds / 3600, "hours")
    return "within %.1f %s (since the start, or the last CONFIG RESETSTAT)" % (max(amount, 0.1), unit)


def databases_in_use(facts: Facts) -> Finding:
    """More than db 0 in use: the databases share memory, policy, thread, persistence and FLUSHALL."""
    check = "databases_in_use"
    if not _keyspace_known(facts):
        return _finding(
            check,
            "unknown",
            "The server does not allow INFO, so what its databases hold is not known.",
            ALLOW_INFO,
        )
    used = _used(facts)
    held = "%d database%s keys: %s." % (
        len(used),
        " holds" if len(used) == 1 else "s hold",
        "; ".join(
            "%s %d keys, %d with an expiry" % (_name(database), database["keys"], database["expires"])
            for database in used
        )
        or "none",
    )
    planned = [database for database in facts["databases"] if database["purpose"]]
    missing = [database for database in planned if database["exists"] is False]
    if missing:
        return _finding(
            check,
            "critical",
            "%s The plan names %s, which this server does not have." % (held, _names(missing)),
            "Correct the database number of these purposes, or ask another server.",
        )
    unplanned = [database for database in used if planned and not database["purpose"]]
    strays = [
        database
        for database in facts["databases"]
        if planned and not database["purpose"] and (database["clients"] or {}).get("connections")
    ]
    left = ""
    if unplanned:
        left += " No purpose of the plan names %s: they stay where they are." % _names(unplanned)
    if strays:
        left += " Clients have selected %s, which no purpose names." % _names(strays)
    if len(used) > 1 or (used and used[0]["database"] != 0):
        return _finding(
            check,
            "warning" if len(used) > 1 else "info",
            held + left,
            "Give each purpose an instance of its own: one process has one memory limit, one eviction policy and one thread for all of them.",
        )
    return _finding(check, "info" if left else "ok", held + left)


def _kind(database: Facts) -> str:
    share = database["expires"] / database["keys"]
    if share >= EXPIRING_SHARE:
        return "expiring"
    return "lasting" if share <= 1 - EXPIRING_SHARE else "mixed"


def one_policy(facts: Facts) -> Finding:
    """One eviction policy for unlike uses, in one memory pool: unlike in expiry, or by the plan's profiles."""
    check = "one_policy"
    server = facts["server"]
    policy, limit, evicted = server["maxmemory_policy"], server["maxmemory"], server["evicted_keys"] or 0
    if not _keyspace_known(facts) or policy is None or limit is None:
        return _finding(
            check, "unknown", "The server does not tell its memory policy or what its databases hold.", ALLOW_INFO
        )
    used = _used(facts)
    kinds: dict[str, list[Facts]] = {}
    for database in used:
        kinds.setdefault(_kind(database), []).append(database)
    profiles = {database["profile"] for database in used if database["profile"]}
    told = "maxmemory %s, policy %s, %d keys evicted %s" % (limit or "not set", policy, evicted, _since(facts))
    if len(kinds) < 2 and len(profiles) < 2:
        return _finding(check, "ok", "What is in use does not differ in expiry: %s." % told)

    differ = ", ".join(words % _names(kinds[kind]) for kind, words in KINDS.items() if kind in kinds)
    lasting = kinds.get("lasting", []) + kinds.get("mixed", [])
    if not limit:
        effect = "Without a limit whatever grows takes the machine's memory from all of them"
    elif policy == "noeviction":
        effect = "When memory is full, writes fail in all of them, whichever filled it"
    elif not lasting:
        effect = "When memory is full, keys of all of them are evicted, whichever filled it"
    elif policy.startswith("allkeys"):
        effect = "When memory is full, keys that never expire are evicted as well, those of %s among them" % _names(
            lasting
        )
    else:
        effect = "When memory is full, only keys with an expiry are evicted, to make room for %s as well" % _names(
            lasting
        )
    return _finding(
        check,
        "critical" if limit and evicted and policy != "noeviction" else "warning",
        "%s. %s: %s." % (differ, effect, told),
        "Give each purpose its own limit and policy: noeviction for queues, allkeys for caches, volatile or noeviction for sessions.",
    )


def cluster(facts: Facts) -> Finding:
    """Databases other than 0 against Redis Cluster, which has db 0 alone."""
    check = "cluster"
    if facts["server"]["cluster"] is None:
        return _finding(check, "unknown", "The server does not tell whether it is in cluster mode.", ALLOW_INFO)
    others = [
        database
        for database in facts["databases"]
        if database["database"] and (database["keys"] or database["purpose"])
    ]
    if facts["server"]["cluster"]:
        unreachable = [database for database in others if not database["keys"]]
        if unreachable:
            return _finding(
                check,
                "critical",
                "The server is in cluster mode and the plan names %s; a cluster of Redis has db 0 alone."
                % _names(unreachable),
                "Correct the plan: what lies in a cluster is not separated by database.",
            )
        return _finding(
            check,
            "ok",
            "The server is in cluster mode%s."
            % (", with %s beside db 0" % _names(others) if others else " and uses db 0 alone"),
        )
    if others:
        return _finding(
            check,
            "info",
            "%s cannot move into Redis Cluster, which has db 0 alone." % _names(others),
            "After the split each instance uses db 0, so that it can become a cluster by itself.",
        )
    return _finding(check, "ok", "Only db 0 is in use; nothing stands against Redis Cluster.")


def flush_seen(facts: Facts) -> Finding:
    """FLUSHALL or FLUSHDB seen: the first empties every database, the second whichever is selected."""
    check = "flush_seen"
    commands = facts["commands"]
    if commands is None:
        return _finding(
            check,
            "unknown",
            "The server does not tell which commands ran.",
            "Allow INFO to this user, or look at the applications' code.",
        )
    ran = {name: commands[name]["calls"] - commands[name]["failed"] for name in ("FLUSHALL", "FLUSHDB")}
    refused = {name: commands[name]["failed"] + commands[name]["rejected"] for name in ran}
    shared = len(_used(facts)) > 1
    told = ", ".join("%s ran %s" % (name, _times(count)) for name, count in ran.items() if count)
    tried = ", ".join("%s was refused %s" % (name, _times(count)) for name, count in refused.items() if count)
    evidence = "%s %s." % ("; ".join(part for part in (told, tried) if part), _since(facts))
    if any(ran.values()):
        severity = "critical" if ran["FLUSHALL"] and shared else "warning"
        return _finding(
            check,
            severity,
            evidence + " FLUSHALL empties every database, FLUSHDB the one that happens to be selected.",
            "Find out who sends them before the split. After it the applications' users may not, save FLUSHDB on a cache.",
        )
    if tried:
        return _finding(
            check, "info", evidence, "Somebody still tries: look for the command in scripts and deployments."
        )
    return _finding(check, "ok", "Neither FLUSHALL nor FLUSHDB ran %s." % _since(facts))


def slow_commands(facts: Facts) -> Finding:
    """KEYS and the slow log: one thread serves all databases, so a slow command in one stops the others."""
    check = "slow_commands"
    commands, slow_log = facts["commands"], facts["slow_log"]
    if commands is None and slow_log is None:
        return _finding(check, "unknown", "The server allows neither INFO nor SLOWLOG.", "Allow both to this user.")
    parts = []
    if commands is not None and commands["KEYS"]["calls"]:
        parts.append("KEYS ran %s %s" % (_times(commands["KEYS"]["calls"]), _since(facts)))
    if slow_log is not None and slow_log["read"]:
        parts.append(
            "The slow log has %d entries: %s"
            % (
                slow_log["entries"],
                ", ".join(
                    "%s (%d, up to %.1f ms)" % (c["command"], c["entries"], c["slowest_ms"])
                    for c in slow_log["commands"][:5]
                ),
            )
        )
    unseen = "" if slow_log is not None else " The server does not allow SLOWLOG."
    if not parts:
        return _finding(
            check, "ok" if slow_log is not None else "unknown", "No KEYS and no slow command seen." + unseen
        )
    shared = len(_used(facts)) > 1
    long = slow_log is not None and slow_log["slowest_ms"] >= LONG_PAUSE_MS
    return _finding(
        check,
        "critical" if long and shared else "warning",
        ". ".join(parts) + "." + unseen,
        "Replace KEYS by SCAN. One thread serves every database: while such a command runs, all of them wait; after the split only its own does.",
    )
