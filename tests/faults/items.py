# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one writer knows of the keys that only it writes.

An item holds every state that its keys may be in. A write that was acknowledged moves each of them on, and those that do not
fit the reply fall away; a write whose outcome nobody told leaves both, done and not done; one that was refused leaves them.
No state left means that something was lost, came back, or happened twice, and it is seen at the very reply that says so.
"""

from __future__ import annotations

import abc
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

Command = tuple[Any, ...]
#: From one state to (reply, next state); more than one where the server chooses, as SPOP does.
Effect = Callable[[Any], Iterable[tuple[Any, Any]]]


class Any_:
    def __eq__(self, other: object) -> bool:
        return True

    def __repr__(self) -> str:
        return "anything"


ANY: Any = Any_()


class Violation(AssertionError):
    """A promise that was broken."""


class Item(abc.ABC):
    """Keys of one writer. ``op`` gives commands (more than one: a transaction) and their effect, ``reads`` and ``state`` read them."""

    EMPTY: Any = None

    def __init__(self, *keys: str) -> None:
        self.keys = [key.encode() for key in keys]
        self.states: set[Any] = {self.EMPTY}
        #: The last things that happened, for whoever has to find out why.
        self.past: list[str] = []

    @abc.abstractmethod
    def op(self, rng: random.Random, word: bytes) -> tuple[list[Command], Effect]: ...

    @abc.abstractmethod
    def reads(self) -> list[Command]: ...

    @abc.abstractmethod
    def state(self, replies: list[Any]) -> Any: ...

    def aged(self, states: set[Any], began: float) -> set[Any]:
        """What time alone has made of the states, for a server that looked at its clock after ``began``."""
        return states

    def holds(self, state: Any) -> set[bytes]:
        """The keys that exist in a state."""
        return set(self.keys) if state != self.EMPTY else set()

    # -- what came of a write ----------------------------------------------------------------------------------------------

    def acknowledged(self, what: list[Command], effect: Effect, reply: Any, began: float) -> None:
        before = self.aged(self.states, began)
        self.states = {after for state in before for told, after in effect(state) if told == reply}
        self._note("%s -> %r" % (_short(what), reply))
        if not self.states:
            raise Violation("%s: %r does not follow from %s" % (self, reply, self._told(before)))

    def unknown(self, what: list[Command], effect: Effect) -> None:
        self.states = self.states | {after for state in self.states for _told, after in effect(state)}
        self._note("%s -> ?" % _short(what))

    def found(self, replies: list[Any], began: float) -> Any:
        """It was read where it is served: only that state is left."""
        state = self.state(replies)
        before = self.aged(self.states, began)
        if state not in before:
            raise Violation("%s: found %r, and it must be %s" % (self, state, self._told(before)))
        self.states = {state}
        return state

    def emptied(self, told: bool) -> None:
        """The database was emptied, or perhaps."""
        self.states = {self.EMPTY} if told else self.states | {self.EMPTY}
        self._note("FLUSHDB -> %s" % ("OK" if told else "?"))

    def _note(self, line: str) -> None:
        self.past = [*self.past[-11:], "%.3f %s" % (time.time() % 1000, line)]

    def _told(self, states: set[Any]) -> str:
        return "%s; last: %s" % (" or ".join(map(repr, sorted(states, key=repr)[:4])), " | ".join(self.past))

    def __repr__(self) -> str:
        return "%s %s" % (type(self).__name__, b" ".join(self.keys).decode())


def _short(what: list[Command]) -> str:
    return "; ".join(" ".join(_text(word) for word in command[:6]) for command in what)


def _text(word: Any) -> str:
    return word[:40].decode(errors="replace") if isinstance(word, bytes) else str(word)[:60]


def _pairs(reply: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(reply[::2], reply[1::2]))


class Cell(Item):
    """One string."""

    def op(self, rng, word):
        (key,) = self.keys
        kind = rng.random()
        if kind < 0.2:
            return [("DEL", key)], lambda s: [(int(s is not None), None)]
        if kind < 0.4:
            # kept short: a key that only grows is another test
            return [("APPEND", key, word)], lambda s: [(len((s or b"") + word), (s or b"") + word)]
        return [("SET", key, word)], lambda s: [(b"OK", word)]

    def reads(self):
        return [("GET", self.keys[0])]

    def state(self, replies):
        return replies[0]


class Once(Cell):
    """A string of its own for one word, written once: what an application would call a record."""

    def op(self, rng, word):
        return [("SET", self.keys[0], word, "NX")], lambda s: [(b"OK" if s is None else None, s or word)]


class Counter(Item):
    EMPTY = 0

    def op(self, rng, word):
        return [("INCR", self.keys[0])], lambda s: [(s + 1, s + 1)]

    def reads(self):
        return [("GET", self.keys[0])]

    def state(self, replies):
        return int(replies[0] or 0)


class Lists(Item):
    """Two lists."""

    EMPTY = ((), ())

    def reads(self):
        return [("LRANGE", key, 0, -1) for key in self.keys]

    def state(self, replies):
        return tuple(map(tuple, replies))

    def holds(self, state):
        return {key for key, one in zip(self.keys, state) if one}


class Queue(Lists):
    """A pipeline of jobs: pushed, moved to the list of those in work, taken off."""

    def op(self, rng, word):
        jobs, work = self.keys
        kind, full = rng.random(), max(len(one) for one, _other in self.states) > 60
        if kind < 0.4 and not full:
            return [("RPUSH", jobs, word)], lambda s: [(len(s[0]) + 1, ((*s[0], word), s[1]))]
        if kind < 0.7:
            return [("LMOVE", jobs, work, "LEFT", "RIGHT")], lambda s: [
                (s[0][0], (s[0][1:], (*s[1], s[0][0]))) if s[0] else (None, s)
            ]
        return [("LPOP", work)], lambda s: [(s[1][0], (s[0], s[1][1:])) if s[1] else (None, s)]


class Members(Item):
    EMPTY = frozenset()

    def op(self, rng, word):
        (key,) = self.keys
        known = sorted(set().union(*self.states))
        kind = rng.random()
        if kind < 0.15:
            # fed as SREM of what the server chose
            return [("SPOP", key)], lambda s: [(one, s - {one}) for one in s] or [(None, s)]
        if known and (kind < 0.5 or len(known) > 40):
            one = rng.choice(known)
            return [("SREM", key, one)], lambda s: [(int(one in s), s - {one})]
        return [("SADD", key, word)], lambda s: [(int(word not in s), s | {word})]

    def reads(self):
        return [("SMEMBERS", self.keys[0])]

    def state(self, replies):
        return frozenset(replies[0])


class Fields(Item):
    EMPTY = frozenset()

    def op(self, rng, word):
        (key,) = self.keys
        known = sorted({field for state in self.states for field, _value in state})
        kind = rng.random()
        if kind < 0.3:

            def count(s):
                value = int(dict(s).get(b"n", 0)) + 1
                return [(value, frozenset({**dict(s), b"n": b"%d" % value}.items()))]

            return [("HINCRBY", key, b"n", 1)], count
        if known and (kind < 0.55 or len(known) > 40):
            one = rng.choice(known)
            return [("HDEL", key, one)], lambda s: [
                (int(one in dict(s)), frozenset(pair for pair in s if pair[0] != one))
            ]
        return [("HSET", key, word, word)], lambda s: [
            (int(word not in dict(s)), frozenset({**dict(s), word: word}.items()))
        ]

    def reads(self):
        return [("HGETALL", self.keys[0])]

    def state(self, replies):
        return frozenset(_pairs(replies[0]))


class Scores(Item):
    EMPTY = frozenset()

    def op(self, rng, word):
        (key,) = self.keys
        known = sorted({member for state in self.states for member, _score in state})
        kind = rng.random()
        if kind < 0.3 or len(known) > 30:

            def pop(s):
                if not s:
                    return [([], s)]
                first = min(s, key=lambda pair: (int(pair[1]), pair[0]))
                return [([first[0], first[1]], s - {first})]

            return [("ZPOPMIN", key)], pop
        if known and kind < 0.6:
            one = rng.choice(known)

            def add(s):
                score = b"%d" % (int(dict(s).get(one, 0)) + 7)
                return [(score, frozenset({**dict(s), one: score}.items()))]

            return [("ZINCRBY", key, 7, one)], add
        score = b"%d" % rng.randrange(100)
        return [("ZADD", key, score, word)], lambda s: [
            (int(word not in dict(s)), frozenset({**dict(s), word: score}.items()))
        ]

    def reads(self):
        return [("ZRANGE", self.keys[0], 0, -1, "WITHSCORES")]

    def state(self, replies):
        return frozenset(_pairs(replies[0]))


class Transaction(Item):
    """Three keys that say the same, or one of them is from half a transaction."""

    EMPTY = (None, (), frozenset())

    def op(self, rng, word):
        value, past, seen = self.keys
        what = [
            ("SET", value, word),
            ("RPUSH", past, word),
            ("LTRIM", past, -9, -1),
            ("DEL", seen),
            ("HSET", seen, word, "1"),
        ]

        def after(s):
            longer = (*s[1], word)
            return [([b"OK", len(longer), b"OK", int(bool(s[2])), 1], (word, longer[-9:], frozenset({(word, b"1")})))]

        return what, after

    def reads(self):
        return [("GET", self.keys[0]), ("LRANGE", self.keys[1], 0, -1), ("HGETALL", self.keys[2])]

    def state(self, replies):
        return (replies[0], tuple(replies[1]), frozenset(_pairs(replies[2])))


class Renamed(Item):
    """A draft and what was published of it."""

    EMPTY = (None, None)

    def op(self, rng, word):
        draft, public = self.keys
        if all(state[0] is not None for state in self.states) and rng.random() < 0.7:
            return [("RENAME", draft, public)], lambda s: [(b"OK", (None, s[0]))]
        if rng.random() < 0.2:
            return [("COPY", draft, public, "REPLACE")], lambda s: [(int(s[0] is not None), (s[0], s[0] or s[1]))]
        return [("SET", draft, word)], lambda s: [(b"OK", (word, s[1]))]

    def reads(self):
        return [("GET", key) for key in self.keys]

    def state(self, replies):
        return tuple(replies)

    def holds(self, state):
        return {key for key, value in zip(self.keys, state) if value is not None}


class Scripted(Item):
    """A counter and a list which one script writes."""

    EMPTY = (0, ())
    _LUA = (
        "local n = redis.call('INCR', KEYS[1]); redis.call('RPUSH', KEYS[2], ARGV[1]); "
        "redis.call('LTRIM', KEYS[2], -9, -1); return n"
    )

    def op(self, rng, word):
        return [("EVAL", self._LUA, 2, *self.keys, word)], lambda s: [(s[0] + 1, (s[0] + 1, (*s[1], word)[-9:]))]

    def reads(self):
        return [("GET", self.keys[0]), ("LRANGE", self.keys[1], 0, -1)]

    def state(self, replies):
        return (int(replies[0] or 0), tuple(replies[1]))


class View(Lists):
    """A list that is made anew from another one, and added to. SORT is never applied as it comes: its key is dumped again, in
    the midst of pushes that must not be there twice.
    """

    def op(self, rng, word):
        bag, view = self.keys
        kind = rng.random()
        make = ("SORT", bag, "BY", "nosort", "STORE", view)
        if kind < 0.2 or max(len(one) for _other, one in self.states) > 40:
            return [make], lambda s: [(len(s[0]), (s[0], s[0]))]
        if kind < 0.35:
            return [make, ("RPUSH", view, word)], lambda s: [([len(s[0]), len(s[0]) + 1], (s[0], (*s[0], word)))]
        if kind < 0.45:
            return [("LPOP", bag)], lambda s: [(s[0][0], (s[0][1:], s[1])) if s[0] else (None, s)]
        if kind < 0.6 and max(len(one) for one, _other in self.states) < 20:
            return [("RPUSH", bag, word)], lambda s: [(len(s[0]) + 1, ((*s[0], word), s[1]))]
        return [("RPUSH", view, word)], lambda s: [(len(s[1]) + 1, (s[0], (*s[1], word)))]


class Stream(Item):
    EMPTY = ()

    def op(self, rng, word):
        (key,) = self.keys
        number = int(word.rpartition(b"-")[2])
        name = b"%d-1" % number
        return [("XADD", key, "MAXLEN", "20", name, "word", word)], lambda s: [(name, (*s, (name, word))[-20:])]

    def reads(self):
        return [("XRANGE", self.keys[0], "-", "+")]

    def state(self, replies):
        return tuple((name, fields[1]) for name, fields in replies[0])


#: A server looks at its clock once for what it does in one go, so it may be this many milliseconds behind.
SLACK_MS = 300


class Session(Item):
    """A string that ends at a given moment, and is often renewed shortly before."""

    def op(self, rng, word):
        (key,) = self.keys
        at = int(time.time() * 1000) + rng.choice((500, 1500, 600_000))
        kind = rng.random()
        if kind < 0.4:
            return [("SET", key, word, "PXAT", at)], lambda s: [(b"OK", (word, at))]
        if kind < 0.5:
            return [("DEL", key)], lambda s: [(int(s is not None), None)]
        return [("PEXPIREAT", key, at)], lambda s: [(int(s is not None), s and (s[0], at))]

    def aged(self, states, began):
        now = time.time() * 1000
        kept = {state for state in states if state is None or state[1] > began * 1000 - SLACK_MS}
        return kept | ({None} if any(state and state[1] <= now for state in states) else set())

    def reads(self):
        return [("GET", self.keys[0]), ("PEXPIRETIME", self.keys[0])]

    def state(self, replies):
        # it may end between the two questions
        return None if replies[0] is None or replies[1] == -2 else (replies[0], replies[1])


class Big(Item):
    """A value of many megabytes; only its ends are read."""

    def __init__(self, key: str, size: int) -> None:
        super().__init__(key)
        self.size = size

    def write(self, word: bytes) -> tuple[list[Command], Effect]:
        value = word + b"x" * self.size + word
        return [("SET", self.keys[0], value)], lambda s: [(b"OK", (len(value), word))]

    def op(self, rng, word):
        # the tail tells the last write, the length that none is missing
        return [("APPEND", self.keys[0], word)], lambda s: [
            ((s[0] if s else 0) + len(word), ((s[0] if s else 0) + len(word), word))
        ]

    def reads(self):
        return [("STRLEN", self.keys[0]), ("GETRANGE", self.keys[0], -40, -1)]

    def state(self, replies):
        if not replies[0]:
            return None
        tail = replies[1]
        word = tail[tail.rfind(b"<") :]
        return (replies[0], word)


class Heap(Item):
    """A hash of many megabytes, which is dumped in parts."""

    EMPTY = (0, b"0")

    def __init__(self, key: str, size: int) -> None:
        super().__init__(key)
        self.fields = max(size // 10_000, 1)

    def write(self, word: bytes) -> tuple[list[Command], Effect]:
        pairs = [part for n in range(self.fields) for part in (b"f%d" % n, word + b"y" * 10_000)]
        return [("HSET", self.keys[0], *pairs)], lambda s: [
            (self.fields if not s[0] else 0, (self.fields + (s[1] != b"0"), s[1]))
        ]

    def op(self, rng, word):
        return [("HINCRBY", self.keys[0], "n", 1)], lambda s: [
            (int(s[1]) + 1, (s[0] + (s[1] == b"0"), b"%d" % (int(s[1]) + 1)))
        ]

    def reads(self):
        return [("HLEN", self.keys[0]), ("HGET", self.keys[0], "n")]

    def state(self, replies):
        return (replies[0], replies[1] or b"0")
