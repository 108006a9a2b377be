# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The measurement still measures: a small one, for its form and not for its figures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import servers

ROOT = Path(__file__).resolve().parents[2]
FIGURES = {
    "copy_keys_s",
    "migrate_keys_s",
    "redis_py_keys_s",
    "limit_keys_s",
    "copy_vs_migrate",
    "copy_vs_limit",
    "source_p99_ms_idle",
    "source_p99_ms_copy",
    "source_p99_ms_migrate",
    "engine_rss_mb",
    "cutover_ms",
    "cutover_ms_worst",
    "return_ms",
    "mirror_writes_s",
    "mirror_lag_s",
    "source_p99_ms_mirror",
    "source_p99_ratio_mirror",
    "engine_rss_mb_10m",
}


@pytest.mark.servers
@pytest.mark.skipif(
    not servers.command("redis-7.0") or not shutil.which("redis-cli"), reason="no redis 7.0: run `make testbed`"
)
def test_the_last_line_is_all_figures():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/bench/bench.py")],
        env={
            **os.environ,
            "BENCH_KEYS": "3000",
            "BENCH_ROUNDS": "1",
            "BENCH_CUTOVERS": "1",
            "BENCH_MANY_KEYS": "3000",
            "BENCH_PLAY": "0",
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() >= FIGURES
    assert all(isinstance(found[name], (int, float)) and found[name] > 0 for name in FIGURES), found
    assert (found["keys_100"], found["keys_1k"]) == (3000, 600)
