# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each kind of instance is configured with, and how that is written for a server and compared with its answer.

Values are text in the form in which ``CONFIG GET`` gives them (bytes as digits, ``yes``/``no``, ``save`` as ``900 1``),
so that what is rendered and what is read back can be compared. No I/O.
"""

from __future__ import annotations

import csv
import re
import typing as t

from .errors import UntangleError

Settings = dict[str, str]
Version = tuple[int, ...]

_UNITS = {
    "": 1,
    "b": 1,
    "k": 1000,
    "kb": 1 << 10,
    "m": 1000**2,
    "mb": 1 << 20,
    "g": 1000**3,
    "gb": 1 << 30,
}

#: What every instance gets, whatever it is for.
COMMON: Settings = {
    # An application that still selects another number fails loudly instead of writing where nobody looks.
    "databases": "1",
    "maxmemory-policy": "noeviction",
    "save": "",
    "appendonly": "no",
    "appendfsync": "everysec",
    "aof-use-rdb-preamble": "yes",
    "no-appendfsync-on-rewrite": "no",
    "stop-writes-on-bgsave-error": "yes",
    # Large values are freed beside the one thread that serves everybody.
    "lazyfree-lazy-eviction": "yes",
    "lazyfree-lazy-expire": "yes",
    "lazyfree-lazy-server-del": "yes",
    "lazyfree-lazy-user-del": "yes",
    "lazyfree-lazy-user-flush": "yes",
    # An idle connection of a pool lives as long as it did before; dead peers are found by keepalive.
    "timeout": "0",
    "tcp-keepalive": "60",
    "slowlog-log-slower-than": "10000",
    "slowlog-max-len": "512",
    "latency-monitor-threshold": "50",
    "notify-keyspace-events": "",
    # A replica, or the engine on the way back, is served at once and not after five seconds.
    "repl-diskless-sync": "yes",
    "repl-diskless-sync-delay": "0",
}

#: What a profile has other than COMMON. The policies and save points of queue, cache and sessions are given.
DIFFERENT: dict[str, Settings] = {
    "queue": {
        "maxmemory-policy": "noeviction",
        "save": "900 1",
        "appendonly": "yes",
    },
    "cache": {
        "maxmemory-policy": "allkeys-lru",
        "save": "",
        "stop-writes-on-bgsave-error": "no",
        "slowlog-log-slower-than": "5000",
        "latency-monitor-threshold": "25",
    },
    "sessions": {
        "maxmemory-policy": "volatile-lru",
        "save": "60 1000",
        "appendonly": "yes",
        "slowlog-log-slower-than": "5000",
        "slowlog-max-len": "256",
        "latency-monitor-threshold": "25",
    },
    "rate_limit": {
        "maxmemory-policy": "volatile-ttl",
        "stop-writes-on-bgsave-error": "no",
        "slowlog-log-slower-than": "2000",
        "slowlog-max-len": "256",
        "latency-monitor-threshold": "10",
    },
    "locks": {
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        # A lock that was granted and forgotten in a crash is granted twice.
        "appendfsync": "always",
        "slowlog-log-slower-than": "2000",
        "slowlog-max-len": "256",
        "latency-monitor-threshold": "10",
    },
    "pubsub": {
        "maxmemory-policy": "noeviction",
        "stop-writes-on-bgsave-error": "no",
        "latency-monitor-threshold": "25",
        # Room for subscribers that are slow for a moment; the others keep the server's defaults.
        "client-output-buffer-limit": "normal 0 0 0 slave 268435456 67108864 60 pubsub 268435456 67108864 60",
    },
}

PROFILES: tuple[str, ...] = tuple(DIFFERENT)

#: Profiles whose application may empty its own instance: what a cache holds can be had again.
MAY_FLUSH = ("cache",)

#: Container memory as (factor of maxmemory, bytes on top). maxmemory counts neither fragmentation and buffers nor the pages
#: that a fork copies: a full instance that is written to all over while it saves has all of its data twice.
_MEMORY_WITH_DISK = (2.0, 128 << 20)
_MEMORY_WITHOUT_DISK = (1.25, 64 << 20)

#: The first Redis release that knows a setting of ours. Every Valkey release knows all of them.
SINCE: dict[str, Version] = {"lazyfree-lazy-user-flush": (6, 2)}

#: What the role decides. A plan that sets one of these would be at odds with it: name -> where to say it instead.
OWNED: dict[str, str] = {
    "maxmemory": "the purpose's own maxmemory",
    "bind": "the purpose's address",
    "port": "the purpose's port",
    "tls-port": "the purpose's port, with redis_split_tls",
    "tls-cert-file": "redis_split_tls",
    "tls-key-file": "redis_split_tls",
    "tls-ca-cert-file": "redis_split_tls",
    "tls-replication": "redis_split_tls",
    "tls-auth-clients": "redis_split_tls",
    "requirepass": "the purpose's password",
    "user": "the purpose's user and acl",
    "aclfile": "the purpose's user and acl",
    "rename-command": "the purpose's acl (renamed commands break replication)",
    "tls-key-file-pass": "a key without a passphrase in redis_split_tls",
    "tls-client-key-file-pass": "a key without a passphrase in redis_split_tls",
    "primaryauth": "nothing: the engine sets it while it needs it",
    "primaryuser": "nothing: the engine sets it while it needs it",
    "masterauth": "nothing: the engine sets it while it needs it",
    "masteruser": "nothing: the engine sets it while it needs it",
    "replicaof": "nothing: an instance is filled by the engine",
    "slaveof": "nothing: an instance is filled by the engine",
    "cluster-enabled": "nothing: an instance is one server",
    "dir": "redis_instances_dir",
    "pidfile": "redis_instances_dir",
    "logfile": "redis_instances_dir",
    "daemonize": "redis_split_backend",
    "supervised": "redis_split_backend",
    "include": "the purpose's settings",
    "protected-mode": "nothing: every user has a password",
}

_BUFFER_CLASSES = ("normal", "slave", "pubsub")
_BUFFER_DEFAULTS = {
    "normal": ("0", "0", "0"),
    "slave": ("268435456", "67108864", "60"),
    "pubsub": ("33554432", "8388608", "60"),
}
_IN_BYTES = (
    "maxmemory",
    "maxmemory-clients",
    "repl-backlog-size",
    "auto-aof-rewrite-min-size",
    "client-query-buffer-limit",
    "proto-max-bulk-len",
    "active-defrag-ignore-bytes",
    "stream-node-max-bytes",
    "hll-sparse-max-bytes",
)
#: Settings of several words; with any other a value with spaces is one word and needs quotes.
_SEVERAL_WORDS = ("bind", "oom-score-adj-values", "latency-tracking-info-percentiles", "tls-ciphersuites")


def parse_memory(value: object) -> int:
    """Bytes of ``2gb``, ``512mb``, ``1000k`` or a number, with the units of redis.conf (kb is 1024, k is 1000).

    Raises UntangleError for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = re.match(r"^\s*(\d+)\s*([a-z]*)\s*$", str(value).lower()) if isinstance(value, str) else None
    if not found or found.group(2) not in _UNITS:
        raise UntangleError(
            "%r is not an amount of memory. Write it as in redis.conf, for example 512mb or 2gb." % (value,)
        )
    return int(found.group(1)) * _UNITS[found.group(2)]


def parse_version(text: str) -> Version:
    """(7, 0, 15) of ``7.0.15``; what is not a number ends it."""
    found = re.match(r"\d+(?:\.\d+)*", text.strip())
    if not found:
        raise UntangleError(
            "%r is not the version of a server. Name a redis-server or valkey-server binary or image." % text
        )
    return tuple(int(part) for part in found.group().split("."))


def normal(name: str, value: object) -> str:
    """One setting's value as CONFIG GET would give it. Raises UntangleError where it cannot be one."""
    if name == "loadmodule" and isinstance(value, (list, tuple)):
        # one line each
        return "\n".join(normal(name, one) for one in value)
    if value is None:
        text = ""
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, (list, tuple)):
        text = " ".join(str(item) for item in value)
    elif isinstance(value, (str, int, float)):
        text = str(value).strip()
    else:
        raise UntangleError("%s cannot be %r. Write it as it would stand in redis.conf." % (name, value))
    if any(ord(char) < 32 for char in text):
        raise UntangleError("%s holds a line break or another control character. Write it on one line." % name)
    if name == "save":
        text = " ".join(text.replace('"', "").split())
        if text and (not re.match(r"^\d+( \d+)*$", text) or len(text.split()) % 2):
            raise UntangleError(
                'save cannot be %r. Write pairs of seconds and changes, for example "900 1", or "" for none.' % text
            )
        return text
    if name == "client-output-buffer-limit":
        return _buffers(text)
    if name in _IN_BYTES and not text.endswith("%"):
        return str(parse_memory(text))
    if text.lower() in ("yes", "no", "true", "false"):
        return {"true": "yes", "false": "no"}.get(text.lower(), text.lower())
    return text


def _buffers(text: str) -> str:
    """All classes of client-output-buffer-limit, the ones that were not said with the server's defaults."""
    words = text.split()
    limits = dict(_BUFFER_DEFAULTS)
    for start in range(0, len(words), 4):
        part = words[start : start + 4]
        name = "slave" if part[0] == "replica" else part[0]
        if name not in limits or len(part) != 4 or not part[3].isdigit():
            raise UntangleError(
                "client-output-buffer-limit cannot be %r. Write class, hard limit, soft limit and seconds, "
                "for example: pubsub 256mb 64mb 60." % text
            )
        limits[name] = (str(parse_memory(part[1])), str(parse_memory(part[2])), part[3])
    return " ".join(" ".join((name, *limits[name])) for name in _BUFFER_CLASSES)


def settings(profile: str, maxmemory: int, overrides: t.Mapping[str, object]) -> Settings:
    """All settings of one instance: the profile's, with the purpose's own over them.

    Raises UntangleError for an unknown profile, and for a setting that the role decides.
    """
    if profile not in DIFFERENT:
        raise UntangleError("there is no profile %r. The profiles are %s." % (profile, ", ".join(PROFILES)))
    found = {"maxmemory": str(maxmemory)}
    found.update(COMMON)
    found.update(DIFFERENT[profile])
    for given, value in overrides.items():
        name = str(given).strip().lower()
        if not re.match(r"^[a-z0-9][a-z0-9.-]*$", name):
            raise UntangleError(
                "%r is not the name of a setting. Write it as in redis.conf, for example maxmemory-policy." % (given,)
            )
        if name in OWNED:
            raise UntangleError("%s is not a setting to give here. Use %s." % (name, OWNED[name]))
        found[name] = normal(name, value)
    return found


def known(wanted: t.Mapping[str, str], version: Version, keep: t.Iterable[str] = ()) -> Settings:
    """The settings without those of ours that a Redis of this version does not know. `keep`: what the user gave stays."""
    kept = set(keep)
    return {name: value for name, value in wanted.items() if name in kept or SINCE.get(name, (0,)) <= version}


def same(name: str, planned: str, running: str) -> bool:
    """Whether a server that answers `running` has the planned value, in whatever form either is written."""
    if planned == running or planned.lower() == running.lower():
        return True
    if name == "notify-keyspace-events":
        # the server writes the flags in an order of its own, and all of them as A
        return _flags(planned) == _flags(running)
    if name == "client-output-buffer-limit":
        return _buffers(planned) == _buffers(running)
    if name == "bind":
        return planned.split() == running.split()
    try:
        return normal(name, planned) == normal(name, running) or str(parse_memory(planned)) == running
    except UntangleError:
        return False


def _flags(text: str) -> frozenset[str]:
    return frozenset(text.replace("A", "g$lshzxetd"))


def conf_lines(wanted: t.Mapping[str, str]) -> list[str]:
    """The lines of redis.conf, in a form that Redis 6.0 reads as well."""
    lines: list[str] = []
    for name, value in wanted.items():
        words = value.split()
        if name == "save" and words:
            lines += ["save %s %s" % pair for pair in zip(words[::2], words[1::2])]
        elif name == "client-output-buffer-limit":
            lines += ["%s %s" % (name, " ".join(words[start : start + 4])) for start in range(0, len(words), 4)]
        elif name == "loadmodule":
            # a path and its arguments
            lines += ["loadmodule %s" % one for one in value.splitlines()]
        elif name in _SEVERAL_WORDS and words:
            lines.append("%s %s" % (name, value))
        else:
            lines.append("%s %s" % (name, _quoted(value)))
    return lines


def _quoted(value: str) -> str:
    if re.match(r"^[A-Za-z0-9._:/%@+,=*-]+$", value):
        return value
    return '"%s"' % value.replace("\\", "\\\\").replace('"', '\\"')


def acl_lines(user: str, profile: str, hashes: t.Mapping[str, str], version: Version, extra: str = "") -> list[str]:
    """The lines of users.acl. `hashes`: SHA-256 of the passwords of `app`, `admin` and `health`, as 64 hex digits; of `exporter`
    where the instance is watched.

    The application gets everything except what administers the server, what stalls it (KEYS) and what empties it;
    INFO, ROLE, SORT, LASTSAVE and CLIENT LIST are let through, because client libraries and workers ask for them.
    """
    channels = version >= (6, 2)
    app = ["~*", "+@all", "-@admin", "-@dangerous", "+info", "+role", "+sort", "+lastsave"]
    if channels:
        app.insert(1, "&*")
    if version >= (7, 0):
        # FUNCTION FLUSH would take away the mark that keeps this instance from being copied over
        app += ["+sort_ro", "+client|list", "-function|flush", "-function|delete", "-function|restore"]
    else:
        # before 7.0 CLIENT is one command, administration and all
        app += [
            "+client|%s" % word
            for word in ("setname", "getname", "id", "list", "reply", "tracking", "caching", "getredir")
        ]
    if profile in MAY_FLUSH:
        app.append("+flushdb")
    reset = ["resetkeys", "resetchannels"] if channels else ["resetkeys"]
    watched = []
    if "exporter" in hashes:
        # what an exporter reads, and no key; before Redis 7.0 the resets of both come with them
        asked = "+ping +info +config|get +client|setname "
        if version >= (7, 0):
            asked += "+slowlog|get +slowlog|len +latency|latest +latency|histogram"
        else:
            asked += "+slowlog +latency"
        watched = ["user exporter on #%s %s -@all %s" % (hashes["exporter"], " ".join(reset), asked)]
    return [
        # Nobody logs in as it, and it keeps its rights: a server loads its AOF as this user, and up to Redis 8.0 and Valkey
        # 8.1 it drops every transaction and script in it that the user may not run (redis #14541, valkey #3983).
        "user default off resetpass ~* %s+@all" % ("&* " if channels else ""),
        "user %s on #%s %s%s" % (user, hashes["app"], " ".join(app), " " + extra if extra else ""),
        "user untangle on #%s ~* %s+@all" % (hashes["admin"], "&* " if channels else ""),
        "user health on #%s %s -@all +ping" % (hashes["health"], " ".join(reset)),
        *watched,
    ]


def _on_disk(wanted: t.Mapping[str, str]) -> bool:
    return bool(wanted.get("save")) or wanted.get("appendonly") == "yes"


def container_memory(wanted: t.Mapping[str, str]) -> int:
    """Bytes that the container of an instance with these settings may use."""
    factor, more = _MEMORY_WITH_DISK if _on_disk(wanted) else _MEMORY_WITHOUT_DISK
    return int(int(wanted["maxmemory"]) * factor) + more


def stop_seconds(wanted: t.Mapping[str, str]) -> int:
    """How long a server may take to write its data when it is told to stop: 20 s per GiB, at least 30 s."""
    if not _on_disk(wanted):
        return 10
    return max(30, (20 * int(wanted["maxmemory"])) >> 30)


def instance_settings(purpose: t.Mapping[str, t.Any], version: Version, layout: t.Mapping[str, t.Any]) -> Settings:
    """Everything that redis.conf of one purpose says, in its order; all of it can be read back.

    `layout` says where it runs: ``bind`` (addresses), ``dir``, ``aclfile``, ``pidfile``, ``logfile``,
    and with TLS ``tls`` as {ca_file, cert_file, key_file} as the server sees them.
    """
    tls = layout.get("tls") or {}
    port = str(purpose["port"])
    found: Settings = {
        "bind": str(layout["bind"]),
        "port": "0" if tls else port,
        "protected-mode": "yes",
        "daemonize": "no",
        "dir": str(layout["dir"]),
        "pidfile": str(layout.get("pidfile") or ""),
        "logfile": str(layout.get("logfile") or ""),
        "aclfile": str(layout["aclfile"]),
    }
    if tls:
        found.update(
            {
                "tls-port": port,
                "tls-ca-cert-file": str(tls["ca_file"]),
                "tls-cert-file": str(tls["cert_file"]),
                "tls-key-file": str(tls["key_file"]),
                # who may come in is decided by user and password
                "tls-auth-clients": "no",
                "tls-replication": "yes",
            }
        )
    found.update(known(purpose["settings"], version, purpose.get("overrides") or ()))
    return found


def differences(wanted: t.Mapping[str, str], running: t.Mapping[str, str]) -> list[dict[str, t.Any]]:
    """What a running server has other than planned: [{name, planned, running, text}], running None if it lacks the name."""
    found: list[dict[str, t.Any]] = []
    for name, planned in wanted.items():
        has = running.get(name)
        # A server does not start without a module that its configuration names, and CONFIG GET does not know the word.
        if name == "loadmodule" or (has is not None and same(name, planned, has)):
            continue
        text = "%s is %s, planned %r" % (name, "unknown to it" if has is None else repr(has), planned)
        found.append({"name": name, "planned": planned, "running": has, "text": text})
    return found


def parse_config(text: str) -> dict[str, str]:
    """The answers to a row of CONFIG GET as ``redis-cli --csv`` prints them: one `"name","value"` per line."""
    found: dict[str, str] = {}
    for row in csv.reader(text.splitlines(), escapechar="\\", doublequote=False):
        found.update(zip(row[::2], row[1::2]))
    return found
