# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The mirror's figures, as Prometheus reads them."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.njoy.untangle.plugins.module_utils.engine.metrics import Metrics, text

FORWARD = {
    "phase": "following", "keys": 9, "dirty": 1, "lag_seconds": 0.5, "lag_bytes": 70, "commands": 5, "starts": 1, "because": None,
}  # fmt: skip
BACK = {"phase": "waiting for its server", "keys": 3, "dirty": 0, "lag_seconds": 2.0}


def test_a_line_per_figure_and_purpose():
    lines = text({"purposes": {"cache": FORWARD, 'o"dd': BACK}}, 1000.25).splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        'untangle_mirror_lag_seconds{purpose="cache"} 0.5',
        'untangle_mirror_lag_seconds{purpose="o\\"dd"} 2.0',
        'untangle_mirror_lag_bytes{purpose="cache"} 70',
        'untangle_mirror_dirty{purpose="cache"} 1',
        'untangle_mirror_dirty{purpose="o\\"dd"} 0',
        'untangle_mirror_keys{purpose="cache"} 9',
        'untangle_mirror_keys{purpose="o\\"dd"} 3',
        'untangle_mirror_commands_total{purpose="cache"} 5',
        'untangle_mirror_starts_total{purpose="cache"} 1',
        'untangle_mirror_halted{purpose="cache",phase="following"} 0',
        'untangle_mirror_halted{purpose="o\\"dd",phase="waiting for its server"} 1',
        "untangle_mirror_time_seconds 1000.2",
    ]
    assert "# TYPE untangle_mirror_commands_total counter" in lines and "# TYPE untangle_mirror_keys gauge" in lines


def test_a_mirror_without_its_source_is_halted():
    found = text(
        {"purposes": {"cache": FORWARD, "old": {**BACK, "phase": "following back", "away": None}}, "away": "gone"}, 1
    )
    assert 'untangle_mirror_halted{purpose="cache",phase="waiting for its source"} 1' in found
    assert 'untangle_mirror_halted{purpose="old",phase="following back"} 0' in found


def test_it_is_written_where_somebody_wants_it(tmp_path: Path):
    metrics, file = Metrics(str(tmp_path)), tmp_path / "metrics/mirror.prom"
    metrics.write(lambda: {"purposes": {}})
    metrics.forget()
    assert not file.parent.exists()
    file.parent.mkdir()
    metrics.write(lambda: {"purposes": {"cache": FORWARD}})
    assert file.stat().st_mode & 0o777 == 0o644 and "cache" in file.read_text()
    metrics.write(lambda: {"purposes": {}})
    assert "cache" in file.read_text(), "more than once a second"
    metrics.forget()
    assert not file.exists()
