# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a command of the change feed does: which keys it touches, and whether the target may run it as it comes.

A command that may not, or that is not exact, makes the keys it writes dirty: dumping them again is always right, applying is
only faster. A command that is not listed stops its route: nobody knows which keys it touches. A test drives every command
that a server calls writing through this table.
"""

from __future__ import annotations

import dataclasses
import typing as t

Words = t.Sequence[bytes]


@dataclasses.dataclass
class Effect:
    """``how``: apply (run ``words`` on the target), dump (its keys are dirty), flush, swap, ignore, unknown.

    ``writes`` are the keys that it changes in the database of the command, ``reads`` those that its result comes from.
    ``elsewhere`` are keys that it writes in another database, with that database's number.
    """

    how: str
    writes: t.Sequence[bytes] = ()
    reads: t.Sequence[bytes] = ()
    words: Words = ()
    elsewhere: t.Sequence[tuple[int, bytes]] = ()


@dataclasses.dataclass
class Dialect:
    """What a source's feed does differently."""

    #: Redis 7.4 to 8.x feeds HINCRBYFLOAT on a field with an expiry as HSET, which clears the expiry.
    hset_keeps_expiry: bool = False
    #: Up to Redis 7.0, XREADGROUP is fed without the number of entries read.
    groups_are_exact: bool = True
    #: The database holds, or may have got, fields with an expiry of their own.
    field_expiry: bool = False


def dialect(flavour: str, version: tuple[int, ...], field_expiry: bool) -> Dialect:
    redis = flavour == "redis"
    return Dialect(
        hset_keeps_expiry=redis and version >= (7, 4),
        groups_are_exact=not redis or version >= (7, 2),
        field_expiry=field_expiry,
    )


# One key, exact as it comes.
_ONE = set(
    b"APPEND BITFIELD DECR DECRBY GEOADD GETDEL GETSET HDEL HINCRBY HMSET HPERSIST HSETNX INCR INCRBY INCRBYFLOAT LINSERT LPOP "
    b"LPUSH LPUSHX LREM LSET LTRIM PERSIST PFADD RPOP RPUSH RPUSHX SADD SETBIT SETNX SETRANGE SREM XACK XADD XDEL XSETID XTRIM "
    b"ZADD ZINCRBY ZPOPMAX ZPOPMIN ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK ZREMRANGEBYSCORE HPEXPIREAT HEXPIREAT".split()
)
#: Of these, what needs no second look.
PLAIN = _ONE - {b"HPEXPIREAT", b"HEXPIREAT"}
# One key, never as it comes: relative times, random choices, results that depend on what the feed does not tell.
_ONE_DUMPED = set(
    b"EXPIRE PEXPIRE SETEX PSETEX GETEX HEXPIRE HPEXPIRE HGETEX HGETDEL HINCRBYFLOAT SPOP DELIFEQ VADD VREM VSETATTR XAUTOCLAIM "
    b"MIGRATE".split()
)
# Every word is a key that is written.
_ALL = set(b"DEL UNLINK".split())
# The first key is written from the others.
_FIRST_FROM_REST = set(b"SDIFFSTORE SINTERSTORE SUNIONSTORE PFMERGE".split())
# Source and destination, both written.
_TWO = set(b"RENAME RENAMENX LMOVE RPOPLPUSH SMOVE".split())
# Destination, then one key that it comes from.
_STORE = set(b"ZRANGESTORE GEOSEARCHSTORE".split())
# Destination, number, keys that it comes from.
_STORE_MANY = set(b"ZUNIONSTORE ZINTERSTORE ZDIFFSTORE".split())
_IGNORED = set(b"PING PUBLISH SPUBLISH REPLCONF SCRIPT SELECT MULTI EXEC".split())
# Forms in which other commands arrive: were they to come as they are, their keys are these.
_BLOCKING = set(b"BLPOP BRPOP BZPOPMIN BZPOPMAX".split())
_BLOCKING_TWO = set(b"BLMOVE BRPOPLPUSH".split())
_NUMBERED = {b"LMPOP": 1, b"ZMPOP": 1, b"BLMPOP": 2, b"BZMPOP": 2}


def effect(words: Words, how: Dialect) -> Effect:
    """What one command of the feed does."""
    name = words[0].upper()
    key = [words[1]] if len(words) > 1 else []
    if name in _IGNORED or name == b"FUNCTION":
        return Effect("ignore")
    if name in (b"FLUSHDB", b"FLUSHALL"):
        return Effect("flush" if name == b"FLUSHDB" else "flushall")
    if name == b"SWAPDB":
        return Effect("swap", elsewhere=[(int(words[1]), b""), (int(words[2]), b"")])
    if name in _ONE:
        if name in (b"HPEXPIREAT", b"HEXPIREAT"):
            how.field_expiry = True
        return Effect("apply", key, key, words)
    if name == b"HSET":
        return Effect("dump" if how.hset_keeps_expiry and how.field_expiry else "apply", key, key, words)
    if name == b"SET":
        return _set(words, key)
    if name in (b"PEXPIREAT", b"EXPIREAT"):
        # A condition was met where it is fed at all.
        return Effect("apply", key, key, words[:3])
    if name == b"HSETEX":
        how.field_expiry = True
        options = {word.upper() for word in words[2:5]}
        return Effect("dump" if options & {b"EX", b"PX"} else "apply", key, key, words)
    if name in (b"RESTORE", b"RESTORE-ASKING"):
        exact = words[2] == b"0" or b"ABSTTL" in {word.upper() for word in words[4:]}
        how.field_expiry = True
        return Effect("apply" if exact else "dump", key, key, words)
    if name in _ALL:
        return Effect("apply", list(words[1:]), list(words[1:]), words)
    if name in (b"MSET", b"MSETNX"):
        return Effect("apply", list(words[1::2]), list(words[1::2]), words)
    if name == b"MSETEX":
        return Effect("dump", list(words[2 : 2 + 2 * int(words[1]) : 2]))
    if name in _TWO:
        return Effect("apply", list(words[1:3]), list(words[1:3]), words)
    if name in _BLOCKING_TWO:
        return Effect("dump", list(words[1:3]))
    if name in _BLOCKING:
        return Effect("dump", list(words[1:-1]))
    if name in _NUMBERED:
        at = _NUMBERED[name]
        return Effect("dump", list(words[at + 1 : at + 1 + int(words[at])]))
    if name in _FIRST_FROM_REST:
        return Effect("apply", key, list(words[1:]), words)
    if name == b"BITOP":
        return Effect("apply", [words[2]], list(words[2:]), words)
    if name in _STORE:
        return Effect("apply", key, list(words[1:3]), words)
    if name in _STORE_MANY:
        return Effect("apply", key, [words[1], *words[3 : 3 + int(words[2])]], words)
    if name in (b"SORT", b"GEORADIUS", b"GEORADIUSBYMEMBER"):
        return Effect("dump", _stored(words))
    if name == b"COPY":
        return _copied(words)
    if name == b"MOVE":
        return Effect("dump", key, elsewhere=[(int(words[2]), words[1])])
    if name == b"XGROUP":
        return Effect("apply" if how.groups_are_exact else "dump", [words[2]], [words[2]], words)
    if name == b"XCLAIM":
        return Effect("apply" if how.groups_are_exact else "dump", key, key, words)
    if name == b"XREADGROUP":
        at = [word.upper() for word in words].index(b"STREAMS")
        return Effect("dump", list(words[at + 1 : at + 1 + (len(words) - at - 1) // 2]))
    if name == b"PFCOUNT":
        return Effect("dump", list(words[1:]))
    if name == b"PFDEBUG":
        return Effect("dump", [words[2]])
    if name in _ONE_DUMPED:
        return Effect("dump", [words[3]] if name == b"MIGRATE" else key)
    return Effect("unknown")


def _set(words: Words, key: list[bytes]) -> Effect:
    options = [word.upper() for word in words[3:]]
    # Relative times (Redis 6.0), and conditions on a value that is compared where it may not be yet.
    exact = not {b"EX", b"PX", b"IFEQ", b"IFNE", b"IFDEQ", b"IFDNE"} & set(options)
    return Effect("apply" if exact else "dump", key, key, words)


def _stored(words: Words) -> list[bytes]:
    """The destination of a command that has one behind STORE or STOREDIST; it changes nothing without."""
    upper = [word.upper() for word in words]
    return [words[at + 1] for at in range(2, len(words) - 1) if upper[at] in (b"STORE", b"STOREDIST")][-1:]


def _copied(words: Words) -> Effect:
    upper = [word.upper() for word in words]
    if b"DB" in upper[3:]:
        return Effect("dump", elsewhere=[(int(words[upper.index(b"DB", 3) + 1]), words[2])])
    return Effect("apply", [words[2]], list(words[1:3]), words)
