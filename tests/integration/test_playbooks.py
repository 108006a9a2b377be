# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks against a real server, as a user runs them: from a fresh host to a split, back, forward again, and gone.

A run takes half a minute, so that one split is made once and looked at by many tests. The fixtures `finished`, `went_back`,
`forward` and `removed` are its stations, in this order; a test in between works on the station before it.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from playbook_site import PROFILES, ROOT, SOURCE_SECRET, Run, Site, core

import servers

pytestmark = [
    pytest.mark.servers,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not servers.command("redis-7.0"), reason="no redis-server 7.0: run `make testbed`"),
    pytest.mark.skipif(os.getuid() != 0, reason="instances run as the server's own user, which takes root"),
]
OLDEST = "2.17.14"


def differs(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Where two sides differ, by kind."""
    import dataset

    return {kind: found for kind in PROFILES if (found := dataset.difference(one[kind], other[kind]))}


def as_text(variables: dict[str, Any]) -> dict[str, str]:
    """Every variable as `-e name=value` and a survey give it."""
    return {
        name: json.dumps(value) if isinstance(value, (list, dict)) else str(value).lower()
        for name, value in variables.items()
    }


# -- the stations of one split ----------------------------------------------------------------------------------------


class Story:
    """A site and the runs that were made on it."""

    def __init__(self) -> None:
        self.site = Site()
        self.runs: dict[str, Run] = {}
        self.seen: dict[str, Any] = {}


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    made = Story()
    yield made
    made.site.close()


@pytest.fixture(scope="module")
def finished(story: Story) -> Story:
    """A fresh host, looked at in check mode, and then split."""
    site = story.site
    site.fill()
    story.seen["fresh"] = site.snapshot()
    story.runs["check"] = site.play("split_redis", "--check", "--diff")
    story.seen["checked"] = site.snapshot()
    story.seen["data"] = site.source_data()
    story.runs["first"] = site.play("split_redis", "-vvv", "--diff")
    return story


@pytest.fixture(scope="module")
def went_back(finished: Story) -> Story:
    """A watch that finds something bad and is told to go back."""
    site = finished.site
    for kind in PROFILES:
        site.instance(kind, "app").set("written", "after the cutover")
        site.instance(kind, "app").delete("int")
    queue = site.instance("pipeline")
    kept = queue.config_get("maxmemory*")
    queue.config_set("maxmemory-policy", "allkeys-lru")
    queue.config_set("maxmemory", 1)
    with pytest.raises(redis.ResponseError):
        queue.set("x", "1")
    for name, value in kept.items():
        if name in ("maxmemory", "maxmemory-policy"):
            queue.config_set(name, value)
    finished.seen["served"] = site.target_data()
    finished.runs["watch"] = site.play("watch", "-e", "redis_split_rollback_on_watch=true", ok=False)
    return finished


@pytest.fixture(scope="module")
def forward(went_back: Story) -> Story:
    """The same split once more, and its old databases retired."""
    went_back.seen["data again"] = went_back.site.source_data()
    went_back.runs["forward"] = went_back.site.play("split_redis")
    retire = ["-e", json.dumps({"redis_split_retire": ["all"], "redis_split_watch_seconds": 0})]
    retire[1] = retire[1].replace('["all"]', json.dumps(list(went_back.site.names.values())))
    went_back.runs["retire"] = went_back.site.play("retire", *retire)
    went_back.runs["retire again"] = went_back.site.play("retire", *retire)
    return went_back


@pytest.fixture(scope="module")
def removed(forward: Story) -> Story:
    """Back from the retired state, and everything taken away."""
    forward.seen["at the end"] = forward.site.target_data()
    forward.runs["back"] = forward.site.play("rollback")
    forward.seen["returned"] = forward.site.source_data()
    forward.seen["secrets"] = forward.site.secrets()
    forward.runs["remove"] = forward.site.play("remove")
    forward.runs["remove again"] = forward.site.play("remove")
    return forward


# -- a fresh host -----------------------------------------------------------------------------------------------------


def test_check_mode_changes_nothing(finished: Story) -> None:
    before, after = finished.seen["fresh"], finished.seen["checked"]
    for what in before:
        assert after[what] == before[what], what


def test_check_mode_says_what_would_be(finished: Story) -> None:
    site, run = finished.site, finished.runs["check"]
    keys = len(finished.seen["data"]["cache"])
    run.says(
        "Check mode, nothing will be changed.",
        f"database 10 of {site.source.address} -> 127.0.0.1:{site.ports['cache']} on redis1",
        # audit
        f"db 10 ({site.names['cache']}): {keys} keys",
        # provision: what would be written
        "+maxmemory 67108864",
        f"+port {site.ports['cache']}",
        # sync
        f"copy {keys} keys of database 10 of {site.source.address}",
        # verify
        "would compare every key of database 10",
        # cutover: fence, files, commands
        "refuse writes of default",
        "+CACHE_URL=",
        f"echo web1 >> {site.log}",
    )


def test_the_first_lines_say_what_is_about_to_happen(finished: Story) -> None:
    site, run = finished.site, finished.runs["first"]
    # before any host was asked anything
    head = run.output.partition("PLAY [Look at the shared server]")[0]
    for text in (
        f"{site.names['sessions']}: database 0 of {site.source.address} -> 127.0.0.1:{site.ports['sessions']} on redis1",
        str(site.files["web1"]),
        "Writes to these databases: refused",
        f"To go back: ansible-playbook -i {site.inventory} njoy.untangle.rollback",
    ):
        assert text in head
    run.says("(estimated: ")


def test_one_run_splits(finished: Story) -> None:
    site, run = finished.site, finished.runs["first"]
    assert differs(finished.seen["data"], site.target_data()) == {}
    assert site.states() == {"cut_over"}
    password = {kind: (site.state / "secrets" / f"{name}.app").read_text() for kind, name in site.names.items()}
    text = site.files["web1"].read_text()
    assert f"CACHE_URL=redis://{site.names['cache']}:{password['cache']}@127.0.0.1:{site.ports['cache']}/0\n" in text
    assert f"QUEUE_HOST=127.0.0.1\nQUEUE_PORT={site.ports['pipeline']}\n" in text
    assert text.startswith("# the shop\nDEBUG=0\n")
    assert site.restarts() == ["web1"]
    run.says("keys compared, no difference", f"{site.state}/report.html on redis1")
    assert site.names["cache"] in (site.state / "report.html").read_text()
    # the old side takes no more writes
    with pytest.raises(redis.exceptions.NoPermissionError):
        site.source.client(10, username="default", password=SOURCE_SECRET).set("late", "1")


def test_no_secret_is_shown(finished: Story) -> None:
    site = finished.site
    report = (site.state / "report.html").read_text()
    split = (site.state / "split.json").read_text()
    commands = "\n".join(site.cmdlines)
    for where, secret in site.secrets().items():
        for said, text in (
            ("output", site.output),
            ("command lines", commands),
            ("report", report),
            ("split.json", split),
        ):
            assert secret not in text, f"the secret {where} is in the {said}"
    assert "redis-server" in commands, "the watch for command lines saw nothing"


def test_a_second_run_changes_nothing_and_loses_nothing(finished: Story) -> None:
    """With every variable as text, on the oldest ansible-core that is here, and with another strategy asked for."""
    site = finished.site
    for kind, (number, _profile) in PROFILES.items():
        site.instance(kind, "app").set("new", "on the target")
        site.instance(kind, "app").delete("empty")
        site.admin(number).set("stale", "at the source")
    before, old = site.target_data(), site.source_data()
    run = site.play(
        "split_redis",
        "-e",
        "redis_split_until=",
        version=OLDEST if core(OLDEST) else None,
        variables=as_text(site.variables),
        environment={"ANSIBLE_STRATEGY": "free"},
    )
    assert run.changed == 0, run.output[-3000:]
    assert differs(before, site.target_data()) == {}
    assert differs(old, site.source_data()) == {}
    assert site.restarts() == ["web1"]


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("retire", ["is watched for 86400 s (redis_split_watch_seconds)"]),
        ("remove", ["the instance serves", "Run rollback first"]),
    ],
)
def test_what_is_refused_while_instances_serve(finished: Story, phase: str, words: list[str]) -> None:
    site = finished.site
    before = site.target_data()
    run = site.play(phase, "-e", json.dumps({"redis_split_retire": [site.names["cache"]]}), ok=False)
    run.says(*words)
    assert run.changed == 0
    assert differs(before, site.target_data()) == {}


def test_status_shows_everything_and_changes_nothing(finished: Story) -> None:
    site = finished.site
    before = site.snapshot()
    run = site.play("status")
    run.says(f"{site.names['cache']}: cut over since", f"Kept from writing to {site.source.address}: default", "keys")
    assert run.changed == 0
    assert {k: v for k, v in site.snapshot().items() if k != "processes"} == {
        k: v for k, v in before.items() if k != "processes"
    }


def test_watch_names_clients_on_the_old_database_and_judges_hits(finished: Story) -> None:
    site = finished.site
    straggler = site.source.client(10, username="default", password=SOURCE_SECRET, client_name="straggler")
    straggler.get("x")
    cache = site.instance("cache", "app")
    # what the tests read so far were hits
    for _ in range(cache.info("stats")["keyspace_hits"] // 5):
        cache.get("nothing")
    run = site.play("watch", "-e", "redis_split_min_hit_rate=0.9", ok=False)
    run.says("straggler", "still has the old database 10 selected", "look-ups were hits, less than the 90.0 %")
    straggler.close()
    assert site.states() == {"cut_over"}


# -- back -------------------------------------------------------------------------------------------------------------


def test_a_watch_that_goes_back_ends_as_failed(went_back: Story) -> None:
    site, run = went_back.site, went_back.runs["watch"]
    run.says(
        "keys were evicted", "The split was rolled back because of what the watch found", "serves all purposes again"
    )
    assert site.states() == {"returned"}
    assert site.files["web1"].read_text() == site.before["web1"]
    assert site.restarts() == ["web1", "web1"]


def test_nothing_is_lost_on_the_way_back(went_back: Story) -> None:
    site = went_back.site
    assert differs(went_back.seen["served"], site.source_data()) == {}
    shop = site.source.client(10, username="default", password=SOURCE_SECRET)
    assert shop.get("written") == b"after the cutover"
    assert shop.set("writable", "again")
    shop.delete("writable")
    with pytest.raises(redis.RedisError):
        site.instance("cache", "app").set("late", "1")


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("cutover", ["not in step", "Run sync first"]),
        ("verify", ["Run provision and sync first"]),
        ("retire", ["is not cut over"]),
    ],
)
def test_what_is_refused_after_a_way_back(went_back: Story, phase: str, words: list[str]) -> None:
    site = went_back.site
    run = site.play(phase, "-e", json.dumps({"redis_split_retire": [site.names["cache"]]}), ok=False)
    run.says(*words)
    assert run.changed == 0
    assert site.states() == {"returned"}


def test_going_back_twice_changes_nothing(went_back: Story) -> None:
    run = went_back.site.play("rollback")
    assert run.changed == 0, run.output[-3000:]


# -- forward again, and retired ---------------------------------------------------------------------------------------


def test_the_way_forward_is_open_again(forward: Story) -> None:
    site = forward.site
    assert differs(forward.seen["data again"], site.target_data()) == {}
    assert str(site.ports["pipeline"]) in site.files["web1"].read_text()


def test_old_databases_are_retired(forward: Story) -> None:
    site = forward.site
    forward.runs["retire"].says(f"{site.source.address} is empty now and may be stopped", ".resp.gz")
    assert forward.runs["retire again"].changed == 0
    assert site.states() == {"retired"}
    assert site.admin().info("keyspace") == {}
    assert len(list((site.state / "backup").iterdir())) == 3


@pytest.mark.parametrize("phase", ["sync", "cutover", "watch"])
def test_a_retired_split_stays_as_it_is(forward: Story, phase: str) -> None:
    site = forward.site
    before = site.target_data()
    assert site.play(phase).changed == 0
    assert differs(before, site.target_data()) == {}
    assert site.states() == {"retired"}


# -- gone -------------------------------------------------------------------------------------------------------------


def test_even_from_retired_the_instances_come_back_whole(removed: Story) -> None:
    assert differs(removed.seen["at the end"], removed.seen["returned"]) == {}


def test_everything_is_taken_away(removed: Story) -> None:
    site = removed.site
    assert removed.runs["remove again"].changed == 0, removed.runs["remove again"].output[-3000:]
    left = [str(path) for path in site.state.rglob("*") if path.is_file()] if site.state.exists() else []
    assert [path for path in left if "/backup/" not in path] == []
    after = site.snapshot()
    assert after["processes"] == removed.seen["fresh"]["processes"]
    assert after["acl"] == removed.seen["fresh"]["acl"]
    assert sorted(path.name for path in site.top.glob("web1*")) == ["web1.env"]


# -- refused before anything was done ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh() -> Iterator[Site]:
    """A host on which nothing was ever done, and on which nothing may be done by what is refused."""
    site = Site("web1", "web2")
    site.fill()
    before = site.snapshot()
    yield site
    site.write_inventory()
    after = site.snapshot()
    assert {k: v for k, v in after["files"].items() if "inventory" not in k} == {
        k: v for k, v in before["files"].items() if "inventory" not in k
    }
    assert {k: v for k, v in after.items() if k != "files"} == {k: v for k, v in before.items() if k != "files"}
    site.close()


@pytest.mark.parametrize("version", [None, OLDEST])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "web1"], "--limit web1 leaves out"),
        # Ansible itself refuses this one, unless the inventory names localhost
        (["--limit", "localhost"], "leaves us with no hosts to target"),
        (["--limit", "localhost", "-i", "localhost,"], "--limit localhost leaves out"),
        (["--skip-tags", "always"], "--skip-tags always would leave out"),
        (["--tags", "cutover"], "--tags cutover would leave out"),
        (["-e", "redis_split_untill=verify"], "Is it redis_split_until?"),
    ],
    ids=["limit", "limit-localhost", "limit-named-localhost", "skip-tags", "tags", "variable"],
)
def test_a_run_in_part_is_refused(fresh: Site, words: list[str], said: str, version: str | None) -> None:
    if version and (not core(version) or words[0] == "--tags"):
        pytest.skip(f"ansible-core {version} is not here, or adds nothing: `make units-matrix` brings it")
    run = fresh.play("split_redis", *words, ok=False, version=version)
    run.says(said)
    assert run.changed == 0


def test_a_phase_alone_is_refused_in_part_as_well(fresh: Site) -> None:
    """The last play of cutover by itself would point applications at instances that hold nothing."""
    run = fresh.play("cutover", "--limit", "web1,web2", ok=False)
    run.says("--limit web1,web2 leaves out redis1")
    assert run.changed == 0


def test_a_misspelt_group_is_refused(fresh: Site) -> None:
    fresh.write_inventory(redis_split_app_hosts=[], redis_split_apphosts=["web1", "web2"])
    try:
        fresh.play("split_redis", ok=False).says("redis_split_apphosts, which means nothing here")
    finally:
        fresh.write_inventory()


def changed_purpose(site: Site, kind: str, **facts: Any) -> str:
    purposes = [dict(one) for one in site.variables["redis_split_purposes"]]
    purposes[list(PROFILES).index(kind)].update(facts)
    return json.dumps({"redis_split_purposes": purposes})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"port": "of sessions"}, ["redis_split_purposes", "both have port", "its own port"]),
        ({"database": 0}, ["redis_split_purposes", "both have database 0", "One database goes to one purpose"]),
        ({"name": "Cache-1"}, ["redis_split_purposes", "lower-case letters"]),
        ({"database": 99}, ["redis_split_purposes", "has no database 99", "0 to 15", "Correct its number"]),
        ({"port": "taken"}, ["is in use by", "Choose another port", "redis_split_purposes"]),
        ({"maxmemory": "900gb"}, ["WARNING", "more than 80 %", "lower maxmemory in redis_split_purposes"]),
    ],
    ids=["one-port", "one-database", "name", "no-such-database", "port-in-use", "limits"],
)
def test_a_plan_that_cannot_be(fresh: Site, change: dict[str, Any], words: list[str]) -> None:
    taken = None
    if change.get("port") == "taken":
        taken = servers.Server.run("redis-7.0")
        change = {"port": taken.port}
    elif "port" in change:
        change = {"port": fresh.ports["sessions"]}
    run = fresh.play("audit", "-e", changed_purpose(fresh, "cache", **change), ok="maxmemory" in change)
    if taken:
        taken.close()
    run.says(*words)
    assert run.changed == 0


def test_an_empty_database_warns(fresh: Site) -> None:
    fresh.play("audit", "-e", changed_purpose(fresh, "cache", database=7)).says(
        "database 7", "is empty", "has no purpose"
    )


@pytest.mark.parametrize("answer", ["refuse", "warn"])
def test_memory_that_does_not_fit(fresh: Site, tmp_path: Path, answer: str) -> None:
    """A host with little memory: the kernel's own table, replaced for this run alone by a mount that only it sees."""
    small = tmp_path / "meminfo"
    small.write_text("MemTotal: 65536 kB\nMemAvailable: 1024 kB\n")
    script = f'mount --bind {small} /proc/meminfo && exec "$@"'
    run = fresh.play(
        "audit",
        "-e",
        f"redis_split_memory_check={answer}",
        ok=answer == "warn",
        inside=["unshare", "--mount", "sh", "-c", script, "sh"],
    )
    run.says("its memory of 64.0 MB does not hold what is used now", "redis_split_memory_check")
    assert ("WARNING" in run.output) == (answer == "warn")
    assert run.changed == 0


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"password": "wr0ng-secret"}, ["refuses the login of user default", "password of redis_split_source"]),
        ({"port": 1}, ["cannot be reached", "host, port and tls of redis_split_source"]),
    ],
    ids=["password", "unreachable"],
)
def test_a_source_that_cannot_be_used(fresh: Site, source: dict[str, Any], words: list[str]) -> None:
    given = {**fresh.variables["redis_split_source"], **source}
    run = fresh.play("split_redis", "-e", json.dumps({"redis_split_source": given}), ok=False)
    run.says(*words)
    assert "wr0ng-secret" not in run.output


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("sync", ["no instance was made for it yet", "Run provision first"]),
        ("cutover", ["Run provision first"]),
        ("verify", ["Run provision and sync first"]),
        ("retire", ["is not cut over"]),
    ],
)
def test_what_a_planned_purpose_refuses(fresh: Site, phase: str, words: list[str]) -> None:
    run = fresh.play(phase, "-e", json.dumps({"redis_split_retire": [fresh.names["cache"]]}), ok=False)
    run.says(*words)
    assert run.changed == 0


def test_retire_wants_names(fresh: Site) -> None:
    fresh.play("retire", ok=False).says("redis_split_retire is empty", "Name the purposes")


@pytest.mark.parametrize("phase", ["status", "watch"])
def test_what_a_planned_purpose_allows(fresh: Site, phase: str) -> None:
    run = fresh.play(phase, "-e", f"redis_split_report_path={fresh.top}/ansible/report.html")
    run.says("planned")


def test_an_audit_needs_no_plan(fresh: Site) -> None:
    run = fresh.play("audit", "-e", json.dumps({"redis_split_purposes": [], "redis_split_apps": []}))
    run.says("redis_split_purposes:", "{name: db10, database: 10")


# -- broken off -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken() -> Iterator[Site]:
    """Two applications, both of which can be stopped: nobody is fenced, and a run that breaks off leaves them stopped."""
    site = Site("web1", "web2")
    for app in site.variables["redis_split_apps"]:
        name = app["name"]
        app.update(stop=f"echo {name} stop >> {site.log}", start=f"echo {name} start >> {site.log}")
        del app["restart"]
    site.fill()
    yield site
    site.close()


def test_a_split_that_is_broken_off_in_every_phase_is_finished(broken: Site) -> None:
    site = broken
    data = site.source_data()
    site.play("provision", until="Have each instance as planned", how=signal.SIGKILL, ok=False)
    site.play("provision", until="TASK [Hand over to app_endpoints]", how=signal.SIGINT, ok=False)
    site.play("provision")
    assert site.play("provision").changed == 0
    site.play("sync", until="TASK [njoy.untangle.redis_split : Copy the databases]", how=signal.SIGKILL, ok=False)
    site.play("sync")
    assert differs(data, site.target_data()) == {}
    assert site.play("sync").changed == 0

    # applications are stopped, nothing is cut over yet
    site.play("cutover", until="TASK [njoy.untangle.redis_split : Cut over]", how=signal.SIGINT, ok=False)
    assert site.restarts()[:4] == ["web1", "stop", "web2", "stop"]
    # cut over perhaps by now, applications not flipped
    site.play("cutover", until="PLAY [Point the applications at their instances]", how=signal.SIGKILL, ok=False)
    assert all(file.read_text() == site.before[name] for name, file in site.files.items())
    # flipped, not started
    site.play("cutover", until="TASK [njoy.untangle.app_endpoints : Restart", how=signal.SIGKILL, ok=False)
    site.play("cutover")
    assert site.states() == {"cut_over"}
    assert differs(data, site.target_data()) == {}
    assert site.restarts()[-4:].count("start") == 2
    assert site.play("cutover").changed == 0

    site.instance("cache", "app").set("written", "since")
    data = site.target_data()
    site.play(
        "rollback", until="TASK [njoy.untangle.redis_split : Bring back what was written", how=signal.SIGINT, ok=False
    )
    site.play("rollback", until="TASK [njoy.untangle.app_endpoints : Put the names back", how=signal.SIGKILL, ok=False)
    site.play("rollback")
    assert site.states() == {"returned"}
    assert differs(data, site.source_data()) == {}
    assert {name: file.read_text() for name, file in site.files.items()} == site.before
    assert [str(path) for path in site.top.glob("*untangle*")] == []


def test_a_host_that_fails_stops_the_cutover_before_it_begins(broken: Site) -> None:
    """The second application's file is missing: the first application is not flipped either, and is not left stopped."""
    site = broken
    site.play("sync")
    lost = site.files["web2"]
    lost.rename(lost.with_suffix(".away"))
    try:
        run = site.play("cutover", ok=False)
    finally:
        lost.with_suffix(".away").rename(lost)
    run.says(str(lost))
    assert site.states() == {"copied"}
    assert site.files["web1"].read_text() == site.before["web1"]


def test_a_cutover_that_is_refused_starts_what_it_stopped(broken: Site) -> None:
    """Somebody writes although the applications are stopped: nothing is switched, and they run again as they were."""
    site = broken
    log = len(site.restarts())
    script = f"while :; do redis-cli -p {site.source.port} -n 10 --no-auth-warning INCR busy; done"
    writer = servers.subprocess.Popen(
        ["sh", "-c", script],
        env={**os.environ, "REDISCLI_AUTH": SOURCE_SECRET},
        stdout=servers.subprocess.DEVNULL,
        stderr=servers.subprocess.DEVNULL,
    )
    try:
        run = site.play("cutover", ok=False)
    finally:
        writer.kill()
        writer.wait()
    run.says("was written to")
    assert site.states() == {"copied"}
    assert {name: file.read_text() for name, file in site.files.items()} == site.before
    assert sorted(site.restarts()[log:]) == ["start", "start", "stop", "stop", "web1", "web1", "web2", "web2"]


def test_without_applications_the_run_ends_after_verify(broken: Site) -> None:
    site = broken
    run = site.play("split_redis", "-e", "redis_split_apps=[]")
    run.says(
        f"redis://{site.names['cache']}@127.0.0.1:{site.ports['cache']}/0, the password is in {site.state}/secrets"
    )
    assert site.states() == {"copied"}
    assert "redis_cutover" not in run.output


def test_a_copy_that_was_written_to_is_not_taken_away(broken: Site) -> None:
    site = broken
    site.instance("cache", "app").set("by hand", "an application was pointed at the copy")
    site.play("remove", ok=False).says("holds what the shared server lacks", "redis_split_accept_loss")
    assert site.instance("cache").get("by hand")


def test_tls_from_end_to_end() -> None:
    """Instances that speak TLS alone, over all phases; applications get rediss URLs. The shared server stays as it is."""
    site = Site()
    try:
        files = servers.certificate(site.top)
        site.variables["redis_split_tls"] = files
        site.fill()
        data = site.source_data()
        site.play("split_redis")
        assert f"CACHE_URL=rediss://{site.names['cache']}:" in site.files["web1"].read_text()
        with pytest.raises(redis.ConnectionError):
            site.instance("cache").ping()
        tls = {"ssl": True, "ssl_ca_certs": files["ca_file"]}
        for kind in PROFILES:
            assert site.instance(kind, **tls).dbsize() == len(data[kind])
            assert site.instance(kind, "app", **tls).set("written", "over TLS")
        site.play("rollback")
        assert site.source.client(10, username="default", password=SOURCE_SECRET).get("written") == b"over TLS"
    finally:
        site.close()


def test_every_playbook_is_a_fqcn() -> None:
    names = {path.stem for path in (ROOT / "playbooks").glob("*.yml")}
    phases = "audit provision sync verify cutover watch rollback retire remove status split_redis split-redis"
    assert names == set(phases.split())
    assert Path(ROOT / "playbooks/split-redis.yml").exists()
    assert time.monotonic() > 0
