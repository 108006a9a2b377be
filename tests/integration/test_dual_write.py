# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/dual_write.md on real servers: the transition with writers that never stop, and each command that must not be doubled."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import cores
import pytest
import redis

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "dual_write"
PLAYBOOK = str(cores.ansible_playbook(cores.NEWEST))
sys.path.insert(0, str(EXAMPLES))

from dual import Dual, milliseconds
from shop import Shop

SESSIONS, PAGES = 5000, 3000


def copy(directory: Path, old, targets: dict[str, tuple[int, object]]) -> str:
    """Run the example's playbook as the page says."""
    routes = [
        {"purpose": name, "database": database, "target": new.connection()} for name, (database, new) in targets.items()
    ]
    variables = {"dual_source": old.connection(), "dual_routes": routes, "dual_state_dir": str(directory / "state")}
    (directory / "vars.json").write_text(json.dumps(variables))
    inventory = f"[redis_split_hosts]\nhere ansible_connection=local ansible_python_interpreter={sys.executable}\n"
    (directory / "inventory").write_text(inventory)
    command = [PLAYBOOK, "-i", directory / "inventory", EXAMPLES / "copy.yml", "-e", f"@{directory / 'vars.json'}"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PIPELINING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Visitors:
    """Four processes of the shop, here threads, that go on visiting; they know what must have been counted."""

    def __init__(self, make: Callable[[], Shop], gone: Iterable[str] = ()):
        self.shops = [make() for _ in range(4)]
        self.visits: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        self.gone = set(gone)
        self.problems: list[BaseException] = []
        self._lock, self._end = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n, shop)) for n, shop in enumerate(self.shops)]

    def _run(self, number: int, shop: Shop) -> None:
        chance = random.Random(number)
        try:
            while not self._end.wait(0.002):
                # a visitor keeps to one process at a time, pages are everybody's
                visitor, page = str(chance.randrange(number, SESSIONS, 4)), str(chance.randrange(PAGES))
                if visitor in self.gone:
                    continue
                assert shop.visit(visitor, page) == "the page " + page
                with self._lock:
                    self.visits[visitor] += 1
                    self.hits[page] += 1
                if chance.random() < 0.05:
                    shop.log_out(visitor)
                    with self._lock:
                        self.gone.add(visitor)
        except BaseException as error:  # a test that swallows it would pass
            self.problems.append(error)

    def __enter__(self) -> Visitors:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        assert self.problems == []

    def pass_some(self, number: int) -> None:
        """Until so many visits more were made."""
        target = sum(self.visits.values()) + number
        while sum(self.visits.values()) < target and not self.problems:
            time.sleep(0.01)

    def duals(self) -> list[Dual]:
        return [dual for shop in self.shops for dual in (shop.sessions, shop.cache)]


def fill(server) -> None:
    sessions, cache = server.client(0).pipeline(transaction=False), server.client(10).pipeline(transaction=False)
    for number in range(SESSIONS):
        sessions.hset("session:%d" % number, mapping={"user": number, "visits": 100})
        sessions.expire("session:%d" % number, 1800)
    for number in range(PAGES):
        cache.set("page:%d" % number, "the page %d" % number, ex=600)
        cache.set("hits:%d" % number, 1000)
    sessions.execute()
    cache.execute()


def counted(
    sessions: redis.Redis, cache: redis.Redis, visits: Counter[str], hits: Counter[str], gone: set[str]
) -> None:
    for visitor in map(str, range(SESSIONS)):
        value = sessions.hgetall("session:" + visitor)
        if visitor in gone:
            assert value == {}
        else:
            assert value == {b"user": visitor.encode(), b"visits": b"%d" % (100 + visits[visitor])}
    for page in map(str, range(PAGES)):
        assert int(cache.get("hits:" + page)) == 1000 + hits[page]


def test_the_transition(server, tmp_path: Path) -> None:
    old, sessions, cache = server("redis-7.0"), server("redis-7.0"), server("redis-8.0")
    fill(old)
    visits, hits = Counter[str](), Counter[str]()
    gone: set[str] = set()

    def shop(read_new: bool) -> Shop:
        return Shop(Dual(old.client(0), sessions.client(), read_new), Dual(old.client(10), cache.client(), read_new))

    # 2. to 4.: both are written to, the old one is read; the copy runs meanwhile
    with Visitors(lambda: shop(False)) as visitors:
        visitors.pass_some(300)
        assert "keys compared" in copy(tmp_path, old, {"sessions": (0, sessions), "cache": (10, cache)})
        visitors.pass_some(300)
    for dual in visitors.duals():
        dual.mend()
    assert not any(dual.mend() for dual in visitors.duals())
    visits, hits, gone = visits + visitors.visits, hits + visitors.hits, gone | visitors.gone
    assert gone and len(visits) > 400
    counted(old.client(0), old.client(10), visits, hits, gone)
    counted(sessions.client(), cache.client(), visits, hits, gone)
    proof = copy(tmp_path, old, {"sessions": (0, sessions), "cache": (10, cache)})
    assert proof.count(" 0 differences") == 2, proof

    # 5.: the new ones are read, and the old one can still be gone back to
    with Visitors(lambda: shop(True), gone) as visitors:
        visitors.pass_some(300)
    visits, hits, gone = visits + visitors.visits, hits + visitors.hits, gone | visitors.gone
    counted(sessions.client(), cache.client(), visits, hits, gone)
    counted(old.client(0), old.client(10), visits, hits, gone)

    # 6.: without the old one nothing is missing
    old.client().flushall()
    counted(sessions.client(), cache.client(), visits, hits, gone)


def test_a_second_server_that_is_away_fails_nobody(server) -> None:
    old, new = server("redis-7.0"), server("redis-7.0")
    dual = Dual(old.client(), new.client(socket_timeout=1))
    old.client().hset("h", "a", 1)
    dual.set("s", "1", 60)
    new.stop()
    dual.set("s", "2", 60)
    assert dual.update("h", lambda server: server.hincrby("h", "a", 1)) == 2
    dual.delete("gone")
    assert dual.doubtful == {"s", "h", "gone"}
    assert dual.mend() == 3 and dual.doubtful == {"s", "h", "gone"}  # still away
    new.restart()
    assert dual.mend() == 3 and dual.mend() == 0
    assert new.client().get("s") == b"2" and new.client().hgetall("h") == {b"a": b"2"}
    assert new.client().pexpiretime("s") == old.client().pexpiretime("s")


def test_a_copy_may_put_a_deleted_key_back_until_it_is_mended(server) -> None:
    old, new = server("redis-7.0"), server("redis-7.0")
    dual = Dual(old.client(), new.client())
    old.client().set("k", "v")
    read_by_the_copy = old.client().dump("k")
    dual.delete("k")
    new.client().restore("k", 0, read_by_the_copy)  # what the copy does next
    assert new.client().exists("k")
    dual.mend()
    assert not new.client().exists("k")


def test_one_server_decides(server) -> None:
    old, new = server("redis-7.0"), server("redis-7.0")
    dual = Dual(old.client(), new.client())
    old.client().set("lock", "another")
    old.client().xadd("stream", {"n": 0})
    assert dual.set_if_absent("lock", "me", 60) is False and new.client().get("lock") is None
    assert dual.set_if_absent("free", "me", 60) is True and new.client().get("free") == b"me"
    dual.append("stream", {"n": 1})
    assert new.client().xrange("stream") == old.client().xrange("stream")
    assert len(new.client().xrange("stream")) == 2


# what the page's table says goes wrong: the key as it was, the command, and what the new server is left with
UNSAFE = {
    "INCR": (lambda r: r.set("k", 100), lambda r: r.incr("k"), lambda r: (r.get("k"), b"101", b"1")),
    "APPEND": (lambda r: r.set("k", "ab"), lambda r: r.append("k", "c"), lambda r: (r.get("k"), b"abc", b"c")),
    "HSET": (
        lambda r: r.hset("k", mapping={"user": 7}),
        lambda r: r.hset("k", "cart", 1),
        lambda r: (r.hgetall("k"), {b"user": b"7", b"cart": b"1"}, {b"cart": b"1"}),
    ),
    "LPUSH": (
        lambda r: r.rpush("k", "b", "c"),
        lambda r: r.lpush("k", "a"),
        lambda r: (r.lrange("k", 0, -1), [b"a", b"b", b"c"], [b"a"]),
    ),
    "SADD": (lambda r: r.sadd("k", "a"), lambda r: r.sadd("k", "b"), lambda r: (r.smembers("k"), {b"a", b"b"}, {b"b"})),
    "SETNX": (
        lambda r: r.set("k", "another"),
        lambda r: r.set("k", "me", nx=True),
        lambda r: (r.get("k"), b"another", b"me"),
    ),
    "XADD": (
        lambda r: r.xadd("k", {"n": 0}),
        lambda r: r.xadd("k", {"n": 1}),
        lambda r: (r.xlen("k"), 2, 1),
    ),
}


@pytest.mark.parametrize("command", UNSAFE)
def test_what_must_not_be_written_twice(server, tmp_path: Path, command: str) -> None:
    before, write, look = UNSAFE[command]
    old, new = server("redis-7.0"), server("redis-7.0")
    before(old.client(3))
    write(old.client(3))
    write(new.client())
    if command == "INCR":  # by the real copy; for the others its one step does, which takes less time
        copy(tmp_path, old, {"unsafe": (3, new)})
    else:
        with pytest.raises(redis.ResponseError, match="BUSYKEY"):
            new.client().restore("k", 0, old.client(3).dump("k"))
    right, wrong = look(old.client(3)), look(new.client())
    assert right[0] == right[1], "the old server"
    assert wrong[0] == wrong[2], "the new server"

    # and the same with care
    old.client(3).delete("k")
    new.client().delete("k")
    dual = Dual(old.client(3), new.client())
    before(old.client(3))
    if command == "SETNX":
        assert dual.set_if_absent("k", "me", 60) is False
        dual.bring("k")
    elif command == "XADD":
        dual.append("k", {"n": 1})
    else:
        dual.update("k", write)
    assert look(new.client())[0] == right[1]
    assert new.client().pexpiretime("k") == old.client(3).pexpiretime("k")


def test_an_expiry_on_a_key_that_is_not_there_yet(server) -> None:
    old, new = server("redis-7.0"), server("redis-7.0")
    old.client().set("k", "v")
    read_by_the_copy = old.client().dump("k")
    assert old.client().expire("k", 60) and not new.client().expire("k", 60)
    new.client().restore("k", 0, read_by_the_copy)
    assert new.client().ttl("k") == -1  # it lives for ever

    new.client().delete("k")
    dual, at = Dual(old.client(), new.client()), milliseconds(60)
    dual.update("k", lambda server: server.pexpireat("k", at))
    assert new.client().pexpiretime("k") == old.client().pexpiretime("k") == at


def test_the_page_shows_the_code_that_is_tested() -> None:
    page = (ROOT / "docs" / "dual_write.md").read_text()
    shown = re.findall(r"```(python|yaml)\n(.*?)```", page, re.DOTALL)
    code = "\n".join(path.read_text() for path in sorted(EXAMPLES.iterdir()) if path.suffix in (".py", ".yml"))
    assert len(shown) >= 5
    for kind, block in shown:
        if kind == "python" or "on_conflict" in block:
            assert block in code, block
