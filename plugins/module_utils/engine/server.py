# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One connected instance and what it can do, found by asking it and never by a table of versions alone."""

from __future__ import annotations

import typing as t

from .. import connection
from ..errors import UntangleError


class Server:
    """A connection to one database of one instance.

    ``client`` is redis-py's; ``options`` the connection as the user wrote it; ``variable`` how the user calls it.
    """

    def __init__(
        self, options: connection.Options, database: int = 0, variable: str = "source", name: str = "untangle"
    ) -> None:
        self.options = dict(options)
        self.database = database
        self.variable = variable
        self.address = connection.address(options)
        self.client = connection.connect(options, database, name, variable)
        info = self.info("server")
        self.flavour = "valkey" if info.get("valkey_version") or info.get("server_name") == "valkey" else "redis"
        # Valkey answers redis_version 7.2.4 for the sake of clients: its abilities are those of that version and more.
        self.version = _version(info.get("redis_version"))
        self.release = str(info.get("valkey_version") or info.get("redis_version"))
        self.run_id = str(info.get("run_id"))
        self._commands: dict[str, bool] = {}

    def info(self, section: str) -> dict[str, t.Any]:
        return t.cast("dict[str, t.Any]", self.run("INFO", section))

    def run(self, *command: t.Any) -> t.Any:
        """Run one command; a Redis or network error becomes a sentence."""
        import redis

        try:
            return self.client.execute_command(*command)
        except (redis.RedisError, OSError) as exc:
            raise connection.failure(exc, self.options, self.variable) from exc

    def raw(self, *command: t.Any) -> t.Any:
        """Run one command and take the reply as the server gave it, without redis-py's conversions."""
        import redis

        wire = self.wire()
        try:
            wire.send_command(*command)
            return wire.read_response(disable_decoding=True)
        except (redis.RedisError, OSError) as exc:
            raise connection.failure(exc, self.options, self.variable) from exc
        finally:
            self.client.connection_pool.release(wire)

    def batch(self, commands: t.Sequence[t.Sequence[t.Any]]) -> list[t.Any]:
        """Commands sent together, replies as the server gave them; the first error among them is raised after all were read."""
        import redis

        wire = self.wire()
        try:
            wire.send_packed_command(wire.pack_commands(commands))
            replies, failed = [], None
            for command in commands:
                try:
                    replies.append(wire.read_response(disable_decoding=True))
                except redis.ResponseError as exc:
                    failed = failed or exc
                else:
                    # what fails within a transaction stands among its replies
                    inner = replies[-1] if command[0] == "EXEC" else ()
                    failed = failed or next((one for one in inner if isinstance(one, redis.ResponseError)), None)
            if failed:
                raise failed
            return replies
        except (redis.RedisError, OSError) as exc:
            raise connection.failure(exc, self.options, self.variable) from exc
        finally:
            self.client.connection_pool.release(wire)

    def answers(self, seconds: float) -> bool:
        """Whether it answers within so many seconds. One that hangs would keep whoever asks it anything waiting for half a minute."""
        import redis

        wire, there = self.wire(), False
        try:
            wire.send_command("PING")
            there = bool(wire.can_read(seconds))
            if there:
                wire.read_response()
        except (redis.RedisError, OSError):
            there = False
        finally:
            if there:
                self.client.connection_pool.release(wire)
            else:
                self.drop(wire)
        return there

    def has(self, command: str) -> bool:
        """Whether the server knows a command."""
        if command not in self._commands:
            self._commands[command] = bool((self.raw("COMMAND", "INFO", command) or [None])[0])
        return self._commands[command]

    def config(self, name: str) -> str | None:
        """One setting, or None where CONFIG is refused or the setting unknown."""
        try:
            answer = self.raw("CONFIG", "GET", name)
        except UntangleError:
            return None
        return answer[1].decode() if answer else None

    def size(self) -> int:
        return int(self.run("DBSIZE"))

    def time_ms(self) -> int:
        seconds, micro = self.run("TIME")
        return int(seconds) * 1000 + int(micro) // 1000

    def offset(self) -> int:
        return int(self.info("replication").get("master_repl_offset") or 0)

    def clients(self, *chosen: str) -> list[dict[str, str]]:
        """CLIENT LIST, a dict of its fields for each connection; ``chosen`` as in ``TYPE replica``."""
        return _connections(self.raw("CLIENT", "LIST", *chosen))

    def strangers(self) -> list[dict[str, str]]:
        """Connections that are neither ours nor a replica's or a master's."""
        return strangers(self.raw("CLIENT", "LIST"))

    def counted(self, since: t.Mapping[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Look-ups that hit and missed, and keys evicted; since an earlier count where the server has run on from it."""
        stats, run_id = self.info("stats"), str(self.info("server").get("run_id"))
        names = {"hits": "keyspace_hits", "misses": "keyspace_misses", "evicted": "evicted_keys"}
        found = {name: int(stats.get(field) or 0) for name, field in names.items()}
        if since and since.get("run_id") == run_id and all(found[name] >= since[name] for name in found):
            found = {name: count - int(since[name]) for name, count in found.items()}
        return {**found, "run_id": run_id}

    def wire(self) -> t.Any:
        """A connection of its own for streaming, already on the right database. Give it back with ``drop``."""
        import redis

        try:
            return self.client.connection_pool.get_connection()
        except (redis.RedisError, OSError) as exc:
            raise connection.failure(exc, self.options, self.variable) from exc

    def drop(self, wire: t.Any) -> None:
        """Close a connection that was streamed on: replies may still be under way, so nobody else may use it."""
        wire.disconnect()
        self.client.connection_pool.release(wire)

    def close(self) -> None:
        self.client.connection_pool.disconnect()


def strangers(listed: bytes) -> list[dict[str, str]]:
    """Those of a reply of ``CLIENT LIST`` that are neither ours nor a replica's or a master's."""
    return [
        one
        for one in _connections(listed)
        if not one.get("name", "").startswith("untangle") and not set("MS") & set(one.get("flags", ""))
    ]


def _connections(listed: bytes) -> list[dict[str, str]]:
    lines = listed.decode(errors="replace").splitlines()
    return [dict(word.split("=", 1) for word in line.split(" ") if "=" in word) for line in lines]


def offset_in(replication: bytes) -> int:
    """The offset in a reply of ``INFO replication`` that nobody has parsed."""
    return int(replication.split(b"master_repl_offset:", 1)[1].split(b"\r\n", 1)[0])


def _version(text: t.Any) -> tuple[int, ...]:
    numbers = []
    for part in str(text or "0").split(".")[:3]:
        digits = "".join(c for c in part if c.isdigit())
        numbers.append(int(digits or 0))
    return tuple(numbers)
