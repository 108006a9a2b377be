# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one instance holds and how it is used: read-only, and complete as far as the server lets its user look.

The upper part turns replies into facts and does no I/O; ``facts()`` at the end asks the server. A command that the server
refuses (an ACL, a managed service) leaves its facts ``None`` and an entry in ``refused``; it is never an error.
"""

from __future__ import annotations

import typing as t

from .errors import UntangleError
from .findings import findings

#: The commands whose use decides how safe a shared server is.
WATCHED_COMMANDS = ("FLUSHALL", "FLUSHDB", "KEYS", "SELECT", "SWAPDB", "MOVE")
#: How many entries of the slow log are looked at, and how many kinds of client are told per database.
SLOW_LOG_ENTRIES = 128
CLIENT_KINDS = 10
#: The beginning of the names of this collection's own connections.
OWN_NAME = "untangle"
#: A setting whose name ends like this holds a secret (requirepass, masterauth, tls-key-file-pass, hash-seed).
SECRET_ENDINGS = ("pass", "auth", "password", "secret", "seed")
MASK = "********"

#: No key above this size is dumped to learn the version of the data format.
CANARY_BYTES = 1 << 16

#: What MEMORY USAGE leaves out per key: its slot in the table, and what the allocator rounds up. Measured with 200,000
#: keys as used_memory less the sum of MEMORY USAGE: 18.7 bytes on Redis 7.0 and 8.0, 13.6 on Valkey 8.1 and 9.1.
TABLE_BYTES = 19
#: An entry in the table of expiries, where MEMORY STATS does not tell its size; measured as above, on Redis 7.0.
EXPIRY_BYTES = 43

Facts = dict[str, t.Any]


# -- replies into facts: no I/O below this line -------------------------------------------------------------------------


def text(value: t.Any) -> str:
    """Bytes as text; what is not UTF-8 stays readable as escapes."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def number(value: str | None) -> int | None:
    """A whole number as INFO and CONFIG write it, or None where there is none."""
    try:
        return int(value) if value is not None else None
    except ValueError:
        return None


def parse_info(reply: str) -> dict[str, str]:
    """``name:value`` lines of INFO. Its section titles are left out: no name that is used here is in two of them."""
    found = {}
    for line in reply.splitlines():
        name, colon, value = line.partition(":")
        if colon and not line.startswith("#"):
            found[name] = value
    return found


def parse_numbers(value: str) -> dict[str, int]:
    """The whole numbers in ``keys=1,expires=0`` (INFO keyspace, commandstats); others, as usec_per_call, are left out."""
    found = {}
    for item in value.split(","):
        name, count = item.partition("=")[::2]
        if count.isdigit():
            found[name] = int(count)
    return found


def parse_plan(plan: t.Sequence[t.Mapping[str, t.Any]] | None) -> dict[int, t.Mapping[str, t.Any]]:
    """Database number to its purpose. Numbers may come as strings, as everything from ``-e`` does."""
    found: dict[int, t.Mapping[str, t.Any]] = {}
    for entry in plan or ():
        try:
            found[int(entry["database"])] = {"purpose": str(entry["name"]), "profile": entry.get("profile")}
        except (KeyError, TypeError, ValueError) as exc:
            known = ", ".join("%s: %s" % item for item in sorted(entry.items()) if item[0] in ("name", "database"))
            raise UntangleError(
                "Each entry of plan needs `name`, and `database` as a number; one has only: %s." % (known or "neither")
            ) from exc
    return found


def server_facts(info: t.Mapping[str, str] | None, settings: t.Mapping[str, str] | None) -> Facts:
    """The instance as a whole. Bytes, seconds and counts as INFO gives them; None is what nobody would say."""
    given = info or {}
    is_valkey = given.get("server_name") == "valkey" or "valkey_version" in given
    cluster = None if "cluster_enabled" not in given else given["cluster_enabled"] == "1"
    databases = number((settings or {}).get("databases"))
    if cluster and settings is not None:
        # `databases` still says 16 there; only Valkey 9 and later can have more than db 0 in a cluster
        databases = number(settings.get("cluster-databases")) or 1
    return {
        "payload_version": None,
        "flavour": None if not given else "valkey" if is_valkey else "redis",
        "version": given.get("valkey_version") or given.get("redis_version"),
        "mode": given.get("server_mode") or given.get("redis_mode"),
        "role": {"master": "master", "slave": "replica"}.get(given.get("role", "")),
        "cluster": cluster,
        "replicas": number(given.get("connected_slaves")),
        "min_replicas_to_write": number((settings or {}).get("min-replicas-to-write")),
        "databases": databases,
        "uptime_seconds": number(given.get("uptime_in_seconds")),
        "used_memory": number(given.get("used_memory")),
        "maxmemory": number(given.get("maxmemory")),
        "maxmemory_policy": given.get("maxmemory_policy"),
        "total_system_memory": number(given.get("total_system_memory")),
        "evicted_keys": number(given.get("evicted_keys")),
        "expired_keys": number(given.get("expired_keys")),
        "keyspace_hits": number(given.get("keyspace_hits")),
        "keyspace_misses": number(given.get("keyspace_misses")),
        "persistence": {
            "save": (settings or {}).get("save"),
            "appendonly": None if "aof_enabled" not in given else given["aof_enabled"] == "1",
            "last_save_status": given.get("rdb_last_bgsave_status"),
            "last_save_at": number(given.get("rdb_last_save_time")),
            "last_append_status": given.get("aof_last_write_status"),
        },
    }


def keyspace_facts(info: t.Mapping[str, str]) -> dict[int, dict[str, int]]:
    """Database number to keys, expires, avg_ttl (ms), and what later servers add, exactly as INFO keyspace gives them."""
    return {
        int(name[2:]): parse_numbers(value)
        for name, value in info.items()
        if name.startswith("db") and name[2:].isdigit()
    }


def command_facts(info: t.Mapping[str, str]) -> Facts | None:
    """How often each watched command ran, failed and was rejected, since the statistics began. None where INFO hides it."""
    if not any(name.startswith("cmdstat_") for name in info):
        return None
    found = {}
    for command in WATCHED_COMMANDS:
        # 7.0 and later count subcommands apart (`cmdstat_config|get`); before 6.2 only calls are counted
        counts = parse_numbers(info.get("cmdstat_" + command.lower(), ""))
        found[command] = {
            "calls": counts.get("calls", 0),
            "failed": counts.get("failed_calls", 0),
            "rejected": counts.get("rejected_calls", 0),
        }
    return found


def parse_clients(reply: str) -> list[dict[str, str]]:
    """The lines of CLIENT LIST as dictionaries. A name holds no spaces: the server refuses them."""
    return [dict(part.partition("=")[::2] for part in line.split(" ")) for line in reply.splitlines() if line]


def client_facts(clients: t.Sequence[t.Mapping[str, str]], own_id: int | None) -> dict[int, Facts]:
    """Database number to its connections and who they are: kinds of client by name, user and host, the most frequent first.

    A database is the one that the client selected last. The connection that asks is left out, and so are replicas and the
    master, whose database says nothing.
    """
    kinds: dict[int, dict[tuple[str, str, str], Facts]] = {}
    for client in clients:
        if client.get("id") == str(own_id) or set(client.get("flags", "")) & set("SM"):
            continue
        # a unix socket's address is its path and ":0"
        host = client.get("addr", "").rpartition(":")[0]
        who = (client.get("name", ""), client.get("user", ""), host)
        kind = kinds.setdefault(number(client.get("db")) or 0, {}).setdefault(
            who,
            {
                "name": who[0],
                "user": who[1],
                "address": host,
                "library": client.get("lib-name", ""),
                "connections": 0,
                "last_command": client.get("cmd", ""),
                "idle_seconds": number(client.get("idle")),
            },
        )
        kind["connections"] += 1
        idle = number(client.get("idle"))
        if idle is not None and kind["idle_seconds"] is not None and idle < kind["idle_seconds"]:
            kind.update(idle_seconds=idle, last_command=client.get("cmd", ""))
    return {
        database: {
            "connections": sum(kind["connections"] for kind in found.values()),
            "seen": sorted(found.values(), key=lambda kind: -int(kind["connections"]))[:CLIENT_KINDS],
        }
        for database, found in kinds.items()
    }


def slow_log_facts(
    length: int | None, entries: t.Sequence[t.Sequence[t.Any]], settings: t.Mapping[str, str] | None
) -> Facts:
    """Commands by name with their count and slowest time; arguments are the users' data and are never told."""
    commands: dict[str, Facts] = {}
    read = 0
    for entry in entries:
        if len(entry) > 5 and text(entry[5]).startswith(OWN_NAME):
            continue
        read += 1
        name = text(entry[3][0]).upper() if entry[3] else "?"
        command = commands.setdefault(name, {"command": name, "entries": 0, "slowest_ms": 0.0})
        command["entries"] += 1
        command["slowest_ms"] = max(command["slowest_ms"], int(entry[2]) / 1000)
    slowest = sorted(commands.values(), key=lambda command: -float(command["slowest_ms"]))
    return {
        "entries": read if length is None or len(entries) < SLOW_LOG_ENTRIES else length,
        "read": read,
        "slowest_ms": slowest[0]["slowest_ms"] if slowest else 0.0,
        "threshold_us": number((settings or {}).get("slowlog-log-slower-than")),
        "commands": slowest[:CLIENT_KINDS],
    }


def masked(settings: t.Mapping[str, str]) -> dict[str, str]:
    """CONFIG GET's settings with secrets masked. An empty secret stays empty: that none is set is a fact."""
    return {name: MASK if value and name.endswith(SECRET_ENDINGS) else value for name, value in settings.items()}


def parse_tables(reply: t.Sequence[t.Any] | None) -> dict[int, int]:
    """Database number to the bytes of the table of its expiries, from MEMORY STATS."""
    found: dict[int, int] = {}
    for name, value in zip((reply or ())[::2], (reply or ())[1::2]):
        if text(name).startswith("db.") and isinstance(value, list):
            tables = dict(zip(map(text, value[::2]), value[1::2]))
            found[int(text(name)[3:])] = int(tables.get("overhead.hashtable.expires", 0))
    return found


def memory_estimate(sizes: t.Sequence[int], keys: int, every_key: bool, expiries: int = 0) -> Facts:
    """What a database holds in bytes, from the MEMORY USAGE of some of its keys and the bytes of its table of expiries.

    ``margin`` is half the width of the 95 % interval of the mean, times the keys: large where a few keys hold the most.
    It is 0 where every key was measured.
    """
    count = len(sizes)
    mean = sum(sizes) / count if count else 0
    margin = 0.0
    if count > 1 and not every_key:
        deviation = (sum((size - mean) ** 2 for size in sizes) / (count - 1)) ** 0.5
        margin = 1.96 * deviation / count**0.5 * keys
    return {"bytes": round((mean + TABLE_BYTES) * keys) + expiries, "margin": round(margin), "sampled": count}


# -- asking ---------------------------------------------------------------------------------------------------------------


class _Asker:
    """One connection of a client's pool, which gives replies as they come and writes down what was refused."""

    def __init__(self, client: t.Any) -> None:
        # A connection of its own, since SELECT and CLIENT NO-TOUCH hold for a connection.
        self._client = type(client)(connection_pool=client.connection_pool, single_connection_client=True)
        # redis-py's parsers differ from release to release, and from the text that the server wrote.
        self._client.response_callbacks.clear()
        self.refused: list[dict[str, str]] = []

    def ask(self, *words: t.Any, note: bool = True) -> t.Any:
        """The reply, or None where the server refuses. Raises redis-py's errors where the connection fails."""
        return self.ask_all([words], note)[0]

    def ask_all(self, commands: t.Sequence[t.Sequence[t.Any]], note: bool = True) -> list[t.Any]:
        """Several commands in one round trip; None for each that was refused."""
        import redis

        connection = self._client.connection
        connection.send_packed_command(connection.pack_commands(commands))
        replies = []
        for words in commands:
            try:
                replies.append(connection.read_response())
            except redis.ResponseError as exc:
                replies.append(None)
                # subcommands are told, arguments are not: they may be keys, which are the users' data
                name = " ".join(words[: 2 if words[0] in ("CONFIG", "CLIENT", "SLOWLOG", "MEMORY") else 1])
                if note and not any(entry["command"] == name for entry in self.refused):
                    self.refused.append({"command": name, "reason": str(exc)})
        return replies

    def has_database(self, database: int) -> bool | None:
        """Whether the server has this number, found out by selecting it; None where the user may not select."""
        import redis

        self._client.connection.send_command("SELECT", database)
        try:
            self._client.connection.read_response()
        except redis.exceptions.NoPermissionError as exc:
            self.refused.append({"command": "SELECT", "reason": str(exc)})
            return None
        except redis.ResponseError:
            return False
        return True

    def close(self) -> None:
        """Give the connection back, closed, so that nobody inherits its database."""
        self._client.connection.disconnect()
        self._client.close()


def _memory(asker: _Asker, database: int, keys: int, expiries: int, wanted: int) -> Facts | None:
    """Measure up to ``wanted`` keys of one database.

    SCAN gives keys in the order of their hashes, so the first ones are a random sample, and the same at the next run.
    """
    if not keys:
        return memory_estimate([], 0, True)
    if asker.ask("SELECT", database) is None:
        return None
    cursor, names = b"0", []
    # a page may be empty while a table is nearly so: an end to it, but a generous one
    for _dummy in range(100):
        page = asker.ask("SCAN", cursor, "COUNT", wanted)
        if page is None:
            return None
        cursor = page[0]
        names.extend(page[1])
        if cursor == b"0" or len(names) >= wanted:
            break
    every_key = cursor == b"0" and len(names) <= wanted
    sizes: list[int] = []
    # SCAN may name a key twice
    names = list(dict.fromkeys(names))[:wanted]
    for start in range(0, len(names), 100):
        replies = asker.ask_all([("MEMORY", "USAGE", name) for name in names[start : start + 100]])
        if any(entry["command"] == "MEMORY USAGE" for entry in asker.refused):
            return None
        # None is a key that has gone since
        sizes.extend(int(size) for size in replies if size is not None)
    return memory_estimate(sizes, keys, every_key, expiries)


def payload_version(payload: bytes | None) -> int | None:
    """The version of the data format in a DUMP payload: the two bytes before its checksum."""
    return None if payload is None or len(payload) < 10 else int.from_bytes(payload[-10:-8], "little")


def _payload_version(asker: _Asker, databases: t.Iterable[int]) -> int | None:
    """Of what this server dumps; None where it holds no key, or none small enough to be dumped without holding it up."""
    for database in databases:
        if asker.ask("SELECT", database, note=False) is None:
            continue
        page = asker.ask("SCAN", 0, "COUNT", 100, note=False)
        names = page[1] if page else []
        sizes = asker.ask_all([("MEMORY", "USAGE", name) for name in names], note=False) if names else []
        small = sorted((size, name) for size, name in zip(sizes, names) if size is not None and size < CANARY_BYTES)
        for _size, name in small[:3]:
            version = payload_version(asker.ask("DUMP", name, note=False))
            if version is not None:
                return version
    return None


def facts(
    client: t.Any,
    plan: t.Sequence[t.Mapping[str, t.Any]] | None = None,
    *,
    settings: bool = False,
    memory_sample: int = 0,
) -> Facts:
    """All facts of the instance behind ``client``, and what follows from them.

    ``client`` is what ``connection.connect`` gives; ``plan`` a list of purposes with ``name`` and ``database``;
    ``memory_sample`` the number of keys per database to measure. The structure is described in RETURN of the module
    redis_keyspace_info. Raises redis-py's errors where the connection fails, and UntangleError for a plan without numbers.
    """
    purposes = parse_plan(plan)
    asker = _Asker(client)
    try:
        asker.ask("CLIENT", "SETNAME", OWN_NAME, note=False)
        # what is looked at shall not count as used (Redis 7.2 and later, Valkey)
        asker.ask("CLIENT", "NO-TOUCH", "ON", note=False)
        own_id = asker.ask("CLIENT", "ID", note=False)
        reply = asker.ask("INFO", "all")
        info = None if reply is None else parse_info(text(reply))
        reply = asker.ask("CONFIG", "GET", "*")
        config = None if reply is None else dict(zip(map(text, reply[::2]), map(text, reply[1::2])))
        reply = asker.ask("CLIENT", "LIST")
        clients = None if reply is None else client_facts(parse_clients(text(reply)), own_id)
        reply = asker.ask("SLOWLOG", "GET", SLOW_LOG_ENTRIES)
        slow_log = None if reply is None else slow_log_facts(asker.ask("SLOWLOG", "LEN"), reply, config)

        server = server_facts(info, config)
        count = server["databases"]
        keyspace = None if info is None else keyspace_facts(info)
        tables = parse_tables(asker.ask("MEMORY", "STATS", note=False)) if memory_sample and keyspace else {}
        databases = []
        # INFO does not list an empty database
        empty = dict.fromkeys(("keys", "expires", "avg_ttl"), None if keyspace is None else 0)
        for database in sorted({*(keyspace or ()), *purposes, *(clients or ())}):
            held: Facts = {**empty, **(keyspace or {}).get(database, {})}
            memory = None
            if memory_sample and keyspace is not None:
                expiries = tables.get(database, held["expires"] * EXPIRY_BYTES)
                memory = _memory(asker, database, held["keys"], expiries, memory_sample)
            databases.append(
                {
                    "database": database,
                    **purposes.get(database, {"purpose": None, "profile": None}),
                    **held,
                    "exists": bool(held["keys"])
                    or (asker.has_database(database) if count is None else database < count),
                    "clients": None if clients is None else clients.get(database, {"connections": 0, "seen": []}),
                    "memory": memory,
                }
            )
        if memory_sample:
            server["payload_version"] = _payload_version(asker, sorted(keyspace or ()))
        found: Facts = {
            "server": server,
            "databases": databases,
            "commands": None if info is None else command_facts(info),
            "slow_log": slow_log,
            "settings": masked(config) if settings and config is not None else None,
            "refused": asker.refused,
        }
    finally:
        asker.close()
    found["findings"] = findings(found)
    return found
