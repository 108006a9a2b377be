# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Marks on the servers themselves, which say that a purpose has moved, and the fence that keeps writers off.

None of them is a key. On the target: a function library that nobody calls, which travels and persists with the data and
survives FLUSHALL. At the source: a disabled ACL user named for the database. A target older than 7.0 has no functions and
gets a disabled ACL user as well.
"""

from __future__ import annotations

import json
import typing as t

from ..errors import Away, UntangleError
from .server import Server, offset_in

LIBRARY = "untangle"
OWN_USER = "untangle"
_MOVED_PREFIX = "untangle.moved."
MOVED = _MOVED_PREFIX + "%d"
_FENCE = "fence:"
BEFORE_FENCE = ".before-fence"
_OLD_MARK = "untangle.mark."
#: How the name of every engine that mirrors begins.
OWNER = "untangle-mirror-"


# --- the mark on the target ---------------------------------------------------------------------------------------------


def library(facts: t.Mapping[str, t.Any]) -> str:
    text = json.dumps(facts, sort_keys=True)
    return (
        "#!lua name=%s\n-- njoy.untangle: %s\n"
        "redis.register_function{function_name='%s_mark', callback=function() return 'see FUNCTION LIST' end, flags={'no-writes'}}\n"
    ) % (LIBRARY, text, LIBRARY)


def read_target(target: Server) -> dict[str, t.Any] | None:
    """The mark: ``state`` (copying | copied | serving | returned), ``source``, ``database``, ``purpose``, and what was saved."""
    if target.version < (7, 0):
        for line in _acl_list(target):
            if line.startswith("user " + _OLD_MARK):
                return t.cast("dict[str, t.Any]", json.loads(bytes.fromhex(line.split()[1][len(_OLD_MARK) :])))
        return None
    found = target.raw("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY, "WITHCODE")
    for entry in found:
        facts = dict(zip(entry[::2], entry[1::2]))
        for line in facts[b"library_code"].decode().splitlines():
            if line.startswith("-- njoy.untangle: "):
                return t.cast("dict[str, t.Any]", json.loads(line.split(": ", 1)[1]))
    return None


def follows(source: Server, engine: str) -> bool:
    """Whether this engine has its feed at the source: its link to a target may be down for a moment."""
    if not engine.startswith(OWNER):
        return False
    seen = source.info("replication")
    replicas = [facts.get("ip") for name, facts in seen.items() if name.startswith("slave") and isinstance(facts, dict)]
    return engine in replicas or any(one.get("name") == engine for one in source.clients())


def write_target(target: Server, facts: t.Mapping[str, t.Any], first: bool = False) -> None:
    """Set the mark in one command. With ``first`` it is a lock: whoever comes second is refused by the server."""
    if target.version < (7, 0):
        for line in _acl_list(target):
            if line.startswith("user " + _OLD_MARK):
                target.run("ACL", "DELUSER", line.split()[1])
        target.run("ACL", "SETUSER", _OLD_MARK + json.dumps(facts, sort_keys=True).encode().hex(), "off")
        return
    command = ["FUNCTION", "LOAD", *([] if first else ["REPLACE"]), library(facts)]
    try:
        _even_when_full(target, lambda: target.run(*command))
    except UntangleError as exc:
        if first and "already exists" in exc.message:
            raise UntangleError(
                "%s is being filled by somebody else: %s" % (target.address, read_target(target))
            ) from exc
        raise


def clear_target(target: Server) -> None:
    if read_target(target) is None:
        return
    if target.version < (7, 0):
        for line in _acl_list(target):
            if line.startswith("user " + _OLD_MARK):
                target.run("ACL", "DELUSER", line.split()[1])
    else:
        target.run("FUNCTION", "DELETE", LIBRARY)


# --- the mark at the source ---------------------------------------------------------------------------------------------


def is_moved(source: Server, database: int) -> str | None:
    """``purpose@address`` where the database has moved to, or None."""
    prefix = "user " + MOVED % database + " "
    for line in _acl_list(source):
        if line.startswith(prefix):
            names = [w[1:] for w in line.split() if w.startswith("~")]
            return names[0] if names else "?"
    return None


def set_moved(source: Server, database: int, purpose: str, where: str, users: t.Sequence[str] = ()) -> None:
    """Mark a database as moved. ``users`` are those whose fence keeps it still: while the mark stands they stay fenced."""
    if not may_mark(source):
        return
    names = ["~%s@%s" % (purpose, where), *["~%s%s" % (_FENCE, user) for user in users]]
    _change(source, [("ACL", "SETUSER", MOVED % database, "reset", "off", *names)])


def moved(source: Server) -> dict[int, set[str]]:
    """Databases that have moved, each with the users whose fence it needs."""
    found: dict[int, set[str]] = {}
    for line in _acl_list(source):
        words = line.split()
        if words[1].startswith(_MOVED_PREFIX):
            users = {w[1 + len(_FENCE) :] for w in words if w.startswith("~" + _FENCE)}
            found[int(words[1][len(_MOVED_PREFIX) :])] = users
    return found


def clear_moved(source: Server, database: int) -> None:
    if not may_mark(source):
        return
    _change(source, [("ACL", "DELUSER", MOVED % database)])


# --- the engine's own user ----------------------------------------------------------------------------------------------


def own_user(server: Server, password: str) -> dict[str, t.Any]:
    """Make the engine's own user on a server (a fence may shut out the one that it came with) and return its connection."""
    words = ["on", "resetpass", ">" + password, "allkeys", "+@all"] + (
        ["allchannels"] if server.version >= (6, 2) else []
    )
    _change(server, [("ACL", "SETUSER", OWN_USER, *words)])
    return dict(server.options, username=OWN_USER, password=password)


def drop_own_user(server: Server) -> None:
    if not may_mark(server):
        return
    _change(server, [("ACL", "DELUSER", OWN_USER)])


# --- the fence ----------------------------------------------------------------------------------------------------------


def fenced(server: Server) -> list[str]:
    """Users whose rules are kept beside them: the existence of that copy is the fence."""
    names = [line.split()[1] for line in _acl_list(server)]
    return sorted(n[: -len(BEFORE_FENCE)] for n in names if n.endswith(BEFORE_FENCE))


def databases_in_use(server: Server) -> set[int]:
    return {int(name[2:]) for name in server.info("keyspace") if name.startswith("db")}


def choose(server: Server, databases: t.Collection[int], wanted: t.Sequence[str] = ()) -> list[str]:
    """The users to fence so that nobody writes to these databases, or a sentence why that cannot be.

    Where every database in use moves, all users are fenced. Else only users that are seen on these databases and on no other.
    """
    if not may_mark(server):
        raise UntangleError(
            "%s: the user of %s may not run ACL there, so nobody can be fenced. Grant +acl, or let the applications be stopped (stop and "
            "start in redis_split_apps), or allow a pause (redis_split_pause_max_seconds)."
            % (server.address, server.variable)
        )
    enabled = []
    for line in _acl_list(server):
        words = line.split()
        if words[2] == "on" and words[1] != OWN_USER and not words[1].endswith(BEFORE_FENCE):
            enabled.append(words[1])
    already = fenced(server)
    # A database that has moved already holds nobody back: it is fenced, or whoever reads it there is a straggler.
    leaving = moved(server)
    staying = sorted(databases_in_use(server) - set(databases) - set(leaving))
    here = server.strangers()
    seen = users_by_database(here)
    # Whoever is about to select a database, as an application does that connects for every page, is on 0 for a moment.
    settled = users_by_database(one for one in here if one.get("db") != "0" or one.get("cmd") not in _GREETINGS)
    elsewhere = {user: sorted(set(used) - set(databases) - set(leaving)) for user, used in settled.items()}
    if wanted:
        missing = sorted(set(wanted) - set(enabled) - set(already))
        if missing:
            raise UntangleError(
                "%s has no enabled user %s. Correct redis_split_fence." % (server.address, ", ".join(missing))
            )
        chosen = list(wanted)
    elif not staying:
        return sorted(set(enabled) | set(already))
    else:
        # Those of a cutover that was broken off may have lost heart and not come back.
        left = set(already).difference(*leaving.values())
        chosen = sorted(left | {u for u, used in seen.items() if set(used) & set(databases) and u != OWN_USER})
    shared = ["%s (database %s)" % (u, ", ".join(map(str, elsewhere[u]))) for u in chosen if elsewhere.get(u)]
    if "default" in chosen and staying and not shared:
        shared = ["default (databases %s hold data)" % ", ".join(map(str, staying))]
    if shared:
        raise UntangleError(
            "%s cannot be fenced: these users also work on databases that stay: %s. Give the applications that stay a user of "
            "their own, or let the applications that move be stopped (stop and start in redis_split_apps)."
            % (server.address, "; ".join(shared))
        )
    if not chosen:
        raise UntangleError(
            "%s: no client is connected to database %s, so nobody can be named to be fenced, while databases %s stay. Name the "
            "users of the applications in redis_split_fence, or give stop and start in redis_split_apps."
            % (server.address, ", ".join(map(str, sorted(databases))), ", ".join(map(str, staying)))
        )
    return chosen


#: What a client sends before it selects its database, as CLIENT LIST calls it.
_GREETINGS = ("NULL", "auth", "hello", "client", "client|setinfo", "client|setname")


def users_by_database(connections: t.Iterable[t.Mapping[str, str]]) -> dict[str, list[int]]:
    """User to the databases that its connections have selected just now."""
    found: dict[str, set[int]] = {}
    for one in connections:
        found.setdefault(one.get("user", "default"), set()).add(int(one.get("db", 0)))
    return {user: sorted(used) for user, used in found.items()}


def put(server: Server, users: t.Sequence[str]) -> int:
    """Take the right to write from all these users in one transaction and cut their connections. Returns the offset.

    What was waiting or blocked is cut off and not executed, so nothing is written after the offset. ``clearselectors`` closes
    the way around by ACL selectors, ``-@scripting`` that of scripts which hide a refusal.
    """
    rules = {line.split()[1]: line.split()[2:] for line in _acl_list(server)}
    weaken = ["-@write", "-@scripting"]
    if server.version >= (7, 0):
        # Reading the mark stays allowed: a fenced login must still be able to see that it is.
        weaken = ["clearselectors", *weaken, "+function|list"]
    commands = list[tuple[t.Any, ...]]()
    for user in users:
        if user not in rules:
            # Known from an earlier time only: who does not exist cannot write.
            continue
        if user + BEFORE_FENCE not in rules:
            commands.append(
                (
                    "ACL",
                    "SETUSER",
                    user + BEFORE_FENCE,
                    "reset",
                    *[w for w in rules[user] if w not in ("on", "off")],
                    "off",
                )
            )
        commands.append(("ACL", "SETUSER", user, *weaken))
        commands.append(("CLIENT", "KILL", "TYPE", "normal", "USER", user, "SKIPME", "yes"))
    return offset_in(_change(server, [*commands, ("INFO", "replication")])[-1])


def lift(server: Server, users: t.Sequence[str] | None = None) -> list[str]:
    """Give fenced users (default: all) their rules back, unless a database that has moved needs their fence. Returns whom."""
    rules = {line.split()[1]: line.split()[2:] for line in _acl_list(server)}
    held = set[str]().union(*moved(server).values())
    lifted = [u for u in fenced(server) if (users is None or u in users) and u not in held]
    # Not `reset`: on 7.0 that sets a flag which no rule can take away again.
    away = ["resetpass", "resetkeys", "nocommands"]
    away += ["resetchannels"] if server.version >= (6, 2) else []
    away += ["clearselectors"] if server.version >= (7, 0) else []
    commands = list[tuple[t.Any, ...]]()
    for user in lifted:
        kept = [w for w in rules[user + BEFORE_FENCE] if w not in ("on", "off", "sanitize-payload")]
        commands.append(("ACL", "SETUSER", user, *away, *kept, "on"))
        commands.append(("ACL", "DELUSER", user + BEFORE_FENCE))
    if lifted:
        _change(server, commands)
    return lifted


def _change(server: Server, commands: t.Sequence[tuple[t.Any, ...]]) -> list[t.Any]:
    """Change users in one transaction, and return its replies.

    Users who live in a file of their own survive a restart only when saved, and they are saved within the transaction: a server
    that ended before that would come back with those of before, after the change was told to be made. A file that the server
    may not write to, as that of our own instances, keeps what it says.
    """
    saves = list[tuple[t.Any, ...]]()
    if server.config("aclfile"):
        try:
            server.run("ACL", "SAVE")
            saves = [("ACL", "SAVE")]
        except Away:
            raise
        except UntangleError:
            pass
    whole = [("MULTI",), *commands, *saves, ("EXEC",)]
    replies = _even_when_full(server, lambda: server.batch(whole))[-1]
    return t.cast("list[t.Any]", replies[: len(commands)])


def _even_when_full(server: Server, work: t.Callable[[], t.Any]) -> t.Any:
    """A server at its memory limit takes no functions, and up to 7.0 no transaction: a little more memory while this lasts."""
    try:
        return work()
    except UntangleError as exc:
        if "maxmemory" not in exc.message:
            raise
    limit, used = server.config("maxmemory"), int(server.info("memory")["used_memory"])
    server.run("CONFIG", "SET", "maxmemory", used + 4 * 1024 * 1024)
    try:
        return work()
    finally:
        server.run("CONFIG", "SET", "maxmemory", limit)


def users(server: Server) -> list[str]:
    """The names of all users, ours and those that are marks among them."""
    return [line.split()[1] for line in _acl_list(server)]


def may_mark(server: Server) -> bool:
    """Whether we may see and change users there: a managed service keeps that to itself."""
    try:
        server.raw("ACL", "LIST")
    except Away:
        raise
    except UntangleError:
        return False
    return True


def _acl_list(server: Server) -> list[str]:
    """ACL LIST; of a server that does not show it, nothing: then target and ``split.json`` are the witnesses."""
    return [line.decode() for line in server.raw("ACL", "LIST")] if may_mark(server) else []
