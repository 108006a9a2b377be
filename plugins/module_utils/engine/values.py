# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One value at a time, by its meaning: comparing it on two servers, and copying it in chunks when it is big.

Nothing here depends on how a server encodes a value. Chunks are bounded in bytes, so that neither server is held up by a key
of any size. Field expiry, -0, stream groups, consumers and pending entries are part of the meaning; what a server itself
changes by being read (idle times of consumers, approximate counters) is not.
"""

from __future__ import annotations

import os
import struct
import typing as t

from ..errors import UntangleError
from .server import Server

#: What the name of a key begins with while it is put together on the target.
PART = b"untangle:part:"
CHUNK_BYTES = 256 * 1024
CHUNK_ITEMS = 512
#: Items asked for first, before anything is known of their size.
FIRST_ITEMS = 4

#: Names of the ways in which two values differ; the comparer counts by them.
DIFFERENCES = ("type", "value", "expiry", "field_expiry", "groups", "consumers", "pending")


def kind(server: Server, key: bytes) -> str:
    name = server.run("TYPE", key)
    return t.cast(str, name.decode() if isinstance(name, bytes) else name)


def expiry(server: Server, key: bytes) -> int | None:
    """Milliseconds since the epoch, 0 for none, None where the key is gone."""
    if server.version >= (7, 0):
        at = int(server.run("PEXPIRETIME", key))
    else:
        while True:
            before, ttl, after = _timed(server, "PTTL", key)
            if before == after or ttl < 0:
                at = before + ttl if ttl >= 0 else ttl
                break
    return None if at == -2 else max(at, 0)


def _timed(server: Server, *command: t.Any) -> tuple[int, t.Any, int]:
    """A reply between the milliseconds before and after it. No transaction makes sure of them: a full server refuses those."""
    (s0, u0), reply, (s1, u1) = server.batch([("TIME",), command, ("TIME",)])
    return int(s0) * 1000 + int(u0) // 1000, reply, int(s1) * 1000 + int(u1) // 1000


def differs(one: Server, key: bytes, other: Server, tolerance_ms: int = 0) -> str | None:
    """How the value of a key differs on two servers (a word of DIFFERENCES, or missing, extra), or None."""
    try:
        return _differs(one, key, other, tolerance_ms)
    except UntangleError as exc:
        if not _moved_on(exc):
            raise
        # Another value has taken the key's place while it was read: look again.
        return "value"


def _moved_on(error: UntangleError) -> bool:
    """Whether a command failed only because somebody deleted or replaced the key that it was reading."""
    return any(word in error.message for word in ("WRONGTYPE", "no such key", "NOGROUP", "No such key"))


def _differs(one: Server, key: bytes, other: Server, tolerance_ms: int) -> str | None:
    types = kind(one, key), kind(other, key)
    if types[0] == types[1] == "none":
        return None
    if types[0] == "none":
        return "extra"
    if types[1] == "none":
        return "missing"
    if types[0] != types[1]:
        return "type"
    compare = _COMPARE.get(types[0])
    found = compare(one, key, other, tolerance_ms) if compare else _opaque(one, key, other)
    if found:
        return found
    ends = expiry(one, key), expiry(other, key)
    if ends[0] is None or ends[1] is None:
        return None if ends[0] == ends[1] else ("extra" if ends[0] is None else "missing")
    if bool(ends[0]) != bool(ends[1]) or abs(ends[0] - ends[1]) > tolerance_ms:
        return "expiry"
    return None


def _opaque(one: Server, key: bytes, other: Server) -> str | None:
    """A module's type: only its own serialisation can say."""
    a, b = one.run("DUMP", key), other.run("DUMP", key)
    return None if a and b and a[:-10] == b[:-10] else "value"


def _string(one: Server, key: bytes, other: Server, tolerance_ms: int) -> str | None:
    size = one.run("STRLEN", key)
    if size != other.run("STRLEN", key):
        return "value"
    for start in range(0, size, CHUNK_BYTES):
        end = start + CHUNK_BYTES - 1
        if one.run("GETRANGE", key, start, end) != other.run("GETRANGE", key, start, end):
            return "value"
    return None


def _list(one: Server, key: bytes, other: Server, tolerance_ms: int) -> str | None:
    size = one.run("LLEN", key)
    if size != other.run("LLEN", key):
        return "value"
    start = 0
    for chunk in _list_chunks(one, key):
        if chunk != other.run("LRANGE", key, start, start + len(chunk) - 1):
            return "value"
        start += len(chunk)
    return None if start == size else "value"


def _set(one: Server, key: bytes, other: Server, tolerance_ms: int) -> str | None:
    if one.run("SCARD", key) != other.run("SCARD", key):
        return "value"
    for members in _scan_chunks(one, "SSCAN", key):
        if not all(other.batch([("SISMEMBER", key, member) for member in members])):
            return "value"
    return None


def _hash(one: Server, key: bytes, other: Server, tolerance_ms: int) -> str | None:
    if one.run("HLEN", key) != other.run("HLEN", key):
        return "value"
    for flat in _scan_chunks(one, "HSCAN", key):
        fields, values = flat[::2], flat[1::2]
        if other.run("HMGET", key, *fields) != values:
            return "value"
        ends = _field_expiry(one, key, fields), _field_expiry(other, key, fields)
        for a, b in zip(*ends):
            if (a < 0) != (b < 0) or abs(a - b) > tolerance_ms:
                return "field_expiry"
    return None


def _zset(one: Server, key: bytes, other: Server, tolerance_ms: int) -> str | None:
    if one.run("ZCARD", key) != other.run("ZCARD", key):
        return "value"
    for flat in _scan_chunks(one, "ZSCAN", key):
        members, scores = flat[::2], flat[1::2]
        for a, b in zip(scores, other.batch([("ZSCORE", key, member) for member in members])):
            # As doubles, for servers print them differently; bit for bit, so that -0 is not 0.
            if b is None or struct.pack(">d", float(a)) != struct.pack(">d", float(b)):
                return "value"
    return None


def _stream(one: Server, key: bytes, other: Server, tolerance_ms: int) -> str | None:
    names = [b"length", b"last-generated-id"]
    if min(one.version, other.version) >= (7, 0):
        names += [b"entries-added", b"max-deleted-entry-id"]
    heads = [_pairs(server.raw("XINFO", "STREAM", key)) for server in (one, other)]
    if any(heads[0].get(name) != heads[1].get(name) for name in names):
        return "value"
    for entries in _stream_chunks(one, key):
        if entries != other.raw("XRANGE", key, entries[0][0], entries[-1][0], "COUNT", len(entries) + 1):
            return "value"
    groups = _groups(one, key), _groups(other, key)
    if groups[0] != groups[1]:
        return "groups"
    for group in groups[0]:
        # A consumer that owns nothing is no state: XREADGROUP makes one by asking, and servers do not replicate that.
        a_pending, b_pending = dict(_pending(one, key, group)), dict(_pending(other, key, group))
        owners = {x[0] for x in a_pending.values()}, {x[0] for x in b_pending.values()}
        if a_pending.keys() != b_pending.keys():
            return "pending"
        if owners[0] != owners[1]:
            return "consumers"
        for entry, (consumer, at, count) in a_pending.items():
            other_consumer, other_at, other_count = b_pending[entry]
            if consumer != other_consumer or count != other_count or abs(at - other_at) > max(tolerance_ms, 1):
                return "pending"
    return None


def _vectors(one: Server, key: bytes, other: Server, tolerance_ms: int) -> str | None:
    """A set of vectors: its serialisation lists the elements in another order once it was restored."""
    heads = [_pairs(server.raw("VINFO", key) or []) for server in (one, other)]
    facts = (b"quant-type", b"vector-dim", b"projection-input-dim", b"hnsw-m", b"size")
    if any(heads[0].get(name) != heads[1].get(name) for name in facts):
        return "value"
    # There is no VSCAN: as many as there are, none twice.
    names = t.cast("list[bytes]", one.raw("VRANDMEMBER", key, heads[0].get(b"size", 0)) or [])
    for start in range(0, len(names), CHUNK_ITEMS):
        asked = [
            (command, key, name, *how)
            for name in names[start : start + CHUNK_ITEMS]
            for command, how in (("VEMB", ("RAW",)), ("VGETATTR", ()))
        ]
        if one.batch(asked) != other.batch(asked):
            return "value"
    return None


_COMPARE: dict[str, t.Callable[[Server, bytes, Server, int], str | None]] = {
    "string": _string,
    "list": _list,
    "set": _set,
    "hash": _hash,
    "zset": _zset,
    "stream": _stream,
    "vectorset": _vectors,
}


def _list_chunks(server: Server, key: bytes) -> t.Iterator[list[bytes]]:
    start, step = 0, FIRST_ITEMS
    while True:
        chunk = t.cast("list[bytes]", server.run("LRANGE", key, start, start + step - 1))
        if not chunk:
            return
        yield chunk
        start += len(chunk)
        step = _step(step, sum(len(x) for x in chunk), len(chunk))


def _scan_chunks(server: Server, command: str, key: bytes) -> t.Iterator[list[bytes]]:
    cursor, step = b"0", FIRST_ITEMS
    while True:
        cursor, flat = server.raw(command, key, cursor, "COUNT", step)
        if flat:
            yield flat
            step = _step(step, sum(len(x) for x in flat), len(flat))
        if cursor == b"0":
            return


def _step(step: int, size: int, items: int) -> int:
    """How many items to ask for next: as many as make a chunk, judged by the last ones.

    At most twice as many as before, for what comes next may be bigger: items of 1 MB come one by one. (How big an item is
    no server tells before it is read.)
    """
    return max(1, min(CHUNK_ITEMS, 2 * step, CHUNK_BYTES * items // (size + 1)))


def _field_expiry(server: Server, key: bytes, fields: t.Sequence[bytes]) -> list[int]:
    if not server.has("HPEXPIRETIME"):
        return [-1] * len(fields)
    return t.cast("list[int]", server.run("HPEXPIRETIME", key, "FIELDS", len(fields), *fields))


def _pairs(flat: list[t.Any]) -> dict[bytes, t.Any]:
    return dict(zip(flat[::2], flat[1::2]))


def _groups(server: Server, key: bytes) -> dict[bytes, bytes]:
    """Group name to the last id it delivered. entries-read is a server's guess and may be unknown: not compared."""
    groups = [_pairs(x) for x in server.raw("XINFO", "GROUPS", key)]
    return {g[b"name"]: g[b"last-delivered-id"] for g in groups}


def _pending(server: Server, key: bytes, group: bytes) -> t.Iterator[tuple[bytes, tuple[bytes, int, int]]]:
    """Entry id to (consumer, time of delivery in ms, deliveries), page by page."""
    start = b"-"
    while True:
        for _dummy in range(9):
            now, rows, after = _timed(server, "XPENDING", key, group, start, "+", CHUNK_ITEMS)
            if now == after:
                break
        for entry, consumer, idle, count in rows:
            yield entry, (consumer, now - idle, count)
        if len(rows) < CHUNK_ITEMS:
            return
        # 6.0 knows no exclusive start: the next possible id instead.
        start = _next_id(entry)


#: What makes a value of its items.
_PUT = {b"string": "SET", b"list": "RPUSH", b"set": "SADD", b"hash": "HSET", b"zset": "ZADD"}


def commands(key: bytes, kind_: bytes, items: list[bytes], at: int) -> list[tuple[t.Any, ...]]:
    """What makes a value of ``snapshot.Page.values`` anew, seen whole or not at all."""
    if kind_ == b"zset":
        items = [word for pair in zip(items[1::2], items[::2]) for word in pair]
    ends: list[tuple[t.Any, ...]] = [("PEXPIREAT", key, at)] if at else []
    return [("MULTI",), ("DEL", key), (_PUT[kind_], key, *items), *ends, ("EXEC",)]


def copy_in_chunks(source: Server, key: bytes, target: Server, replace: bool = True) -> int | None:
    """Copy one big key by chunks of its type into a name of its own, then rename it over the key: seen whole or not at all.

    Returns the bytes sent, or None where the key is gone from the source or, with ``replace`` off, is there already.
    Under writes the copy may be a mixture: the pass of differences that follows every copy finds that.
    """
    for _dummy in range(3):
        name = kind(source, key)
        if name == "none":
            return None
        if name not in _COPY:
            # A module's type knows no chunks.
            return _copy_whole(source, key, target, replace)
        part = PART + os.urandom(8).hex().encode()
        try:
            sent = _COPY[name](source, key, target, part)
            at = expiry(source, key)
            if at is None or not target.run("EXISTS", part):
                return None
            ends: list[tuple[t.Any, ...]] = [("PEXPIREAT", part, at)] if at else []
            target.batch([("MULTI",), *ends, ("RENAME" if replace else "RENAMENX", part, key), ("EXEC",)])
            return sent
        except _Whole:
            return _copy_whole(source, key, target, replace)
        except UntangleError as exc:
            if not _moved_on(exc):
                raise
        finally:
            target.run("UNLINK", part)
    # It does not hold still. Nobody writes any more when the last pass comes.
    return None


class _Whole(Exception):
    """A value that cannot be made by commands of its type."""


def _copy_whole(source: Server, key: bytes, target: Server, replace: bool) -> int | None:
    payload = source.run("DUMP", key)
    at = expiry(source, key)
    if payload is None or at is None or (not replace and target.run("EXISTS", key)):
        return None
    target.run("RESTORE", key, at, payload, "ABSTTL", *(["REPLACE"] if replace else []))
    return len(payload)


def _copy_string(source: Server, key: bytes, target: Server, part: bytes) -> int:
    sent = 0
    # An empty string has no chunk, and exists all the same.
    target.run("SET", part, b"")
    while True:
        chunk = source.run("GETRANGE", key, sent, sent + CHUNK_BYTES - 1)
        if not chunk:
            return sent
        target.run("APPEND", part, chunk)
        sent += len(chunk)


def _copy_list(source: Server, key: bytes, target: Server, part: bytes) -> int:
    sent = 0
    for chunk in _list_chunks(source, key):
        target.run("RPUSH", part, *chunk)
        sent += sum(len(x) for x in chunk)
    return sent


def _copy_set(source: Server, key: bytes, target: Server, part: bytes) -> int:
    sent = 0
    for chunk in _scan_chunks(source, "SSCAN", key):
        target.run("SADD", part, *chunk)
        sent += sum(len(x) for x in chunk)
    return sent


def _copy_hash(source: Server, key: bytes, target: Server, part: bytes) -> int:
    sent = 0
    for flat in _scan_chunks(source, "HSCAN", key):
        target.run("HSET", part, *flat)
        ends = _field_expiry(source, key, flat[::2])
        # -2: its time came after it was read. Set now, it would stay for good.
        over = [field for field, at in zip(flat[::2], ends) if at == -2]
        late = [("HPEXPIREAT", part, at, "FIELDS", 1, field) for field, at in zip(flat[::2], ends) if at > 0]
        target.batch([*late, *([("HDEL", part, *over)] if over else [])])
        sent += sum(len(x) for x in flat)
    return sent


def _copy_zset(source: Server, key: bytes, target: Server, part: bytes) -> int:
    sent = 0
    minus: list[bytes] = []
    for flat in _scan_chunks(source, "ZSCAN", key):
        words: list[bytes] = []
        for member, score in zip(flat[::2], flat[1::2]):
            if score == b"-0":
                minus.append(member)
            else:
                words += [score, member]
        if words:
            target.run("ZADD", part, *words)
        sent += sum(len(x) for x in flat)
    # While a sorted set is small a server keeps -0 as 0; once it has grown it does not. So these come last.
    for member in minus:
        target.run("ZADD", part, "-0", member)
        if target.raw("ZSCORE", part, member) != b"-0":
            raise _Whole
    return sent


def _copy_stream(source: Server, key: bytes, target: Server, part: bytes) -> int:
    head = _pairs(source.raw("XINFO", "STREAM", key))
    if int(head.get(b"entries-added", head[b"length"])) < head[b"length"]:
        raise _Whole
    # What is added from here on is not copied: the stream as it was at this id is whole, a mixture would be refused.
    end = _number(head[b"last-generated-id"])
    groups = [_pairs(x) for x in source.raw("XINFO", "GROUPS", key)]
    pending = {group[b"name"]: list(_pending(source, key, group[b"name"])) for group in groups}
    # XCLAIM makes an entry pending only while the stream holds it. Entries that are gone and still pending are put in
    # where they were, and taken out again at the end.
    gone = sorted({_number(entry) for rows in pending.values() for entry, _facts in rows}, reverse=True)
    gone = [number for number in gone if number <= end]
    first: tuple[int, int] | None = None
    stand_ins: list[tuple[int, int]] = []
    sent = 0
    for entries in _stream_chunks(source, key, _id(end)):
        adding: list[tuple[bytes, list[bytes]]] = []
        for entry, fields in entries:
            number = _number(entry)
            first = first or number
            while gone and gone[-1] < number:
                stand_ins.append(gone.pop())
                adding.append((_id(stand_ins[-1]), [b"untangle", b""]))
            if gone and gone[-1] == number:
                gone.pop()
            adding.append((entry, fields))
        target.batch([("XADD", part, entry, *fields) for entry, fields in adding])
        sent += sum(len(x) for _entry, fields in entries for x in fields)
    stand_ins += reversed(gone)
    target.batch([("XADD", part, _id(number), b"untangle", b"") for number in reversed(gone)])
    if not target.run("EXISTS", part):
        # An empty stream still exists: a group makes it.
        target.run("XGROUP", "CREATE", part, "untangle", "0", "MKSTREAM")
        target.run("XGROUP", "DESTROY", part, "untangle")
    counted = target.version >= (7, 0) and b"entries-added" in head
    setid: list[t.Any] = ["XSETID", part, head[b"last-generated-id"]]
    counts = ["ENTRIESADDED", head[b"entries-added"], "MAXDELETEDID", head[b"max-deleted-entry-id"]] if counted else []
    target.run(*setid)
    for group in groups:
        _copy_group(source, key, target, part, group, pending[group[b"name"]])
    # What was trimmed away leaves no trace but that it is gone; what was deleted does (the highest such id).
    trimmed = [number for number in stand_ins if first is None or number < first]
    if trimmed and target.version >= (6, 2):
        target.run("XTRIM", part, *(["MINID", "=", _id(first)] if first else ["MAXLEN", "=", 0]))
        stand_ins = stand_ins[len(trimmed) :]
    target.batch([("XDEL", part, _id(number)) for number in stand_ins])
    try:
        target.run(*setid, *counts)
    except UntangleError as exc:
        # Counters that were set by hand and cannot be set again.
        raise _Whole from exc
    return sent


def _copy_group(
    source: Server,
    key: bytes,
    target: Server,
    part: bytes,
    group: dict[bytes, t.Any],
    pending: list[tuple[bytes, tuple[bytes, int, int]]],
) -> None:
    name = group[b"name"]
    create: list[t.Any] = ["XGROUP", "CREATE", part, name, group[b"last-delivered-id"]]
    if target.version >= (7, 0) and group.get(b"entries-read") is not None:
        create += ["ENTRIESREAD", group[b"entries-read"]]
    target.run(*create)
    if target.version >= (6, 2):
        for consumer in source.raw("XINFO", "CONSUMERS", key, name):
            target.run("XGROUP", "CREATECONSUMER", part, name, _pairs(consumer)[b"name"])
    for start in range(0, len(pending), CHUNK_ITEMS):
        claims = []
        for entry, (owner, at, count) in pending[start : start + CHUNK_ITEMS]:
            claims.append(("XCLAIM", part, name, owner, 0, entry, "TIME", at, "RETRYCOUNT", count, "FORCE", "JUSTID"))
        target.batch(claims)


def _stream_chunks(server: Server, key: bytes, end: bytes = b"+") -> t.Iterator[list[t.Any]]:
    start, step = b"-", FIRST_ITEMS
    while True:
        entries = server.raw("XRANGE", key, start, end, "COUNT", step)
        if entries:
            yield entries
        if len(entries) < step:
            return
        start = _next_id(entries[-1][0])
        step = _step(step, sum(len(x) for _entry, fields in entries for x in fields), len(entries))


def _number(entry: bytes) -> tuple[int, int]:
    stamp, number = entry.split(b"-")
    return int(stamp), int(number)


def _id(number: tuple[int, int]) -> bytes:
    return b"%d-%d" % number


def _next_id(entry: bytes) -> bytes:
    stamp, number = _number(entry)
    return _id((stamp, number + 1) if number < 2**64 - 1 else (stamp + 1, 0))


_COPY: dict[str, t.Callable[[Server, bytes, Server, bytes], int]] = {
    "string": _copy_string,
    "list": _copy_list,
    "set": _copy_set,
    "hash": _copy_hash,
    "zset": _copy_zset,
    "stream": _copy_stream,
}
