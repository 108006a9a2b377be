# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was deployed when: each release of a stack is kept beside it, with its files and the images it ran, and can be put back.

    DIRECTORY/releases/3.json    when, by whom, what image and which files each service had
    DIRECTORY/releases/3/        these files

A release that was put back is withdrawn: the one before it is the current one from then on.
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
from .images import inspected

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
        for one in containers(self.project):
            mounted = [
                m["Source"] for m in one["Mounts"] if m["Type"] == "bind" and not m["RW"] and self._ours(m["Source"])
            ]
            found = {name: path for source in mounted for name, path in self._below(source)}
            files.update(found)
            services[service_of(one)] = {
                **self._image(one["Config"]["Image"], one["Image"]),
                "config": _digest("%s %s" % (name, _digest_of(path)) for name, path in sorted(found.items())),
            }
        return self._whole(services, files)

    def _deployed_on_swarm(self) -> Facts:
        """By what its services are told: their tasks can be on other nodes."""
        services, files = Facts(), {name: self._path_here(name) for name in ("stack.yaml", ".env")}
        for part in ("config", "secrets"):
            files.update(self._below(self._path_here(part)))
        files.pop("secrets/.key", None)
        for name, spec in swarm_services.specs(self.project).items():
            asked = spec["TaskTemplate"]["ContainerSpec"]
            for mount in asked.get("Mounts") or ():
                if mount["Type"] == "bind" and mount.get("ReadOnly") and self._ours(mount["Source"]):
                    files.update(self._below(mount["Source"]))
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
        digests = sorted(d for d in facts.get("RepoDigests") or () if _repository(d) == _repository(name))
        return {"image": name, "id": id_, "digests": digests, "size": facts.get("Size")}

    def _path_here(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def _ours(self, path: str) -> bool:
        return os.path.realpath(path).startswith(self.directory + os.sep)

    def _below(self, source: str) -> t.Iterator[tuple[str, str]]:
        """Files of a mounted directory, by their names below the stack's."""
        tops = (
            [(os.path.dirname(source), [], [os.path.basename(source)])] if os.path.isfile(source) else os.walk(source)
        )
        for top, _dirs, names in tops:
            for name in names:
                path = os.path.join(top, name)
                yield os.path.relpath(os.path.realpath(path), self.directory), path

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
        for old in self.all()[: -max(keep, 1)]:
            shutil.rmtree(self._path(old["number"]), ignore_errors=True)
            os.unlink(self._path(old["number"], ".json"))
        return True, release

    def put_back(self, withdraw: bool, check: bool = False) -> tuple[list[str], Facts]:
        """Have the files and tags of the current release again, or, to ``withdraw`` it, of the one before. Returns what changed."""
        standing = self.standing()
        if len(standing) < 1 + withdraw:
            raise UntangleError(
                "%s: there is no release %sto go back to in %s. Deploy what is wanted instead."
                % (self.project, "before the current one " if withdraw else "", self.place)
            )
        release = standing[-1 - withdraw]
        changed = [*self._images_back(release, check), *self._files_back(release, check)]
        if withdraw and not check:
            self._write({**standing[-1], "withdrawn": now()})
        return changed, release

    def _files_back(self, release: Facts, check: bool) -> list[str]:
        kept, changed = self._path(release["number"]), []
        for name in release["files"]:
            path = self._path_here(name)
            then = os.path.join(kept, name)
            if not (os.path.isfile(path) and filecmp.cmp(then, path, shallow=False) and _owned(then) == _owned(path)):
                changed.append(name)
                if not check:
                    _copy(then, path)
        # Who may look into the directories that this release mounts: images differ in their groups.
        for top in _tops(release):
            there, then = self._path_here(top), os.path.join(kept, top)
            if _owned(there) != _owned(then):
                changed.append(top)
                if not check:
                    _own(then, there)
        # What was added there since.
        for top in _tops(release):
            for name in os.listdir(self._path_here(top)):
                other = os.path.join(top, name)
                if other not in release["files"] and os.path.isfile(self._path_here(other)):
                    changed.append(other)
                    if not check:
                        os.unlink(self._path_here(other))
        return changed

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
                docker("pull", "--quiet", name)
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


def _repository(name: str) -> str:
    head, slash, last = name.partition("@")[0].rpartition("/")
    return head + slash + last.partition(":")[0]


def _digest_of(path: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def _digest(lines: t.Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


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
    shutil.copyfile(source, part)
    _own(source, part)
    os.replace(part, target)
