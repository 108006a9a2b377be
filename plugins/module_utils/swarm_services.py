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
from .stacks import unquoted
from .swarm import Node

Facts = dict[str, t.Any]
NAMESPACE = "label=com.docker.stack.namespace="
#: What an update ends in that Swarm itself has given up.
_GIVEN_UP = ("paused", "rollback_paused", "rollback_completed")
_POLL_SECONDS = 0.5
#: What a task of now has from its service, and one of before may have otherwise.
_TOLD = ("ContainerSpec", "Resources", "LogDriver", "Networks")
#: Kinds of what a stack leaves, beside its containers on this node.
_KINDS = ("service", "network", "config", "secret")


def node(project: str = "", images: t.Iterable[str] = ()) -> Node:
    """This host as a manager. ``images`` that are here tell by a container what an engine that does not say sets for each of them."""
    info = json.loads(docker("info", "--format", "{{json .}}"))
    found = info["Swarm"]
    if not found.get("ControlAvailable"):
        raise UntangleError(
            "This host is no manager of a swarm (%s). Run docker swarm init here, deploy on a manager, or use the backend compose."
            % (found.get("LocalNodeState") or "unknown")
        )
    me = str(found["NodeID"])
    known = True if "name=no-new-privileges" in (info.get("SecurityOptions") or ()) else None
    for image in images:
        if known is not None:
            break
        try:
            status = docker("run", "--rm", "--network", "none", "--entrypoint", "cat", image, "/proc/self/status")
            known = "NoNewPrivs:\t1" in status
        except UntangleError:
            pass  # it has no cat
    state = json.loads(docker("node", "inspect", me))[0]["Spec"]
    elsewhere = {name: _named(other) for name, other in kept(services(project)).items() if other != me}
    return Node(me, known, state["Availability"] == "active", int(found.get("Nodes") or 1), elsewhere)


def kept(there: t.Mapping[str, Facts]) -> dict[str, str]:
    """The node, by its ID, that a service is kept on, where it is."""
    found = {}
    for name, service in there.items():
        for line in (service["Spec"]["TaskTemplate"].get("Placement") or {}).get("Constraints") or ():
            key, _equals, value = (word.strip() for word in str(line).partition("=="))
            if key == "node.id":
                found[name] = value
    return found


def _named(node_id: str) -> str:
    try:
        return "%s (%s)" % (
            docker("node", "inspect", "--format", "{{.Description.Hostname}}", node_id).strip(),
            node_id,
        )
    except UntangleError:
        return node_id  # it has left


def services(project: str) -> dict[str, Facts]:
    """``docker service inspect`` of each service of a stack, by its name within the stack."""
    if not project:
        return {}
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
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
        lines = [line.rstrip("\n").partition("=") for line in stream if "=" in line]
    return {name: unquoted(value) for name, _equals, value in lines}


def expect_read(text: str, directory: str, variables: t.Mapping[str, str]) -> None:
    """Let the client read a stack before it is written into a directory, where it can do that alone (its releases from 23 on)."""
    if "--compose-file" not in docker("stack", "config", "--help"):
        return
    # the files of env_file are below it
    where = directory if os.path.isdir(directory) else None
    try:
        docker("stack", "config", "--compose-file", "-", stdin=text, environment=variables, directory=where)
    except UntangleError as exc:
        raise UntangleError(exc.message.rstrip(".") + ". Nothing was changed.") from exc


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
        # What ends well and is not started again is done; its desired state is shutdown then.
        ends = (asked.get("RestartPolicy") or {}).get("Condition") in ("none", "on-failure")
        mine = [
            one
            for one in tasks
            if one["ServiceID"] == service["ID"]
            and (
                one["DesiredState"] in ("running", "complete", "ready")
                or (ends and one["Status"]["State"] == "complete")
            )
        ]
        wanted, at = _wanted(service, mine), kept({name: service}).get(name)
        well = [
            one
            for one in mine
            if one["Status"]["State"] in ("running", "complete")
            # the tasks of before are running still
            and all(_lean(one["Spec"].get(part)) == _lean(asked.get(part)) for part in _TOLD)
            # (a task that is where it may be keeps what it was told about the place)
            and at in (None, one.get("NodeID"))
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


def left(project: str) -> list[str]:
    """What there is of a stack, by kind: on the swarm, and its containers on this node."""
    asked = [("container", ("ps", "--all")), *((kind, (kind, "ls")) for kind in _KINDS)]
    return [kind for kind, words in asked if docker(*words, "--quiet", "--filter", NAMESPACE + project).strip()]


def remove(project: str, seconds: float) -> None:
    """Take a stack away, and wait until nothing of it is left on this node."""
    docker("stack", "rm", project)
    end = time.monotonic() + seconds
    while there := left(project):
        if time.monotonic() > end:
            raise UntangleError(
                "%s: its %ss are still there after %d s. Run again." % (project, "s, ".join(there), seconds)
            )
        if there == ["container"]:
            # What a job has ended in, Swarm leaves behind (seen with 20.10).
            ended = docker(
                "ps", "--all", "--quiet", "--filter", NAMESPACE + project, "--filter", "status=exited"
            ).split()
            try:
                docker("rm", *ended) if ended else None
            except UntangleError:
                pass  # it was just being removed
        time.sleep(_POLL_SECONDS)


def elsewhere(project: str, node_id: str) -> list[str]:
    """Services of a stack that have tasks on other nodes."""
    there = services(project)
    running = [one for one in _tasks(project) if one["DesiredState"] == "running"] if there else []
    away = {one["ServiceID"] for one in running if one.get("NodeID") not in (None, node_id)}
    return sorted(name for name, one in there.items() if one["ID"] in away)


def grace(project: str) -> float:
    """The longest that a task of a stack may take to end, in seconds. The next one waits for it where it needs its place."""
    asked = [spec["TaskTemplate"]["ContainerSpec"].get("StopGracePeriod") for spec in specs(project).values()]
    return max((10.0 if one is None else one / 1e9 for one in asked), default=0.0)
