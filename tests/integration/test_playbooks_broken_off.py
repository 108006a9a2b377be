# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks that are broken off, by a signal in each phase or by a host that fails: finished by the next run, never half."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from playbook_site import SOURCE_SECRET, Site, differs, needs

import servers

pytestmark = needs


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
