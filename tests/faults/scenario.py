# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A scenario: applications write, the purposes go there and back, and faults come at their moments."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import servers

from .items import Violation
from .table import FAULTS
from .world import World

PHASES = ("mirrored", "cut_over", "returned")
MEGABYTE = 1 << 20


class Step(NamedTuple):
    """A fault, so many seconds after a phase was called; one of ``later`` comes when the phase is reached."""

    phase: str
    later: bool
    seconds: float
    fault: str


def drawn(seed: int) -> list[Step]:
    """The steps of a seed: one to three for each phase, while it runs or after it."""
    rng = random.Random(seed)
    steps = []
    for phase in PHASES:
        for _again in range(rng.randrange(1, 4)):
            # short ones as well: a cutover takes milliseconds
            seconds = rng.choice((0.01, 0.05, 0.2, 1.0)) * rng.random()
            steps.append(Step(phase, rng.random() < 0.3, round(seconds, 3), rng.choice(list(FAULTS))))
    return steps


def everywhere(fault: str) -> list[Step]:
    """One fault at every stage, one after the other."""
    steps = [
        Step("mirrored", False, 0.15, fault),
        Step("mirrored", True, 0.1, fault),
        Step("cut_over", False, 0.02, fault),
        Step("cut_over", True, 0.1, fault),
        Step("returned", False, 0.2, fault),
    ]
    # these stay, and each time more of them are brought along
    return steps[::2] if fault == "big_keys" else steps


def run(steps: Sequence[Step], version: str, seed: int, again: str, big: int = 30 * MEGABYTE) -> str:
    """Raises Violation with the whole story, and with `again`, which runs it alone. Returns what was done."""
    with tempfile.TemporaryDirectory(prefix="ut-faults-") as directory:
        world = World(version, seed, Path(directory), big)
        try:
            world.say("%s, seed %d: %s", version, seed, ", ".join(map(_told, steps)))
            world.start()
            for phase in PHASES:
                _phase(world, phase, [step for step in steps if step.phase == phase])
            for one in world.applications:
                if not one.served[world.source.port] or len(one.served) < 2:
                    raise Violation("%s was not served by both sides: %s" % (one.name, dict(one.served)))
            done = sum(one.counts["acknowledged"] for one in world.applications)
            open_ = sum(one.counts["unknown"] for one in world.applications)
            return "%d writes acknowledged, %d of unknown outcome, %.1f s" % (
                done,
                open_,
                time.monotonic() - world.began,
            )
        except BaseException as exc:
            raise Violation("%s\nTo run it alone: %s\n%s" % (exc, again, world.story())) from exc
        finally:
            world.close()


def _told(step: Step) -> str:
    return "%s %s+%gs %s" % (step.phase, "reached " if step.later else "", step.seconds, step.fault)


def _phase(world: World, phase: str, steps: Sequence[Step]) -> None:
    started, over = threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def harm(chosen: Sequence[Step]) -> None:
        for number, step in enumerate(chosen):
            time.sleep(step.seconds)
            world.say("- %s", step.fault)
            try:
                FAULTS[step.fault](world, random.Random("%d %s %d" % (world.seed, phase, number)))
            except BaseException as exc:
                failed.append(exc)
            world.say("- %s is over", step.fault)

    def meanwhile() -> None:
        started.wait()
        harm([step for step in steps if not step.later])
        over.set()

    thread = threading.Thread(target=meanwhile, daemon=True)
    thread.start()
    try:
        world.reach(phase, started, over)
    finally:
        started.set()
        thread.join(60)
    harm([step for step in steps if step.later])
    time.sleep(0.3)
    if failed:
        raise failed[0]
    world.check(phase)


def version(seed: int) -> str:
    return servers.MAIN[seed % len(servers.MAIN)]
