# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole split with the strategy `live`, while somebody writes."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import redis
from cores import OLDEST
from playbook_site import SOURCE_SECRET, Site, differs, needs

pytestmark = needs


def mirrors(site: Site) -> list[str]:
    """The jobs of this site that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(site.state / "jobs") in path.read_bytes().decode(errors="replace"):
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def until_none(site: Site) -> bool:
    """A job takes a moment to end once nothing is left to follow."""
    end = time.monotonic() + 10
    while mirrors(site) and time.monotonic() < end:
        time.sleep(0.1)
    return not mirrors(site)


def test_live_from_end_to_end() -> None:
    site = Site(core=OLDEST, redis_split_strategy="live")
    stop, acknowledged = threading.Event(), list[int]()

    def write() -> None:
        client = site.source.client(5, username="default", password=SOURCE_SECRET)
        number = 0
        while not stop.is_set():
            number += 1
            try:
                client.rpush("written", number)
                acknowledged.append(number)
            except redis.RedisError:
                # from the cutover on
                return
            time.sleep(0.002)

    try:
        site.fill()
        fresh = site.snapshot()
        site.play("split_redis", "--check").says("would")
        assert site.snapshot() == fresh
        site.play("provision")
        site.play("sync")
        run = site.play("cutover", "-e", "redis_split_rehearse=true")
        run.says("Rehearsed for", " ms (default). Nothing was switched over.")
        assert run.changed == 0 and site.restarts() == []
        assert site.files["web1"].read_text() == site.before["web1"]
        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        assert site.states() == {"mirrored"}
        assert len(mirrors(site)) == 1
        assert site.play("sync").changed == 0
        site.play("status").says(
            "to be dumped again", "behind, begun 1 times", "fed by replication up to offset", "of buffer at the source"
        )
        site.play("cutover").says("refused during the cutover, some milliseconds")
        writer.join(20)
        assert not writer.is_alive() and len(acknowledged) > 100
        assert site.states() == {"cut_over"}
        # it goes on in the other direction
        assert len(mirrors(site)) == 1
        # a push that was executed and whose answer was lost is the only one that may come beside these
        arrived = [int(number) for number in site.instance("pipeline").lrange("written", 0, -1)]
        assert arrived[: len(acknowledged)] == acknowledged and len(arrived) <= len(acknowledged) + 1
        noted = json.loads((site.state / "split.json").read_text())["purposes"].values()
        print("writes were refused for", [one["write_refused_seconds"] for one in noted])
        data = site.target_data()
        for phase in ("sync", "verify", "cutover"):
            assert site.play(phase).changed == 0
        assert differs(data, site.target_data()) == {}
        site.instance("pipeline").rpush("after", "the cutover")
        site.instance("cache").set("hot", 1, px=600_000)
        data = site.target_data()
        site.play("rollback")
        assert differs(data, site.source_data()) == {}
        assert until_none(site)
        # forward again, and the way back is closed
        site.play("sync")
        site.play("cutover")
        assert site.states() == {"cut_over"} and len(mirrors(site)) == 1
        # nobody may have the old databases selected, this test neither
        site.source.forget_clients()
        site.play(
            "retire", "-e", json.dumps({"redis_split_retire": [*site.names.values()], "redis_split_watch_seconds": 0})
        )
        assert site.states() == {"retired"} and until_none(site)
    finally:
        stop.set()
        site.close()
