# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks that are broken off, by a signal in each phase or by a host that fails: finished by the next run, never half."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator

import pytest
from cores import OLDEST
from playbook_site import SOURCE_SECRET, Site, differs, needs

import servers

pytestmark = needs


@pytest.fixture(scope="module")
def broken() -> Iterator[Site]:
    """Two applications, both of which can be stopped: nobody is fenced, and a run that breaks off leaves them stopped."""
    site = Site("web1", "web2", core=OLDEST)
    for app in site.variables["redis_split_apps"]:
        name = app["name"]
        app.update(stop=f"echo {name} stop >> {site.log}", start=f"echo {name} start >> {site.log}")
        del app["restart"]
    site.fill()
    yield site
    site.close()


def test_a_split_that_is_broken_off_in_every_phase_is_finished(broken: Site) -> None:
    site = broken
    # the default; the tests that follow copy
    del site.variables["redis_split_strategy"]
    data = site.source_data()
    fresh = site.snapshot()
    site.play(
        "audit",
        until="TASK [njoy.untangle.redis_split : Read what the shared server holds]",
        how=signal.SIGINT,
        ok=False,
    )
    assert site.snapshot() == fresh
    # the whole split as one run
    site.play("split_redis", until="PLAY [Look at the hosts of the instances]", how=signal.SIGKILL, ok=False)
    assert site.snapshot() == fresh
    site.play("provision", until="Have each instance as planned", how=signal.SIGKILL, ok=False)
    site.play("provision", until="TASK [Hand over to app_endpoints]", how=signal.SIGINT, ok=False)
    site.play("provision")
    site.play("split_redis", until="TASK [njoy.untangle.redis_split : Copy the databases]", how=signal.SIGINT, ok=False)
    site.play("sync", until="TASK [njoy.untangle.redis_split : Copy the databases]", how=signal.SIGKILL, ok=False)
    site.play("sync")
    assert differs(data, site.target_data()) == {}
    assert site.play("sync").changed == 0
    old = site.source_data()
    site.play("verify", until="TASK [njoy.untangle.redis_split : Compare both sides]", how=signal.SIGINT, ok=False)
    site.play("verify", until="TASK [njoy.untangle.redis_split : Compare both sides]", how=signal.SIGKILL, ok=False)
    site.play("verify").says("no difference")
    assert differs(old, site.source_data()) == {}

    # applications are stopped, nothing is cut over yet
    site.play("cutover", until="TASK [njoy.untangle.redis_split : Cut over]", how=signal.SIGINT, ok=False)
    assert sorted(site.restarts()[:4]) == ["stop", "stop", "web1", "web2"]
    # cut over perhaps by now, applications not flipped
    site.play("cutover", until="PLAY [Point the applications at their instances]", how=signal.SIGKILL, ok=False)
    assert all(file.read_text() == site.before[name] for name, file in site.files.items())
    # flipped, not started
    site.play("cutover", until="TASK [njoy.untangle.app_endpoints : Restart", how=signal.SIGKILL, ok=False)
    site.play("cutover")
    assert site.states() == {"cut_over"}
    assert differs(data, site.target_data()) == {}
    assert site.restarts()[-4:].count("start") == 2

    for how in (signal.SIGKILL, signal.SIGINT):
        site.play("watch", until="TASK [njoy.untangle.redis_split : Ask where each purpose stands]", how=how, ok=False)
    site.play("status", until="TASK [njoy.untangle.redis_split : Ask where each", how=signal.SIGKILL, ok=False)
    assert site.states() == {"cut_over"}

    site.instance("cache", "app").set("written", "since")
    data = site.target_data()

    # an application that cannot be stopped: the instances go on serving, and nobody is left stopped
    log, files = len(site.restarts()), {name: file.read_text() for name, file in site.files.items()}
    site.play("rollback", "-e", unstoppable(site), ok=False).says("web2 on web2 could not be stopped: stuck")
    assert site.states() == {"cut_over"}
    assert {name: file.read_text() for name, file in site.files.items()} == files
    assert sorted(site.restarts()[log:]) == ["start", "start", "stop", "web1", "web1", "web2"]
    assert site.instance("cache", "app").set("written", "since")
    assert differs(data, site.target_data()) == {}

    site.play(
        "rollback", until="TASK [njoy.untangle.redis_split : Bring back what was written", how=signal.SIGINT, ok=False
    )
    site.play("rollback", until="TASK [njoy.untangle.app_endpoints : Put the names back", how=signal.SIGKILL, ok=False)
    site.play("rollback")
    assert site.states() == {"returned"}
    assert differs(data, site.source_data()) == {}
    assert {name: file.read_text() for name, file in site.files.items()} == site.before
    assert [str(path) for path in site.top.glob("*untangle*")] == []
    site.variables["redis_split_strategy"] = "copy"


def test_retire_and_remove_that_are_broken_off_are_finished() -> None:
    """Whatever was emptied is in a backup and in the instance that serves."""
    site = Site(core=OLDEST)
    try:
        site.fill()
        fresh = site.snapshot()
        for phase in ("provision", "sync"):
            site.play(phase)
        data = site.source_data()
        # its user is fenced: killed under the fence or before it, the application is not left without a place to write to
        for how in (signal.SIGKILL, signal.SIGINT):
            site.play("cutover", until="TASK [njoy.untangle.redis_split : Cut over]", how=how, ok=False)
        site.play("cutover")
        assert differs(data, site.target_data()) == {}
        site.source.forget_clients()
        given = ["-e", json.dumps({"redis_split_retire": [*site.names.values()], "redis_split_watch_seconds": 0})]
        task = "TASK [njoy.untangle.redis_split : Back up and empty the old databases]"
        site.play("retire", *given, until=task, how=signal.SIGINT, ok=False)
        site.play("retire", *given, until=task, how=signal.SIGKILL, ok=False)
        site.play("retire", *given)
        assert site.states() == {"retired"}
        assert differs(data, site.target_data()) == {}
        site.play("rollback")
        assert differs(data, site.source_data()) == {}
        site.play(
            "remove",
            until="TASK [njoy.untangle.redis_instances : Take each instance away]",
            how=signal.SIGKILL,
            ok=False,
        )
        site.play(
            "remove",
            until="TASK [njoy.untangle.redis_split : Take away what the engine left",
            how=signal.SIGINT,
            ok=None,
        )
        site.play("remove")
        after = site.snapshot()
        assert (after["processes"], after["acl"]) == (fresh["processes"], fresh["acl"])
        assert differs(data, site.source_data()) == {}
        assert all("/backup/" in name for name in after["files"] if str(site.state) in name and after["files"][name])
    finally:
        site.close()


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
    script = f"while :; do redis-cli -p {site.source.port} -n 10 --no-auth-warning INCR busy; sleep 0.02; done"
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


def test_an_instance_that_an_application_cannot_log_in_to_stops_the_cutover(broken: Site) -> None:
    """Before any application is stopped or any file is written. The engine's own user comes in all the same."""
    site = broken
    log = len(site.restarts())
    secret = site.state / "secrets" / f"{site.names['pipeline']}.app"
    password = secret.read_text()
    secret.write_text("not the password that the instance knows")
    try:
        run = site.play("cutover", ok=False)
    finally:
        secret.write_text(password)
    run.says(
        f"web1 cannot use {site.names['pipeline']}",
        f"refuses the login of user {site.names['pipeline']}",
        "No application was changed.",
    )
    assert site.states() == {"copied"}
    assert site.restarts()[log:] == []
    assert {name: file.read_text() for name, file in site.files.items()} == site.before


def unstoppable(site: Site) -> str:
    """The applications, of which the second cannot be stopped."""
    apps = [
        dict(app, stop="echo stuck >&2; false") if app["name"] == "web2" else app
        for app in site.variables["redis_split_apps"]
    ]
    return json.dumps({"redis_split_apps": apps})


def test_an_application_that_cannot_be_stopped_leaves_nothing_stopped(broken: Site) -> None:
    """Before the cutover: nothing is switched, and the application that was stopped already runs again."""
    site = broken
    log = len(site.restarts())
    site.play("cutover", "-e", unstoppable(site), ok=False).says(
        "web2 on web2 could not be stopped: stuck", "Correct its stop in redis_split_apps", "Nothing was switched"
    )
    assert site.states() == {"copied"}
    assert {name: file.read_text() for name, file in site.files.items()} == site.before
    assert sorted(site.restarts()[log:]) == ["start", "start", "stop", "web1", "web1", "web2"]


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


def test_the_second_host_of_instances_fails() -> None:
    """In the middle of provision, when the first one has its instances already: nothing is copied, no application is touched."""
    site = Site(core=OLDEST)
    try:
        site.write_inventory(redis_split_hosts=["redis1", "redis2"])
        # an address that another host could reach; this machine's own, as both hosts are
        site.docker("network", "create", f"there-{site.tag}")
        form = "{{(index .IPAM.Config 0).Gateway}}"
        there = site.docker("network", "inspect", f"there-{site.tag}", "--format", form).strip()
        site.variables["redis_split_purposes"][2].update(host="redis2", address=there)
        site.fill()
        in_the_way = site.state / "instances" / site.names["cache"] / "conf"
        in_the_way.parent.mkdir(parents=True)
        in_the_way.touch()
        site.play("split_redis", ok=False).says("failed: [redis2]", "already exists as a file")
        assert not (site.state / "split.json").exists() and site.restarts() == []
        assert site.files["web1"].read_text() == site.before["web1"]
        assert site.source.client(10, username="default", password=SOURCE_SECRET).set("writable", 1)
        in_the_way.unlink()
        site.play("provision")
        assert site.instance("cache", "app").ping()
        # at its address alone
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", site.ports["cache"])).close()
    finally:
        site.close()
