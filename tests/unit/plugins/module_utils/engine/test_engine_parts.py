# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts of the engine that need no server: wire forms, patterns, chunk sizes, routes, and how replies are read."""

from __future__ import annotations

import socket
import types

import pytest

from ansible_collections.njoy.untangle.plugins.module_utils.engine import compare, link, route, target, values
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError


def words(data):
    """A flat list of commands out of their wire form."""
    found = []
    while data:
        head, _end, data = data.partition(b"\r\n")
        command = []
        for _word in range(int(head[1:])):
            size, _end, data = data.partition(b"\r\n")
            command.append(data[: int(size[1:])])
            data = data[int(size[1:]) + 2 :]
        found.append(command)
    return found


def test_restore_in_wire_form():
    keys = [(b"a", b"\r\n$1", 0), (b"", b"", 1795000000001), (b"\xff\r\n", b"x" * 300, 0)]
    assert words(target.pack(keys)) == [
        [b"RESTORE", b"a", b"0", b"\r\n$1", b"REPLACE"],
        [b"RESTORE", b"", b"1795000000001", b"", b"ABSTTL", b"REPLACE"],
        [b"RESTORE", b"\xff\r\n", b"0", b"x" * 300, b"REPLACE"],
    ]
    assert words(target.pack(keys, replace=False)) == [
        [b"RESTORE", b"a", b"0", b"\r\n$1"],
        [b"RESTORE", b"", b"1795000000001", b"", b"ABSTTL"],
        [b"RESTORE", b"\xff\r\n", b"0", b"x" * 300],
    ]
    assert target.pack([]) == b""


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("user:*", [b"user:", b"user:1", b"user:\n", b"user:\xff\x00"], [b"User:1", b"a:user:1", b"user"]),
        ("a?c", [b"abc", b"a\xffc", b"a\nc"], [b"ac", b"abbc"]),
        ("[ab]1", [b"a1", b"b1"], [b"c1", b"ab1"]),
        ("[^ab]1", [b"c1", b"^1", b"!1"], [b"a1", b"b1"]),
        ("[!a]1", [b"!1", b"a1"], [b"b1"]),
        ("[c-a]x", [b"ax", b"bx", b"cx"], [b"dx", b"-x"]),
        ("\\*", [b"*"], [b"a", b"\\*"]),
        ("[\\]a]", [b"]", b"a"], [b"\\"]),
        ("[abc", [b"a", b"b"], [b"[abc", b"d"]),
        ("[]x", [], [b"x", b"]x"]),
        ("ключ*", ["ключ:1".encode()], [b"1"]),
        (".+", [b".+"], [b"ab"]),
    ],
)
def test_patterns_are_the_servers(pattern, matches, others):
    assert [name for name in matches + others if compare.excluded(name, [pattern])] == matches
    assert not any(compare.excluded(name, []) for name in matches)


def test_chunks_grow_slowly_and_shrink_at_once():
    step = 4
    for _chunk in range(10):
        step, before = values._step(step, step * 10, step), step
        assert step <= 2 * before
    assert step == values.CHUNK_ITEMS
    # items of 1 MB come one by one from here on
    assert values._step(step, 1_000_000 * step, step) == 1
    assert values._step(1, 0, 1) == 2


def test_the_id_after_an_id():
    assert values._next_id(b"5-0") == b"5-1"
    assert values._next_id(b"5-18446744073709551615") == b"6-0"


def test_routes_share_nothing():
    one = {"purpose": "a", "database": "5", "target": {"port": 1}}
    found = route.routes([one, {"purpose": "b", "database": 6, "target": {"port": 1}, "target_database": 2}])
    assert [(r.purpose, r.database, r.where, r.target_database) for r in found] == [
        ("a", 5, "127.0.0.1:1", 0),
        ("b", 6, "127.0.0.1:1", 2),
    ]
    for other, what in (
        ({"purpose": "a", "database": 6, "target": {"port": 2}}, "purpose: a"),
        ({"purpose": "b", "database": 5, "target": {"port": 2}}, "database: 5"),
        ({"purpose": "b", "database": 6, "target": {"port": 1, "host": "127.0.0.1"}}, "target: 127.0.0.1:1/0"),
    ):
        with pytest.raises(UntangleError, match="Two routes have the same " + what):
            route.routes([one, other])


class Wire:
    def __init__(self):
        self._sock, self.server = socket.socketpair()

    def send_packed_command(self, data):
        self.sent = data


class Server:
    address, release, variable, options = "1.2.3.4:1", "7.0.15", "the target", {}

    def __init__(self):
        self.made = Wire()

    def wire(self):
        return self.made

    def drop(self, wire):
        wire._sock.close()


def written(replies, keys=3, replace=True):
    pytest.importorskip("redis")
    server = Server()
    writer = target.Writer(server, replace)
    server.made.server.sendall(replies)
    server.made.server.shutdown(socket.SHUT_WR)
    writer.send([(b"k%d" % i, b"v", 0) for i in range(keys)])
    writer.drain()
    return writer.written, writer.skipped


def test_replies_are_counted_one_by_one():
    assert written(b"+OK\r\n" * 3) == (3, 0)
    assert written(b"+OK\r\n-BUSYKEY Target key name already exists.\r\n+OK\r\n", replace=False) == (2, 1)
    assert written(b"-BUSYKEY Target key name already exists.\r\n" * 3, replace=False) == (0, 3)


@pytest.mark.parametrize(
    ("replies", "sentence"),
    [
        (b"+OK\r\n-OOM command not allowed when used memory > 'maxmemory'.\r\n+OK\r\n", "more memory"),
        (b"+OK\r\n+OK\r\n-BUSYKEY Target key name already exists.\r\n", "BUSYKEY"),
        (b"-MISCONF Redis is configured to save\r\n" * 3, "MISCONF"),
        (b"+OK\r\n+O", "closed the connection while keys were written"),
        (b"", "closed the connection while keys were written"),
    ],
)
def test_a_refused_key_stops_the_writer(replies, sentence):
    with pytest.raises(UntangleError, match=sentence):
        written(replies)


def test_a_target_that_is_too_old_is_told_apart():
    with pytest.raises(target.TooOld, match="use a target that is at least as new"):
        written(b"-ERR DUMP payload version or checksum are wrong\r\n" * 3)


def test_an_engine_without_a_certificate_says_so():
    options = {"tls": True, "tls_cert_file": "/nowhere/cert.pem", "tls_key_file": "/nowhere/key.pem"}
    instance = types.SimpleNamespace(options=options, address="192.0.2.1:6380")
    with pytest.raises(
        UntangleError, match=r"192.0.2.1:6380 .* no certificate to show: /nowhere/cert.pem.*redis_split_tls"
    ):
        link.certificate(instance)
    instance.options = {}
    assert link.certificate(instance) is None
