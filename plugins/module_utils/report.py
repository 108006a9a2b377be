# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the report page says, worked out from split.json, the plan and the audit. Pure; the role's template only lays it out.

Facts may be missing: a report of a split that has only been planned is a report too. Everything is text or a number that
is shown as it is, so that the same facts always give the same page.
"""

from __future__ import annotations

import datetime
import typing as t

Facts = t.Mapping[str, t.Any]

#: States in which a purpose's instance is the one that serves.
MOVED = ("cut_over", "retired")
#: What a state is called on the page, and its tone.
STATES = {
    "planned": ("planned", "quiet"),
    "provisioned": ("instance ready", "quiet"),
    "mirrored": ("mirrored", "info"),
    "copied": ("copied", "info"),
    "cut_over": ("serves", "good"),
    "returned": ("went back", "warn"),
    "retired": ("retired", "good"),
}
#: The checks of the audit as headings.
CHECKS = {
    "databases_in_use": "Several databases on one server",
    "one_policy": "One policy for unlike uses",
    "cluster": "Databases and Redis Cluster",
    "flush_seen": "FLUSHALL and FLUSHDB",
    "slow_commands": "Slow commands",
}
TONES = {"critical": "bad", "warning": "warn", "info": "info", "unknown": "quiet", "ok": "good"}
#: Kinds of difference that compare counts, as column headings.
KINDS = {
    "missing": "missing",
    "extra": "extra",
    "type": "type",
    "value": "value",
    "expiry": "expiry",
    "field_expiry": "field expiry",
    "groups": "stream groups",
    "consumers": "consumers",
    "pending": "pending entries",
}


def view(split: Facts, plan: Facts, facts: Facts | None = None, images: t.Sequence[Facts] = ()) -> dict[str, t.Any]:
    """Everything the template shows. ``images``: name, and size in bytes, of what containers run."""
    found = facts or split.get("facts") or {}
    purposes = [_purpose(number, one, split, found) for number, one in enumerate(plan.get("purposes") or [])]
    most = max((int(one[key] or 0) for one in purposes for key in ("keys_before", "keys_after")), default=0)
    for one in purposes:
        one["bars"] = {key: round(100 * int(one[key] or 0) / (most or 1), 2) for key in ("keys_before", "keys_after")}
    source = str(split.get("source") or found.get("address") or _address(plan.get("source") or {}))
    log = [_event(one) for one in split.get("log") or []]
    return {
        "source": source,
        "dated": stamp(_last(split)),
        "verdict": _verdict(purposes),
        "tiles": _tiles(purposes),
        "purposes": purposes,
        "before": _before(source, found, purposes),
        "findings": [_finding(one) for one in found.get("findings") or []],
        "proof": _proof(purposes),
        "log": log,
        "back": _back(purposes),
        "picture": _picture(len(purposes)),
        # in the MB of registries and of the budget
        "images": ", ".join("%s of %.0f MB" % (one["name"], one["size"] / 1e6) for one in images),
    }


# -- text -----------------------------------------------------------------------------------------------------------------


def count(number: t.Any) -> str:
    """1234567 -> 1,234,567; nothing known -> a dash."""
    return "\N{EN DASH}" if number is None else f"{int(number):,}"


def size(number: t.Any) -> str:
    """Bytes as people say them, in the powers of 1024 that redis.conf means by mb and gb."""
    if number is None:
        return "\N{EN DASH}"
    value = float(number)
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            break
        value /= 1024
    return "%s %s" % (("%d" if value == int(value) else "%.1f" if value < 100 else "%.0f") % value, unit)


def seconds(number: t.Any) -> str:
    """0.02 -> 20 ms; 4.2 -> 4.2 s; 125 -> 2 min 5 s."""
    if number is None:
        return "\N{EN DASH}"
    value = float(number)
    if value < 1:
        return "%d ms" % round(value * 1000)
    if value < 60:
        return "%.1f s" % value
    return "%d min %d s" % divmod(round(value), 60)


def stamp(text: t.Any) -> str:
    """2026-11-22T14:32:08.123Z -> 22 November 2026, 14:32:08 UTC. What is no time is shown as it is."""
    moment = _moment(text)
    if moment is None:
        return str(text or "")
    # no strftime: its month names follow the locale
    return "%d %s %d, %s UTC" % (moment.day, _MONTHS[moment.month - 1], moment.year, moment.strftime("%H:%M:%S"))


_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


def _moment(text: t.Any) -> datetime.datetime | None:
    try:
        moment = datetime.datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
    if moment.tzinfo is None:
        return moment
    return moment.astimezone(datetime.timezone.utc)


def plural(number: int, one: str, many: str = "") -> str:
    return "%s %s" % (count(number), one if number == 1 else many or one + "s")


def short(text: t.Any, letters: int) -> str:
    """For the pictures, where text cannot wrap."""
    shown = str(text)
    return shown if len(shown) <= letters else shown[: letters - 1] + "\N{HORIZONTAL ELLIPSIS}"


def listing(words: t.Sequence[str]) -> str:
    """a, b and c."""
    if len(words) < 2:
        return "".join(words)
    return ", ".join(words[:-1]) + " and " + words[-1]


def _address(options: Facts) -> str:
    return str(options.get("unix_socket") or "%s:%s" % (options.get("host", "127.0.0.1"), options.get("port", 6379)))


def _last(split: Facts) -> t.Any:
    times = [str(one.get("at")) for one in split.get("log") or [] if one.get("at")]
    times += [str(one.get("since")) for one in (split.get("purposes") or {}).values() if one.get("since")]
    return max(times, default="")


# -- purposes -------------------------------------------------------------------------------------------------------------


def _purpose(number: int, purpose: Facts, split: Facts, found: Facts) -> dict[str, t.Any]:
    name = str(purpose["name"])
    done: Facts = (split.get("purposes") or {}).get(name) or {}
    here: Facts = next((one for one in found.get("databases") or [] if one.get("database") == purpose["database"]), {})
    state = str(done.get("state") or "planned")
    settings: Facts = purpose.get("settings") or {}
    before = done.get("keys_before", here.get("keys"))
    memory = (here.get("memory") or {}).get("bytes")
    kept = persistence(settings.get("save"), settings.get("appendonly") == "yes")
    rate = None
    if done.get("copy_seconds") and done.get("keys_copied", done.get("keys_before")):
        rate = int(done.get("keys_copied", done.get("keys_before"))) / float(done["copy_seconds"])
    return {
        "name": name,
        "colour": number % 6,
        "database": purpose["database"],
        "endpoint": _endpoint(purpose),
        "short_name": short(name, 18),
        "short_host": short("%s:%s" % (purpose.get("address") or purpose.get("host"), purpose["port"]), 22),
        "short_persistence": short(kept, 44),
        "host": str(purpose.get("host") or purpose.get("address")),
        "port": purpose["port"],
        "profile": str(purpose.get("profile") or ""),
        "maxmemory": size(purpose.get("maxmemory")),
        "policy": str(settings.get("maxmemory-policy") or "noeviction"),
        "persistence": kept,
        "settings": [(key, str(value) if str(value) else '""') for key, value in sorted(settings.items())],
        "overrides": [str(one) for one in purpose.get("overrides") or []],
        "state": STATES.get(state, (state, "quiet"))[0],
        "tone": STATES.get(state, (state, "quiet"))[1],
        "moved": state in MOVED,
        "raw_state": state,
        "since": stamp(done.get("since")) if done.get("since") else "",
        "by": str(done.get("by") or ""),
        "keys_before": before,
        "keys_after": done.get("keys_after"),
        "differences": done.get("differences"),
        "bytes": done.get("bytes"),
        "copy_seconds": done.get("copy_seconds"),
        "rate": rate,
        "write_refused_seconds": done.get("write_refused_seconds"),
        "shown": {
            "keys_before": count(before),
            "keys_after": count(done.get("keys_after")),
            "differences": count(done.get("differences")),
            "bytes": size(done.get("bytes")),
            "copy_seconds": seconds(done.get("copy_seconds")),
            "rate": "%s/s" % count(round(rate)) if rate else count(None),
            "memory": size(memory) if memory is not None else "",
            "refused": seconds(done.get("write_refused_seconds")),
        },
        "fence": [str(one) for one in done.get("fence") or []],
        "compare": done.get("compare") or {},
        "backup": str(done.get("backup") or ""),
    }


def _endpoint(purpose: Facts) -> str:
    """The URL without the password."""
    address = str(purpose.get("address") or "")
    return "%s://%s@%s:%s" % (
        "rediss" if purpose.get("tls") else "redis",
        purpose.get("user") or purpose["name"],
        "[%s]" % address if ":" in address else address,
        purpose["port"],
    )


def persistence(save: t.Any, appendonly: bool) -> str:
    """How an instance keeps its data, in few words."""
    points = str(save or "").strip().strip('"')
    words = ["save %s" % points] if points else []
    words += ["append-only file"] if appendonly else []
    return " + ".join(words) or "in memory only"


# -- parts of the page ----------------------------------------------------------------------------------------------------


def _verdict(purposes: list[dict[str, t.Any]]) -> dict[str, str]:
    """One sentence that answers: was anything lost?"""
    names = [one["name"] for one in purposes]
    moved = [one for one in purposes if one["moved"]]
    wrong = [one["name"] for one in purposes if one["differences"]]
    compared = sum(int(one["compare"].get("compared") or 0) for one in moved)
    states = {one["raw_state"] for one in purposes}
    if wrong:
        return _say(
            "bad",
            "Differences in %s" % listing(wrong),
            "The last comparison found keys that are not the same on both sides. Nothing that differs is switched over.",
        )
    if purposes and len(moved) == len(purposes):
        sampled = any(one["compare"].get("sampled") for one in moved)
        proved = all(one["differences"] == 0 and one["compare"] for one in moved)
        if not proved:
            return _say("good", "%s moved" % _databases(len(moved)), "Each purpose is served by its own instance.")
        while_written = any(one["compare"].get("while_written") for one in moved)
        return _say(
            "good",
            "%s moved, no difference" % _databases(len(moved)),
            "%s, both sides were compared: %s%s, none missing, none extra, none different.%s"
            % (
                "While applications wrote" if while_written else "When the switch was made",
                plural(compared, "key"),
                " (a sample)" if sampled else "",
                " When the switch was made, no write was on its way and both sides held as many keys."
                if while_written
                else "",
            ),
        )
    if moved:
        rest = [name for name in names if name not in [one["name"] for one in moved]]
        return _say(
            "warn",
            "Part of the way",
            "%s served by its own instance, %s not yet. Run the split again to finish it, or roll it back."
            % (_are([one["name"] for one in moved]), listing(rest)),
        )
    if "returned" in states:
        return _say("warn", "Went back", "The shared server is the truth again. A new run starts with a new copy.")
    if states & {"copied", "mirrored"}:
        return _say(
            "info",
            "Copied, not switched over",
            "The instances hold a copy. Applications still use the shared server, which is the truth.",
        )
    return _say("info", "Nothing has moved yet", "This is the plan. The shared server is untouched.")


def _say(tone: str, headline: str, text: str) -> dict[str, str]:
    return {"tone": tone, "headline": headline, "text": text}


def _databases(number: int) -> str:
    words = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
    return "%s database%s" % (words[number] if number < len(words) else number, "" if number == 1 else "s")


def _are(names: t.Sequence[str]) -> str:
    return "%s %s" % (listing(names), "is" if len(names) == 1 else "are each")


def _tiles(purposes: list[dict[str, t.Any]]) -> list[dict[str, str]]:
    moved = [one for one in purposes if one["moved"]]
    shown = moved or purposes
    known = [one for one in shown if one["keys_before"] is not None]
    tiles = []
    if known:
        keys = sum(int(one["keys_before"]) for one in known)
        tiles.append({"value": count(keys), "label": "keys moved" if moved else "keys to move"})
    compared = [one for one in purposes if one["differences"] is not None]
    if compared:
        differences = sum(int(one["differences"]) for one in compared)
        tiles.append({"value": count(differences), "label": "difference" if differences == 1 else "differences"})
    refused = [float(one["write_refused_seconds"]) for one in moved if one["write_refused_seconds"] is not None]
    if refused:
        tiles.append({"value": seconds(max(refused)), "label": "writes refused"})
    rates = [one for one in shown if one["rate"]]
    if rates:
        keys = sum(one["rate"] * float(one["copy_seconds"]) for one in rates)
        spent = sum(float(one["copy_seconds"]) for one in rates)
        tiles.append({"value": count(round(keys / spent)), "label": "keys per second copied"})
    carried = [int(one["bytes"]) for one in shown if one["bytes"]]
    if carried:
        tiles.append({"value": size(sum(carried)), "label": "data carried"})
    return tiles


def _before(source: str, found: Facts, purposes: list[dict[str, t.Any]]) -> dict[str, t.Any]:
    """The shared server: what all of its databases had to share."""
    server: Facts = found.get("server") or {}
    kept: Facts = server.get("persistence") or {}
    limit = server.get("maxmemory")
    planned = [one["database"] for one in purposes]
    others = [one for one in found.get("databases") or [] if one.get("keys") and one.get("database") not in planned]
    title = ("%s %s" % (str(server.get("flavour") or "redis").capitalize(), server.get("version") or "")).strip()
    facts = []
    if server:
        facts = [
            ("Server", title),
            ("Memory in use", size(server.get("used_memory"))),
            ("Memory limit", size(limit) if limit else "none"),
            ("At the limit", str(server.get("maxmemory_policy") or "\N{EN DASH}")),
            ("Keeps its data", persistence(kept.get("save"), bool(kept.get("appendonly")))),
            ("Keys evicted so far", count(server.get("evicted_keys"))),
        ]
    return {
        "title": title,
        "short_source": short(source, 34),
        "facts": facts,
        "others": [{"database": one["database"], "keys": count(one.get("keys"))} for one in others],
        "shared": [
            "memory: %s" % (size(limit) if limit else "no limit") if server else "one memory limit",
            "policy: %s" % server["maxmemory_policy"] if server.get("maxmemory_policy") else "one eviction policy",
            "one thread",
            "one FLUSHALL",
        ],
    }


def _finding(finding: Facts) -> dict[str, str]:
    severity = str(finding.get("severity") or "unknown")
    check = str(finding.get("check") or "")
    return {
        "title": CHECKS.get(check, check),
        "severity": severity,
        "tone": TONES.get(severity, "quiet"),
        "evidence": str(finding.get("evidence") or ""),
        "advice": str(finding.get("advice") or ""),
    }


def _proof(purposes: list[dict[str, t.Any]]) -> dict[str, t.Any]:
    compared = [one for one in purposes if one["compare"]]
    seen = {kind for one in compared for kind in one["compare"].get("kinds") or {}}
    kinds = [kind for kind in KINDS if kind in ("missing", "extra", "value", "expiry") or kind in seen]
    kinds += sorted(seen - set(kinds))
    rows = []
    for one in compared:
        numbers = one["compare"].get("kinds") or {}
        rows.append(
            {
                "name": one["name"],
                "colour": one["colour"],
                "source": count(one["compare"].get("source_keys")),
                # the comparison counts before it brings over what changed since the copy
                "target": one["shown"]["keys_after"]
                if one["keys_after"] is not None
                else count(one["compare"].get("target_keys")),
                "compared": count(one["compare"].get("compared"))
                + (" (sample)" if one["compare"].get("sampled") else ""),
                "kinds": [int(numbers.get(kind) or 0) for kind in kinds],
                "seconds": seconds(one["compare"].get("seconds")),
            }
        )
    return {"kinds": [KINDS.get(kind, kind.replace("_", " ")) for kind in kinds], "rows": rows}


def _event(event: Facts) -> dict[str, str]:
    moment = _moment(event.get("at"))
    detail = event.get("detail")
    return {
        "day": "%d %s %d" % (moment.day, _MONTHS[moment.month - 1], moment.year) if moment else "",
        "time": moment.strftime("%H:%M:%S") if moment else str(event.get("at") or ""),
        "at": str(event.get("at") or ""),
        "what": str(event.get("what") or ""),
        "purposes": listing([str(one) for one in event.get("purposes") or []]),
        "by": str(event.get("by") or ""),
        "detail": ", ".join("%s %s" % pair for pair in sorted(detail.items())) if isinstance(detail, t.Mapping) else "",
    }


def _back(purposes: list[dict[str, t.Any]]) -> dict[str, t.Any]:
    moved = [one["name"] for one in purposes if one["moved"]]
    retired = [one["name"] for one in purposes if one["raw_state"] == "retired"]
    backups = [(one["name"], one["backup"]) for one in purposes if one["backup"]]
    return {"moved": listing(moved), "retired": listing(retired), "backups": backups}


def _picture(rows: int) -> dict[str, t.Any]:
    """Places in the two pictures and the ribbons between them: all three have this height, and rows of one height."""
    row, top, foot = 88, 70, 94
    height = top + rows * row + foot
    gap = 14
    card = (height - gap * (rows - 1)) / rows if rows else height
    return {
        "height": height,
        "row": row,
        "foot": top + rows * row,
        "left": [top + number * row for number in range(rows)],
        "card": round(card, 1),
        "right": [round(number * (card + gap), 1) for number in range(rows)],
    }
