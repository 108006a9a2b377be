# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image is, and how it comes onto a host.

Nothing in an image is run to look at it: a container is created, never started, and files are copied out of it. That works without
a shell in the image, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import tarfile
import tempfile
import typing as t

from .docker_cli import docker
from .errors import UntangleError

Facts = dict[str, t.Any]

#: What an image that we built was built from.
LABEL = "njoy.untangle.built"
#: Whom servers run as in well-known images, for images that say so nowhere but in their entrypoint. www-data and nobody are
#: in every Debian image.
SERVICE_USERS = (
    "nginx", "mysql", "redis", "valkey", "apache", "httpd", "memcache", "prometheus", "www-data", "nobody",
)  # fmt: skip
ROOT = ("", "0", "root")
#: Seconds for what goes through a network.
LONG = 3600


# -- pure -------------------------------------------------------------------------------------------------------------------


def parted(name: str) -> tuple[str, str, str]:
    """(repository, tag, digest) of a name, the last two empty where it has none. The repository as the engine shows it."""
    rest, _at, digest = name.partition("@")
    head, slash, last = rest.rpartition("/")
    last, _colon, tag = last.partition(":")
    repository = re.sub(r"\A(index\.)?docker\.io/(library/)?", "", head + slash + last)
    return repository, tag, digest


def reference(name: str, digests: t.Iterable[str]) -> str:
    """The name with the digest that its registry gave the image; without one, the name."""
    repository, tag, digest = parted(name)
    found = sorted(one for one in digests if parted(one)[0] == repository)
    if digest or not found:
        return name
    return "%s:%s@%s" % (name if not tag else name.rpartition(":")[0], tag or "latest", parted(found[0])[2])


def _rows(text: str, width: int) -> list[list[str]]:
    rows = [line.split(":") for line in text.splitlines()]
    return [row for row in rows if len(row) >= width and row[2].isdigit()]


def _named(uid: int, gid: int, passwd: str) -> Facts:
    name = next((row[0] for row in _rows(passwd, 4) if int(row[2]) == uid), "")
    return {"uid": uid, "gid": gid, "name": name}


def configured_user(user: str, passwd: str, group: str) -> Facts | None:
    """Whom ``USER`` means in an image, as the engine reads it; None where the image does not know that name."""
    who, _colon, whose = user.partition(":")
    row = next((row for row in _rows(passwd, 4) if who in (row[0], row[2])), None)
    if not row and not who.isdigit():
        return None
    uid = int(row[2] if row else who)
    # a number that passwd does not have gets the group of root
    gid = int(row[3]) if row and row[3].isdigit() else 0
    if whose:
        found = next((line for line in _rows(group, 3) if whose == line[0]), None)
        if not found and not whose.isdigit():
            return None
        gid = int(found[2] if found else whose)
    return _named(uid, gid, passwd)


def service_user(passwd: str) -> Facts | None:
    there = {row[0]: row for row in _rows(passwd, 4)}
    row = next((there[name] for name in SERVICE_USERS if name in there), None)
    return {"uid": int(row[2]), "gid": int(row[3]), "name": row[0]} if row else None


def within(name: str, size: int, budget: float) -> None:
    if budget and size > budget * 1e6:
        raise UntangleError(
            "The image %s has %.0f MB, and the budget is %g MB. Choose a smaller image, or raise compose_stack_image_budget."
            % (name, size / 1e6, budget)
        )


# -- looking ----------------------------------------------------------------------------------------------------------------


def inspected(name: str) -> Facts | None:
    """``docker image inspect``, or None where the image is not on this host."""
    try:
        return t.cast(Facts, json.loads(docker("image", "inspect", name))[0])
    except UntangleError as exc:
        # what is no name at all is explained where it is pulled
        if re.search("no such image|invalid reference format", exc.message, re.IGNORECASE):
            return None
        raise


@contextlib.contextmanager
def _laid_out(image: str) -> t.Iterator[str]:
    """A container of an image that is never started. Its command need not exist; without one it could not be created."""
    made = docker("create", "--network", "none", image, "none").strip()
    try:
        yield made
    finally:
        docker("rm", "--force", "--volumes", made)


def _first(container: str, path: str) -> tuple[tarfile.TarInfo | None, str]:
    """The first thing that an archive of a path has, and its text where it is a file. A big directory is not read to its end."""
    command = ["docker", "cp", "--follow-link", "%s:%s" % (container, path), "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as cp:
        try:
            with tarfile.open(fileobj=cp.stdout, mode="r|") as archive:
                found = archive.next()
                file = archive.extractfile(found) if found and found.isfile() else None
                return found, file.read().decode(errors="replace") if file else ""
        except tarfile.TarError:  # no such path, and so no archive
            return None, ""
        finally:
            cp.kill()


def _user(container: str, config: Facts, passwd: str) -> Facts | None:
    said = str(config.get("User") or "")
    if said.partition(":")[0] not in ROOT:
        return configured_user(said, passwd, _first(container, "/etc/group")[1])
    for path in sorted(config.get("Volumes") or ()):
        owner = _first(container, path)[0]
        if owner and owner.uid:
            return _named(owner.uid, owner.gid, passwd)
    return service_user(passwd)


def facts(name: str) -> Facts:
    found = inspected(name)
    if not found:
        raise UntangleError("The image %s is not on this host." % name)
    config, digests = found.get("Config") or {}, sorted(found.get("RepoDigests") or ())
    with _laid_out(found["Id"]) as container:
        passwd, release = (_first(container, path)[1] for path in ("/etc/passwd", "/etc/os-release"))
        user = _user(container, config, passwd)
    system = re.search(r"^ID=[\"']?([^\"'\s]+)", release, re.MULTILINE)
    test = (config.get("Healthcheck") or {}).get("Test") or ["NONE"]
    return {
        "name": name,
        "reference": reference(name, digests),
        "id": found["Id"],
        "digests": digests,
        "size": found["Size"],
        "user": user,
        "runs_as_root": str(config.get("User") or "").partition(":")[0] in ROOT,
        "volumes": sorted(config.get("Volumes") or ()),
        "entrypoint": config.get("Entrypoint") or [],
        "command": config.get("Cmd") or [],
        "ports": sorted(config.get("ExposedPorts") or ()),
        "healthcheck": test[0] != "NONE",
        "variant": system.group(1) if system else None,
    }


# -- bringing ---------------------------------------------------------------------------------------------------------------


def pull(name: str) -> None:
    try:
        docker("pull", "--quiet", name, timeout=LONG)
    except UntangleError as exc:
        raise UntangleError(
            "The image %s is not to be had: %s Check its name and that this host reaches and is logged in to its registry, load it "
            "(docker load), or build it on this host (image_source: build)." % (name, exc.message.rstrip(".") + ".")
        ) from exc


def _context(directory: str) -> t.Iterator[str]:
    """A line for everything in a build's context: name, mode, and what is in it."""
    for top, dirs, names in os.walk(directory):
        dirs.sort()
        for name in sorted([*names, *dirs]):
            path = os.path.join(top, name)
            line = "%s %o " % (os.path.relpath(path, directory), os.lstat(path).st_mode)
            if os.path.islink(path):
                line += os.readlink(path)
            elif os.path.isfile(path):
                with open(path, "rb") as stream:
                    line += hashlib.sha256(stream.read()).hexdigest()
            yield line


def sum_of(dockerfile: str, base_id: str, context: str) -> str:
    """What stands for all that an image is built from."""
    lines = [dockerfile, base_id, *(_context(context) if context else ())]
    return hashlib.sha256("\0".join(lines).encode(errors="surrogateescape")).hexdigest()


def build(name: str, dockerfile: str, base: str, built_from: str, context: str) -> None:
    words = ["--quiet", "--tag", name, "--build-arg", "BASE=" + base, "--label", "%s=%s" % (LABEL, built_from)]
    try:
        # a file, because some releases of buildx leave in /tmp what comes by standard input (docker/buildx#3117)
        with tempfile.TemporaryDirectory() as alone:
            path = os.path.join(alone, "Dockerfile")
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(dockerfile)
            # without a context the Dockerfile is all that is sent
            docker("build", *words, "--file", path, context or alone, timeout=LONG)
    except UntangleError as exc:
        lines = exc.message.splitlines()
        raise UntangleError(
            "The image %s cannot be built on %s: %s" % (name, base, "\n".join([lines[0], *lines[-15:]][-16:]))
        ) from exc


def push(name: str, target: str) -> bool:
    """Tag and push. Returns whether the registry did not have it all."""
    docker("tag", name, target)
    try:
        said = docker("push", target, timeout=LONG)
    except UntangleError as exc:
        raise UntangleError(
            "The image %s cannot be pushed to %s: %s Check that this host reaches and is logged in to that registry (docker login)."
            % (name, target, exc.message.rstrip(".") + ".")
        ) from exc
    return bool(re.search(r": (Pushed|Mounted from)", said))
