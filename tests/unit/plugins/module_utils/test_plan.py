# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The user's variables become a plan, or a sentence that names the variable, the fact and the fix."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.connection import parse_url

from ansible_collections.njoy.untangle.plugins.module_utils import plan
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

HOSTS = {
    "instances": ["db1", "db2"],
    "apps": ["web1"],
    "vars": {
        "db1": {"ansible_host": "10.0.0.7"},
        "db2": {"ansible_host": "10.0.0.8"},
        "web1": {"ansible_host": "10.0.0.9"},
    },
}
LOCAL = {"instances": ["here"], "apps": ["here"], "vars": {"here": {"ansible_connection": "local"}}}
SOURCE = {"host": "10.0.0.5", "port": 6379, "username": "admin", "password": "s3cret"}
PURPOSES = [
    {"name": "sessions", "database": 0, "port": 6382, "profile": "sessions", "maxmemory": "512mb"},
    {"name": "pipeline", "database": 5, "port": 6380, "profile": "queue", "maxmemory": "1gb"},
    {"name": "cache", "database": 10, "port": 6381, "profile": "cache", "maxmemory": "2gb"},
]
APPS = [
    {
        "name": "web",
        "files": [
            {
                "path": "/srv/web/.env",
                "set": {
                    "CACHE_URL": "cache",
                    "SESSION_URL": "sessions",
                    "QUEUE_HOST": "pipeline.host",
                    "QUEUE_PORT": "pipeline.port",
                },
            }
        ],
        "restart": "systemctl restart web",
    }
]


def variables(**changed):
    return copy.deepcopy({"source": SOURCE, "purposes": PURPOSES, "apps": APPS, **changed})


def purposes(number=0, **changed):
    found = copy.deepcopy(PURPOSES)
    found[number].update(changed)
    return {"purposes": found}


def made(hosts=None, **changed):
    return plan.normalise(variables(**changed), hosts or HOSTS)


def refused(hosts=None, **changed):
    with pytest.raises(UntangleError) as error:
        made(hosts, **changed)
    return error.value.message


def test_the_worked_example():
    found = made()
    assert found["source"] == {
        "host": "10.0.0.5",
        "port": 6379,
        "unix_socket": None,
        "username": "admin",
        "password": "s3cret",
        "tls": False,
        "tls_ca_file": None,
        "tls_cert_file": None,
        "tls_key_file": None,
        "tls_verify": True,
        "timeout": 5.0,
    }
    cache = found["purposes"][2]
    assert {key: value for key, value in cache.items() if key != "settings"} == {
        "name": "cache",
        "database": 10,
        "profile": "cache",
        "host": "db1",
        "address": "10.0.0.7",
        "port": 6381,
        "maxmemory": 2 << 30,
        "overrides": [],
        "user": "cache",
        "acl": "",
        "tls": False,
        "instance": "untangle-cache",
    }
    assert cache["settings"]["maxmemory"] == str(2 << 30)
    assert cache["settings"]["maxmemory-policy"] == "allkeys-lru"
    assert (found["strategy"], found["backend"], found["until"]) == ("live", "compose", "watch")
    assert (found["retire"], found["tls"]) == ([], {})
    assert found["apps"][0]["hosts"] == ["web1"] and found["apps"][0]["restart"] == "systemctl restart web"


def strings(value):
    if isinstance(value, dict):
        return {key: strings(item) for key, item in value.items()}
    if isinstance(value, list):
        return [strings(item) for item in value]
    return str(value)


def test_everything_may_come_as_text():
    wanted = made(retire=["cache"], tls={"ca_file": "/a", "cert_file": "/b", "key_file": "/c"}, backend="host")
    kept = variables(retire="cache", tls={"ca_file": "/a", "cert_file": "/b", "key_file": "/c"}, backend="HOST ")
    assert plan.normalise(strings(kept), HOSTS) == wanted
    # -e gives JSON, a template of an older ansible-core a Python literal
    assert (
        plan.normalise(
            {key: json.dumps(value) if key != "backend" and key != "retire" else value for key, value in kept.items()},
            HOSTS,
        )
        == wanted
    )
    assert plan.normalise({key: str(value) for key, value in kept.items()}, HOSTS) == wanted
    # a survey sends an empty answer as an empty string
    assert made(apps="", strategy="", until="", tls="", retire="") == {**made(apps=[])}
    for off in (False, "false", "no", None, {}, "{}"):
        assert made(tls=off)["tls"] == {}


def test_a_plan_is_a_fixed_point_where_it_is_shown_without_secrets():
    found = made(**purposes(2, password="pw"))
    assert found["purposes"][2]["password"] == "pw"
    shown = plan.public(found)
    assert "s3cret" not in str(shown) and "'pw'" not in str(shown)
    assert found["source"]["password"] == "s3cret"


def test_settings_user_and_acl_of_a_purpose():
    found = made(
        **purposes(
            2,
            settings="{'maxmemory-policy': 'allkeys-lfu'}",
            user="Web.App",
            acl=" +config|get  -@scripting ~a:* ",
            host="db2",
        )
    )["purposes"][2]
    assert found["settings"]["maxmemory-policy"] == "allkeys-lfu" and found["overrides"] == ["maxmemory-policy"]
    assert (found["user"], found["acl"]) == ("Web.App", "+config|get -@scripting ~a:*")
    assert (found["host"], found["address"]) == ("db2", "10.0.0.8")


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        ({"ansible_connection": "local"}, "127.0.0.1"),
        ({"ansible_connection": "local", "ansible_host": "10.1.1.1"}, "127.0.0.1"),
        ({"ansible_host": "10.1.1.1"}, "10.1.1.1"),
        ({"ansible_host": "localhost"}, "127.0.0.1"),
        ({"ansible_host": "redis1.example.com"}, "redis1.example.com"),
        ({}, "here"),
    ],
)
def test_where_an_instance_listens_by_default(known, wanted):
    assert made({"instances": ["here"], "vars": {"here": known}}, apps=[])["purposes"][0]["address"] == wanted


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (purposes(1, port=6382), ["redis_split_purposes", "sessions and pipeline", "port 6382 on db1", "its own port"]),
        (
            purposes(1, database="0"),
            ["sessions and pipeline", "both have database 0", "One database goes to one purpose"],
        ),
        (purposes(1, name="sessions"), ["both called sessions", "its own name"]),
        (purposes(1, name="Job-Queue"), ["redis_split_purposes, Job-Queue", "lower-case", "for example job_queue"]),
        (purposes(1, name="2nd"), ["for example purpose_2nd"]),
        (purposes(1, name="jobs\n"), ["lower-case", "for example jobs"]),
        (purposes(1, name=""), ["entry 2", "name missing"]),
        (purposes(1, name="untangle"), ["the name is taken"]),
        (purposes(1, name="monitoring"), ["the name is taken", "what watches them"]),
        (purposes(1, profile="jobs"), ["pipeline", "no profile 'jobs'", "queue, cache, sessions"]),
        (purposes(1, host="db9"), ["host db9 is not in the group redis_split_hosts", "db1, db2"]),
        (purposes(1, maxmemory="lots"), ["pipeline", "'lots' is not an amount of memory", "512mb"]),
        (purposes(1, maxmemory=0), ["less than 1mb"]),
        (purposes(1, port="http"), ["pipeline: port is 'http', which is not a number", "1 to 65535"]),
        (purposes(1, port=70000), ["port is 70000"]),
        (purposes(1, database=-1), ["database is -1", "from 0"]),
        (purposes(1, database=1.5), ["database is 1.5"]),
        (purposes(1, prot=6380), ["has prot, which means nothing here", "port"]),
        (
            purposes(1, settings={"bind": "0.0.0.0"}),
            ["pipeline: bind is not a setting to give here", "the purpose's address"],
        ),
        (purposes(1, settings="maxmemory-policy=x"), ["settings is not a mapping"]),
        (purposes(1, user="two words"), ["user 'two words' cannot be used"]),
        (purposes(1, acl="nopass"), ["acl holds a word that begins with 'n'"]),
        (purposes(1, acl=">secret"), ["acl holds a word that begins with '>'"]),
        (purposes(1, address="0.0.0.0"), ["address 0.0.0.0 is no address that an application can connect to"]),
        (purposes(1, address="10.0.0.7:6380"), ["neither an IP address nor a host name", "without port"]),
        (purposes(1, address="127.0.0.1"), ["would listen on 127.0.0.1, which web1 cannot reach"]),
        (purposes(1, host="db2", address="127.0.0.1"), ["which db1, web1 cannot reach"]),
        (purposes(1, address="10.0.0.5", port=6379), ["10.0.0.5:6379 is the shared server itself"]),
        ({"purposes": []}, ["redis_split_purposes is empty", "for example"]),
        ({"purposes": "cache"}, ["redis_split_purposes is not a list but text"]),
        ({"purposes": ["cache"]}, ["entry 1, is not a mapping"]),
        ({"source": None}, ["redis_split_source is empty"]),
        ({"source": {"hots": "a"}}, ["redis_split_source has hots"]),
        ({"source": {"port": "x"}}, ["redis_split_source.port is 'x'"]),
        ({"source": {"tls": "maybe"}}, ["redis_split_source.tls is 'maybe'", "Write true or false"]),
        ({"source": {"timeout": "soon"}}, ["redis_split_source.timeout"]),
        ({"strategy": "move"}, ["redis_split_strategy is 'move'", "copy, live"]),
        ({"backend": "podman"}, ["redis_split_backend", "compose, swarm, host"]),
        ({"until": "synced"}, ["redis_split_until", "audit, provision, sync"]),
        ({"retire": True}, ["redis_split_retire is True", "by name"]),
        ({"retire": ["cash"]}, ["no purpose cash", "sessions, pipeline, cache"]),
        ({"tls": {"ca_file": "/a"}}, ["redis_split_tls lacks cert_file, key_file"]),
        ({"tls": True}, ["redis_split_tls is not a mapping"]),
        ({"apps": [{"files": []}]}, ["redis_split_apps, entry 1: name missing"]),
        ({"apps": [{"name": "a"}, {"name": "a"}]}, ["two applications have that name"]),
        ({"apps": [{"name": "a", "restrat": "x"}]}, ["redis_split_apps, a has restrat", "restart"]),
        ({"apps": [{"name": "a", "hosts": ["web9"]}]}, ["host web9 is not in the group redis_split_app_hosts", "web1"]),
        ({"apps": [{"name": "a", "files": [{"set": {}}]}]}, ["a file has no path"]),
        (
            {"apps": [{"name": "a", "files": [{"path": "/e", "set": {"X": "cash"}}]}]},
            ["X in /e is set to 'cash', but there is no purpose cash", "sessions, pipeline, cache"],
        ),
        (
            {"apps": [{"name": "a", "files": [{"path": "/e", "set": {"X": "cache.uri"}}]}]},
            ["What can follow cache. is url, host, port, user, password, database"],
        ),
    ],
)
def test_what_is_refused(change, words):
    sentence = refused(**change)
    for word in words:
        assert word in sentence


def test_hosts_that_are_missing():
    assert "The group redis_split_hosts is empty" in refused({"instances": [], "apps": []})
    assert "redis_split_app_hosts is empty" in refused({"instances": ["db1"], "apps": []})


def test_one_port_may_be_on_two_hosts():
    found = made(**purposes(1, port=6382, host="db2"))["purposes"]
    assert [one["port"] for one in found[:2]] == [6382, 6382]


def test_a_password_is_not_shown_when_it_is_refused():
    hidden = [
        refused(source="host: a, password: hunter2"),
        refused(source=["hunter2"]),
        refused(purposes={"name": "cache", "password": "hunter2"}),
        refused(purposes=["name=cache password=hunter2"]),
        refused(**purposes(1, acl=">hunter2")),
        refused(**purposes(1, settings={"requirepass": "hunter2"})),
        refused(**purposes(1, settings={"tls-key-file-pass": "hunter2"})),
    ]
    assert "hunter2" not in " ".join(hidden)
    sentence = refused(**purposes(1, password=" hunter2 "))
    assert "hunter2" not in sentence and "password begins or ends with a blank" in sentence


def test_loopback_serves_everybody_on_one_machine():
    found = made(LOCAL)
    assert [one["address"] for one in found["purposes"]] == ["127.0.0.1"] * 3
    twice = {**LOCAL, "apps": ["app"], "vars": {**LOCAL["vars"], "app": {"ansible_host": "localhost"}}}
    assert made(twice)["apps"][0]["hosts"] == ["app"]
    # the shared server's own port on the same machine
    assert "is the shared server itself" in refused(LOCAL, source={"host": "localhost", "port": 6382})


CACHE = {"name": "cache", "user": "cache", "address": "10.0.0.7", "port": 6381, "tls": False}


def test_parts_of_an_endpoint():
    parts = {part: plan.endpoint(CACHE, part, "p@ss") for part in plan.PARTS}
    assert parts == {
        "url": "redis://cache:p%40ss@10.0.0.7:6381/0",
        "host": "10.0.0.7",
        "port": 6381,
        "user": "cache",
        "password": "p@ss",
        "database": 0,
    }
    assert (
        plan.endpoint({**CACHE, "tls": True, "address": "fd00::7"}, "url", "x") == "rediss://cache:x@[fd00::7]:6381/0"
    )
    with pytest.raises(UntangleError, match=r"cache\.uri is not a part"):
        plan.endpoint(CACHE, "uri")


@given(st.text(min_size=1), st.from_regex(r"\A[A-Za-z0-9_.:@-]+\Z"))
def test_any_password_survives_the_url(password, user):
    try:
        password.encode()
    except UnicodeEncodeError:
        return
    found = parse_url(plan.endpoint({**CACHE, "user": user}, "url", password))
    assert (found["password"], found["username"], found["host"], found["port"]) == (password, user, "10.0.0.7", 6381)


def test_connection_of_the_engine():
    assert plan.connection(CACHE, "pw") == {
        "host": "10.0.0.7",
        "port": 6381,
        "username": "untangle",
        "password": "pw",
        "tls": False,
        "tls_ca_file": None,
    }
    found = plan.connection({**CACHE, "tls": True}, "pw", tls={"ca_file": "/ca"})
    assert found["tls"] is True and found["tls_ca_file"] == "/ca"


def test_a_purpose_by_its_name():
    assert plan.purpose_named(made(), "cache")["port"] == 6381
    with pytest.raises(UntangleError, match="no purpose 'cash'"):
        plan.purpose_named(made(), "cash")
