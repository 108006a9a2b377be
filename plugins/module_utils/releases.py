# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was deployed when: each release of a stack is kept beside it, with its files and the images it ran, and can be put back.

    DIRECTORY/releases/3.json    when, by whom, what image and which files each service had
    DIRECTORY/releases/3/        these files

A release that was gone back from is withdrawn: the one before it is the current one from then on.

Data is no part of a release: what a container may write to is never kept, put back or removed, be it mounted read-only elsewhere.
"""

from __future__ import annotations

import datetime
import filecmp
import hashlib
import json
import os
import shutil
import stat
import typing as t

from . import swarm, swarm_services
from .docker_cli import docker
from .errors import UntangleError
from .images import LONG, inspected, parted
from .stacks import MARK

Facts = dict[str, t.Any]


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def containers(project: str) -> list[Facts]:
    """``docker inspect`` of the containers of a Compose project, running or not, and of what a Swarm runs of a stack on this node."""
    names = docker("ps", "--all", "--quiet", "--filter", "label=com.docker.compose.project=" + project).split()
    # (it keeps some of those that it has ended)
    names += docker("ps", "--quiet", "--filter", swarm_services.NAMESPACE + project).split()
    found = t.cast("list[Facts]", json.loads(docker("inspect", *names))) if names else []
    if any(_on_swarm(one) for one in found):
        # Configs and secrets are mounted, and no container says so.
        mounted = swarm_services.mounted(project)
        for one in found:
            one["Mounts"] = [*one["Mounts"], *mounted.get(service_of(one), ())]
    return found


def _on_swarm(container: t.Mapping[str, t.Any]) -> str:
    return str((container["Config"].get("Labels") or {}).get("com.docker.swarm.service.name") or "")


def service_of(container: t.Mapping[str, t.Any]) -> str:
    labels = container["Config"].get("Labels") or {}
    return str(
        labels.get("com.docker.compose.service")
        or _on_swarm(container)[len(str(labels.get("com.docker.stack.namespace"))) + 1 :]
        or container["Name"].strip("/")
    )


class Releases:
    def __init__(self, directory: str, project: str) -> None:
        self.directory, self.project = os.path.realpath(directory), project
        self.place = os.path.join(self.directory, "releases")

    # -- what there is ------------------------------------------------------------------------------------------------------

    def all(self) -> list[Facts]:
        """Oldest first, those that were withdrawn too."""
        if not os.path.isdir(self.place):
            return []
        numbers = sorted(int(name[:-5]) for name in os.listdir(self.place) if name.endswith(".json"))
        return [self._read(number) for number in numbers]

    def standing(self) -> list[Facts]:
        return [one for one in self.all() if not one.get("withdrawn")]

    def _read(self, number: int) -> Facts:
        with open(self._path(number, ".json")) as stream:
            return t.cast(Facts, json.load(stream))

    def _path(self, number: int, ending: str = "") -> str:
        return os.path.join(self.place, "%d%s" % (number, ending))

    def _write(self, release: Facts) -> None:
        path = self._path(release["number"], ".json")
        with open(path + ".part", "w") as stream:
            stream.write(json.dumps(release, indent=1, sort_keys=True) + "\n")
        os.replace(path + ".part", path)

    # -- what runs ----------------------------------------------------------------------------------------------------------

    def deployed(self) -> Facts:
        """Image, size and files of each service, as they are now."""
        if os.path.exists(self._path_here("stack.yaml")):
            return self._deployed_on_swarm()
        services, files = Facts(), {name: self._path_here(name) for name in ("compose.yaml", ".env")}
        there = [one for one in containers(self.project) if not _once(one)]
        given = self._given(m for one in there for m in one["Mounts"] if m["Type"] == "bind")
        for one in there:
            found = {
                name: path
                for m in one["Mounts"]
                for name, path in given.get(os.path.realpath(m.get("Source") or "/"), ())
            }
            files.update(found)
            services[service_of(one)] = {
                **self._image(one["Config"]["Image"], one["Image"]),
                "config": _config_digest(found),
            }
        return self._whole(services, files)

    def _deployed_on_swarm(self) -> Facts:
        """By what its services are told: their tasks can be on other nodes."""
        services, files = Facts(), {name: self._path_here(name) for name in ("stack.yaml", ".env")}
        for part in ("config", "secrets"):
            files.update(self._below(self._path_here(part)))
        files.pop("secrets/.key", None)
        specs = {
            name: spec["TaskTemplate"]["ContainerSpec"] for name, spec in swarm_services.specs(self.project).items()
        }
        given = self._given(
            {"Source": mount["Source"], "RW": not mount.get("ReadOnly")}
            for asked in specs.values()
            for mount in asked.get("Mounts") or ()
            if mount["Type"] == "bind"
        )
        for found in given.values():
            files.update(found)
        for name, asked in specs.items():
            named = str((asked.get("Labels") or {}).get(swarm.IMAGE) or asked["Image"])
            contents = [str(one["ConfigName"]) for one in asked.get("Configs") or ()]
            services[name] = {
                **self._image(named, self._id(asked["Image"])),
                "config": _digest(sorted(contents)),
            }
        return self._whole(services, files)

    @staticmethod
    def _whole(services: Facts, files: t.Mapping[str, str]) -> Facts:
        there = {name: path for name, path in files.items() if os.path.isfile(path)}
        return {"services": services, "files": {name: _digest_of(path) for name, path in sorted(there.items())}}

    @staticmethod
    def _image(name: str, id_: str) -> Facts:
        facts = (inspected(id_) if id_ else None) or {}  # the image of a stopped container can be removed
        # of its own repository: what others have made of the same image is no part of this release
        digests = sorted(d for d in facts.get("RepoDigests") or () if parted(d)[0] == parted(name)[0])
        return {"image": name, "id": id_, "digests": digests, "size": facts.get("Size")}

    def _path_here(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def _given(self, mounts: t.Iterable[Facts]) -> dict[str, list[tuple[str, str]]]:
        """Per mounted directory of the stack that no container may write to: its files, by their names below the stack's."""
        found: dict[str, bool] = {}
        for mount in mounts:
            path = os.path.realpath(mount["Source"])
            found[path] = found.get(path, False) or bool(mount["RW"])
        written = [path for path, rw in found.items() if rw]
        return {
            path: list(self._below(path))
            for path, rw in found.items()
            if not rw and path.startswith(self.directory + os.sep) and not any(_overlap(path, one) for one in written)
        }

    def _below(self, path: str) -> t.Iterator[tuple[str, str]]:
        """Without links: what they lead to is not the stack's."""
        tops = [(os.path.dirname(path), [], [os.path.basename(path)])] if os.path.isfile(path) else os.walk(path)
        for top, _dirs, names in tops:
            for one in (os.path.join(top, name) for name in names):
                if os.path.isfile(one) and not os.path.islink(one):
                    yield os.path.relpath(one, self.directory), one

    # -- what is done ---------------------------------------------------------------------------------------------------------

    def record(self, by: str, keep: int, check: bool = False) -> tuple[bool, Facts | None]:
        """Keep what runs now as a release, unless it is the last one still. Of releases only the last ``keep`` stay."""
        found, standing = self.deployed(), self.standing()
        if standing and all(standing[-1].get(name) == found[name] for name in found):
            return False, standing[-1]
        if check:
            return True, standing[-1] if standing else None
        known = self.all()
        release = {"number": known[-1]["number"] + 1 if known else 1, "at": now(), "by": by, **found}
        os.makedirs(self.place, mode=0o700, exist_ok=True)
        there = self._path(release["number"])
        shutil.rmtree(there, ignore_errors=True)
        for name in release["files"]:
            _copy(self._path_here(name), os.path.join(there, name))
        for top in _tops(release):
            _own(self._path_here(top), os.path.join(there, top))
        self._write(release)
        # Those that were withdrawn count by themselves: they must not push out what there is to go back to.
        for kind in (self.standing(), [one for one in self.all() if one.get("withdrawn")]):
            for old in kind[: -max(keep, 1)]:
                shutil.rmtree(self._path(old["number"]), ignore_errors=True)
                os.unlink(self._path(old["number"], ".json"))
        return True, release

    def put_back(self, before: bool, written: t.Iterable[str] = (), check: bool = False) -> tuple[list[str], Facts]:
        """Have the files and tags of the current release again, or of the one ``before`` it. Returns what changed.

        ``written``: files that the stack may have been given since, and that go if the release has not got them.
        """
        release = self._standing(1 + before)[-1 - before]
        added = sorted({*written, *self._by_variables(release)} - {*release["files"]})
        return [*self._images_back(release, check), *self._files_back(release, added, check)], release

    def withdraw(self, check: bool = False) -> Facts:
        """The release before the current one is the current one from now on."""
        *_earlier, before, last = self._standing(2)
        if not check:
            self._write({**last, "withdrawn": now()})
        return before

    def _standing(self, least: int) -> list[Facts]:
        found = self.standing()
        if len(found) < least:
            raise UntangleError(
                "%s: there is no release %sto go back to in %s. Deploy what is wanted instead."
                % (self.project, "before the current one " if least > 1 else "", self.place)
            )
        return found

    def _by_variables(self, release: Facts) -> t.Iterator[str]:
        """What the role has written of a stack that variables describe."""
        here, kept = self.directory, self._path(release["number"])
        for path in (os.path.join(top, name) for top in (here, kept) for name in ("compose.yaml", "stack.yaml")):
            if os.path.isfile(path):
                with open(path) as stream:
                    if stream.readline().startswith(MARK):
                        break
        else:
            return
        yield ".env"
        for part in ("config", "secrets"):
            yield from (name for name, _path in self._below(self._path_here(part)) if name != "secrets/.key")

    def _files_back(self, release: Facts, added: t.Iterable[str], check: bool) -> list[str]:
        kept, changed = self._path(release["number"]), []
        there = {top: os.path.isdir(self._path_here(top)) for top in _tops(release)}
        for name in release["files"]:
            path = self._path_here(name)
            then = os.path.join(kept, name)
            if not (os.path.isfile(path) and filecmp.cmp(then, path, shallow=False) and _owned(then) == _owned(path)):
                changed.append(name)
                if not check:
                    _copy(then, path)
        # Who may look into the directories that this release mounts: images differ in their groups.
        for top, was in there.items():
            path, then = self._path_here(top), os.path.join(kept, top)
            differs = not was or _owned(path) != _owned(then)
            if was and differs:
                changed.append(top)
            if differs and not check:
                _own(then, path)
        for name in added:
            if os.path.isfile(self._path_here(name)):
                changed.append(name)
                if not check:
                    self._remove(name)
        return changed

    def _remove(self, name: str) -> None:
        """With the directories that are empty then."""
        os.unlink(self._path_here(name))
        above = os.path.dirname(name)
        while above and not os.listdir(self._path_here(above)):
            os.rmdir(self._path_here(above))
            above = os.path.dirname(above)

    def _images_back(self, release: Facts, check: bool) -> list[str]:
        """All are here before the first tag moves: a registry that does not answer leaves everything as it is."""
        differ = [one for one in sorted(release["services"].items()) if self._id(one[1]["image"]) != one[1]["id"]]
        if not check:
            for service, one in differ:
                self._have(service, one)
            for _service, one in differ:
                if not _fixed(one["image"]):
                    docker("tag", one["id"], one["image"])
        return [one["image"] for _service, one in differ]

    def _have(self, service: str, one: Facts) -> None:
        # a name with a digest is looked up by name: the image alone is not enough
        if self._id(one["id"]) and "@" not in one["image"]:
            return
        reasons = []
        for name in [one["image"]] if "@" in one["image"] else one["digests"]:
            try:
                docker("pull", "--quiet", name, timeout=LONG)
                return
            except UntangleError as exc:
                reasons.append(exc.message)
        raise UntangleError(
            "%s: the image %s of service %s is no longer on this host (%s), and no registry gives it (%s). Build or load it again. "
            "Nothing was changed."
            % (self.project, one["image"], service, one["id"], "; ".join(reasons) or "none ever gave it a digest")
        )

    @staticmethod
    def _id(image: str) -> str:
        try:
            return docker("image", "inspect", "--format", "{{.Id}}", image).strip()
        except UntangleError:
            return ""

    def drift(self) -> list[str]:
        """In what the host differs from the current release: sentences."""
        standing = self.standing()
        if not standing:
            return ["no release of %s is recorded in %s" % (self.project, self.place)]
        release, found, lines = standing[-1], self.deployed(), list[str]()
        for service in sorted({*release["services"], *found["services"]}):
            then, now_ = release["services"].get(service), found["services"].get(service)
            if not then or not now_:
                lines.append("service %s %s" % (service, "is not part of the release" if now_ else "is gone"))
            elif then["id"] != now_["id"]:
                lines.append("service %s runs another image: %s, not %s" % (service, now_["id"], then["id"]))
        for name in sorted({*release["files"], *found["files"]}):
            if release["files"].get(name) != found["files"].get(name):
                lines.append("file %s differs from the release" % name)
        return lines


def _fixed(image: str) -> bool:
    """A name that can mean one image only."""
    return "@" in image or image.startswith("sha256:")


def _once(container: Facts) -> bool:
    """Whether it was started by `docker compose run`, beside its service."""
    return str((container["Config"].get("Labels") or {}).get("com.docker.compose.oneoff")) == "True"


def _overlap(one: str, other: str) -> bool:
    return (one + os.sep).startswith(other + os.sep) or (other + os.sep).startswith(one + os.sep)


def _digest_of(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            return hashlib.sha256(stream.read()).hexdigest()
    except OSError as exc:
        raise UntangleError(
            "A file that the stack has mounted cannot be read (%s). Let this user read it, or mount it with write access if it is "
            "data, which no release has." % exc
        ) from exc


def _digest(lines: t.Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _config_digest(files: t.Mapping[str, str]) -> str:
    """Of what a service has mounted. Not of secrets: a digest tells a short one."""
    return _digest("%s %s" % (name, _digest_of(path)) for name, path in sorted(files.items()) if name[:8] != "secrets/")


def _tops(release: Facts) -> list[str]:
    return sorted({os.path.dirname(name) for name in release["files"]} - {""})


def _owned(path: str) -> tuple[int, int, int]:
    """Mode, owner and group. An ordinary user has but one owner to give."""
    facts = os.stat(path)
    return (stat.S_IMODE(facts.st_mode), *((0, 0) if os.geteuid() else (facts.st_uid, facts.st_gid)))


def _own(source: str, target: str) -> None:
    mode, owner, group = _owned(source)
    os.chmod(target, mode)
    if not os.geteuid():
        os.chown(target, owner, group)


def _copy(source: str, target: str) -> None:
    """With mode and owner, and so that nobody reads half of it."""
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    part = target + ".part"
    with (
        open(source, "rb") as stream,
        os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as copy,
    ):
        shutil.copyfileobj(stream, copy)
    _own(source, part)
    os.replace(part, target)
