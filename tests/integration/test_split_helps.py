# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one database does to another on a shared server, and that it does not once each has an instance of its own.

Four failures, each brought about twice by the same lines: on one server with sessions in db 0, a pipeline in db 5 and a
cache in db 10, and on three instances with the settings and users of their profiles, which together have as much memory.

    pytest -s tests/integration/test_split_helps.py        prints the figures
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

import servers
from ansible_collections.njoy.untangle.plugins.module_utils import profiles

pytestmark = pytest.mark.servers

MIB = 1 << 20
#: name: (database on the shared server, profile, memory of its own instance)
PURPOSES = {"sessions": (0, "sessions", 8 * MIB), "pipeline": (5, "queue", 12 * MIB), "cache": (10, "cache", 20 * MIB)}
PASSWORDS = {"app": "app-password", "admin": "admin-password", "health": "health-password"}


class Place:
    """Where the three purposes live: `app` is the application's connection to one of them, `admin` the operator's."""

    def __init__(self, name: str, instances: dict[str, servers.Server], split: bool):
        self.name, self.instances, self.split = name, instances, split

    def app(self, purpose: str, db: int | None = None) -> redis.Redis:
        """As the application connects; `db` is the number that it is (wrongly) configured with."""
        number = 0 if self.split else PURPOSES[purpose][0]
        login = {"username": purpose, "password": PASSWORDS["app"]} if self.split else {}
        return self.instances[purpose].client(number if db is None else db, **login)

    def admin(self, purpose: str) -> redis.Redis:
        login = {"username": "untangle", "password": PASSWORDS["admin"]} if self.split else {}
        return self.instances[purpose].client(0 if self.split else PURPOSES[purpose][0], **login)

    def keys(self) -> dict[str, int]:
        return {purpose: self.admin(purpose).dbsize() for purpose in PURPOSES}

    def fill(self, sessions: int = 1_000, jobs: int = 1_000, cache: int = 10_000) -> dict[str, int]:
        """From empty to a normal day."""
        for purpose in PURPOSES:
            self.admin(purpose).flushall()
            self.admin(purpose).config_resetstat()
        write(self.app("sessions"), (("SET", f"session:{n}", "s" * 200, "EX", 3600) for n in range(sessions)))
        write(self.app("pipeline"), (("SET", f"job:{n}", "j" * 500) for n in range(jobs)))
        write(self.app("cache"), (("SET", f"cache:{n}", "c" * 500, "EX", 3600) for n in range(cache)))
        held = self.keys()
        assert held == {"sessions": sessions, "pipeline": jobs, "cache": cache}
        return held


def write(client: redis.Redis, commands: Any) -> list[Any]:
    """Send them in batches; what the server answered, errors included."""
    replies: list[Any] = []
    pipe = client.pipeline(transaction=False)
    for count, words in enumerate(commands, 1):
        pipe.execute_command(*words)
        if count % 1_000 == 0:
            replies += pipe.execute(raise_on_error=False)
    return replies + pipe.execute(raise_on_error=False)


@pytest.fixture(scope="module", params=["redis-7.0", "valkey-8.1"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def shared(version: str) -> Iterator[Place]:
    """One server with the memory of all three, and one policy: the cache's, so that at least writes go on."""
    total = sum(memory for _database, _profile, memory in PURPOSES.values())
    with servers.Server(version, maxmemory=total, maxmemory_policy="allkeys-lru") as server:
        yield Place("shared", dict.fromkeys(PURPOSES, server), split=False)


@pytest.fixture(scope="module")
def split(version: str) -> Iterator[Place]:
    """An instance per purpose, as the collection configures it."""
    release = profiles.parse_version(version.partition("-")[2])
    hashes = {who: hashlib.sha256(password.encode()).hexdigest() for who, password in PASSWORDS.items()}
    with contextlib.ExitStack() as stack:
        instances = {}
        for purpose, (_database, profile, memory) in PURPOSES.items():
            server = servers.Server(version, profiles.known(profiles.settings(profile, memory, {}), release))
            acl = server.directory / "users.acl"
            acl.write_text("\n".join(profiles.acl_lines(purpose, profile, hashes, release)) + "\n")
            server.config["aclfile"] = str(acl)
            instances[purpose] = stack.enter_context(server)
        yield Place("split", instances, split=True)


def figures(version: str, title: str, **values: Any) -> None:
    print(f"\n{version}  {title}")
    for name, value in values.items():
        print(f"    {name:7} {value}")


def test_a_burst_of_the_pipeline_evicts_the_cache(version, shared, split):
    """60 MB of jobs arrive while nobody works them off."""
    kept: dict[str, dict[str, float]] = {}
    for place in (shared, split):
        before = place.fill()
        # an LRU clock ticks once a second: what is there is now older than what comes
        time.sleep(1.1)
        replies = write(place.app("pipeline"), (("SET", f"burst:{n}", "b" * 10_000) for n in range(6_000)))
        after = place.keys()
        refused = sum(isinstance(reply, redis.exceptions.OutOfMemoryError) for reply in replies)
        assert refused == sum(isinstance(reply, Exception) for reply in replies)
        kept[place.name] = {
            "sessions": after["sessions"] / before["sessions"],
            "cache": after["cache"] / before["cache"],
            "jobs": after["pipeline"] / (before["pipeline"] + len(replies) - refused),
            "refused": refused,
        }
    figures(
        version,
        "a burst of the pipeline: what was kept, jobs as a share of those accepted",
        **{
            name: "sessions {sessions:.0%}, cache {cache:.0%}, jobs {jobs:.0%}; {refused} jobs refused".format(**found)
            for name, found in kept.items()
        },
    )
    # before: the burst takes the place of everything else, and accepted jobs are lost as well
    assert kept["shared"]["cache"] < 0.5
    assert kept["shared"]["jobs"] < 1
    assert kept["shared"]["refused"] == 0
    # after: nobody else notices; the producer is told that its queue is full, and what was accepted is there
    assert (kept["split"]["cache"], kept["split"]["sessions"], kept["split"]["jobs"]) == (1, 1, 1)
    assert kept["split"]["refused"] > 0
    assert all(split.admin(purpose).info("stats")["evicted_keys"] == 0 for purpose in PURPOSES)


def test_flushdb_on_the_wrong_number(version, shared, split):
    """A script that clears the cache is configured with 5 where it should say 10."""
    before = shared.fill()
    shared.app("cache", db=5).flushdb()
    left = shared.keys()
    assert left == {**before, "pipeline": 0}

    before = split.fill()
    with pytest.raises(redis.ResponseError, match="DB index is out of range"):
        split.app("cache", db=5).flushdb()
    # even with the address of the wrong instance
    for purpose in ("sessions", "pipeline"):
        with pytest.raises(redis.exceptions.NoPermissionError):
            split.app(purpose).flushdb()
    assert split.keys() == before
    # what it is there for still works
    split.app("cache").flushdb()
    assert split.keys() == {**before, "cache": 0}
    figures(
        version,
        "FLUSHDB on the wrong number",
        shared=f"the pipeline had {before['pipeline']} jobs and has {left['pipeline']}",
        split="refused: DB index is out of range",
    )


def test_flushall(version, shared, split):
    """Sent by the cache's application, as deployments do."""
    shared.fill()
    shared.app("cache").flushall()
    left = shared.keys()
    assert left == {"sessions": 0, "pipeline": 0, "cache": 0}

    before = split.fill()
    for purpose in PURPOSES:
        with pytest.raises(redis.exceptions.NoPermissionError):
            split.app(purpose).flushall()
    assert split.keys() == before
    # and an operator who insists hits one purpose
    split.admin("cache").flushall()
    assert split.keys() == {**before, "cache": 0}
    figures(
        version,
        "FLUSHALL by the cache's application",
        shared=f"left: {left}",
        split="refused; by an operator on the cache: " + str(split.keys()),
    )


def reads_beside_keys(place: Place, seconds: float = 1.0) -> dict[str, float]:
    """Milliseconds that reads of a session take while somebody looks through the cache with KEYS, again and again."""
    sessions, lister = place.app("sessions"), place.admin("cache")
    # a pattern that matches nothing looks at as many keys, and has no reply that would keep this process busy
    look = ("KEYS", "no-such-key:*")
    sessions.get("session:1")
    lister.execute_command(*look)
    stop = threading.Event()

    def keep_looking() -> None:
        while not stop.is_set():
            lister.execute_command(*look)
            time.sleep(0.02)

    thread = threading.Thread(target=keep_looking)
    taken = []
    thread.start()
    try:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            start = time.perf_counter()
            sessions.get("session:1")
            taken.append((time.perf_counter() - start) * 1000)
            time.sleep(0.001)
    finally:
        stop.set()
        thread.join()
    taken.sort()
    return {"median": taken[len(taken) // 2], "p99": taken[int(len(taken) * 0.99)], "worst": taken[-1]}


def test_a_slow_keys_stalls_the_other_databases(version, shared, split):
    """Half a million keys in the cache, and a script that looks through them with KEYS."""
    found: dict[str, dict[str, float]] = {}
    with contextlib.ExitStack() as stack:
        for place in (shared, split):
            place.fill(cache=0)
            admin = place.admin("cache")
            stack.callback(admin.flushdb)
            stack.callback(admin.config_set, "maxmemory", admin.config_get("maxmemory")["maxmemory"])
            admin.config_set("maxmemory", 0)
            admin.execute_command("DEBUG", "POPULATE", 500_000, "cache", 10)
        # a busy machine can only make the split look worse than it is: then look again
        for _attempt in range(3):
            found = {place.name: reads_beside_keys(place) for place in (shared, split)}
            if found["shared"]["p99"] > 4 * found["split"]["p99"]:
                break
    figures(
        version,
        "reads of a session in ms, beside KEYS on 500,000 keys of the cache",
        **{
            name: "median {median:.2f}, p99 {p99:.1f}, worst {worst:.1f}".format(**times)
            for name, times in found.items()
        },
    )
    # no absolute times, those are the machine's: on the shared server a read waits for a KEYS, many times its own length
    assert found["shared"]["p99"] > 4 * found["split"]["p99"]
    assert found["shared"]["worst"] > 50 * found["split"]["median"]
    # and the application itself may not send it any more
    with pytest.raises(redis.exceptions.NoPermissionError):
        split.app("cache").keys("*")
