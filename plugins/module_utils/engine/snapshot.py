# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a database page by page, each page in one round trip.

A page is made by one read-only script: it walks SCAN, dumps what it finds, and stops by itself when the page is full or its
time is over, so that the server's other clients never wait longer than that. Measured on 1,000,000 keys of 100 bytes this
is faster than any pipeline, because a page crosses the network once. Where scripts are refused, a pipeline does the same.

Every page carries the source's replication offset, taken inside the script: what the page holds was true at that point.
"""

from __future__ import annotations

import dataclasses
import typing as t

from .. import connection
from .server import Server

# ARGV: cursor ("" = only the keys named), keys per SCAN, bytes per page, microseconds per page, big_key_bytes, pattern,
# database, what (copy | dump | values | digest | meaning | exists), keys per page at most, whether all keys so far were strings, then key
# names, which come before the scan.
#
# Order matters for speed: one reply item per key and value, expiry only for keys that have one, and no expiry is asked at
# all while the database has none (INFO keyspace, asked in the same script, so it cannot change in between).
# A big key is found by its memory before it is dumped. A string's length says it for a third of the time, so strings are
# believed in until the first key that is none; from there on SCAN is asked whether all keys at hand are strings.
# A copy takes strings as they are, many with one MGET: a third of the time of dumping each, and SET is quicker than RESTORE.
# Before 7.0 there is no PEXPIRETIME: PTTL and TIME are repeated until both fell into the same millisecond, which is exact.
# A digest is that of the serialised bytes; "meaning" is one that does not depend on encoding or on the order in which this
# server happens to keep fields and members (it differs from server to server, by a secret of each). What has an order of its
# own is put together in it, the rest by the digests of its parts: Lua's comparison of names would follow the server's locale.
# From 7.2 on TIME stands still inside a script: where there is os.clock, that one runs; where there is neither, the number of
# keys in a page follows the time that the page before took, as seen from outside (the script's TIME and one right behind it).
# "values" are types and items instead of payloads, for a server that is too old for these: streams and hashes with fields that
# expire go as big keys do.
# Lua's numbers are doubles: an expiry beyond 2^53 (somebody's "never") is not exact in them, and goes as a big key does.
_BODY = r"""
local cursor, count, limit, budget, big = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local pattern, database, what, most, strings = ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9]), ARGV[10] == '1'
local call = redis.call
local time = call('TIME')
local cpu = pcall(function() return os.clock() end)
local function clock()
  if cpu then return os.clock() * 1000000 end
  local now = call('TIME')
  return now[1] * 1000000 + now[2]
end
local began = clock()
local out, ttls, plain, ends, left, bigs, n, d, bytes = {}, {}, {}, {}, {}, {}, 0, 0, 0
local believed = strings
local about = string.match(call('INFO', 'keyspace'), 'db' .. database .. ':([^\r]*)') or ''
local volatile = string.match(about, 'expires=[1-9]')
local firm = not HPEXPIRETIME or string.match(about, 'subexpiry=0') or string.match(about, 'volatile_items=0')
local function expiry(key)
  if PEXPIRETIME then return call('PEXPIRETIME', key) end
  while true do
    local a = call('TIME')
    local ttl = call('PTTL', key)
    local b = call('TIME')
    local am, bm = a[1] * 1000 + math.floor(a[2] / 1000), b[1] * 1000 + math.floor(b[2] / 1000)
    if ttl < 0 then return ttl end
    if am == bm then return am + ttl end
  end
end
local full = false
local function scan(...)
  if pattern == '' then return call('SCAN', cursor, 'COUNT', count, ...) end
  return call('SCAN', cursor, 'COUNT', count, 'MATCH', pattern, ...)
end
local function same(a, b)
  for i = 1, math.max(#a, #b) do if a[i] ~= b[i] then return false end end
  return true
end
local function put_in_order(parts)
  for i, part in ipairs(parts) do parts[i] = redis.sha1hex(part) end
  table.sort(parts)
end
local function meaning(key)
  local kind, parts, size = call('TYPE', key).ok, {}, 0
  if kind == 'list' then
    parts = call('LRANGE', key, 0, -1)
    for i, item in ipairs(parts) do size = size + #item parts[i] = #item .. ':' .. item end
  elseif kind == 'set' then
    parts = call('SMEMBERS', key)
    for _, member in ipairs(parts) do size = size + #member end
    put_in_order(parts)
  elseif kind == 'zset' then
    local flat = call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for i = 1, #flat, 2 do
      size = size + #flat[i]
      parts[#parts + 1] = string.format('%.17g:%d:', tonumber(flat[i + 1]), #flat[i]) .. flat[i]
    end
  elseif kind == 'hash' then
    local flat = call('HGETALL', key)
    for i = 1, #flat, 2 do
      size = size + #flat[i] + #flat[i + 1]
      parts[#parts + 1] = #flat[i] .. ':' .. flat[i] .. flat[i + 1]
    end
    if HPEXPIRETIME then
      for start = 1, #parts, 1000 do
        local names = {}
        for i = start, math.min(start + 999, #parts) do names[#names + 1] = flat[2 * i - 1] end
        for i, at in ipairs(call('HPEXPIRETIME', key, 'FIELDS', #names, unpack(names))) do
          if at >= 0 then parts[start + i - 1] = string.format('%.0f@', at) .. parts[start + i - 1] end
        end
      end
    end
    put_in_order(parts)
  else
    return nil
  end
  return redis.sha1hex(kind .. ' ' .. table.concat(parts)), size
end
local function contents(key, kind)
  local value, size = nil, 0
  if kind == 'string' then value = {call('GET', key)}
  elseif kind == 'list' then value = call('LRANGE', key, 0, -1)
  elseif kind == 'set' then value = call('SMEMBERS', key)
  elseif kind == 'zset' then value = call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'hash' and firm then value = call('HGETALL', key)
  else return nil end
  for _, item in ipairs(value) do size = size + #item end
  return {kind, value}, size
end
local function length(key)
  if not strings then return end
  local size = redis.pcall('STRLEN', key)
  if type(size) == 'number' then return size end
  strings, believed = false, false
end
local function take(key)
  if full then left[#left + 1] = key return end
  if what == 'exists' then
    if call('EXISTS', key) == 1 then n = n + 1 out[n] = key end
    return
  end
  if big > 0 then
    local size = length(key) or call('MEMORY', 'USAGE', key, 'SAMPLES', 5)
    if size and size > big then bigs[#bigs + 1] = key return end
  end
  local payload, size
  if what == 'values' then
    local kind = call('TYPE', key).ok
    if kind == 'none' then return end
    payload, size = contents(key, kind)
    if not payload then bigs[#bigs + 1] = key return end
  end
  if what == 'meaning' then payload, size = meaning(key) end
  if not payload then
    payload = call('DUMP', key)
    if not payload then return end
    size = #payload
    if what == 'digest' or what == 'meaning' then payload = redis.sha1hex(string.sub(payload, 1, -11)) end
  end
  local at = volatile and expiry(key) or -1
  if at > 9007199254740991 then bigs[#bigs + 1] = key return end
  n, d = n + 1, d + 1
  out[2 * d - 1] = key
  out[2 * d] = payload
  bytes = bytes + size + #key
  if at >= 0 then ttls[#ttls + 1] = d ttls[#ttls + 1] = string.format('%.0f', at) end
  if bytes >= limit or n >= most or (n % 16 == 0 or size > 4096) and clock() - began > budget then full = true end
end
local function take_all(keys)
  if what ~= 'copy' or not strings then
    for _, key in ipairs(keys) do take(key) end
    return
  end
  local names = {}
  for _, key in ipairs(keys) do
    local size = not full and length(key)
    if not size then
      take(key)
    elseif big > 0 and size > big then
      bigs[#bigs + 1] = key
    else
      names[#names + 1] = key
      bytes = bytes + size + #key
      full = bytes >= limit or n + #names >= most
    end
  end
  if #names == 0 then return end
  local values, m = call('MGET', unpack(names)), #plain
  for i, key in ipairs(names) do
    local at = values[i] and volatile and expiry(key) or -1
    if at > 9007199254740991 then
      bigs[#bigs + 1] = key
    elseif values[i] then
      plain[m + 1], plain[m + 2], m = key, values[i], m + 2
      if at >= 0 then ends[#ends + 1] = m / 2 ends[#ends + 1] = string.format('%.0f', at) end
    end
  end
  n = n + #names
end
local named = {}
for i = 11, #ARGV do named[i - 10] = ARGV[i] end
take_all(named)
while cursor ~= '' and not full do
  local page = scan()
  if big > 0 and what ~= 'exists' then strings = believed or same(page[2], scan('TYPE', 'string')[2]) end
  cursor = page[1]
  take_all(page[2])
  if cursor == '0' then cursor = '' end
  if clock() - began > budget then full = true end
end
local offset = string.match(call('INFO', 'replication'), 'master_repl_offset:(%d+)') or '0'
return {
  cursor, offset, time[1] * 1000000 + time[2], out, ttls, plain, ends, left, bigs, believed and 1 or 0, cpu and 1 or 0,
}
"""


#: Names sent along at most with one question: what does not fit into its page is sent again with the next.
NAMES = 500


Key = tuple[bytes, bytes, int]
Value = tuple[bytes, list[bytes]]


@dataclasses.dataclass
class Page:
    """One page. ``keys``: (name, payload or digest, expiry in ms since the epoch or 0). ``big``: names only. ``offset``: its
    watermark. ``strings``: like ``keys``, the values themselves instead of payloads (of a copy alone). ``values``: type and items
    instead of a payload, where these were asked for."""

    keys: list[Key]
    big: list[bytes]
    offset: int
    micros: int
    strings: list[Key] = dataclasses.field(default_factory=list)
    values: list[tuple[bytes, Value, int]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Limits:
    """How gently a server is read. ``max_latency_ms`` is what its other clients may notice."""

    max_latency_ms: float = 5.0
    page_bytes: int = 256 * 1024
    big_key_bytes: int = 256 * 1024
    scan_count: int = 200


def _keys(flat: list[t.Any], ends: list[t.Any]) -> list[t.Any]:
    """Name, value, name, value... and the number of an entry, its expiry... as keys."""
    if not ends:
        return [(key, value, 0) for key, value in zip(flat[::2], flat[1::2])]
    expiry = dict(zip(ends[::2], ends[1::2]))
    return [(key, value, int(expiry.get(i, 0))) for i, (key, value) in enumerate(zip(flat[::2], flat[1::2]), 1)]


class Reader:
    """Pages of one database. ``ask`` sends, ``answer`` receives: between the two the caller does something else."""

    def __init__(self, server: Server, limits: Limits, what: str = "dump", match: str | None = None) -> None:
        self.server = server
        self.limits = limits
        self.what = what
        self.match = match or ""
        self.wire = server.wire()
        self._clocked = True
        #: Whether every key so far was a string. Only a copy begins with that belief: where it is wrong the server counts one
        #: error, and nobody but a copy asks often enough for it to matter.
        self._strings = what == "copy"
        self.sha = self._load()
        self.cursor: str | None = "0"
        self.left: list[bytes] = []
        self._asked: list[bytes] = []
        self.slowest_us = 0
        self._most = 100000.0 if self._clocked else 500.0

    def _load(self) -> str | None:
        import redis

        modern = self.server.version >= (7, 0)
        self._script = (
            ("#!lua flags=no-writes\n" if modern else "")
            + "local PEXPIRETIME, HPEXPIRETIME = %s, %s\n"
            % ("true" if modern else "false", "true" if self.server.has("HPEXPIRETIME") else "false")
            + _BODY
        )
        try:
            sha = t.cast(bytes, self.server.client.execute_command("SCRIPT", "LOAD", self._script))
            trial = self.server.client.execute_command(
                "EVALSHA", sha, 0, "", 1, 1, 1, 0, "", self.server.database, "exists", 1, 0
            )
        except redis.RedisError:
            return None
        self._clocked = self.server.version < (7, 2) or bool(trial[-1])
        return sha.decode() if isinstance(sha, bytes) else str(sha)

    @property
    def more(self) -> bool:
        return self.cursor is not None or bool(self.left)

    def ask(self, names: t.Sequence[bytes] | None = None) -> None:
        """Ask for the next page, or, with ``names``, for these keys alone."""
        self._named = names is not None
        self._asked = list(names) if names is not None else self.left
        if self.sha is None:
            return
        limits = self.limits
        # Less than half of the latency that is allowed: the rest is for what waits in front of us, and for the scheduler of a
        # machine whose cores are all busy.
        budget = int(limits.max_latency_ms * 400)
        cursor = "" if self._named or self.cursor is None else self.cursor
        self._question = (
            cursor, limits.scan_count, limits.page_bytes, budget, limits.big_key_bytes,
            self.match, self.server.database, self.what, int(self._most), int(self._strings), *self._asked,
        )  # fmt: skip
        self._send("EVALSHA", self.sha)

    def _send(self, command: str, script: str) -> None:
        question = (command, script, 0, *self._question)
        self.wire.send_packed_command(self.wire.pack_commands([question, ("TIME",)]))

    def answer(self) -> Page:
        import redis

        try:
            if self.sha is None:
                return self._by_pipeline()
            try:
                reply = self.wire.read_response(disable_decoding=True)
            except redis.exceptions.NoScriptError:
                # Somebody has flushed the scripts meanwhile.
                self.wire.read_response()
                self._send("EVAL", self._script)
                reply = self.wire.read_response(disable_decoding=True)
            cursor, offset, began, out, ttls, plain, ends, left, big, believed, _cpu = reply
            seconds, micros = self.wire.read_response(disable_decoding=True)
            micros = int(seconds) * 1000000 + int(micros) - began
        except (redis.RedisError, OSError) as exc:
            raise connection.failure(exc, self.server.options, self.server.variable) from exc
        self._strings = bool(believed)
        if self._named:
            self.rest = left
        else:
            self.cursor, self.left = (cursor.decode() or None), left
        self.slowest_us = max(self.slowest_us, micros)
        if not self._clocked:
            # At most twice as many and at least a quarter of what this page was allowed, by how it kept its time.
            self._most *= max(0.25, min(2.0, self.limits.max_latency_ms * 400 / max(micros, 1)))
            self._most = max(16.0, min(100000.0, self._most))
        if self.what == "exists":
            return Page([(key, b"", 0) for key in out], big, int(offset), micros)
        if self.what == "values":
            return Page([], big, int(offset), micros, values=_keys(out, ttls))
        return Page(_keys(out, ttls), big, int(offset), micros, _keys(plain, ends))

    def pages(self) -> t.Iterator[Page]:
        """All pages of the database, each asked for while the caller works on the one before."""
        self.ask()
        while True:
            page = self.answer()
            if self.more:
                self.ask()
                yield page
            else:
                yield page
                return

    def named_pages(self, names: t.Sequence[bytes]) -> t.Iterator[Page]:
        """These keys, in as many pages as it takes."""
        rest: list[bytes] = list(names)
        while rest:
            self.ask(rest[:NAMES])
            page = self.answer()
            rest = self.rest + rest[NAMES:]
            yield page

    def named(self, names: t.Sequence[bytes]) -> Page:
        """These keys as one page: for digests, which are small."""
        result = Page([], [], 0, 0)
        for page in self.named_pages(names):
            result.keys += page.keys
            result.strings += page.strings
            result.big += page.big
            result.offset = page.offset
        return result

    def _by_pipeline(self) -> Page:
        """The same page where scripts are refused: SCAN, sizes, then one transaction for as many keys as make a page."""
        client, names = self.server.client, list(self._asked)
        if not self._named and not names and self.cursor is not None:
            cursor, names = client.scan(
                int(self.cursor), match=self.match or None, count=min(self.limits.scan_count, 100)
            )
            self.cursor = str(cursor) if cursor else None
        result, rest = Page([], [], 0, 0), list[bytes]()
        if self.what == "exists":
            with client.pipeline(transaction=False) as work:
                for name in names:
                    work.exists(name)
                result.keys = [(name, b"", 0) for name, there in zip(names, work.execute()) if there]
        else:
            with client.pipeline(transaction=False) as work:
                for name in names:
                    work.memory_usage(name, samples=5)
                # A user that may not ask for sizes gets pages by number of keys alone.
                sizes = [s if isinstance(s, int) else 0 for s in work.execute(raise_on_error=False)]
            small, size, limit = list[bytes](), 0, self.limits.big_key_bytes
            for name, one in zip(names, sizes):
                if rest or size >= self.limits.page_bytes or len(small) >= 100:
                    rest.append(name)
                elif limit and one > limit:
                    result.big.append(name)
                else:
                    small.append(name)
                    size += one
            if not self._transaction(small, result):
                # The clock moved on within it, and PTTL would be off by a millisecond: one key at a time.
                for name in small:
                    while not self._transaction([name], result):
                        pass
        if self._named:
            self.rest = rest
        else:
            self.left = rest
        return result

    def _transaction(self, names: t.Sequence[bytes], result: Page) -> bool:
        """Dump these keys at one moment; False where that moment's millisecond cannot be told (before 7.0 only)."""
        import hashlib

        if not names:
            return True
        modern = self.server.version >= (7, 0)
        with self.server.client.pipeline(transaction=True) as work:
            work.time()
            for name in names:
                work.dump(name)
                work.execute_command("PEXPIRETIME" if modern else "PTTL", name)
            work.time()
            (s0, u0), *values, (s1, u1) = work.execute()
        at, ends = s0 * 1000 + u0 // 1000, values[1::2]
        if not modern and at != s1 * 1000 + u1 // 1000 and any(ttl >= 0 for ttl in ends):
            return False
        for name, payload, ttl in zip(names, values[::2], ends):
            if payload is not None and ttl != -2:
                value = payload if self.what in ("copy", "dump") else hashlib.sha1(payload[:-10]).hexdigest().encode()
                result.keys.append((name, value, 0 if ttl < 0 else ttl if modern else at + ttl))
        return True

    def close(self) -> None:
        self.server.drop(self.wire)
