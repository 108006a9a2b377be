# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to become of a shared server: the user's variables, checked and brought into one form. No I/O.

Every value may come as text (``-e``, surveys); here is the one place where it is converted. What cannot be meant stops
with a sentence that names the variable, the fact and the fix.
"""

from __future__ import annotations

import ast
import ipaddress
import json
import re
import typing as t
from urllib.parse import quote

from . import profiles
from .errors import UntangleError

Purpose = dict[str, t.Any]
Plan = dict[str, t.Any]

PHASES = ("audit", "provision", "sync", "verify", "cutover", "watch")
STRATEGIES = ("copy", "live")
BACKENDS = ("compose", "swarm", "host")
#: What `cache.<part>` may name in an application's file; `cache` alone is the URL.
PARTS = ("url", "host", "port", "user", "password", "database")

# \Z: `$` matches before a last line break as well
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
#: Users that every instance has for other ends.
_RESERVED = ("default", "untangle", "health", "exporter")
_PURPOSE_KEYS = (
    "name",
    "database",
    "port",
    "profile",
    "maxmemory",
    "host",
    "address",
    "user",
    "password",
    "acl",
    "settings",
)
_SOURCE_KEYS = (
    "host",
    "port",
    "unix_socket",
    "username",
    "password",
    "tls",
    "tls_ca_file",
    "tls_cert_file",
    "tls_key_file",
    "tls_verify",
    "timeout",
)
_APP_KEYS = ("name", "hosts", "files", "restart", "stop", "start", "health")
_FILE_KEYS = ("path", "set", "template")
_TLS_KEYS = ("ca_file", "cert_file", "key_file")
_TRUE = ("true", "yes", "on", "1", "y", "t")
_FALSE = ("false", "no", "off", "0", "n", "f", "")


def normalise(variables: t.Mapping[str, t.Any], hosts: t.Mapping[str, t.Any]) -> Plan:
    """The plan of one split.

    `variables` are the user's, without the prefix ``redis_split_``: source, purposes, apps, strategy, backend, until,
    retire, tls. `hosts` is what the inventory says: ``instances`` and ``apps``, the names in the groups
    ``redis_split_hosts`` and ``redis_split_app_hosts``, and ``vars``: name -> {ansible_host, ansible_connection}.

    Returns source, purposes, apps, strategy, backend, until, retire and tls, every one in its final type. Raises
    UntangleError.
    """
    instance_hosts = [str(name) for name in _list(hosts.get("instances"), "the group redis_split_hosts")]
    if not instance_hosts:
        raise UntangleError(
            "The group redis_split_hosts is empty or missing. Put the host that the new instances run on into it."
        )
    app_hosts = [str(name) for name in _list(hosts.get("apps"), "the group redis_split_app_hosts")]
    facts = {str(name): dict(found or {}) for name, found in dict(hosts.get("vars") or {}).items()}
    tls = _tls(variables.get("tls"))
    source = _source(variables.get("source"))
    purposes = _purposes(variables.get("purposes"), instance_hosts, facts, bool(tls))
    _check_addresses(purposes, source, instance_hosts, app_hosts, facts)
    strategy = _choice("strategy", variables.get("strategy"), STRATEGIES, "live")
    return {
        "source": source,
        "purposes": purposes,
        "apps": _apps(variables.get("apps"), purposes, app_hosts),
        "strategy": strategy,
        "backend": _choice("backend", variables.get("backend"), BACKENDS, "compose"),
        "until": _choice("until", variables.get("until"), PHASES, "watch"),
        "retire": _retire(variables.get("retire"), purposes),
        "tls": tls,
    }


def purpose_named(plan: t.Mapping[str, t.Any], name: str) -> Purpose:
    """One purpose of a plan. Raises UntangleError where there is none of that name."""
    for purpose in plan["purposes"]:
        if purpose["name"] == name:
            return t.cast("Purpose", purpose)
    raise UntangleError(
        "There is no purpose %r; redis_split_purposes has %s." % (name, ", ".join(_names(plan["purposes"])))
    )


def endpoint(purpose: t.Mapping[str, t.Any], part: str = "url", password: str = "") -> str | int:
    """One part of where an application finds its instance, or the URL with all of them, percent-encoded."""
    if part not in PARTS:
        raise UntangleError(
            "%s.%s is not a part of an endpoint. The parts are %s." % (purpose["name"], part, ", ".join(PARTS))
        )
    if part == "url":
        return "%s://%s:%s@%s:%s/0" % (
            "rediss" if purpose.get("tls") else "redis",
            quote(str(purpose["user"]), safe=""),
            quote(password, safe=""),
            _in_url(str(purpose["address"])),
            purpose["port"],
        )
    values: dict[str, str | int] = {
        "host": str(purpose["address"]),
        "port": int(purpose["port"]),
        "user": str(purpose["user"]),
        "password": password,
        # an instance has one database
        "database": 0,
    }
    return values[part]


def connection(
    purpose: t.Mapping[str, t.Any], password: str, user: str = "untangle", tls: t.Mapping[str, str] | None = None
) -> dict[str, t.Any]:
    """The connection options with which a module reaches an instance. `tls`: the plan's, for the CA's file."""
    return {
        "host": str(purpose["address"]),
        "port": int(purpose["port"]),
        "username": user,
        "password": password,
        "tls": bool(purpose.get("tls")),
        "tls_ca_file": (tls or {}).get("ca_file") if purpose.get("tls") else None,
    }


def public(plan: t.Mapping[str, t.Any]) -> Plan:
    """The plan without its secrets, to be shown or kept."""
    shown = dict(plan)
    shown["source"] = {key: value for key, value in plan["source"].items() if key != "password"}
    shown["purposes"] = [{key: value for key, value in one.items() if key != "password"} for one in plan["purposes"]]
    return shown


# -- conversions ----------------------------------------------------------------------------------------------------------


def _structure(value: t.Any) -> t.Any:
    """A list or mapping that came as text (-e takes JSON; a template may have made it a Python literal)."""
    if not isinstance(value, str) or not value.strip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except ValueError:
        pass
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return value


def _kind(value: t.Any) -> str:
    """What something is, without saying it: it may hold a password."""
    if isinstance(value, bool):
        return str(value).lower()
    kinds = ((str, "text"), (t.Mapping, "a mapping"), ((list, tuple), "a list"))
    return next((word for kind, word in kinds if isinstance(value, kind)), "a number")


def _list(value: t.Any, variable: str) -> list[t.Any]:
    value = _structure(value)
    if value is None or value == "":
        return []
    if not isinstance(value, (list, tuple)):
        raise UntangleError("%s is not a list but %s. Write it as a list." % (variable, _kind(value)))
    return list(value)


def _mapping(value: t.Any, variable: str) -> dict[str, t.Any]:
    value = _structure(value)
    if value is None or value == "":
        return {}
    if not isinstance(value, t.Mapping):
        raise UntangleError("%s is not a mapping but %s. Write names and values." % (variable, _kind(value)))
    return {str(key): item for key, item in value.items()}


def boolean(value: t.Any, variable: str) -> bool:
    """True or False of what a user may write for it."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if value is None or text in _FALSE:
        return False
    if text in _TRUE:
        return True
    raise UntangleError("%s is %r, which is neither true nor false. Write true or false." % (variable, value))


def integer(value: t.Any, variable: str, low: int, high: int) -> int:
    """A whole number between two limits."""
    try:
        if isinstance(value, (bool, float)):
            raise ValueError
        number = int(str(value).strip())
    except ValueError:
        raise UntangleError(
            "%s is %r, which is not a number. Write one from %d to %d." % (variable, value, low, high)
        ) from None
    if not low <= number <= high:
        raise UntangleError("%s is %d. Write a number from %d to %d." % (variable, number, low, high))
    return number


def _text(value: t.Any) -> str | None:
    """Text, or None for what was not said: a survey sends an empty answer as ''."""
    return None if value is None or str(value) == "" else str(value)


def _choice(name: str, value: t.Any, choices: t.Sequence[str], default: str) -> str:
    text = (_text(value) or default).strip().lower()
    if text not in choices:
        raise UntangleError("redis_split_%s is %r. Choose one of %s." % (name, value, ", ".join(choices)))
    return text


def _only(given: t.Mapping[str, t.Any], allowed: t.Sequence[str], variable: str) -> None:
    strange = sorted(set(given) - set(allowed))
    if strange:
        raise UntangleError(
            "%s has %s, which means nothing here. It may have %s." % (variable, ", ".join(strange), ", ".join(allowed))
        )


def _names(purposes: t.Iterable[t.Mapping[str, t.Any]]) -> list[str]:
    return [str(one["name"]) for one in purposes]


# -- parts of the plan ----------------------------------------------------------------------------------------------------


def _source(value: t.Any) -> dict[str, t.Any]:
    given = _mapping(value, "redis_split_source")
    if not given:
        raise UntangleError(
            "redis_split_source is empty. Say where the shared server is, for example {host: 10.0.0.5, port: 6379}."
        )
    _only(given, _SOURCE_KEYS, "redis_split_source")
    timeout = _text(given.get("timeout")) or "5"
    try:
        seconds = float(timeout)
    except ValueError:
        raise UntangleError(
            "redis_split_source.timeout is %r, which is not a number. Write seconds, for example 5." % timeout
        ) from None
    verify = given.get("tls_verify")
    return {
        "host": _text(given.get("host")) or "127.0.0.1",
        "port": integer(_text(given.get("port")) or 6379, "redis_split_source.port", 1, 65535),
        "unix_socket": _text(given.get("unix_socket")),
        "username": _text(given.get("username")),
        "password": _text(given.get("password")),
        "tls": boolean(given.get("tls"), "redis_split_source.tls"),
        "tls_ca_file": _text(given.get("tls_ca_file")),
        "tls_cert_file": _text(given.get("tls_cert_file")),
        "tls_key_file": _text(given.get("tls_key_file")),
        "tls_verify": True if _text(verify) is None else boolean(verify, "redis_split_source.tls_verify"),
        "timeout": seconds,
    }


def _tls(value: t.Any) -> dict[str, str]:
    value = _structure(value)
    if value is False or (isinstance(value, str) and value.strip().lower() in _FALSE):
        return {}
    given = _mapping(value, "redis_split_tls")
    _only(given, _TLS_KEYS, "redis_split_tls")
    missing = [key for key in _TLS_KEYS if not _text(given.get(key))]
    if given and missing:
        raise UntangleError(
            "redis_split_tls lacks %s. Name the files of CA, certificate and key on the instances' host."
            % ", ".join(missing)
        )
    return {key: str(item) for key, item in given.items()}


def _purposes(value: t.Any, hosts: list[str], facts: t.Mapping[str, t.Any], tls: bool) -> list[Purpose]:
    given = _list(value, "redis_split_purposes")
    if not given:
        raise UntangleError(
            "redis_split_purposes is empty. List what each database is for, "
            "for example {name: cache, database: 10, port: 6381, profile: cache, maxmemory: 2gb}."
        )
    found = [_purpose(one, number, hosts, facts, tls) for number, one in enumerate(given)]
    _once(found, lambda one: one["name"], "are both called %s", "Give each purpose its own name.")
    _once(found, lambda one: one["database"], "both have database %s", "One database goes to one purpose.")
    _once(
        found, lambda one: (one["host"], one["port"]), "both have port %s", "Give each instance on a host its own port."
    )
    return found


def _once(purposes: list[Purpose], key: t.Callable[[Purpose], t.Any], what: str, fix: str) -> None:
    seen: dict[t.Any, str] = {}
    for number, one in enumerate(purposes):
        value = key(one)
        if value in seen:
            shown = "%s on %s" % (value[1], value[0]) if isinstance(value, tuple) else value
            raise UntangleError(
                "redis_split_purposes: %s and %s %s. %s"
                % (seen[value], "%s (entry %d)" % (one["name"], number + 1), what % shown, fix)
            )
        seen[value] = str(one["name"])


def _purpose(value: t.Any, number: int, hosts: list[str], facts: t.Mapping[str, t.Any], tls: bool) -> Purpose:
    given = _mapping(value, "redis_split_purposes, entry %d," % (number + 1))
    name = str(given.get("name", ""))
    where = "redis_split_purposes, %s" % (name or "entry %d" % (number + 1))
    _only(given, _PURPOSE_KEYS, where)
    missing = [key for key in ("name", "database", "port", "profile", "maxmemory") if _text(given.get(key)) is None]
    if missing:
        raise UntangleError(
            "%s: %s missing. Each purpose has name, database, port, profile and maxmemory."
            % (where, ", ".join(missing))
        )
    if not _NAME.match(name):
        raise UntangleError(
            "%s: the name must be lower-case letters, digits and _, beginning with a letter, for example %s."
            % (where, _proper(name))
        )
    if name in (*_RESERVED, "monitoring"):
        raise UntangleError(
            "%s: the name is taken. Every instance has users %s, and monitoring is what watches them. Choose another."
            % (where, ", ".join(_RESERVED))
        )
    host = _text(given.get("host")) or hosts[0]
    if host not in hosts:
        raise UntangleError(
            "%s: host %s is not in the group redis_split_hosts, which has %s. Name one of these, or add it."
            % (where, host, ", ".join(hosts))
        )
    user = _text(given.get("user")) or name
    if user in _RESERVED or not re.match(r"^[A-Za-z0-9_.:@-]+$", user):
        raise UntangleError(
            "%s: user %r cannot be used. Use letters, digits and _.:@-, and not %s."
            % (where, user, ", ".join(_RESERVED))
        )
    overrides = _mapping(given.get("settings"), "%s: settings" % where)
    try:
        maxmemory = profiles.parse_memory(_structure(given["maxmemory"]))
        settings = profiles.settings(str(given["profile"]).strip(), maxmemory, overrides)
    except UntangleError as exc:
        raise UntangleError("%s: %s" % (where, exc.message)) from None
    if maxmemory < 1 << 20:
        raise UntangleError(
            "%s: maxmemory %s is less than 1mb. Say how much the instance may hold, for example 512mb."
            % (where, given["maxmemory"])
        )
    purpose: Purpose = {
        "name": name,
        "database": integer(given["database"], "%s: database" % where, 0, 2**31 - 1),
        "profile": str(given["profile"]).strip(),
        "host": host,
        "address": _address(_text(given.get("address")), host, facts, where),
        "port": integer(given["port"], "%s: port" % where, 1, 65535),
        "maxmemory": maxmemory,
        "settings": settings,
        "overrides": sorted(str(key).strip().lower() for key in overrides),
        "user": user,
        "acl": _acl(_text(given.get("acl")) or "", where),
        "tls": tls,
        "instance": "untangle-%s" % name,
    }
    password = _text(given.get("password"))
    if password is not None:
        if any(ord(char) < 32 for char in password) or password != password.strip():
            # never the value itself: this sentence is shown
            raise UntangleError(
                "%s: the password begins or ends with a blank, or holds a line break. Choose one without." % where
            )
        purpose["password"] = password
    return purpose


def _proper(name: str) -> str:
    """A name like the one given that would be accepted."""
    text = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return text if _NAME.match(text) else "purpose_%s" % text if text else "cache"


def _acl(rules: str, where: str) -> str:
    """More rules for the application's user, such as +config|get or -@scripting."""
    for word in rules.split():
        if not re.match(
            r"^([+-]@?[a-z0-9_|-]+|[~&][!-~]+|%[RW]+~[!-~]+|resetkeys|resetchannels|allkeys|allchannels)$", word
        ):
            raise UntangleError(
                "%s: acl holds a word that begins with %r. Only rules for commands, keys and channels may stand there, for example +config|get."
                % (where, word[:1])
            )
    return " ".join(rules.split())


def _address(given: str | None, host: str, facts: t.Mapping[str, t.Any], where: str) -> str:
    """Where the instance listens: what was said, else how Ansible reaches the host, 127.0.0.1 when it is this machine."""
    known = facts.get(host) or {}
    if given is None:
        given = "127.0.0.1" if known.get("ansible_connection") == "local" else _text(known.get("ansible_host")) or host
        if given == "localhost":
            given = "127.0.0.1"
    text = given.strip().strip("[]")
    if not _is_ip(text) and not re.match(r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$", text.replace("_", "-")):
        raise UntangleError(
            "%s: address %r is neither an IP address nor a host name. Write one, without port." % (where, given)
        )
    if text in ("0.0.0.0", "::", "*"):
        raise UntangleError(
            "%s: address %s is no address that an application can connect to. Name the one it is to use."
            % (where, text)
        )
    return text


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(text: str) -> bool:
    return text == "localhost" or (_is_ip(text) and ipaddress.ip_address(text).is_loopback)


def _in_url(address: str) -> str:
    return "[%s]" % address if ":" in address else address


def _check_addresses(
    purposes: list[Purpose],
    source: t.Mapping[str, t.Any],
    hosts: list[str],
    app_hosts: list[str],
    facts: t.Mapping[str, t.Any],
) -> None:
    for one in purposes:
        where = "redis_split_purposes, %s" % one["name"]
        # the engine runs on the first host: what is loopback to it is that host
        there = one["address"] == source["host"] or (
            one["host"] == hosts[0] and _is_loopback(one["address"]) and _is_loopback(source["host"])
        )
        if there and one["port"] == source["port"] and not source["unix_socket"]:
            raise UntangleError(
                "%s: %s:%s is the shared server itself (redis_split_source). Choose a free port."
                % (where, one["address"], one["port"])
            )
        if not _is_loopback(one["address"]):
            continue
        far = [host for host in app_hosts if host != one["host"] and not _same_machine(host, one["host"], facts)]
        if one["host"] != hosts[0]:
            far.insert(0, hosts[0])
        if far:
            raise UntangleError(
                "%s: the instance on %s would listen on %s, which %s cannot reach. Give the purpose an address that they can connect to."
                % (where, one["host"], one["address"], ", ".join(far))
            )


def _same_machine(one: str, other: str, facts: t.Mapping[str, t.Any]) -> bool:
    """Whether two inventory names lead to one machine, as far as the inventory says."""

    def place(name: str) -> str:
        known = facts.get(name) or {}
        text = _text(known.get("ansible_host")) or name
        return "127.0.0.1" if known.get("ansible_connection") == "local" or _is_loopback(text) else text

    return place(one) == place(other)


def _apps(value: t.Any, purposes: list[Purpose], app_hosts: list[str]) -> list[dict[str, t.Any]]:
    """Applications with everything they said; what names a purpose is checked, the rest is the role app_endpoints' to judge."""
    found: list[dict[str, t.Any]] = []
    for number, given in enumerate(_list(value, "redis_split_apps")):
        app = _mapping(given, "redis_split_apps, entry %d," % (number + 1))
        name = _text(app.get("name"))
        if name is None:
            raise UntangleError(
                "redis_split_apps, entry %d: name missing. Give each application a name." % (number + 1)
            )
        where = "redis_split_apps, %s" % name
        if name in [one["name"] for one in found]:
            raise UntangleError("%s: two applications have that name. Give each its own." % where)
        _only(app, _APP_KEYS, where)
        hosts = app.get("hosts")
        app["hosts"] = [
            str(host)
            for host in _list(
                [hosts] if isinstance(hosts, str) and hosts[:1] not in ("", "[") else hosts, "%s: hosts" % where
            )
        ]
        strange = [host for host in app["hosts"] if host not in app_hosts]
        if strange:
            raise UntangleError(
                "%s: host %s is not in the group redis_split_app_hosts, which has %s. Add it, or name one of these."
                % (where, ", ".join(strange), ", ".join(app_hosts) or "none")
            )
        app["hosts"] = app["hosts"] or list(app_hosts)
        if not app["hosts"]:
            raise UntangleError(
                "%s: the group redis_split_app_hosts is empty or missing. Put the host of the application's files into it."
                % where
            )
        app["name"] = name
        app["files"] = [_app_file(one, where, purposes) for one in _list(app.get("files"), "%s: files" % where)]
        found.append(app)
    return found


def _app_file(value: t.Any, where: str, purposes: list[Purpose]) -> dict[str, t.Any]:
    given = _mapping(value, "%s: a file" % where)
    path = _text(given.get("path"))
    if path is None:
        raise UntangleError(
            "%s: a file has no path. Name the file that holds the application's Redis settings." % where
        )
    _only(given, _FILE_KEYS, "%s: %s" % (where, path))
    given["path"] = path
    if "set" in given:
        given["set"] = {key: str(item) for key, item in _mapping(given["set"], "%s: set of %s" % (where, path)).items()}
        for key, item in given["set"].items():
            name, dot, part = item.partition(".")
            if name not in _names(purposes):
                raise UntangleError(
                    "%s: %s in %s is set to %r, but there is no purpose %s. The purposes are %s."
                    % (where, key, path, item, name, ", ".join(_names(purposes)))
                )
            if dot and part not in PARTS:
                raise UntangleError(
                    "%s: %s in %s is set to %r. What can follow %s. is %s."
                    % (where, key, path, item, name, ", ".join(PARTS))
                )
    return given


def _retire(value: t.Any, purposes: list[Purpose]) -> list[str]:
    """Names of purposes, never a boolean: what is emptied is said by name."""
    value = _structure(value)
    if isinstance(value, str) and value:
        value = [part.strip() for part in value.split(",")]
    if isinstance(value, bool):
        raise UntangleError(
            "redis_split_retire is %r. List the purposes whose old databases may be emptied, by name." % value
        )
    names = [str(name) for name in _list(value, "redis_split_retire")]
    for name in names:
        if name not in _names(purposes):
            raise UntangleError(
                "redis_split_retire: there is no purpose %s. The purposes are %s." % (name, ", ".join(_names(purposes)))
            )
    return names
