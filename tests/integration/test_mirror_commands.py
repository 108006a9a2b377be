# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command that a server calls writing, through a running mirror: by itself, in a transaction, and in a script.

Which commands there are the server says itself: a new one without an example in tests/writing.py fails here.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import redis
import rig as rigs
import writing

import servers
from ansible_collections.njoy.untangle.plugins.module_utils.engine.link import Broken
from ansible_collections.njoy.untangle.plugins.module_utils.engine.mirror import Mirror

pytestmark = pytest.mark.servers
split = rigs.split

#: Both sides of the places where peers broke, and one that is not the target's own number of digits.
DATABASES = (0, 1, 9, 10, 15, 16, 31)
EFFECTS = "redis.call('INCRBY', KEYS[1], 5) redis.call('SADD', KEYS[2], redis.sha1hex('x'), 'b') return redis.call('SPOP', KEYS[2])"
WITH_ANOTHER = "redis.call('INCR', KEYS[1]) return redis.call(unpack(ARGV))"
each_version = pytest.mark.parametrize("version", servers.ALL)


@pytest.fixture(scope="module")
def pool() -> Iterator[rigs.Pool]:
    """Sources that attach at once and are silent otherwise: what moves their offset is a write."""
    made = rigs.Pool()
    yield made
    made.close()


def quiet(rig: rigs.Rig) -> None:
    client = rig.old()
    client.config_set("repl-diskless-sync-delay", 0)
    client.config_set("repl-ping-replica-period", 3600)


class Wire:
    """One connection, replies as they come: redis-py's conversions do not know every form of every command."""

    def __init__(self, server: servers.Server) -> None:
        self._wire: Any = server.client().connection_pool.get_connection()

    def send(self, *commands: tuple[Any, ...]) -> None:
        self._wire.send_packed_command(self._wire.pack_commands(commands))

    def read(self, count: int = 1) -> list[Any]:
        replies = []
        for _ in range(count):
            try:
                replies.append(self._wire.read_response())
            except redis.ResponseError as exc:
                replies.append(exc)
        return replies

    def run(self, *commands: tuple[Any, ...]) -> list[Any]:
        self.send(*commands)
        return self.read(len(commands))


def commands_of(server: servers.Server) -> dict[str, set[str]]:
    """Every command and subcommand with its flags."""
    found: dict[str, set[str]] = {}

    def walk(items: list[Any]) -> None:
        for item in items:
            found[item[0].decode().upper()] = {
                flag.decode() if isinstance(flag, bytes) else str(flag) for flag in item[2]
            }
            walk(item[9] if len(item) > 9 else [])

    walk(Wire(server).run(("COMMAND",))[0])
    return found


def lines_for(version: str, flags: dict[str, set[str]]) -> dict[str, list[str]]:
    """The examples that this server knows, by command. Before 7.0 a container does not name its subcommands."""
    containers = {name.partition("|")[0] for name in flags if "|" in name}
    found: dict[str, list[str]] = {}
    for name, lines in writing.examples().items():
        container = name.partition("|")[0]
        if name in flags or (container in flags and container not in containers):
            known = name if name in flags else container
            found.setdefault(known, []).extend(line for line in lines if offered(line, version))
    return found


@each_version
def test_every_writing_command_has_an_example(pool, version):
    flags = commands_of(pool.get(version, 0))
    # a container writes by its subcommands
    names = {n for n, some in flags.items() if "write" in some and not any(x.startswith(n + "|") for x in flags)}
    driven = {name for name, lines in lines_for(version, flags).items() if lines}
    missing = sorted(names - driven - set(writing.WHOLE) - set(writing.EXCEPTIONS))
    assert missing == []


def offered(line: str, version: str) -> bool:
    """Whether the server is of an age and a flavour for this example."""
    flavour, _dash, release = version.partition("-")
    since = [one.rpartition("-") for one in writing.since(line)]

    def number(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(".")))

    return not since or any(
        (flavour == "valkey" and not other) or (other in ("", flavour) and number(release) >= number(least))
        for other, _dash, least in since
    )


class Deed:
    """One example, on keys of its own."""

    def __init__(self, number: int, line: str, words: dict[str, Any], databases: Sequence[int]) -> None:
        self.line = line
        self.prefix = "%03d" % number
        self.database = databases[number % len(databases)]
        self._words = {**words, "ANOTHER": databases[(number + 1) % len(databases)]}
        self.fed = not line.startswith("unfed:")
        setup, _arrow, act = line.rpartition(": ")[2].partition("=>")
        waiting, _and, acting = act.rpartition("&&")
        self.setup = [self._command(one) for one in setup.split(";") if one.strip()]
        self.waiting = self._command(waiting) if waiting.strip() else None
        self.command = self._command(acting)

    def _command(self, text: str) -> tuple[Any, ...]:
        return tuple(self._word(word) for word in text.split())

    def _word(self, word: str) -> Any:
        library = "lib" + self.prefix
        if word == "LIBRARY":
            return (
                "#!lua name=%s\nredis.register_function('%s', function(keys, args) redis.call('SET', keys[1], args[1]) "
                "return redis.call('RPUSH', keys[2], 'x') end)" % (library, library)
            )
        if word == "lib":
            return library
        if word in self._words:
            return self._words[word]
        return re.sub(r"^k(?=\d?(_\*)?$)", self.prefix + ":k", word)


class Player:
    """Plays examples on a source."""

    def __init__(self, server: servers.Server, other: servers.Server) -> None:
        self.server = server
        self.wire, self.waiting = Wire(server), Wire(server)
        now = int(time.time())
        (payload,) = self.wire.run(("RPUSH", "made", "a", "b"), ("DUMP", "made"), ("DEL", "made"))[1:2]
        self.words = {
            "AT": now + 5000, "AT_MS": now * 1000 + 5000123, "LIST": payload, "HOST": other.host, "PORT": other.port,
            "EFFECTS": EFFECTS, '""': "",
        }  # fmt: skip
        if server.version != "redis-6.0":
            code = "#!lua name=restored\nredis.register_function('restored', function() return 1 end)"
            self.words["LIBRARIES"] = self.wire.run(("FUNCTION", "LOAD", code), ("FUNCTION", "DUMP"))[1]
        self.flags = commands_of(server)

    def deeds(self, databases: Sequence[int]) -> list[Deed]:
        lines = [line for some in lines_for(self.server.version, self.flags).values() for line in some]
        return [Deed(number, line, self.words, databases) for number, line in enumerate(lines)]

    def prepare(self, deeds: list[Deed]) -> None:
        for deed in deeds:
            replies = self.wire.run(("SELECT", deed.database), ("SET", deed.prefix + ":other", 1), *deed.setup)
            assert not [r for r in replies if isinstance(r, Exception)], (deed.line, replies)

    def play(self, deed: Deed, how: str) -> bool:
        """Run an example; whether the feed heard of it."""
        if deed.waiting:
            self.waiting.run(("SELECT", deed.database))
            self.waiting.send(deed.waiting)
            while b"blocked_clients:1" not in self.wire.run(("INFO", "clients"))[0]:
                time.sleep(0.0005)
        commands: list[tuple[Any, ...]] = [deed.command]
        other = deed.prefix + ":other"
        if how == "transaction":
            commands = [("MULTI",), ("INCR", other), deed.command, ("EXEC",)]
        elif how == "script":
            commands = [("EVAL", WITH_ANOTHER, 1, other, *deed.command)]
        info = ("INFO", "replication")
        _selected, before, *replies, after = self.wire.run(("SELECT", deed.database), info, *commands, info)
        if how == "transaction":
            replies += replies[-1]
        if deed.waiting:
            replies += self.waiting.read()
        assert not [r for r in replies if isinstance(r, Exception)], (deed.line, replies)
        return self._offset(before) < self._offset(after)

    @staticmethod
    def _offset(info: bytes) -> int:
        return int(re.search(rb"master_repl_offset:(\d+)", info)[1])  # type: ignore[index]

    def scriptable(self, deed: Deed) -> bool:
        name = str(deed.command[0]).upper()
        flags = self.flags.get("%s|%s" % (name, str(deed.command[1]).upper())) or self.flags[name]
        return "noscript" not in flags


@contextlib.contextmanager
def following(rig: rigs.Rig) -> Iterator[Mirror]:
    mirror = Mirror(rig.login, rig.routes)
    mirror.start()
    try:
        mirror.catch_up(rig.engine_source().offset())
        yield mirror
    finally:
        mirror.close()


def differing(rig: rigs.Rig, mirror: Mirror) -> tuple[list[tuple[str, bytes]], str]:
    """What differs once the mirror has caught up, and what it says of itself."""
    said = ""
    try:
        mirror.catch_up(rig.engine_source().offset())
    except Broken as exc:
        # the keys of what the target refused differ: they say more
        said = exc.message
    return [pair for route in rig.routes for pair in rig.compare(route.database).examples], said


@pytest.mark.parametrize("how", ("single", "transaction", "script"))
@pytest.mark.parametrize(
    ("version", "to"),
    [*((version, version) for version in servers.ALL), *servers.PAIRS],
)
def test_what_a_command_writes_is_mirrored(pool, split, version, to, how):
    databases = DATABASES if how == "single" else DATABASES[2:4]
    rig = split(version, databases=databases, to=to)
    quiet(rig)
    player = Player(rig.source, pool.get(version, len(DATABASES) + 1))
    deeds = player.deeds(databases)
    if how == "script":
        deeds = [deed for deed in deeds if player.scriptable(deed)]
    player.prepare(deeds)
    with following(rig) as mirror:
        silent = [deed.line for deed in deeds if not player.play(deed, how) and deed.fed]
        assert not silent, "these wrote nothing"
        found, said = differing(rig, mirror)
        by_prefix = {deed.prefix.encode(): deed for deed in deeds}
        wrong = [(by_prefix[key[:3]], kind, key) for kind, key in found]
        assert not [(deed.line, kind, key) for deed, kind, key in wrong if deed.fed or kind != "pending"], said
        assert not said


@each_version
def test_commands_on_whole_databases(pool, split, version):
    """Each by itself, and between two writes in a transaction and in a script."""
    rig = split(version, databases=(5, 16))
    quiet(rig)
    flags = commands_of(rig.source)
    old = {number: rig.source.client(number) for number in (3, 5, 16)}
    with following(rig) as mirror:
        for name, lines in writing.WHOLE.items():
            if name not in flags:
                continue
            for line in lines:
                if "SYNC" in line.split() and version == "redis-6.0":
                    continue
                for how in ("single", "transaction", "script"):
                    if how == "script" and "noscript" in flags[name]:
                        continue
                    for number, client in old.items():
                        client.rpush("list:%d" % number, *range(number))
                        client.set("counter", number)
                    mirror.catch_up(rig.engine_source().offset())
                    client, words = old[5], line.split()
                    if how == "single":
                        client.execute_command(*words)
                    elif how == "transaction":
                        with client.pipeline(transaction=True) as pipe:
                            pipe.incr("counter").execute_command(*words)
                            pipe.set("behind", line).execute()
                    else:
                        client.eval(
                            "redis.call('INCR', KEYS[1]) redis.call(unpack(ARGV)) redis.call('SET', KEYS[2], ARGV[1])",
                            2, "counter", "behind", *words,
                        )  # fmt: skip
                    found, said = differing(rig, mirror)
                    assert not (found or said), (line, how, said)


def test_what_comes_from_another_database_is_a_write(split):
    """A cutover under a pause looks for writes behind its offset."""
    rig = split("redis-8.0", databases=(5,))
    quiet(rig)
    beside, info = rig.source.client(3), rig.engine_source()
    with following(rig) as mirror:
        for line in ("COPY k k DB 5", "MOVE k 5", "SWAPDB 3 5", "FLUSHALL"):
            beside.set("k", 1)
            rig.old().delete("k")
            mirror.catch_up(info.offset())
            before = mirror.written
            beside.set("elsewhere", 1)
            mirror.catch_up(info.offset())
            assert mirror.written == before
            beside.execute_command(*line.split())
            mirror.catch_up(info.offset())
            assert mirror.written > before, line
