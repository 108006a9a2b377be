# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What applications are told, and what is run for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.connection import parse_url

from ansible_collections.njoy.untangle.plugins.module_utils import endpoints
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

CACHE = {"name": "cache", "address": "10.0.0.7", "port": "6381", "user": "cache", "tls": False}
PIPELINE = {"name": "pipeline", "address": "fd00::7", "port": 6380, "user": "pipeline", "tls": True}
PURPOSES = [CACHE, PIPELINE]
PASSWORDS = {"cache": "p@ss/word:1", "pipeline": "x"}


def test_urls_and_parts():
    wanted = {
        "A": "cache",
        "B": "cache.url",
        "C": "cache.password",
        "D": "pipeline",
        "E": "pipeline.port",
        "F": "pipeline.host",
        "G": "pipeline.user",
        "H": "pipeline.database",
    }
    assert endpoints.values(wanted, PURPOSES, PASSWORDS) == {
        "A": "redis://cache:p%40ss%2Fword%3A1@10.0.0.7:6381/0",
        "B": "redis://cache:p%40ss%2Fword%3A1@10.0.0.7:6381/0",
        "C": "p@ss/word:1",
        "D": "rediss://pipeline:x@[fd00::7]:6380/0",
        "E": "6380",
        "F": "fd00::7",
        "G": "pipeline",
        "H": "0",
    }


@given(st.text(min_size=1, alphabet=st.characters(codec="utf-8")))
def test_a_client_reads_the_password_out_of_the_url(password):
    url = endpoints.instances([CACHE], {"cache": password})["cache"]["url"]
    found = parse_url(url)
    assert (found["username"], found["password"], found["host"], found["port"], found["db"]) == (
        "cache",
        password,
        "10.0.0.7",
        6381,
        0,
    )


@pytest.mark.parametrize("wants", ["cahce", "cache.", "cache.hots", "cache.host.x", "", ".host", "redis://x"])
def test_what_is_no_purpose_is_refused(wants):
    with pytest.raises(UntangleError, match="cache, pipeline"):
        endpoints.values({"A": wants}, PURPOSES, PASSWORDS)


def test_a_password_is_needed_only_for_what_is_used():
    assert endpoints.values({"A": "cache.port"}, PURPOSES, {"cache": "x"}) == {"A": "6381"}
    with pytest.raises(UntangleError, match="password for purpose pipeline"):
        endpoints.values({"A": "pipeline"}, PURPOSES, {"cache": "x"})
    assert "not-known-yet" in endpoints.values({"A": "pipeline"}, PURPOSES, {}, "not-known-yet")["A"]


def app(**more):
    return {"name": "web", "files": [{"path": "/srv/.env", "set": {"A": "cache"}}], **more}


def test_files_in_one_list():
    template = {"name": "two", "files": [{"path": "/srv/x", "template": "x.j2"}]}
    assert endpoints.files([app(), template, {"name": "three"}], PURPOSES) == [
        {"app": "web", "path": "/srv/.env", "set": {"A": "cache"}, "template": ""},
        {"app": "two", "path": "/srv/x", "set": {}, "template": "x.j2"},
    ]


@pytest.mark.parametrize(
    "file",
    [
        {"path": "/a"},
        {"path": "/a", "set": {}},
        {"path": "/a", "set": {"A": "cache"}, "template": "x"},
        {"path": "/srv/.env", "template": "x"},
    ],
)
def test_files_that_cannot_be_meant_are_refused(file):
    with pytest.raises(UntangleError, match=file["path"]):
        endpoints.files([app(), {"name": "other", "files": [file]}], PURPOSES)


def test_applications_by_host():
    apps = [app(), app(hosts=[]), app(hosts=["web1"]), app(hosts=["web2", "web3"])]
    assert endpoints.on_host(apps, "web1") == apps[:3]
    assert endpoints.on_host(apps, "web3") == [*apps[:2], apps[3]]


@pytest.mark.parametrize(
    ("commands", "changed", "stopped", "run"),
    [
        ({"restart": "r"}, ["web"], [], "r"),
        ({"restart": "r"}, ["web"], ["web"], "r"),
        ({"restart": "r", "stop": "s", "start": "t"}, ["web"], [], "r"),
        ({"restart": "r", "stop": "s", "start": "t"}, ["web"], ["web"], "t"),
        ({"stop": "s", "start": "t"}, ["web"], [], "s\nt"),
        ({}, ["web"], [], ""),
        ({"restart": "r"}, ["other"], [], None),
        ({"restart": "r", "files": None}, ["other"], [], "r"),
        ({"restart": "r", "files": []}, [], [], None),
    ],
)
def test_commands(commands, changed, stopped, run):
    found = endpoints.commands([{**app(), "health": "h", **commands}], changed, stopped)
    assert found == ([] if run is None else [{"app": "web", "run": run, "health": "h"}])


def test_stops_lie_beside_the_first_file():
    files = endpoints.files([app()], PURPOSES)
    assert endpoints.stops([app(), {"name": "a worker/1", "stop": "s"}], files) == [
        {"app": "a worker/1", "run": "s", "mark": "/srv/.env.untangle-stopped-a_worker_1"}
    ]
    with pytest.raises(UntangleError, match="can be stopped"):
        endpoints.stops([{"name": "x", "stop": "s"}], [])
