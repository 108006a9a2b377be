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
from .compare import Comparer
from .copy import Report
from .cutover import own_login
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
) -> dict[str, t.Any]:
    """Empty the old databases of these purposes. Every refusal comes before the first backup is written."""
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
        _refuse_while_in_use(source, route, state, watch_seconds)
        todo.append(route)
    for route in todo:
        _refuse_while_it_changes(sources[route.purpose], route, quiet_seconds)
    directory = backup_dir or os.path.join(state.directory, "backup")
    done = {}
    for route in todo:
        facts = _retire(route, sources[route.purpose], state, report, limits, watch_seconds, directory, server_command)
        state.update("retired", by, {route.purpose: facts})
        done[route.purpose] = facts
    left = marks.databases_in_use(sources[routes[0].purpose])
    return {"changed": bool(todo), "purposes": done, "server_empty": not left, "databases_left": sorted(left)}


def _retire(
    route: Route,
    source: Server,
    state: State,
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
    keys = write_backup(source, path, limits, tell("backup"))
    prove_backup(path, source, limits, server_command)
    _refuse_while_in_use(source, route, state, watch_seconds)
    empty(own_login(source, state), limits, tell("empty"))
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
    found = []
    for line in source.raw("CLIENT", "LIST").decode(errors="replace").splitlines():
        facts = dict(word.split("=", 1) for word in line.split(" ") if "=" in word)
        if (
            facts.get("db") == str(database)
            and not facts.get("name", "").startswith("untangle")
            and not set("MS") & set(facts.get("flags", ""))
        ):
            found.append(
                {"addr": facts.get("addr", ""), "name": facts.get("name", ""), "user": facts.get("user", "default")}
            )
    return found


def _fingerprint(source: Server) -> dict[bytes, tuple[bytes, int]]:
    reader = Reader(source, Limits(), "digest")
    try:
        return {key: (digest, at) for page in reader.pages() for key, digest, at in page.keys}
    finally:
        reader.close()


def _refuse_while_it_changes(source: Server, route: Route, quiet_seconds: float) -> None:
    before = _fingerprint(source)
    time.sleep(quiet_seconds)
    after, clock = _fingerprint(source), source.time_ms()
    # Keys that were due to expire may be gone; nothing else may have changed.
    changed = [k for k, v in before.items() if after.get(k) != v and not (k not in after and 0 < v[1] <= clock)]
    changed += [k for k in after if k not in before]
    if changed:
        raise UntangleError(
            "%s: %d keys of database %d of %s changed within %s s: somebody still writes there. Nothing was emptied. `status` names "
            "the clients." % (route.purpose, len(changed), route.database, source.address, quiet_seconds)
        )


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
        count = load_backup(str(path), own_login(source, state))
        done[route.purpose] = {"state": "cut_over", "restored": path, "restored_keys": count}
        state.update("restored from backup", by, {route.purpose: done[route.purpose]})
    return {"changed": bool(done), "purposes": done}
