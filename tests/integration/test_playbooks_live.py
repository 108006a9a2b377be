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


def test_live_from_end_to_end() -> None:
    site = Site(redis_split_strategy="live")
    stop, acknowledged = threading.Event(), list[int]()

    def write() -> None:
        client = site.source.client(5, username="default", password=SOURCE_SECRET)
        number = 0
        while not stop.is_set():
            number += 1
            try:
                client.set(f"written:{number}", number)
                acknowledged.append(number)
            except redis.RedisError:
                # from the cutover on
                return
            time.sleep(0.002)

    try:
        site.fill()
        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        site.play("split_redis", "-e", "redis_split_until=verify")
        assert site.states() == {"mirrored"}
        assert len(mirrors(site)) == 1
        assert site.play("sync").changed == 0
        site.play("split_redis").says("refused during the cutover, some milliseconds")
        writer.join(20)
        assert not writer.is_alive() and len(acknowledged) > 100
        assert site.states() == {"cut_over"}
        assert mirrors(site) == []
        arrived = {int(key.partition(b":")[2]) for key in site.instance("pipeline").scan_iter("written:*", count=1000)}
        assert set(acknowledged) <= arrived
        noted = json.loads((site.state / "split.json").read_text())["purposes"].values()
        print("writes were refused for", [one["write_refused_seconds"] for one in noted])
        data = site.target_data()
        assert site.play("split_redis").changed == 0
        assert differs(data, site.target_data()) == {}
        # back, forward to the mirror, and back from there
        site.play("rollback")
        assert differs(data, site.source_data()) == {}
        site.play("sync")
        assert site.states() == {"mirrored"} and len(mirrors(site)) == 1
        site.play("rollback")
        assert mirrors(site) == []
    finally:
        stop.set()
        site.close()
