# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Swarm runs of a stack, deploying it, and waiting until it runs what it was told to."""

from __future__ import annotations

import json
import os
import time
import typing as t

from .docker_cli import docker
from .errors import UntangleError
from .swarm import Node

Facts = dict[str, t.Any]
NAMESPACE = "label=com.docker.stack.namespace="
#: What an update ends in that Swarm itself has given up.
_GIVEN_UP = ("paused", "rollback_paused", "rollback_completed")
_POLL_SECONDS = 0.5


def node(image: str = "") -> Node:
    """This host as a manager. ``image``, if it is here, tells by a container what the engine sets for each of them."""
    found = json.loads(docker("info", "--format", "{{json .Swarm}}"))
    if not found.get("ControlAvailable"):
        raise UntangleError(
            "This host is no manager of a swarm (%s). Run docker swarm init here, deploy on a manager, or use the backend compose."
            % (found.get("LocalNodeState") or "unknown")
        )
    known = None
    if image:
        try:
            status = docker("run", "--rm", "--network", "none", "--entrypoint", "cat", image, "/proc/self/status")
            known = "NoNewPrivs:\t1" in status
        except UntangleError:
            known = False
    return Node(str(found["NodeID"]), known)


def services(project: str) -> dict[str, Facts]:
    """``docker service inspect`` of each service of a stack, by its name within the stack."""
    names = docker("service", "ls", "--quiet", "--filter", NAMESPACE + project).split()
    found = json.loads(docker("service", "inspect", *names)) if names else []
    return {str(one["Spec"]["Name"])[len(project) + 1 :]: one for one in found}


def specs(project: str) -> dict[str, t.Any]:
    return {name: one["Spec"] for name, one in services(project).items()}


def environment(directory: str) -> dict[str, str]:
    """The project's .env, as we write it: Swarm itself does not read it."""
    path = os.path.join(directory, ".env")
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as stream:
        lines = [line.rstrip("\n").partition("=") for line in stream if "=" in line]
    return {name: value[1:-1].replace("\\'", "'").replace("\\\\", "\\") for name, _equals, value in lines}


def deploy(directory: str, project: str) -> None:
    words = ["stack", "deploy", "--prune", "--with-registry-auth", "--resolve-image", "never"]
    if "--detach" in docker("stack", "deploy", "--help"):
        # We wait ourselves: newer clients would, and for ever.
        words.append("--detach=true")
    path = os.path.join(directory, "stack.yaml")
    docker(*words, "--compose-file", path, project, environment=environment(directory))


def _tasks(project: str) -> list[Facts]:
    names = docker("stack", "ps", "--quiet", "--no-trunc", project).split()
    return t.cast("list[Facts]", json.loads(docker("inspect", "--type", "task", *names))) if names else []


def _wanted(service: t.Mapping[str, t.Any], tasks: t.Sequence[Facts]) -> int:
    mode = service["Spec"]["Mode"]
    if "Replicated" in mode:
        return int(mode["Replicated"].get("Replicas", 1))
    if "ReplicatedJob" in mode:
        return int(mode["ReplicatedJob"].get("TotalCompletions", 1))
    return len(tasks) or 1


def _lean(found: t.Any) -> t.Any:
    """Without what says nothing: a task's spec leaves it out, and a service's does not."""
    if isinstance(found, dict):
        whole = {key: _lean(value) for key, value in found.items()}
        return {key: value for key, value in whole.items() if value}
    return found


def standing(project: str) -> tuple[list[str], list[str]]:
    """What is not as it was asked for yet, and what Swarm has given up: sentences."""
    waiting, given_up, tasks = list[str](), list[str](), _tasks(project)
    for name, service in services(project).items():
        update = (service.get("UpdateStatus") or {}).get("State") or ""
        if update in _GIVEN_UP:
            given_up.append("%s: %s" % (name, service["UpdateStatus"].get("Message") or update))
        asked = service["Spec"]["TaskTemplate"]
        mine = [
            one
            for one in tasks
            if one["ServiceID"] == service["ID"] and one["DesiredState"] in ("running", "complete", "ready")
        ]
        wanted = _wanted(service, mine)
        well = [
            one
            for one in mine
            if one["Status"]["State"] in ("running", "complete")
            # the tasks of before are running still
            and all(_lean(one["Spec"].get(part)) == _lean(asked.get(part)) for part in ("ContainerSpec", "Resources"))
        ]
        if len(well) < wanted or update in ("updating", "rollback_started"):
            waiting.append("%s: %d of %d run%s" % (name, len(well), wanted, ", " + update if update else ""))
    return waiting, given_up


def last_words(project: str) -> str:
    """Why tasks ended, and what those of them said at last."""
    lines = list[str]()
    try:
        there, all_tasks = services(project), _tasks(project)
    except UntangleError:
        return ""
    for name, service in there.items():
        tasks = [one for one in all_tasks if one["ServiceID"] == service["ID"]]
        errors = dict.fromkeys(str(one["Status"]["Err"]) for one in tasks if one["Status"].get("Err"))
        if errors or not any(one["Status"]["State"] == "running" for one in tasks):
            lines += ["%s: %s" % (name, error) for error in errors] or [name + ":"]
            try:
                lines.append(
                    docker("service", "logs", "--raw", "--tail", "15", service["ID"], timeout=20, both=True).strip()
                )
            except UntangleError:
                pass
    return "\n".join(filter(None, lines))


def converge(project: str, seconds: float) -> None:
    """Wait until every service runs what its stack asks for."""
    end = time.monotonic() + seconds
    while True:
        try:
            waiting, given_up = standing(project)
        except UntangleError as exc:
            # Tasks come and go between two looks, and a stack that has none yet is an error to the engine's client.
            waiting, given_up = [exc.message], []
        if not waiting and not given_up:
            return
        if given_up or time.monotonic() > end:
            raise UntangleError("%s. %s" % ("; ".join(given_up or waiting), last_words(project)))
        time.sleep(_POLL_SECONDS)


def mounted(project: str) -> dict[str, list[Facts]]:
    """Configs and secrets of each service, as ``docker inspect`` lists what a container has mounted."""
    found = {}
    for name, spec in specs(project).items():
        asked = spec["TaskTemplate"]["ContainerSpec"]
        found[name] = [
            {
                "Type": kind.lower(),
                "Source": entry[kind + "Name"],
                "Destination": os.path.join("/run/secrets" if kind == "Secret" else "/", entry["File"]["Name"]),
            }
            for kind in ("Config", "Secret")
            for entry in asked.get(kind + "s") or ()
        ]
    return found


def forget_unused(project: str) -> None:
    """Configs and secrets of contents that no service has any more. Those in use are refused by Swarm itself."""
    used = {str(one["Source"]) for entries in mounted(project).values() for one in entries}
    for kind in ("config", "secret"):
        there = docker(kind, "ls", "--filter", NAMESPACE + project, "--format", "{{.Name}}").split()
        for name in sorted(set(there) - used):
            try:
                docker(kind, "rm", name)
            except UntangleError:
                pass  # a task that is ending has it still; the next deployment comes by again


def remove(project: str, seconds: float) -> None:
    """Take a stack away, and wait until nothing of it is left on this node."""
    docker("stack", "rm", project)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        left = [
            docker(*words, "--quiet", "--filter", NAMESPACE + project).strip()
            for words in (("ps", "--all"), ("service", "ls"), ("network", "ls"))
        ]
        if not any(left):
            return
        time.sleep(_POLL_SECONDS)
    raise UntangleError("%s: some of it is still ending after %d s. Run again." % (project, seconds))
