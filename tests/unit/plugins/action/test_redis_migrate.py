# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's side of long work: what is shown, how often, and what a host that goes away for a while does to it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleConnectionFailure

from ansible_collections.njoy.untangle.plugins.action import redis_migrate as action

PROGRESS = {
    "purpose": "cache",
    "phase": "copy",
    "keys": 500,
    "keys_total": 2000,
    "bytes": 1_500_000,
    "rate": 250,
    "seconds_left": 6,
}
#: What a call of a module costs beside the waiting that it is told to do.
CALL_SECONDS = 3.5


class Clock:
    """Time that passes only where somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(action, "time", found)
    return found


@pytest.fixture
def shown(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    lines: list[tuple[float, str]] = []

    def show(text: str, *more: object, **options: object) -> None:
        lines.append((clock.now, text))

    monkeypatch.setattr(action, "display", SimpleNamespace(display=show))
    return lines


def plugin(clock: Clock, seconds: float, fails: dict[int, int] | None = None):
    """The action in front of a job that takes so long; of its nth call the first `fails[n]` attempts do not reach the host."""
    made = action.ActionModule.__new__(action.ActionModule)
    made._task = SimpleNamespace(
        action="njoy.untangle.redis_migrate", args={"client_library": ["x"]}, async_val=0, check_mode=False, diff=False
    )
    made._connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/tmp/x"))
    made._supports_check_mode, made._supports_async = True, False
    end, calls, left = clock.now + seconds, [], dict(fails or {})

    def execute(module_name, module_args, task_vars):
        if left.get(len(calls)):
            left[len(calls)] -= 1
            clock.sleep(CALL_SECONDS)
            raise AnsibleConnectionFailure("no route")
        calls.append(dict(module_args))
        clock.sleep(CALL_SECONDS + min(module_args["wait"], max(0.0, end - clock.now)))
        if clock.now < end:
            return {"running": True, "job": "j1", "progress": PROGRESS}
        return {"changed": True}

    made._execute_module = execute
    return made, calls


def gaps(moments: list[float]) -> list[float]:
    return [later - earlier for earlier, later in zip(moments, moments[1:])]


def test_a_line_of_progress():
    assert action.progress_line({}) == "starting"
    assert action.progress_line(PROGRESS) == "cache: copy, 500 of 2000 keys, 1.5 MB, 250 keys/s, 6 s left"
    assert action.progress_line({**PROGRESS, "seconds_left": None}).endswith("250 keys/s")
    assert action.progress_line({**PROGRESS, "seconds_left": 0}).endswith(", 0 s left")
    assert action.progress_line({**PROGRESS, "lag_seconds": 1.26}).endswith(", 6 s left, 1.3 s behind")


@pytest.mark.parametrize("seconds", [0.5, 3, 15, 120, 3600])
def test_a_line_comes_at_least_every_ten_seconds(clock, shown, seconds):
    made, calls = plugin(clock, seconds)
    began = clock.now
    assert made.run(None, {"inventory_hostname": "web1"}) == {"changed": True}
    assert all(text.startswith("[web1] cache: copy") for _at, text in shown)
    moments = [began, *(at for at, _text in shown), clock.now]
    assert max(gaps(moments)) <= 10
    # short work is not held up, and long work is not asked after all the time
    assert clock.now - began - seconds <= 2 * CALL_SECONDS
    assert len(calls) <= 5 + seconds / (action.LONGEST_WAIT + CALL_SECONDS)
    assert calls[0]["wait"] == action.FIRST_WAIT and "job" not in calls[0]
    assert all(call["job"] == "j1" for call in calls[1:])


def test_a_host_that_is_out_of_reach_twice(clock, shown):
    made, calls = plugin(clock, 60, fails={2: 2})
    assert made.run(None, {"inventory_hostname": "web1"}) == {"changed": True}
    assert [text for _at, text in shown if "out of reach" in text] == [
        "[web1] out of reach, the job goes on: no route"
    ] * 2
    # the same job, not another one
    assert {call.get("job") for call in calls[1:]} == {"j1"}


def test_a_host_that_stays_away(clock, shown):
    made, _calls = plugin(clock, 10_000, fails={2: 10_000})
    began = clock.now
    with pytest.raises(AnsibleConnectionFailure, match=r"cannot be reached any more \(no route\)\. Its job j1 goes on"):
        made.run(None, {"inventory_hostname": "web1"})
    assert action.PATIENCE_SECONDS <= clock.now - began < action.PATIENCE_SECONDS + 60


def test_a_host_that_is_away_at_the_beginning_is_no_long_story(clock, shown):
    """Nothing runs there yet."""
    made, _calls = plugin(clock, 60, fails={0: 1})
    with pytest.raises(AnsibleConnectionFailure):
        made.run(None, {})
    assert shown == []
