# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The faults, by name. Each does its harm, lets it last for a moment, and takes away the cause, as time or an operator would."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable

import redis

from .applications import Big, Heap, Refused, resting
from .world import DATABASES, Durable, World

Fault = Callable[[World, random.Random], None]


def _target(world: World, rng: random.Random) -> Durable:
    return world.targets[rng.choice(DATABASES)]


# -- processes -------------------------------------------------------------------------------------------------------------


def _kill(server: Durable, rng: random.Random) -> None:
    server.kill()
    time.sleep(rng.choice((0.0, 0.3, 1.0)))
    server.start()


def _stop(pid: int, rng: random.Random) -> None:
    """Not gone, only deaf."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(rng.choice((0.3, 1.0, 2.0)))
        os.kill(pid, signal.SIGCONT)


def kill_source(world: World, rng: random.Random) -> None:
    _kill(world.source, rng)


def stop_source(world: World, rng: random.Random) -> None:
    _stop(world.source.pid, rng)


def restart_source(world: World, rng: random.Random) -> None:
    world.source.restart()


def kill_target(world: World, rng: random.Random) -> None:
    _kill(_target(world, rng), rng)


def stop_target(world: World, rng: random.Random) -> None:
    _stop(_target(world, rng).pid, rng)


def restart_target(world: World, rng: random.Random) -> None:
    _target(world, rng).restart()


def _engine(world: World, number: int) -> None:
    job = world.job()
    if job:
        with contextlib.suppress(ProcessLookupError):
            os.kill(job["pid"], number)


def kill_mirror(world: World, rng: random.Random) -> None:
    _engine(world, signal.SIGKILL)


def end_mirror(world: World, rng: random.Random) -> None:
    _engine(world, signal.SIGTERM)


def stop_mirror(world: World, rng: random.Random) -> None:
    job = world.job()
    if job:
        _stop(job["pid"], rng)


def kill_controller(world: World, rng: random.Random) -> None:
    if world.controller:
        world.controller.kill()


def stop_controller(world: World, rng: random.Random) -> None:
    if world.controller and world.controller.poll() is None:
        _stop(world.controller.pid, rng)


# -- the network -----------------------------------------------------------------------------------------------------------


def _reset(world: World, server: Durable, rng: random.Random) -> None:
    for _again in range(rng.choice((1, 3))):
        world.proxies[server.port].reset()
        time.sleep(0.05)


def _delay(world: World, server: Durable, rng: random.Random) -> None:
    world.proxies[server.port].delay = rng.choice((0.05, 0.4))
    time.sleep(1.5)
    world.proxies[server.port].delay = 0.0


def reset_source(world: World, rng: random.Random) -> None:
    _reset(world, world.source, rng)


def delay_source(world: World, rng: random.Random) -> None:
    _delay(world, world.source, rng)


def delay_feeds(world: World, rng: random.Random) -> None:
    """Replies come at once, and the writes that they speak of come later."""
    for proxy in world.proxies.values():
        proxy.feed_delay = rng.choice((0.2, 0.8))
    time.sleep(2.0)
    for proxy in world.proxies.values():
        proxy.feed_delay = 0.0


def reset_target(world: World, rng: random.Random) -> None:
    _reset(world, _target(world, rng), rng)


def delay_target(world: World, rng: random.Random) -> None:
    _delay(world, _target(world, rng), rng)


def kill_link(world: World, rng: random.Random) -> None:
    """The target's own connection to the engine, which no proxy stands in."""
    with contextlib.closing(_target(world, rng).admin()) as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "master")


def kill_feed(world: World, rng: random.Random) -> None:
    with contextlib.closing(world.source.admin()) as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "replica")


# -- room ------------------------------------------------------------------------------------------------------------------


def memory_full(world: World, rng: random.Random) -> None:
    """The target at its limit. As a replica it goes on; as an instance that serves it refuses, and nothing may be lost by that."""
    target = _target(world, rng)
    with contextlib.closing(target.admin()) as client:
        client.config_set("maxmemory", 1_000_000)
        time.sleep(1.0)
        client.config_set("maxmemory", 0)


def disk_full(world: World, rng: random.Random) -> None:
    """A replica that cannot write its AOF ends itself, a server with clients refuses their writes."""
    target = _target(world, rng)
    pid = target.pid
    target.limit_files(4096)
    time.sleep(1.5)
    if not target.away and target.running and target.pid == pid:
        target.limit_files(None)
        # it tries again once a second; until then the next command of a master makes it panic
        time.sleep(1.2)


def buffer_overrun(world: World, rng: random.Random) -> None:
    """The engine stands still for longer than the source keeps what it has not read."""
    job = world.job()
    with contextlib.closing(world.source.admin()) as client:
        before = client.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
        client.config_set("client-output-buffer-limit", "replica 1mb 1mb 1")
        if job:
            with contextlib.suppress(ProcessLookupError):
                os.kill(job["pid"], signal.SIGSTOP)
        try:
            # more than the buffers of the sockets on the way
            _bulk(world, 40)
            time.sleep(0.3)
        finally:
            if job:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(job["pid"], signal.SIGCONT)
            with contextlib.suppress(redis.RedisError):
                client.config_set("client-output-buffer-limit", before)


def _bulk(world: World, megabytes: int) -> None:
    """An application writes one key again and again."""
    writer = world.applications[0]
    key = writer.name + ":bulk"
    with resting([writer]):
        item = next((one for one in writer.big if one.keys == [key.encode()]), None) or Big(key, 1 << 20)
        if item not in writer.big:
            writer.big.append(item)
        for _again in range(megabytes):
            if not writer.write(item, *item.write(writer.word())):
                return


# -- what applications may do ----------------------------------------------------------------------------------------------


def flush(world: World, rng: random.Random) -> None:
    """FLUSHDB by an application, on the side that takes its writes."""
    number = rng.choice(DATABASES)
    ours = [one for one in world.applications if one.lines[0].database == number]
    with resting(ours):
        line = ours[0].lines[ours[0].at]
        try:
            line.ask([("FLUSHDB",)])
            told = True
        except Refused:
            return
        except ConnectionError:
            told = False
        for one in ours:
            for item in one.items:
                item.emptied(told)


def big_keys(world: World, rng: random.Random) -> None:
    """A string and a hash of many megabytes come into being, and are written to from then on."""
    writer = rng.choice(world.applications)
    with resting([writer]):
        for kind in (Big, Heap):
            item = kind("%s:%s%d" % (writer.name, kind.__name__, writer.number), world.big)
            writer.write(item, *item.write(writer.word()))
            writer.big.append(item)


FAULTS: dict[str, Fault] = {
    one.__name__: one
    for one in (
        kill_source, stop_source, restart_source, kill_target, stop_target, restart_target, kill_mirror, end_mirror, stop_mirror,
        kill_controller, stop_controller, reset_source, delay_source, delay_feeds, reset_target, delay_target, kill_link, kill_feed,
        memory_full, disk_full, buffer_overrun, flush, big_keys,
    )
}  # fmt: skip
