# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the playbooks say to people: lines of text out of a plan and of what the modules answered. Pure."""

from __future__ import annotations

import math
import typing as t

Facts = t.Mapping[str, t.Any]
Plan = t.Mapping[str, t.Any]

#: States in which the targets are the truth.
MOVED = ("cut_over", "retired")
#: How many keys per second the last pass compares; measured on two cores with 200,000 keys of a few hundred bytes (33,000), halved.
COMPARE_RATE = 15_000


def tell(plan: Plan, what: str, **facts: t.Any) -> list[str]:
    """The lines about one matter: the name of a function below, and its arguments by name."""
    return _MATTERS[what](plan, **facts)


def announcement(
    plan: Plan,
    phases: t.Sequence[str],
    facts: Facts | None = None,
    states: t.Mapping[str, Facts] | None = None,
    options: Facts | None = None,
    run: Facts | None = None,
) -> list[str]:
    """What a run will change and where, how long writes will be refused, and the command to go back: lines for people.

    `run`: ``check`` (whether it is check mode), ``inventory`` (its sources) and ``limits``, all optional.
    """
    states, options, run = states or {}, options or {}, run or {}
    sizes = {int(one["database"]): one for one in (facts or {}).get("databases", ())}
    where = _address(plan["source"])
    lines = [
        "%s: %s"
        % (
            "Check mode, nothing will be changed. It would" if run.get("check") else "This run",
            _doing(phases, bool(run.get("check"))),
        )
    ]
    moving = 0
    for one in plan["purposes"]:
        standing = states.get(one["name"]) or {}
        held = sizes.get(one["database"]) or {}
        keys = held.get("keys", standing.get("keys_source"))
        text = "  %s: database %d of %s -> %s:%s on %s (%s)" % (
            one["name"], one["database"], where, one["address"], one["port"], one["host"], one["instance"],
        )  # fmt: skip
        if keys is not None:
            text += ", %d keys" % keys
        if (held.get("memory") or {}).get("bytes"):
            text += ", about %s" % size(held["memory"]["bytes"])
        if standing.get("state"):
            text += ", now %s" % str(standing["state"]).replace("_", " ")
        if standing.get("state") not in MOVED:
            moving += int(keys or 0)
        lines.append(text)
    if "cutover" in phases:
        lines += [
            "  application %s on %s: %s" % (app["name"], ", ".join(app["hosts"]), _files(app)) for app in plan["apps"]
        ]
        if all((states.get(one["name"]) or {}).get("state") in MOVED for one in plan["purposes"]):
            lines.append("Writes: not refused, every purpose is cut over already.")
        else:
            estimate = (
                "about %s (estimated: %d keys compared at %d a second)"
                % (seconds(1 + moving / COMPARE_RATE), moving, COMPARE_RATE)
                if facts or states
                else "about a second and one more for every %d keys (the audit says how many there are)" % COMPARE_RATE
            )
            lines.append(
                "Writes to these databases: refused during %s%s."
                % (
                    "the cutover, some milliseconds"
                    if plan["strategy"] == "live"
                    else "the last pass of the cutover, " + estimate,
                    ""
                    if options.get("rehearse")
                    else ", and then until each application has been "
                    + ("restarted" if plan["apps"] else "pointed at its new instance"),
                )
            )
        if options.get("rehearse"):
            lines.append(
                "  The cutover is a rehearsal: it is taken back, and no application is stopped, changed or restarted."
            )
        elif options.get("writers_stopped"):
            lines.append("  The applications are stopped before that and started after it.")
    if phases[-1] not in ("audit", "provision", "sync", "verify", "rollback", "remove"):
        lines.append("To go back: %s" % way_back(run.get("inventory") or ()))
    return lines


def _address(connection: Facts) -> str:
    return str(connection.get("unix_socket") or "%s:%s" % (connection["host"], connection["port"]))


def way_back(inventory: t.Sequence[str]) -> str:
    sources = " ".join("-i %s" % one for one in inventory)
    return "ansible-playbook %s njoy.untangle.rollback   (with the variables of this run)" % (sources or "-i INVENTORY")


#: What each phase does, and what it would do in check mode.
_DOES = {
    "audit": ("reads the server", "read the server"),
    "provision": ("starts the new instances", "start the new instances"),
    "sync": ("copies the databases", "copy the databases"),
    "verify": ("compares both sides", "compare both sides"),
    "cutover": (
        "makes the instances serve and points the applications at them",
        "make the instances serve and point the applications at them",
    ),
    "watch": ("judges how they do", "judge how they do"),
    "rollback": (
        "brings everything back to the shared server and points the applications there",
        "bring everything back to the shared server and point the applications there",
    ),
    "retire": ("backs old databases up and empties them", "back old databases up and empty them"),
    "remove": (
        "takes the instances and everything else of this split away",
        "take the instances and everything else of this split away",
    ),
    "status": ("shows how the split stands", "show how the split stands"),
}


def _doing(phases: t.Sequence[str], would: bool) -> str:
    return "; ".join(_DOES[phase][would] for phase in phases) + "."


def _files(app: Facts) -> str:
    said = [str(file["path"]) for file in app.get("files") or ()]
    restart = app.get("restart") or " && ".join(str(app[key]) for key in ("stop", "start") if app.get(key))
    return ", ".join(said + (["then `%s`" % restart] if restart else [])) or "nothing"


def suggestion(plan: Plan, facts: Facts) -> list[str]:
    """A plan to begin with, for a server that nobody has planned for: lines of YAML."""
    lines, port = ["redis_split_purposes:"], 6380
    for one in facts["databases"]:
        if not one.get("keys"):
            continue
        held = int((one.get("memory") or {}).get("bytes") or 0)
        # twice what is there, at least 256 MB, in steps of that
        limit = max(1, -(-held * 2 // (256 << 20))) * 256
        # most keys expire: something that can be had again
        profile = "cache" if (one.get("expires") or 0) * 10 > one["keys"] * 9 else "queue"
        lines.append(
            "  - {name: db%d, database: %d, port: %d, profile: %s, maxmemory: %dmb}  # %d keys, %d with an expiry"
            % (one["database"], one["database"], port, profile, limit, one["keys"], one.get("expires") or 0)
        )
        port += 1
    return lines if len(lines) > 1 else []


def holdings(plan: Plan, facts: Facts) -> list[str]:
    """What the shared server holds, a line per database."""
    server = facts["server"]
    lines = [
        "%s %s %s, %s used of %s, policy %s" % (
            facts["address"], server.get("flavour"), server.get("version"), size(server.get("used_memory") or 0),
            size(server["maxmemory"]) if server.get("maxmemory") else "no limit", server.get("maxmemory_policy") or "unknown",
        )
    ]  # fmt: skip
    for one in facts["databases"]:
        memory, clients = one.get("memory") or {}, one.get("clients") or {}
        text = "db %d (%s): %s keys, %s with an expiry" % (
            one["database"], one.get("purpose") or "no purpose", _known(one.get("keys")), _known(one.get("expires")),
        )  # fmt: skip
        if memory.get("bytes"):
            text += ", about %s" % size(memory["bytes"])
        if clients.get("connections"):
            text += ", %d clients" % clients["connections"]
        lines.append(text)
    return lines


def copied(plan: Plan, purposes: Facts) -> list[str]:
    """What redis_migrate did, or would do."""
    lines = []
    for one in plan["purposes"]:
        done = purposes.get(one["name"]) or {}
        if done.get("would"):
            text = str(done["would"])
        elif not done.get("changed", bool(done.get("copy_seconds"))):
            text = "%s already, nothing to copy" % _state(done)
        else:
            text = "%s keys, %s in %.1f s%s" % (
                _known(done.get("keys_copied")),
                size(done.get("bytes") or 0),
                float(done.get("copy_seconds") or 0),
                ", and in step since then" if done.get("state") == "mirrored" else "",
            )
        lines.append("%s: %s" % (one["name"], text))
    feeds = {str(done["feed"]): done.get("feed_because") for done in purposes.values() if done.get("feed")}
    for feed, because in feeds.items():
        lines.append("Followed by %s%s" % (feed, ", because: %s" % because if because else ""))
    return lines


def proof(
    plan: Plan, states: Facts, compared: Facts | None = None, noted: Facts | None = None, check: bool = False
) -> list[str]:
    """What was compared. `noted` are the purposes of split.json, which hold the proof of the moment of the cutover."""
    lines = []
    for one in plan["purposes"]:
        name = one["name"]
        standing, now, then = states.get(name) or {}, (compared or {}).get(name), (noted or {}).get(name) or {}
        if now:
            text = "%s keys compared, %s" % (_known(now.get("compared")), _differences(now))
        elif standing.get("state") in MOVED:
            text = "%s since %s" % (_state(standing), standing.get("since") or then.get("since") or "an unknown time")
            if then.get("compared") is not None:
                moment = "before that" if (then.get("compare") or {}).get("while_written") else "at that moment"
                text += "; %s %s keys compared, %s" % (moment, _known(then["compared"]), _differences(then))
            if standing.get("keys_target") is not None:
                text += "; now %s keys at %s:%s" % (_known(standing["keys_target"]), one["address"], one["port"])
        elif check:
            text = "would compare every key of database %d with %s:%s" % (one["database"], one["address"], one["port"])
        else:
            text = _state(standing)
        lines.append("%s: %s" % (name, text))
    return lines


def _differences(found: Facts) -> str:
    number = int(found.get("differences") or 0)
    moving = int(found.get("moving") or 0)
    if not number:
        return "no difference" + (
            ", but %d big keys that are written to all the time could not be compared" % moving if moving else ""
        )
    kinds = ", ".join("%d %s" % (count, kind) for kind, count in sorted((found.get("kinds") or {}).items()) if count)
    why = (
        " (the shared server was written to since the copy; the last pass of the cutover brings that over)"
        if found.get("drift")
        else ""
    )
    return "%d differences%s%s" % (number, ": " + kinds if kinds else "", why)


def cutover(plan: Plan, rehearsal: Facts, states: Facts, options: Facts) -> list[str]:
    """What the cutover is about to do."""
    todo = [one["name"] for one in plan["purposes"] if (states.get(one["name"]) or {}).get("state") not in MOVED]
    if not todo:
        return ["Every purpose is cut over already."]
    lines = ["Will be cut over: %s." % ", ".join(todo)]
    lines += [str(line) for line in rehearsal.get("actions") or ()]
    if options.get("writers_stopped"):
        lines.append(
            "Applications that are stopped before and started after: %s."
            % ", ".join(app["name"] for app in plan["apps"])
        )
    lines += ["Application %s on %s: %s" % (app["name"], ", ".join(app["hosts"]), _files(app)) for app in plan["apps"]]
    return lines


def rehearsed(plan: Plan, result: Facts) -> list[str]:
    """What a cutover would have taken."""
    purposes = sorted(result.get("purposes") or {})
    if not purposes:
        return ["There is nothing to rehearse: every purpose is cut over already."]
    kept_off = ", ".join(result.get("fenced") or ()) or str(result.get("kept_off_by") or "nobody")
    return [
        "Rehearsed for %s: writes were refused for %s (%s). Nothing was switched over."
        % (", ".join(purposes), _short(float(result.get("write_refused_seconds") or 0)), kept_off)
    ]


def _short(duration: float) -> str:
    return "%.1f s" % duration if duration >= 1 else "%.0f ms" % (duration * 1000)


def endpoints(plan: Plan, state_dir: str = "") -> list[str]:
    """Where each instance is, its password as the path of a file."""
    lines = []
    for one in plan["purposes"]:
        place = "%s/secrets/%s.app" % (
            state_dir or "/var/lib/untangle, or ~/.local/state/untangle of an ordinary user,",
            one["name"],
        )
        lines.append(
            "%s: %s://%s@%s:%s/0, the password is in %s on %s"
            % (
                one["name"],
                "rediss" if one.get("tls") else "redis",
                one["user"],
                one["address"],
                one["port"],
                place,
                one["host"],
            )
        )
    return lines


def retired(plan: Plan, result: Facts) -> list[str]:
    """What was backed up and emptied."""
    lines = []
    for name, done in sorted((result.get("purposes") or {}).items()):
        if done.get("would"):
            lines.append("%s: %s" % (name, done["would"]))
        elif done.get("backup"):
            lines.append(
                "%s: %s keys in %s (%s)"
                % (name, _known(done.get("backup_keys")), done["backup"], size(done.get("backup_bytes") or 0))
            )
        else:
            lines.append("%s: %s" % (name, _state(done)))
    if result.get("server_empty"):
        lines.append("%s is empty now and may be stopped." % _address(plan["source"]))
    return lines


def status(plan: Plan, info: Facts) -> list[str]:
    """Everything that redis_split_info knows, for people."""
    lines = []
    for one in plan["purposes"]:
        standing = (info.get("purposes") or {}).get(one["name"]) or {}
        text = "%s: %s" % (one["name"], _state(standing))
        if standing.get("since"):
            text += " since %s" % standing["since"]
        text += "; database %d of %s: %s keys; %s:%s on %s: %s" % (
            one["database"], _address(plan["source"]), _known(standing.get("keys_source")), one["address"], one["port"], one["host"],
            "no answer" if standing.get("reachable") is False else "%s keys" % _known(standing.get("keys_target")),
        )  # fmt: skip
        lines.append(text)
        if standing.get("state") in MOVED:
            lines += [
                "  still on the old database: %s" % client_named(client) for client in standing.get("clients") or ()
            ]
    if info.get("fenced"):
        lines.append("Kept from writing to %s: %s" % (_address(plan["source"]), ", ".join(info["fenced"])))
    job = info.get("job") or {}
    if job:
        lines.append("At work: %s by %s since %s" % (job.get("kind"), job.get("by"), job.get("since")))
        lines += _mirror((job.get("progress") or {}).get("mirror") or {})
    for entry in ((info.get("split") or {}).get("log") or [])[-10:]:
        lines.append(
            "%s %s (%s) by %s"
            % (entry.get("at"), entry.get("what"), ", ".join(entry.get("purposes") or ()) or "all", entry.get("by"))
        )
    return lines


def _mirror(facts: Facts) -> list[str]:
    """How far a mirror is, and what it costs."""
    lines = []
    for name, one in sorted((facts.get("purposes") or {}).items()):
        text = "  %s: %s, %s keys, %s to be dumped again" % (name, one["phase"], one["keys"], one["dirty"])
        if "lag_bytes" in one:
            text += ", %s (%.1f s) behind, begun %d times" % (size(one["lag_bytes"]), one["lag_seconds"], one["starts"])
        because = one.get("because") or one.get("away")
        lines.append(text + (": %s" % because if because else ""))
    if facts.get("feed"):
        text = "  fed by %s up to offset %s of %s" % (facts["feed"], facts["position"], facts.get("source_offset", "?"))
        text += ", connected again %d times, %s of buffer at the source" % (
            facts["restarts"],
            size(facts.get("source_buffer_bytes") or 0),
        )
        lines.append(text + (": %s" % facts["away"] if facts.get("away") else ""))
    return lines


def _state(standing: Facts) -> str:
    return str(standing.get("state") or "planned").replace("_", " ")


def _known(number: t.Any) -> str:
    return "?" if number is None else "%d" % int(number)


def client_named(client: t.Any) -> str:
    """A client as people look for it: address, name and user."""
    if not isinstance(client, t.Mapping):
        return str(client)
    said = str(client.get("addr") or "a client")
    extra = [str(client[key]) for key in ("name",) if client.get(key)] + ["user %s" % client.get("user", "default")]
    return "%s (%s)" % (said, ", ".join(extra))


def size(number: float) -> str:
    """Bytes for people, as redis.conf counts them."""
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1024 or unit == "GB":
            return "%d %s" % (number, unit) if unit in ("B", "KB") else "%.1f %s" % (number, unit)
        number /= 1024
    raise AssertionError


def seconds(number: float) -> str:
    if number < 120:
        return "%d s" % max(1, math.ceil(number))
    return "%d min" % math.ceil(number / 60)


_MATTERS: dict[str, t.Callable[..., list[str]]] = {
    "announcement": announcement,
    "copied": copied,
    "cutover": cutover,
    "endpoints": endpoints,
    "holdings": holdings,
    "proof": proof,
    "rehearsed": rehearsed,
    "retired": retired,
    "status": status,
    "suggestion": suggestion,
}
