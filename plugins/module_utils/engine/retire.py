# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of an old database: back it up, prove that the backup loads, then empty it without holding the server up.

A backup is a gzip file of RESTORE commands as they go over the wire, so that `zcat FILE | redis-cli --pipe` restores it where
nothing of this collection is left.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import subprocess
import tempfile
import time
import typing as t

from ..errors import UntangleError
from . import marks
from .compare import Comparer, excluded
from .copy import Report
from .cutover import own_login
from .digest import Digest, differs
from .route import Route, standing
from .server import Server
from .snapshot import Limits, Reader
from .state import State, now
from .target import pack


def retired(
    source_options: t.Mapping[str, t.Any],
    routes: t.Sequence[Route],
    state: State,
    by: str,
    report: Report,
    limits: Limits | None = None,
    watch_seconds: float = 86400,
    quiet_seconds: float = 5,
    backup_dir: str | None = None,
    server_command: t.Sequence[str] = ("redis-server",),
    accept_loss: t.Sequence[str] = (),
) -> dict[str, t.Any]:
    """Empty the old databases of these purposes. Every refusal comes before the first backup is written.

    One that was written to since its cutover is emptied only where ``accept_loss`` names its purpose.
    """
    limits = limits or Limits()
    sources = {r.purpose: Server(source_options, r.database) for r in routes}
    todo = []
    for route in routes:
        source = sources[route.purpose]
        place = standing(source, route.open(), route, state)
        if place == "retired" and not source.size():
            continue
        if place not in ("cut_over", "retired"):
            raise UntangleError(
                "%s is not cut over (%s): database %d of %s is the truth. Nothing was emptied."
                % (route.purpose, place, route.database, source.address)
            )
        # The fence of the user that we came as may keep it from running scripts.
        sources[route.purpose] = source = own_login(source, state)
        _refuse_while_in_use(source, route, state, watch_seconds)
        todo.append(route)
    _refuse_while_they_change([(sources[route.purpose], route) for route in todo], quiet_seconds)
    for route in todo:
        if route.purpose not in accept_loss:
            _refuse_what_was_written(sources[route.purpose], route, state)
    directory = backup_dir or os.path.join(state.directory, "backup")
    done = {}
    for route in todo:
        facts = _retire(
            route, sources[route.purpose], state, by, report, limits, watch_seconds, directory, server_command
        )
        state.update("retired", by, {route.purpose: facts})
        done[route.purpose] = facts
    left = marks.databases_in_use(sources[routes[0].purpose])
    return {"changed": bool(todo), "purposes": done, "server_empty": not left, "databases_left": sorted(left)}


def _retire(
    route: Route,
    source: Server,
    state: State,
    by: str,
    report: Report,
    limits: Limits,
    watch_seconds: float,
    directory: str,
    server_command: t.Sequence[str],
) -> dict[str, t.Any]:
    def tell(phase: str) -> t.Callable[[int], None]:
        return lambda keys: report(
            {"purpose": route.purpose, "phase": phase, "keys": keys, "keys_total": max(keys, source.size()), "bytes": 0}
        )

    os.makedirs(directory, mode=0o700, exist_ok=True)
    stamp = now().replace(":", "").replace("-", "")[:15]
    path = os.path.join(directory, "%s-db%d-%s.resp.gz" % (route.purpose, route.database, stamp))
    if os.path.exists(path):
        path = path.replace(stamp, "%s-%d" % (stamp, os.getpid()))
    keys = write_backup(source, path, limits, tell("backup"))
    prove_backup(path, source, limits, server_command)
    _refuse_while_in_use(source, route, state, watch_seconds)
    # Noted before anything goes: what is left of an emptying that is broken off, or is written to an empty database, is backed up
    # by the next run, and the backup of all the rest must not be forgotten over it.
    backups = [*state.purpose(route.purpose).get("backups", []), path]
    state.update("backed up", by, {route.purpose: {"backups": backups, "old": None}})
    empty(source, limits, tell("empty"))
    return {"state": "retired", "backup": path, "backup_keys": keys, "backup_bytes": os.path.getsize(path)}


def _refuse_while_in_use(source: Server, route: Route, state: State, watch_seconds: float) -> None:
    import datetime

    since = state.purpose(route.purpose).get("since")
    if since and watch_seconds:
        then = datetime.datetime.fromisoformat(str(since).replace("Z", "+00:00"))
        age = (datetime.datetime.now(datetime.timezone.utc) - then).total_seconds()
        if age < watch_seconds:
            raise UntangleError(
                "%s was cut over %d s ago, and is watched for %d s (redis_split_watch_seconds). Nothing was emptied; try again later."
                % (route.purpose, age, watch_seconds)
            )
    clients = clients_on(source, route.database)
    if clients:
        names = ", ".join("%(addr)s %(name)s (user %(user)s)" % c for c in clients[:5])
        raise UntangleError(
            "%s: %d clients still have database %d of %s selected: %s. Point them at %s first. Nothing was emptied."
            % (route.purpose, len(clients), route.database, source.address, names, route.where)
        )


def clients_on(source: Server, database: int) -> list[dict[str, str]]:
    """Connections that have a database selected, ours left out: addr, name, user."""
    return [
        {"addr": one.get("addr", ""), "name": one.get("name", ""), "user": one.get("user", "default")}
        for one in source.strangers()
        if one.get("db") == str(database)
    ]


def _refuse_while_they_change(places: t.Sequence[tuple[Server, Route]], quiet_seconds: float) -> None:
    def read(source: Server) -> dict[str, t.Any]:
        # to the second: what stands to expire meanwhile is little
        return _read(source, Digest(0, "meaning", (1000, 1000)))

    before = [read(source) for source, _route in places]
    if places:
        time.sleep(quiet_seconds)
    for (source, route), was in zip(places, before):
        if differs(was, read(source), source.time_ms()):
            raise UntangleError(
                "%s: database %d of %s changed within %s s: somebody still writes there. Nothing was emptied. `status` names the "
                "clients." % (route.purpose, route.database, source.address, quiet_seconds)
            )


def _refuse_what_was_written(source: Server, route: Route, state: State) -> None:
    """Refuse an old database that does not hold what it held at the cutover. A mirror on the way back writes to it: then it is
    not known, and neither is it where the server has evicted keys or was started anew."""
    noted = state.purpose(route.purpose).get("old") or {}
    counted = source.counted(noted.get("counted"))
    if "sums" not in noted or counted["run_id"] != noted["counted"]["run_id"] or counted["evicted"]:
        return
    mark = marks.read_target(route.open()) or {}
    found = _read(source, Digest(noted["since"], noted["what"]), mark.get("match"), mark.get("exclude") or ())
    if found["what"] == noted["what"] and differs(noted, found, source.time_ms()):
        raise UntangleError(
            "%s: database %d of %s does not hold what it held at the cutover: somebody has written there since, and %s does not "
            "have it. Nothing was emptied. To empty it all the same, its backup kept, name %s in redis_split_accept_loss."
            % (route.purpose, route.database, source.address, route.where, route.purpose)
        )


def _read(source: Server, digest: Digest, match: str | None = None, exclude: t.Sequence[str] = ()) -> dict[str, t.Any]:
    reader = Reader(source, Limits(), digest.what, match)
    if not reader.sha:
        digest.what = reader.what = "digest"
    try:
        for page in reader.pages():
            for key, value, at in page.keys:
                if not excluded(key, exclude):
                    digest.add(key, value, at)
    finally:
        reader.close()
    return digest.facts()


def write_backup(source: Server, path: str, limits: Limits, progress: t.Callable[[int], None]) -> int:
    """Write the backup of one database, whole or not at all. Returns the number of keys."""
    reader = Reader(source, limits)
    whole = Reader(source, Limits(limits.max_latency_ms, limits.page_bytes, 0))
    keys = 0
    temporary = path + ".part"
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as raw:
            with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1) as stream:
                for page in reader.pages():
                    found = page.keys + [x for key in page.big for x in whole.named([key]).keys]
                    stream.write(pack(found))
                    keys += len(found)
                    progress(keys)
            raw.flush()
            os.fsync(raw.fileno())
        os.rename(temporary, path)
    finally:
        reader.close()
        whole.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    return keys


def load_backup(path: str, target: Server) -> int:
    """Send a backup to the database of ``target``. Returns the number of keys restored; those past their expiry count too."""
    wire = target.wire()
    try:
        with gzip.open(path, "rb") as stream:
            parser = _Commands(t.cast("t.BinaryIO", stream))
            count = 0
            for batch, size in parser.batches():
                wire.send_packed_command([batch])
                for _reply in range(size):
                    wire.read_response()
                count += size
        return count
    except Exception as exc:
        raise UntangleError("The backup %s does not load into %s: %s" % (path, target.address, exc)) from exc
    finally:
        target.drop(wire)


class _Commands:
    """Cuts a file of commands into batches at command boundaries."""

    def __init__(self, stream: t.BinaryIO) -> None:
        self.stream = stream

    def batches(self, size: int = 256 * 1024) -> t.Iterator[tuple[bytes, int]]:
        parts: list[bytes] = []
        length = count = 0
        while True:
            head = self.stream.readline()
            if head:
                words = [head]
                for _word in range(int(head[1:])):
                    mark = self.stream.readline()
                    words += [mark, self.stream.read(int(mark[1:]) + 2)]
                command = b"".join(words)
                parts.append(command)
                length += len(command)
                count += 1
            if parts and (length >= size or not head):
                yield b"".join(parts), count
                parts, length, count = [], 0, 0
            if not head:
                return


def prove_backup(path: str, source: Server, limits: Limits, server_command: t.Sequence[str]) -> None:
    """Load the backup into a server of its own, without network, and compare it with the database, key by key."""
    with tempfile.TemporaryDirectory(prefix="untangle-") as directory:
        socket = os.path.join(directory, "s")
        arguments = ["--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", directory]
        command = [word.replace("{dir}", directory) for word in server_command]
        try:
            with open(os.path.join(directory, "log"), "wb") as log:
                process = subprocess.Popen(
                    [*command, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
                )
        except OSError as exc:
            raise UntangleError(
                "The backup %s could not be tested: %s does not start (%s). Name a server in server_command. Nothing was emptied."
                % (path, server_command[0], exc)
            ) from exc
        try:
            scratch = _wait_for(socket, process, os.path.join(directory, "log"))
            load_backup(path, scratch)
            result = Comparer(source, scratch, limits).run()
            scratch.close()
        finally:
            process.terminate()
            process.wait()
    if result.differences:
        raise UntangleError(
            "The backup %s does not hold what database %d of %s holds (%s). Nothing was emptied."
            % (
                path,
                source.database,
                source.address,
                ", ".join("%s: %d" % item for item in sorted(result.kinds.items())),
            )
        )


def _wait_for(socket: str, process: subprocess.Popen[bytes], log: str) -> Server:
    for _dummy in range(300):
        try:
            return Server({"unix_socket": socket}, 0, "the test of the backup")
        except UntangleError:
            if process.poll() is not None:
                break
            time.sleep(0.1)
    with open(log) as stream:
        raise UntangleError(
            "The backup could not be tested: the server for it did not start: %s" % stream.read()[-500:]
        )


def empty(source: Server, limits: Limits, progress: t.Callable[[int], None]) -> int:
    """Take every key of a database away, page by page with UNLINK: FLUSHDB would drop the client-side caches of everybody."""
    gone = 0
    while source.size():
        cursor = b"0"
        while True:
            cursor, names = source.raw("SCAN", cursor, "COUNT", limits.scan_count)
            if names:
                gone += int(source.run("UNLINK", *names))
                progress(gone)
            if cursor == b"0":
                break
    return gone


def restored(
    source_options: t.Mapping[str, t.Any], routes: t.Sequence[Route], state: State, by: str, report: Report
) -> dict[str, t.Any]:
    """Put the backup of a retired purpose back into its old, empty database. What the instance took since is not in it."""
    done = {}
    for route in routes:
        source = Server(source_options, route.database)
        noted = state.purpose(route.purpose)
        path = noted.get("backup")
        if noted.get("state") != "retired" or not path:
            if noted.get("restored"):
                continue
            raise UntangleError("%s has no backup in %s. Nothing was changed." % (route.purpose, state.path))
        if source.size():
            raise UntangleError(
                "%s: database %d of %s holds %d keys. A backup goes into an empty database only."
                % (route.purpose, route.database, source.address, source.size())
            )
        # The oldest first: a later one holds what was left, or written, after it.
        count = sum(load_backup(str(one), own_login(source, state)) for one in noted.get("backups") or [path])
        done[route.purpose] = {"state": "cut_over", "restored": path, "restored_keys": count, "backups": []}
        state.update("restored from backup", by, {route.purpose: done[route.purpose]})
    return {"changed": bool(done), "purposes": done}
