# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks against a real server, as a user runs them: from a fresh host to a split, back, forward again, and gone.

A run takes half a minute, so that one split is made once and looked at by many tests. The fixtures `finished`, `went_back`,
`forward` and `removed` are its stations, in this order; a test in between works on the station before it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import redis
from cores import OLDEST
from playbook_site import PROFILES, ROOT, SOURCE_SECRET, Run, Site, differs, needs

import servers

pytestmark = needs


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
    # the rest of the story on the oldest, which takes two thirds of the time
    site.core = OLDEST
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
    # nobody may have the old databases selected, these tests neither
    went_back.site.source.forget_clients()
    went_back.seen["unretired"] = went_back.site.snapshot()
    went_back.site.source.forget_clients()
    went_back.runs["retire in check mode"] = went_back.site.play("retire", *retire, "--check", "--diff")
    went_back.seen["still unretired"] = went_back.site.snapshot()
    went_back.site.source.forget_clients()
    went_back.runs["retire"] = went_back.site.play("retire", *retire, "-vvv", "--diff")
    went_back.runs["retire again"] = went_back.site.play("retire", *retire)
    return went_back


@pytest.fixture(scope="module")
def removed(forward: Story) -> Story:
    """Back from the retired state, and everything taken away."""
    forward.seen["at the end"] = forward.site.target_data()
    forward.seen["retired"] = forward.site.snapshot()
    forward.runs["back in check mode"] = forward.site.play("rollback", "--check", "--diff")
    forward.seen["still retired"] = forward.site.snapshot()
    forward.runs["back"] = forward.site.play("rollback", "-vvv", "--diff")
    forward.seen["returned"] = forward.site.source_data()
    forward.seen["secrets"] = forward.site.secrets()
    cache = forward.site.instance("cache")
    with pytest.raises(redis.exceptions.NoPermissionError):
        forward.site.instance("cache", "app").set("left behind", 1)
    # what a restart does too: the users are those of the file again, and so is what they may do
    cache.acl_load()
    forward.site.instance("cache", "app").set("left behind", 1)
    forward.runs["remove after a restart"] = forward.site.play("remove", ok=False)
    cache.delete("left behind")
    forward.runs["remove"] = forward.site.play("remove", "-vvv", "--diff")
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


def forms(secret: str) -> dict[str, str]:
    """A secret as it may be written."""
    raw = secret.encode()
    return {
        "as it is": secret,
        "in base64": base64.b64encode(raw).decode().rstrip("="),
        "in a URL": quote(secret, safe=""),
        "in JSON": json.dumps(secret)[1:-1],
        "as a digest": hashlib.sha256(raw).hexdigest(),
    }


def no_secret_in(secrets: dict[str, str], **texts: str) -> None:
    for where, secret in secrets.items():
        for said, text in texts.items():
            for form, words in forms(secret).items():
                assert words not in text, f"the secret {where} is in the {said}, {form}"


def test_no_secret_is_shown(finished: Story) -> None:
    site = finished.site
    report = (site.state / "report.html").read_text()
    split = (site.state / "split.json").read_text()
    commands = "\n".join(site.cmdlines)
    no_secret_in(site.secrets(), output=site.output, commands=commands, report=report, split=split)
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


def test_watch_and_status_after_a_way_back(went_back: Story) -> None:
    site = went_back.site
    site.play("watch").says(f"{site.names['cache']} is returned: nothing to watch")
    run = site.play("status")
    run.says(f"{site.names['cache']}: returned since")
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


def test_check_mode_of_retire_changes_nothing(forward: Story) -> None:
    assert forward.seen["unretired"] == forward.seen["still unretired"]
    forward.runs["retire in check mode"].says("back up and empty database 10 of")


def test_old_databases_are_retired(forward: Story) -> None:
    site = forward.site
    forward.runs["retire"].says(f"{site.source.address} is empty now and may be stopped", ".resp.gz")
    assert forward.runs["retire again"].changed == 0
    assert site.states() == {"retired"}
    assert site.admin().info("keyspace") == {}
    assert len(list((site.state / "backup").iterdir())) == 3


@pytest.mark.parametrize("phase", ["provision", "sync", "verify", "cutover", "watch", "status", "remove"])
def test_a_retired_split_stays_as_it_is(forward: Story, phase: str) -> None:
    site = forward.site
    before = site.target_data()
    assert site.play(phase, ok=phase != "remove").changed == 0
    assert differs(before, site.target_data()) == {}
    assert site.states() == {"retired"}


# -- gone -------------------------------------------------------------------------------------------------------------


def test_even_from_retired_the_instances_come_back_whole(removed: Story) -> None:
    assert differs(removed.seen["at the end"], removed.seen["returned"]) == {}


def test_what_took_writes_after_the_way_back_is_not_taken_away(removed: Story) -> None:
    run = removed.runs["remove after a restart"]
    run.says(
        f"{removed.site.names['cache']}: the instance holds what the shared server lacks", "redis_split_accept_loss"
    )
    assert run.changed == 0


def test_check_mode_of_rollback_changes_nothing(removed: Story) -> None:
    assert removed.seen["retired"] == removed.seen["still retired"]
    removed.runs["back in check mode"].says(removed.site.names["cache"])


def test_no_secret_was_shown_to_the_end(removed: Story) -> None:
    site = removed.site
    no_secret_in(removed.seen["secrets"], output=site.output, commands="\n".join(site.cmdlines))


def test_everything_is_taken_away(removed: Story) -> None:
    site = removed.site
    assert removed.runs["remove again"].changed == 0, removed.runs["remove again"].output[-3000:]
    left = [str(path) for path in site.state.rglob("*") if path.is_file()] if site.state.exists() else []
    assert [path for path in left if "/backup/" not in path] == []
    after = site.snapshot()
    assert after["processes"] == removed.seen["fresh"]["processes"]
    assert after["acl"] == removed.seen["fresh"]["acl"]
    assert sorted(path.name for path in site.top.glob("web1*")) == ["web1.env"]


@pytest.mark.skipif(
    not Site.docker("image", "ls", "--quiet", "redis:7.0"), reason="no Docker engine: run `make testbed`"
)
def test_in_containers_with_tls_and_text_for_everything_on_the_oldest_core() -> None:
    """From the installed tarball; applications on two hosts, and a strategy that the plays must not take over."""
    site = Site("web1", "web2", core=OLDEST, redis_split_backend="compose", redis_split_image="redis:7.0")
    del site.variables["redis_split_strategy"]
    site.install_tarball()
    try:
        files = servers.certificate(site.top)
        site.variables["redis_split_tls"] = files
        given: dict[str, Any] = {"variables": as_text(site.variables), "environment": {"ANSIBLE_STRATEGY": "free"}}
        fresh = site.snapshot()
        site.fill()
        data = site.source_data()
        # the second application does not come back at the first try: the run fails, and the next one finishes it
        flag = site.top / "web2.fails"
        restart = site.variables["redis_split_apps"][1]["restart"]
        site.variables["redis_split_apps"][1]["restart"] = f"test ! -e {flag} || exit 3; {restart}"
        given["variables"] = as_text(site.variables)
        flag.touch()
        site.play("split_redis", ok=False, **given).says("web2")
        assert site.states() == {"cut_over"} and site.restarts() == ["web1"]
        flag.unlink()
        site.play("cutover", **given)
        assert site.states() == {"cut_over"} and set(site.restarts()) == {"web1", "web2"}
        assert len(site.docker("ps", "--quiet", "--filter", f"name={site.tag}").split()) == 3
        for file in site.files.values():
            assert f"CACHE_URL=rediss://{site.names['cache']}:" in file.read_text()
        with pytest.raises(redis.ConnectionError):
            site.instance("cache").ping()
        tls = {"ssl": True, "ssl_ca_certs": files["ca_file"]}
        assert differs(data, site.target_data(**tls)) == {}
        for kind in PROFILES:
            assert site.instance(kind, "app", **tls).set("written", "over TLS")
        site.play("watch", **given)
        # a server in a container proves the backup
        site.source.forget_clients()
        retire = {"redis_split_retire": [site.names["cache"]], "redis_split_watch_seconds": 0}
        site.play("retire", "-e", json.dumps(retire), **given)
        assert site.admin(10).dbsize() == 0 < site.admin(5).dbsize()
        log = len(site.restarts())
        site.play("rollback", **given)
        assert site.states() == {"returned"}
        back = site.source_data()
        assert all(back[kind].pop(b"written") for kind in PROFILES)
        assert differs(data, back) == {}
        assert {name: file.read_text() for name, file in site.files.items()} == site.before
        assert sorted(site.restarts()[log:]) == ["web1", "web2"]
        site.play("remove", **given)
        assert site.snapshot()["containers"] == []
        assert site.docker("volume", "ls", "--quiet", "--filter", f"name={site.tag}") == ""
        assert site.snapshot()["acl"] == fresh["acl"]
    finally:
        site.close()


def test_every_phase_has_a_playbook() -> None:
    phases = "audit provision sync verify cutover watch rollback retire remove status split_redis split-redis"
    assert {path.stem for path in (ROOT / "playbooks").glob("*.yml")} == set(phases.split())
