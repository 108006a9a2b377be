# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""redis_keyspace_info's real main() in front of a server that answers from a recording."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis
from ansible.module_utils import basic

from ansible_collections.njoy.untangle.plugins.module_utils import connection, keyspace
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError
from ansible_collections.njoy.untangle.plugins.modules import redis_keyspace_info

try:
    from ansible.module_utils.testing import patch_module_args
except ImportError:  # ansible-core 2.17 and 2.18
    from contextlib import contextmanager

    @contextmanager
    def patch_module_args(args):
        before, basic._ANSIBLE_ARGS = basic._ANSIBLE_ARGS, json.dumps({"ANSIBLE_MODULE_ARGS": args}).encode()
        yield
        basic._ANSIBLE_ARGS = before


RECORDING = Path(__file__).parents[1] / "module_utils" / "recordings" / "redis-7.0.json"
READS = {"DUMP", "CLIENT", "INFO", "CONFIG", "SLOWLOG", "SELECT", "SCAN", "MEMORY"}


class Recorded:
    """As much of redis-py's client and connection as is used, replying from a recording."""

    refused: tuple[str, ...] = ()
    fails: tuple[Exception, ...] = ()
    asked: list[tuple]

    def __init__(self, connection_pool=None, single_connection_client=False):
        self.connection_pool = self.connection = self
        self.response_callbacks = {}
        self.waiting = []
        self.database = 0

    def pack_commands(self, commands):
        return list(commands)

    def send_packed_command(self, commands):
        self.waiting.extend(commands)

    def send_command(self, *words):
        self.waiting.append(words)

    def read_response(self):
        words = self.waiting.pop(0)
        type(self).asked.append(words)
        for failure in self.fails:
            raise failure
        if words[0] in self.refused:
            raise redis.exceptions.NoPermissionError(
                f"User app has no permissions to run the '{words[0].lower()}' command"
            )
        return getattr(self, words[0].lower())(*words[1:])

    def info(self, section):
        return "\r\n".join(self.recorded["info"]).encode()

    def config(self, get, pattern):
        return [word.encode() for word in self.recorded["config"]]

    def client(self, what, *rest):
        if what == "LIST":
            return "\n".join(self.recorded["client_list"]).encode()
        return self.recorded["client_id"] if what == "ID" else b"OK"

    def slowlog(self, what, *rest):
        return self.recorded["slowlog_len"] if what == "LEN" else self.recorded["slowlog"]

    def select(self, database):
        if database > 15:
            raise redis.ResponseError("DB index is out of range")
        self.database = database
        return b"OK"

    def scan(self, cursor, count, number):
        return [b"0", [b"key:%d" % n for n in range(min(3, number))]]

    def memory(self, what, *key):
        return 100 + self.database if key else []

    def dump(self, key):
        return b"\x00\x01x\x0a\x00" + bytes(8)

    def disconnect(self):
        pass

    def close(self):
        pass


@pytest.fixture
def server(monkeypatch):
    """A fresh class: `refused` and `fails` are set on it, `asked` is read from it."""

    class Server(Recorded):
        asked = []
        recorded = json.loads(RECORDING.read_text())

    monkeypatch.setattr(connection, "connect", lambda options, **more: Server())
    return Server


@pytest.fixture
def run(capfd):
    def run(check=False, **arguments):
        known = {"source": {"password": "s3cret"}, **arguments, "_ansible_check_mode": check}
        with patch_module_args(known), pytest.raises(SystemExit):
            redis_keyspace_info.main()
        return json.loads(capfd.readouterr().out)

    return run


PLAN = [
    {"name": "sessions", "database": 0},
    {"name": "pipeline", "database": "5", "profile": "queue"},
    {"name": "cache", "database": 10},
]


@pytest.mark.parametrize("check", [False, True])
def test_facts(run, server, check):
    result = run(check=check, plan=PLAN)
    assert (result["changed"], result["address"]) == (False, "127.0.0.1:6379")
    assert (result["server"]["version"], result["refused"], result["settings"]) == ("7.0.15", [], None)
    assert result["server"]["payload_version"] == 10
    assert [(d["database"], d["purpose"], d["profile"], d["keys"], d["exists"]) for d in result["databases"]] == [
        (0, "sessions", None, 40, True),
        (5, "pipeline", "queue", 3, True),
        (10, "cache", None, 39, True),
        (12, None, None, 1, True),
    ]
    assert result["databases"][1]["clients"]["connections"] == 2
    assert result["databases"][1]["memory"] == {"bytes": 3 * (105 + keyspace.TABLE_BYTES), "margin": 0, "sampled": 3}
    assert [finding["severity"] for finding in result["findings"]] == [
        "warning",
        "warning",
        "info",
        "warning",
        "warning",
    ]
    # it only ever asks
    assert {words[0] for words in server.asked} <= READS
    assert ("CLIENT", "NO-TOUCH", "ON") in server.asked


def test_every_documented_value_is_returned_and_no_other(run, server):
    yaml = pytest.importorskip("yaml")
    documented = yaml.safe_load(redis_keyspace_info.RETURN)
    result = run(plan=PLAN, settings=True)
    assert set(documented) == set(result) - {"changed", "invocation", "warnings", "deprecations"}
    assert set(documented["server"]["contains"]) == set(result["server"])
    assert set(documented["slow_log"]["contains"]) == set(result["slow_log"])
    # subexpiry comes with later servers
    assert set(documented["databases"]["contains"]) - {"subexpiry"} == set(result["databases"][0])
    assert set(documented["databases"]["contains"]["memory"]["contains"]) == set(result["databases"][0]["memory"])
    assert set(documented["findings"]["contains"]) == set(result["findings"][0])


def test_nothing_is_measured_where_not_asked(run, server):
    result = run(memory_sample=0)
    assert {database["memory"] for database in result["databases"]} == {None}
    assert {words[0] for words in server.asked}.isdisjoint({"SELECT", "SCAN", "MEMORY"})


def test_settings_are_masked(run, server):
    result = run(settings=True)
    assert result["settings"]["maxmemory-policy"] == "allkeys-lru"
    assert result["settings"]["requirepass"] == "********"
    assert "recorded" not in json.dumps(result)


def test_a_database_that_is_not_there(run, server):
    databases = run(plan=[{"name": "cache", "database": 16}])["databases"]
    assert (databases[-1]["database"], databases[-1]["exists"], databases[-1]["keys"]) == (16, False, 0)


@pytest.mark.parametrize(
    ("command", "empty"),
    [("CONFIG", "settings"), ("SLOWLOG", "slow_log"), ("INFO", "commands")],
)
def test_a_refused_command_leaves_null_and_a_warning(run, server, command, empty, monkeypatch):
    warned = []
    monkeypatch.setattr(basic.AnsibleModule, "warn", lambda self, text: warned.append(text))
    server.refused = (command,)
    result = run(settings=True, plan=[*PLAN, {"name": "far", "database": 99}])
    assert result[empty] is None
    assert [entry["command"].split()[0] for entry in result["refused"]] == [command]
    assert any("does not allow user default: " + command in text for text in warned), warned
    # without CONFIG the number is tried; either way it is known not to be there
    assert result["databases"][-1]["exists"] is False


def test_a_login_that_is_only_tried_warns_of_nothing(run, server):
    server.refused = ("CONFIG", "SLOWLOG")
    result = run(source={"username": "login", "password": "s3cret"}, memory_sample=0)
    assert len(result["refused"]) == 2
    assert "user login" not in json.dumps(result.get("warnings", []))


def test_a_refused_client_list(run, server):
    server.refused = ("CLIENT",)
    result = run()
    assert {database["clients"] for database in result["databases"] if database["clients"] is None} == {None}
    # NO-TOUCH and ID are a courtesy: nobody misses them
    assert [entry["command"] for entry in result["refused"]] == ["CLIENT LIST"]


@pytest.mark.parametrize("command", ["SELECT", "SCAN", "MEMORY"])
def test_a_refused_measurement(run, server, command):
    server.refused = (command,)
    result = run()
    assert {database["memory"] for database in result["databases"]} == {None}
    assert result["databases"][0]["keys"] == 40


def test_all_refused(run, server):
    server.refused = tuple(READS)
    result = run(plan=PLAN)
    assert result["server"]["flavour"] is None
    assert [(d["purpose"], d["keys"], d["exists"], d["clients"], d["memory"]) for d in result["databases"]] == [
        ("sessions", None, None, None, None),
        ("pipeline", None, None, None, None),
        ("cache", None, None, None, None),
    ]
    assert {finding["severity"] for finding in result["findings"]} == {"unknown"}


def test_a_lost_connection_is_a_sentence(run, server):
    server.fails = (redis.ConnectionError("Connection closed by server."),)
    result = run()
    assert result["failed"]
    assert result["msg"].startswith("127.0.0.1:6379 cannot be reached (Connection closed by server.). Check host")


def test_a_refused_login_is_a_sentence(run, monkeypatch):
    def refuse(options, **more):
        raise UntangleError("127.0.0.1:6379 refuses the login")

    monkeypatch.setattr(connection, "connect", refuse)
    assert run()["msg"] == "127.0.0.1:6379 refuses the login"


def test_a_wrong_plan_is_a_sentence(run, server):
    result = run(plan=[{"name": "cache", "database": "ten"}])
    assert result["failed"]
    assert "`database` as a number" in result["msg"]
    assert "ten" in result["msg"]


def test_no_secret_is_shown(run, server):
    result = run(plan=[{"name": "cache", "database": 10, "password": "pur-pose"}])
    assert "s3cret" not in json.dumps(result)
    assert "pur-pose" not in json.dumps(result)
