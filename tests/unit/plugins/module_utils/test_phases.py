# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the playbooks decide between their modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.njoy.untangle.plugins.module_utils import phases, plan, telling
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

ROOT = Path(__file__).resolve().parents[4]
DEFAULTS = yaml.safe_load((ROOT / "roles/redis_split/defaults/main.yml").read_text())
PURPOSES = [
    {"name": "sessions", "database": 0, "port": 6382, "profile": "sessions", "maxmemory": "512mb"},
    {"name": "pipeline", "database": 5, "port": 6380, "profile": "queue", "maxmemory": "1gb"},
    {"name": "cache", "database": 10, "port": 6381, "profile": "cache", "maxmemory": "2gb"},
]
WIDE = [*PURPOSES[:2], {**PURPOSES[2], "maxmemory": "8gb"}]
HOSTS = {
    "instances": ["redis1", "redis2"],
    "apps": ["web1"],
    "vars": {"redis1": {"ansible_host": "10.0.0.6"}, "redis2": {"ansible_host": "10.0.0.7"}},
}
GIB = 1 << 30


def planned(**given: Any) -> dict[str, Any]:
    return plan.normalise({"source": {"host": "10.0.0.5"}, "purposes": PURPOSES, **given}, HOSTS)


def facts(**databases: Any) -> dict[str, Any]:
    """What redis_keyspace_info tells; `db5={...}` sets facts of a database."""
    found = {
        number: {"database": number, "exists": True, "keys": 100, "memory": {"bytes": 1 << 20}} for number in (0, 5, 10)
    }
    for name, said in databases.items():
        found.setdefault(int(name[2:]), {"database": int(name[2:]), "exists": True, "keys": 1}).update(said)
    return {
        "address": "10.0.0.5:6379",
        "server": {"databases": 16, "used_memory": 1 << 22},
        "databases": list(found.values()),
    }


def meminfo(total: int, available: int) -> str:
    return f"MemTotal: {total >> 10} kB\nMemFree: 1 kB\nMemAvailable: {available >> 10} kB\n"


# -- options ----------------------------------------------------------------------------------------------------------


def defaults() -> dict[str, Any]:
    return phases.variables({}, DEFAULTS, {})


def test_defaults_are_what_nothing_and_empty_text_mean() -> None:
    at_first = phases.options(defaults(), planned())
    assert phases.options(dict.fromkeys(defaults(), ""), planned()) == at_first
    assert phases.options({}, planned()) == at_first
    assert (at_first["watch_seconds"], at_first["rollback_on_watch"], at_first["min_hit_rate"]) == (86400, False, {})


def test_everything_may_be_text() -> None:
    given = {
        "watch_seconds": "60",
        "rollback_on_watch": "yes",
        "fence": '["web", "cron"]',
        "accept_loss": "cache, sessions",
        "min_hit_rate": '{"cache": "85%"}',
        "big_key_bytes": "1048576",
        "max_latency_ms": "2",
        "rehearse": "true",
        "pause_max_seconds": "1.5",
    }
    found = phases.options(given, planned())
    assert found["watch_seconds"] == 60
    assert found["rollback_on_watch"] is True
    assert found["fence"] == ["web", "cron"]
    assert found["accept_loss"] == ["cache", "sessions"]
    assert found["min_hit_rate"] == {"cache": 0.85}
    assert (found["big_key_bytes"], found["max_latency_ms"]) == (1 << 20, 2)
    assert (found["rehearse"], found["pause_max_seconds"]) == (True, 1.5)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("watch_seconds", "soon", "redis_split_watch_seconds is 'soon'"),
        ("watch_seconds", -1, "Write a number from 0"),
        ("watch_seconds", True, "redis_split_watch_seconds"),
        ("rollback_on_watch", "perhaps", "neither true nor false"),
        ("state_dir", "untangle", "absolute path"),
        ("memory_check", "off", "Choose one of refuse, warn"),
        ("accept_loss", ["basket"], "redis_split_accept_loss"),
        ("min_hit_rate", {"basket": 1}, "redis_split_min_hit_rate"),
        ("fence", {"web": 1}, "Write a list of names"),
    ],
)
def test_what_cannot_be_meant(name: str, value: Any, word: str) -> None:
    with pytest.raises(UntangleError, match=word.replace("(", r"\(")):
        phases.options({name: value}, planned())


def test_one_rate_is_for_the_caches() -> None:
    assert phases.options({"min_hit_rate": "0.8"}, planned())["min_hit_rate"] == {"cache": 0.8}
    assert phases.options({"min_hit_rate": 80}, planned())["min_hit_rate"] == {"cache": 0.8}


def test_writers_are_stopped_where_every_application_can_be() -> None:
    both = {"name": "web", "stop": "true", "start": "true", "files": []}
    one = {"name": "cron", "restart": "true", "files": []}
    assert phases.options({}, planned(apps=[both]))["writers_stopped"] is True
    assert phases.options({}, planned(apps=[both, one]))["writers_stopped"] is False
    assert phases.options({}, planned())["writers_stopped"] is False


def test_variables_are_the_same_on_every_host() -> None:
    engine = {"redis_split_until": "verify", "redis_split_backend": "host"}
    here = {**DEFAULTS, "redis_split_backend": "compose"}
    assert phases.variables(here, DEFAULTS, engine)["until"] == "verify"
    # what this host says for itself counts: a play's own vars, which no other host sees
    here["redis_split_until"] = "sync"
    assert phases.variables(here, DEFAULTS, engine)["until"] == "sync"


def test_routes() -> None:
    found = phases.routes(planned(), {"cache": "s3cret"}, ["cache"])
    assert [(one["purpose"], one["database"], one["target"]["port"]) for one in found] == [("cache", 10, 6381)]
    assert (found[0]["target"]["username"], found[0]["target"]["password"]) == ("untangle", "s3cret")
    assert len(phases.routes(planned(), {})) == 3


# -- what stands in the way -------------------------------------------------------------------------------------------


def test_a_plan_that_fits() -> None:
    assert phases.source_problems(planned(), facts()) == {"refuse": [], "warn": []}


def test_a_database_that_is_not_there() -> None:
    (said,) = phases.source_problems(planned(), facts(db10={"exists": False}))["refuse"]
    for word in ("redis_split_purposes, cache", "no database 10", "0 to 15", "Correct its number"):
        assert word in said


def test_an_empty_database_warns_until_it_has_moved() -> None:
    empty = facts(db10={"keys": 0})
    (said,) = phases.source_problems(planned(), empty)["warn"]
    assert "database 10 of 10.0.0.5:6379 is empty" in said
    assert phases.source_problems(planned(), empty, {"cache": {"state": "retired"}})["warn"] == []


def test_a_database_without_a_purpose_warns() -> None:
    (said,) = phases.source_problems(planned(), facts(db3={"keys": 7}))["warn"]
    assert "Database 3" in said and "7 keys" in said


def test_foreign_keys_in_an_instance_are_refused() -> None:
    there = {"state": "planned", "mark": None, "keys_target": 3, "keys_source": 900}
    (said,) = phases.source_problems(planned(), facts(), {"cache": there})["refuse"]
    for word in ("redis_split_purposes, cache", "10.0.0.6:6381", "3 keys that are not ours", "another port"):
        assert word in said
    for more in (
        {"mark": "copying"},
        {"state": "copied"},
        {"keys_target": None},
        {"keys_target": 0},
        {"keys_target": 900},
    ):
        assert phases.source_problems(planned(), facts(), {"cache": {**there, **more}})["refuse"] == []


def test_an_address_that_an_application_cannot_reach() -> None:
    refused = {
        "msg": "10.0.0.6:6382 cannot be reached (Error 111 connecting to 10.0.0.6:6382. Connection refused.). Check."
    }
    shut = {"msg": "10.0.0.6:6380 refuses the login of user default (NOAUTH Authentication required.). Check."}
    tls = {"msg": "10.0.0.6:6380 cannot be reached (Connection closed by server.). Check."}
    for fine in (refused, shut, tls, {"databases": []}):
        assert phases.unreachable(planned(), "web1", [fine] * 3) == []
    for said, why in (
        (
            "cannot be reached (Error -2 connecting to x:6380. Name or service not known.). Check",
            "Name or service not known",
        ),
        ("cannot be reached (Error 113 connecting to x:6380. No route to host.). Check", "No route to host"),
        ("did not answer within 5.0 s. Check that the server is not blocked", "no answer"),
    ):
        (found,) = phases.unreachable(planned(), "web1", [{}, {"msg": f"x:6380 {said}"}, {}])
        for word in (
            "redis_split_purposes, pipeline",
            "web1 cannot reach its address",
            f"({why})",
            "Give the purpose an address",
        ):
            assert word in found


def test_memory_that_does_not_suffice() -> None:
    big = facts(db10={"memory": {"bytes": 4 * GIB}})
    room = meminfo(20 * GIB, 8 * GIB)
    assert phases.memory_problems(planned(purposes=WIDE), "redis1", big, {}, room, "refuse") == {
        "refuse": [],
        "warn": [],
    }
    # 5 GB come with their quarter, 4.9 are there
    tight = meminfo(20 * GIB, int(4.9 * GIB))
    (said,) = phases.memory_problems(planned(purposes=WIDE), "redis1", big, {}, tight, "refuse")["refuse"]
    for word in ("redis1", "20.0 GB", "a quarter more", "redis_split_memory_check"):
        assert word in said
    found = phases.memory_problems(planned(purposes=WIDE), "redis1", big, {}, tight, "warn")
    assert found == {"refuse": [], "warn": [said]}


def test_what_an_instance_holds_already_is_not_counted_twice() -> None:
    big, tight = facts(db10={"memory": {"bytes": 4 * GIB}}), meminfo(20 * GIB, GIB)
    for standing in ({"state": "cut_over"}, {"state": "copied"}, {"state": "copying", "keys_target": 100}):
        assert (
            phases.memory_problems(planned(purposes=WIDE), "redis1", big, {"cache": standing}, tight, "refuse")[
                "refuse"
            ]
            == []
        )


def test_memory_is_counted_by_host() -> None:
    big, tight = facts(db10={"memory": {"bytes": 4 * GIB}}), meminfo(20 * GIB, GIB)
    elsewhere = planned(purposes=[*PURPOSES[:2], {**WIDE[2], "host": "redis2"}])
    assert phases.memory_problems(elsewhere, "redis1", big, {}, tight, "refuse")["refuse"] == []
    assert phases.memory_problems(elsewhere, "redis2", big, {}, tight, "refuse")["refuse"] != []


def test_a_database_that_was_not_measured_counts_as_the_whole_server() -> None:
    blind = facts(db10={"memory": None})
    blind["server"]["used_memory"] = 4 * GIB
    assert (
        phases.memory_problems(planned(purposes=WIDE), "redis1", blind, {}, meminfo(20 * GIB, GIB), "refuse")["refuse"]
        != []
    )


def test_a_database_that_its_instance_cannot_hold() -> None:
    room = meminfo(20 * GIB, 15 * GIB)
    # 2 GB are its maxmemory, 2.6 its container's
    big = facts(db10={"memory": {"bytes": 4 * GIB}})
    found = phases.memory_problems(planned(), "redis1", big, {}, room, "refuse")
    (said,) = found["refuse"]
    for word in ("redis_split_purposes, cache: database 10", "4.0 GB", "maxmemory of 2.0 GB", "(2.6 GB)", "Raise it"):
        assert word in said
    assert found["warn"] == []
    assert phases.memory_problems(planned(), "redis1", big, {}, room, "warn") == {"refuse": [], "warn": [said]}
    there = {"cache": {"state": "copied"}}
    assert phases.memory_problems(planned(), "redis1", big, there, room, "refuse") == {"refuse": [], "warn": []}
    # without a container, or within its room, the kernel ends nothing
    tight = facts(db10={"memory": {"bytes": int(2.2 * GIB)}})
    for plan_, said_of in ((planned(), tight), (planned(backend="host"), big)):
        found = phases.memory_problems(plan_, "redis1", said_of, {}, room, "refuse")
        (said,) = found["warn"]
        assert found["refuse"] == [] and "more than its maxmemory of 2.0 GB, so that" in said


def test_limits_that_together_pass_four_fifths_warn() -> None:
    def warned(gib: int, **variables: Any) -> list[str]:
        return phases.memory_problems(
            planned(**variables), "redis1", facts(), {}, meminfo(gib * GIB, 3 * GIB), "refuse"
        )["warn"]

    (said,) = warned(4, backend="host")
    assert "the maxmemory values of" in said and "3.5 GB" in said and "80 %" in said
    assert warned(5, backend="host") == []
    # containers may use more
    (said,) = warned(7)
    assert "containers of" in said and "5.8 GB" in said
    assert warned(8) == []


# -- the watch --------------------------------------------------------------------------------------------------------

WELL = {
    "state": "cut_over",
    "reachable": True,
    "hits": 900,
    "misses": 100,
    "evicted": 0,
    "clients": [],
    "keys_target": 100,
}


def verdict(rates: Any = None, **standings: Any) -> dict[str, list[str]]:
    states = {one["name"]: {**WELL, **standings.get(one["name"], {})} for one in PURPOSES}
    return phases.verdict(planned(), states, rates or {})


def test_all_is_well() -> None:
    found = verdict({"cache": 0.9})
    assert (found["bad"], found["warn"]) == ([], [])
    assert len(found["good"]) == 3


def test_a_low_hit_rate_is_bad_once_there_is_enough_to_judge() -> None:
    (said,) = verdict({"cache": 0.95})["bad"]
    assert "cache: 90.0 % of 1000 look-ups" in said
    few = verdict({"cache": 0.95}, cache={"hits": 0, "misses": 99})
    assert few["bad"] == [] and "too few" in few["warn"][0]


def test_evictions_are_bad_where_there_must_be_none() -> None:
    (said,) = verdict(pipeline={"evicted": 3})["bad"]
    assert "pipeline: 3 keys were evicted" in said
    assert verdict(cache={"evicted": 3})["warn"] == []
    assert "Raise its maxmemory" in verdict(sessions={"evicted": 3})["warn"][0]


def test_clients_on_the_old_database_are_named() -> None:
    client = {"addr": "10.0.0.9:4711", "name": "worker", "user": "shop"}
    (said,) = verdict(pipeline={"clients": [client]})["warn"]
    for word in ("10.0.0.9:4711", "worker", "user shop", "old database 5", "10.0.0.6:6380"):
        assert word in said


def test_an_instance_that_does_not_answer_is_bad() -> None:
    assert "does not answer" in verdict(cache={"reachable": False})["bad"][0]


def test_what_has_not_moved_is_not_judged() -> None:
    found = phases.verdict(
        planned(), {one["name"]: {"state": "copied", "evicted": 9} for one in PURPOSES}, {"cache": 1.0}
    )
    assert (found["bad"], found["warn"]) == ([], [])


def test_what_the_shared_server_lacks() -> None:
    said = {"cache": {"kinds": {"missing": 5}}, "sessions": {"kinds": {"extra": 1}}, "pipeline": {"kinds": {}}}
    assert phases.lacking(said) == ["sessions"]


# -- what is said -----------------------------------------------------------------------------------------------------


def test_a_mirror_that_counts_as_a_replica_is_told() -> None:
    watched = {"clients": {"connections": 1, "seen": [{"name": "sentinel-1234abcd-cmd"}]}}
    found = facts(db0=watched)
    found["server"]["min_replicas_to_write"] = 1
    warned = " ".join(phases.source_problems(planned(), found)["warn"])
    assert "takes writes with 1 replicas only" in warned and "Sentinels watch 10.0.0.5:6379" in warned
    assert phases.source_problems(planned(strategy="copy"), found)["warn"] == []


def test_the_announcement_says_what_where_how_long_and_the_way_back() -> None:
    apps = [
        {"name": "web", "files": [{"path": "/srv/.env", "set": {"A": "cache"}}], "restart": "systemctl restart web"}
    ]
    the_plan = planned(apps=apps, strategy="copy")
    order = ["audit", "provision", "sync", "verify", "cutover", "watch"]
    live = "\n".join(telling.announcement(planned(apps=apps), order))
    assert "refused during the cutover, some milliseconds, and then until each application has been restarted." in live
    text = "\n".join(telling.announcement(the_plan, order, run={"inventory": ["/etc/hosts.ini"]}))
    for word in (
        "database 10 of 10.0.0.5:6379 -> 10.0.0.6:6381 on redis1",
        "/srv/.env",
        "systemctl restart web",
        "Writes to these databases: refused",
        "ansible-playbook -i /etc/hosts.ini njoy.untangle.rollback",
    ):
        assert word in text
    known = telling.announcement(the_plan, order, facts(db10={"keys": 400_000}))
    assert any("about 28 s (estimated: 400200 keys" in line for line in known)
    moved = {one["name"]: {"state": "cut_over"} for one in PURPOSES}
    assert any("not refused" in line for line in telling.announcement(the_plan, order, facts(), moved))
    assert "Check mode" in telling.announcement(the_plan, order, run={"check": True})[0]
    # a phase that refuses no writes says nothing about it
    assert not any("refused" in line for line in telling.announcement(the_plan, ["provision"]))


def test_a_rehearsal_says_what_it_took() -> None:
    result = {"purposes": {"cache": {}}, "fenced": ["web"], "write_refused_seconds": 0.0214}
    assert telling.rehearsed({}, result) == [
        "Rehearsed for cache: writes were refused for 21 ms (web). Nothing was switched over."
    ]
    assert "cut over already" in telling.rehearsed({}, {"purposes": {}})[0]


def test_a_plan_is_suggested() -> None:
    lines = telling.suggestion({}, facts(db10={"keys": 100, "expires": 100}, db3={"keys": 0}))
    suggested = yaml.safe_load("\n".join(lines))["redis_split_purposes"]
    assert [(one["database"], one["profile"]) for one in suggested] == [(0, "queue"), (5, "queue"), (10, "cache")]
    planned(purposes=suggested)


def test_endpoints_show_no_password() -> None:
    lines = telling.endpoints(planned(purposes=[{**PURPOSES[0], "password": "s3cret"}]), "/srv/untangle")
    assert lines == [
        "sessions: redis://sessions@10.0.0.6:6382/0, the password is in /srv/untangle/secrets/sessions.app on redis1"
    ]


def test_the_proof() -> None:
    states = {"sessions": {"state": "copied"}, "pipeline": {"state": "cut_over", "since": "then", "keys_target": 7}}
    compared = {"sessions": {"compared": 10, "differences": 2, "kinds": {"missing": 2}, "drift": True}}
    noted = {"pipeline": {"compared": 5, "differences": 0}}
    sessions, pipeline, cache = telling.proof(planned(), states, compared, noted)
    assert "10 keys compared, 2 differences: 2 missing (the shared server was written to since the copy" in sessions
    assert "cut over since then; at that moment 5 keys compared, no difference; now 7 keys at" in pipeline
    assert cache == "cache: planned"
