# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fill the demo's shared server: seed.py PORT REDIS_CONF, which says the password.

The bulk is made by the server itself, ten thousand keys per script: a few seconds for 220,000 keys.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import redis

SESSIONS, PAGES, JOBS, STEP = 60_000, 150_000, 5_000, 10_000

# A sliding expiry: every visit renews it, so at any moment they are spread over the last half hour.
SESSION = """
for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local key = string.format('session:%08x', i * 40503 % 4294967296)
  redis.call('HSET', key, 'user', i, 'cart', i % 7, 'csrf', redis.sha1hex(key), 'seen', 1790000000 + i)
  redis.call('EXPIRE', key, 1800 + i % 1800)
end"""
PAGE = """
local line = string.rep('lorem ipsum dolor sit amet ', 12)
for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  redis.call('SET', string.format('page:%06d', i), string.sub(line, 1, 40 + i * 7919 % 260), 'EX', 1800 + i % 3600)
end"""
JOB = """
for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  redis.call('HSET', 'job:' .. i, 'kind', ({'thumbnail', 'mail', 'invoice'})[i % 3 + 1], 'tries', i % 4, 'order', i)
  redis.call('XADD', 'jobs', '*', 'job', i, 'at', 1790000000 + i)
  redis.call('LPUSH', 'queue:thumbnails', i)
  if i % 5 == 0 then redis.call('ZADD', 'delayed', 1790000000 + i, 'job:' .. i) end
end"""


def client(port: int, conf: Path, database: int) -> redis.Redis:
    password = re.search(r"^requirepass (\S+)", conf.read_text(), re.MULTILINE)
    return redis.Redis(port=port, db=database, password=password and password[1], socket_timeout=20)


def wait_for(server: redis.Redis) -> None:
    for _ in range(200):
        try:
            server.ping()
        except redis.ConnectionError:
            time.sleep(0.1)
        else:
            return
    sys.exit("demo: the shared server does not answer")


def bulk(server: redis.Redis, script: str, number: int) -> None:
    run = server.register_script(script)
    for first in range(1, number + 1, STEP):
        run(args=[first, min(first + STEP - 1, number)])


def main() -> None:
    port, conf = int(sys.argv[1]), Path(sys.argv[2])
    sessions, pipeline, cache = (client(port, conf, database) for database in (0, 5, 10))
    wait_for(sessions)
    began = time.monotonic()
    bulk(sessions, SESSION, SESSIONS)
    bulk(pipeline, JOB, JOBS)
    bulk(cache, PAGE, PAGES)
    # Two groups read the stream; of what one of them has read, a part is still to be acknowledged.
    pipeline.xgroup_create("jobs", "workers", id="0")
    pipeline.xgroup_create("jobs", "billing", id="0")
    for worker in ("worker-1", "worker-2", "worker-3"):
        [(_, entries)] = pipeline.xreadgroup("workers", worker, {"jobs": ">"}, count=200)
        pipeline.xack("jobs", "workers", *[entry for entry, _ in entries[:150]])
    # The audit is to find what an application does, not how the demo was filled: somebody once looked for pages with KEYS.
    cache.slowlog_reset()
    cache.config_resetstat()
    cache.keys("page:*")
    keys = [server.dbsize() for server in (sessions, pipeline, cache)]
    print(f"{sum(keys):,} keys ({', '.join(f'{n:,}' for n in keys)}) in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
