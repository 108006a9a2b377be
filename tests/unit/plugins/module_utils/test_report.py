# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the report page says of every state of a split, and that nothing in the facts can become markup."""

from __future__ import annotations

import copy
import html.parser
from pathlib import Path

import jinja2
import pytest

from ansible_collections.njoy.untangle.plugins.module_utils import plan, report

TEMPLATES = Path(__file__).resolve().parents[4] / "roles/split_report/templates"
PLAN = plan.normalise(
    {
        "source": {"host": "10.0.0.5", "password": "source-secret"},
        "purposes": [
            {"name": "sessions", "database": 0, "port": 6382, "profile": "sessions", "maxmemory": "512mb"},
            {
                "name": "cache",
                "database": 10,
                "port": 6381,
                "profile": "cache",
                "maxmemory": "2gb",
                "password": "app-secret",
            },
        ],
    },
    {"instances": ["redis1"], "apps": [], "vars": {"redis1": {"ansible_host": "10.0.0.7"}}},
)
FACTS = {
    "address": "10.0.0.5:6379",
    "server": {
        "flavour": "valkey",
        "version": "8.1.1",
        "used_memory": 1 << 20,
        "maxmemory": 0,
        "maxmemory_policy": "noeviction",
        "evicted_keys": 0,
        "persistence": {"save": "3600 1", "appendonly": True},
    },
    "databases": [
        {"database": 0, "keys": 60000, "memory": {"bytes": 3 << 20}},
        {"database": 3, "keys": 17},
        {"database": 10, "keys": 1500000},
    ],
    "findings": [{"check": "cluster", "severity": "info", "evidence": "db 10 cannot move.", "advice": "Split."}],
}


def done(database, state="cut_over", **more):
    compare = {
        "compared": 1500,
        "source_keys": 1500,
        "target_keys": 1500,
        "differences": 0,
        "kinds": {},
        "seconds": 0.5,
    }
    return {
        "state": state,
        "since": "2026-11-22T14:32:08.123Z",
        "by": "root@redis1",
        "database": database,
        "keys_before": 1500,
        "keys_copied": 1500,
        "keys_after": 1500,
        "bytes": 3 << 20,
        "copy_seconds": 0.5,
        "differences": 0,
        "compare": compare,
        "fence": ["default"],
        "write_refused_seconds": 1.918,
        **more,
    }


def split(sessions, cache):
    purposes = {name: value for name, value in (("sessions", sessions), ("cache", cache)) if value}
    log = [{"at": "2026-11-22T14:32:08.123Z", "what": "cut over", "by": "root@redis1", "purposes": sorted(purposes)}]
    return {"version": 1, "source": "10.0.0.5:6379", "purposes": purposes, "log": log if purposes else []}


def page(*arguments):
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("report.html.j2").render(__split_report_view=report.view(*arguments))


class Reader(html.parser.HTMLParser):
    """Tags in balance, and everything that a browser would load."""

    VOID = ("meta", "br", "rect", "path", "circle", "line")

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.tags = [], [], set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "xlink:href", "data", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    ("state", "tone", "headline"),
    [
        (split(None, None), "info", "Nothing has moved yet"),
        (
            split(done(0, "copied", compare={}, differences=None), done(10, "copied", compare={}, differences=None)),
            "info",
            "Copied, not switched over",
        ),
        (split(done(0), done(10)), "good", "Two databases moved, no difference"),
        (split(done(0), done(10, "retired", backup="/var/backup/x")), "good", "Two databases moved, no difference"),
        (split(done(0), None), "warn", "Part of the way"),
        (split(done(0, "returned"), done(10, "returned")), "warn", "Went back"),
        (
            split(done(0), done(10, "copied", differences=3, compare={"kinds": {"missing": 3}})),
            "bad",
            "Differences in cache",
        ),
        (split(done(0, compare={}, differences=None), done(10)), "good", "Two databases moved"),
    ],
)
@pytest.mark.parametrize("facts", [FACTS, {}, None])
def test_every_state_has_a_page(state, tone, headline, facts):
    view = report.view(state, PLAN, facts)
    assert (view["verdict"]["tone"], view["verdict"]["headline"]) == (tone, headline)
    text = page(state, PLAN, facts)
    assert headline in text
    found = Reader(text)
    assert not found.loads and "script" not in found.tags
    assert "secret" not in text
    assert text == page(copy.deepcopy(state), PLAN, facts)


def test_what_it_says():
    text = page(split(done(0), done(10)), PLAN, FACTS)
    for words in (
        "22 November 2026, 14:32:08 UTC",
        "3,000 keys, none missing",
        "redis://cache@10.0.0.7:6381",
        "Valkey 8.1.1",
        "17 keys, stays",
        "3,000/s",
        "1.9 s",
        "db 10 cannot move.",
        "njoy.untangle.rollback",
    ):
        assert words in text, words


def test_nothing_becomes_markup():
    def spoil(value):
        if isinstance(value, dict):
            return {key: spoil(item) for key, item in value.items()}
        if isinstance(value, list):
            return [spoil(item) for item in value]
        return value + "\"><script>alert(1)</script>'" if isinstance(value, str) else value

    state = split(done(0), done(10, fence=["x"]))
    state["log"][0]["detail"] = {"a": "b"}
    names = {one["name"]: one["name"] + "<script>" for one in PLAN["purposes"]}
    wild = spoil(copy.deepcopy(dict(PLAN)))
    for one, old in zip(wild["purposes"], PLAN["purposes"]):
        one["name"] = names[old["name"]]
        one["settings"] = {"<script>" + key: value for key, value in one["settings"].items()}
    bad = spoil(state)
    bad["purposes"] = {names[name]: value for name, value in bad["purposes"].items()}
    bad["purposes"][names["cache"]]["compare"]["kinds"] = {"<script>": 1}
    for one in bad["purposes"].values():
        one["state"] = "cut_over"
    text = page(bad, wild, spoil(FACTS))
    assert "<script" not in text and "script" not in Reader(text).tags
    assert text.count("&lt;script&gt;") > 20


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "\N{EN DASH}"),
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1536, "1.5 KiB"),
        (512 << 20, "512 MiB"),
        (7 << 42, "28 TiB"),
    ],
)
def test_sizes(number, text):
    assert report.size(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "\N{EN DASH}"), (0.0123, "12 ms"), (4.21, "4.2 s"), (125, "2 min 5 s"), ("1.5", "1.5 s")],
)
def test_seconds(number, text):
    assert report.seconds(number) == text


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("2026-01-02T03:04:05Z", "2 January 2026, 03:04:05 UTC"),
        ("2026-01-02T03:04:05+02:00", "2 January 2026, 01:04:05 UTC"),
        ("later", "later"),
        (None, ""),
    ],
)
def test_times(given, text):
    assert report.stamp(given) == text


def test_images_and_their_sizes():
    images = [{"name": "redis:7.0 <x>", "size": 212_000_000}, {"name": "valkey/valkey:8.1", "size": 180_400_000}]
    shown = page(split(None, None), PLAN, None, images)
    assert "Images: redis:7.0 &lt;x&gt; of 212 MB, valkey/valkey:8.1 of 180 MB." in shown
    assert "Images:" not in page(split(None, None), PLAN)
