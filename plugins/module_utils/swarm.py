# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Compose project as a stack of Docker Swarm, which takes the same words and means less by them.

What Swarm would drop without a word is translated, or refused by name. ``docs/swarm.md`` has the list. Pure.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import typing as t

from .stacks import File, Project, Service, render

#: What `docker stack deploy` hands to a task as it stands.
KEPT = frozenset((
    "image", "command", "entrypoint", "environment", "env_file", "user", "working_dir", "cap_add", "cap_drop", "read_only", "ulimits",
    "sysctls", "init", "logging", "labels", "stop_grace_period", "stop_signal", "hostname", "extra_hosts", "dns", "dns_search", "tty",
    "stdin_open", "secrets", "networks", "ports", "volumes", "healthcheck",
))  # fmt: skip
#: Names of configs and secrets are theirs for good: another content is another name.
_DIGITS = 12
#: What one of them has to stay below, in Swarm.
_LIMIT_BYTES = 500 * 1024
#: A name of Swarm's, and the length of it: of a config or a secret, and of a service.
_NAMED, _NAME_LENGTH, _SERVICE_LENGTH = re.compile(r"[a-zA-Z0-9](?:[-_]*[a-zA-Z0-9]+)*\Z"), 64, 63
#: After that time the next task is started though the last one has not ended (swarmkit: defaultOldTaskTimeout).
_PATIENCE_SECONDS = 60
#: What `docker stack deploy` knows of a mount and of a network; the rest it drops without a word, or refuses when files are written.
_MOUNT = {
    "": frozenset(("type", "source", "target", "read_only", "consistency", "bind", "volume", "tmpfs")),
    "bind": frozenset(("propagation",)), "volume": frozenset(("nocopy",)), "tmpfs": frozenset(("size",)),
}  # fmt: skip
_NETWORK = frozenset(("name", "driver", "driver_opts", "attachable", "internal", "external", "labels", "ipam"))
#: Names that the engine's client goes by itself, which gets .env as its environment.
_CLIENT = re.compile(r"(PATH|HOME|(DOCKER|LD|SSH|XDG)_.*|(HTTPS?|NO|ALL)_PROXY)\Z", re.IGNORECASE)
_DURATION = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
#: What a tmpfs of Swarm is anyway.
_TMPFS_AS_IT_IS = frozenset(("rw", "noexec", "nosuid", "nodev", "mode=1777"))
IMAGE = "njoy.untangle.image"


class Node(t.NamedTuple):
    """The manager that deploys. ``no_new_privileges``: whether its engine sets that for every container; None is not known.

    ``elsewhere`` has the services of the stack that are there already and are kept on another node, with that node's name.
    """

    id: str
    no_new_privileges: bool | None
    active: bool = True
    nodes: int = 1
    elsewhere: t.Mapping[str, str] = {}


class Stack(Project):
    """``files`` has stack.yaml in the place of compose.yaml, and ``notes`` says what Swarm does otherwise."""

    def __init__(self, *args: t.Any, node: Node, **more: t.Any) -> None:
        super().__init__(*args, **more)
        self.node, self.notes = node, list[str]()

    def _rendered(self, compose: t.Mapping[str, t.Any]) -> File:
        top: dict[str, t.Any] = {"services": {}, "configs": {}, "secrets": {}}
        for name in filter(_CLIENT.match, self.environment):
            self._refuse(
                "compose_stack_env", "has %s, by which the Docker client itself goes. Take another name" % name
            )
        for name, service in compose["services"].items():
            top["services"][name] = self._translated(name, dict(service), top)
        networks = {name: options or {} for name, options in (compose.get("networks") or {}).items()}
        if any("networks" not in service for service in compose["services"].values()):
            networks.setdefault("default", {})
        top["networks"] = {name: self._network(name, dict(options)) for name, options in networks.items()}
        top["volumes"] = compose.get("volumes") or {}
        return File("stack.yaml", render({name: part for name, part in top.items() if part}, None))

    def _refused(self, name: str, what: str) -> None:
        self._refuse("service %s" % name, what)

    def _translated(self, name: str, made: Service, top: dict[str, t.Any]) -> Service:
        full = "%s_%s" % (self.name, name)
        if not _NAMED.match(full) or len(full) > _SERVICE_LENGTH:
            self._refused(
                name,
                "would be the service %s, and Swarm takes %d letters, digits, - and _ at most. Give it or the stack another name"
                % (full, _SERVICE_LENGTH),
            )  # fmt: skip
        own = made.pop("deploy", None) or {}
        deploy: Service = {"resources": {"limits": self._limits(name, made)}, **self._restart(name, made)}
        volumes = self._mounts(name, made)
        configs = self._as_configs(name, top)
        secrets = self._as_secrets(name, made, top)
        if volumes:
            made["volumes"] = volumes
        here = [one for one in volumes if one["type"] != "tmpfs"]
        host_ports = [one for one in made.get("ports") or () if one.get("mode") == "host"]
        # The next one cannot have the place, or the port, before the last has gone.
        order = "stop-first" if here or host_ports else "start-first"
        if own.get("mode") in ("replicated-job", "global-job"):
            # A job is not updated, and is not started again when it has ended well.
            if deploy["restart_policy"]["condition"] == "any":
                del deploy["restart_policy"]
        else:
            deploy["update_config"] = {"order": order, "failure_action": "rollback"}
            deploy["rollback_config"] = {"order": order}
        image = self.images.get(name) or {}
        by_id = bool(image.get("id") and "@" not in str(made.get("image")) and self._on(name, "pinned"))
        if (here or by_id) and "constraints" not in (own.get("placement") or {}):
            deploy["placement"] = {"constraints": ["node.id == %s" % self.node.id]}
            self._stay(name, full, bool(here))
            if not here and self.node.nodes > 1:
                self._note(
                    "No registry gave the image of %s, and no other node has it: it stays on this one. Name a repository in "
                    "compose_stack_push to let it go to others." % name
                )  # fmt: skip
        if here:
            written = not all(one.get("read_only") for one in here)
            if written and not host_ports and _seconds(made.get("stop_grace_period")) > _PATIENCE_SECONDS:
                self._refused(
                    name,
                    "has a stop grace of %s and data, and Swarm starts the next task after %d s although the last one is still writing. "
                    "Publish a port of it with mode: host, which only one task can have, or set stop_grace_period to %ds"
                    % (made["stop_grace_period"], _PATIENCE_SECONDS, _PATIENCE_SECONDS),
                )  # fmt: skip
            if len(host_ports) == len(made.get("ports") or ()):
                # By name it is its task. The virtual address in between drops connections that were
                # idle for 15 minutes (moby issue 31208).
                deploy["endpoint_mode"] = "dnsrr"
        self._privileges(name, made)
        self._without(name, made)
        for key in sorted(made.keys() - KEPT):
            if not key.startswith("x-"):
                self._refused(name, "has %s, which Swarm does not do. Take it out, or use the backend compose" % key)
        health = made.get("healthcheck")
        if isinstance(health, dict) and "start_interval" in health:
            made["healthcheck"] = {key: value for key, value in health.items() if key != "start_interval"}
        self._names(name, made)
        if by_id:
            # Swarm looks at the name alone, and asks a registry for it first: a tag that means another image now would change nothing.
            made["labels"] = {**made.get("labels", {}), IMAGE: str(made["image"])}
            made["image"] = str(image["id"])
        return {
            **made,
            **({"configs": configs} if configs else {}),
            **({"secrets": secrets} if secrets else {}),
            "deploy": merged(deploy, own),
        }

    # -- one line after the other -----------------------------------------------------------------------------------------

    def _limits(self, name: str, made: Service) -> Service:
        limits = Service()
        memory, swap = made.pop("mem_limit", None), made.pop("memswap_limit", None)
        if memory is not None:
            limits["memory"] = str(memory)
        if swap is not None and _bytes(swap) != _bytes(memory):
            self._refused(name, "has memswap_limit %s, and Swarm sets no limit for swap. Take it out" % swap)
        elif swap is not None:
            self._note(
                "Swarm sets no limit for swap: where a node has any, a service may take as much of it as of memory."
            )
        if "cpus" in made:
            limits["cpus"] = str(made.pop("cpus"))
        shares = made.pop("cpu_shares", 1024)
        if str(shares) != "1024":
            self._refused(
                name,
                "has cpu_shares %s, and Swarm knows no shares. Use cpus, or deploy.resources.reservations" % shares,
            )
        if "pids_limit" in made:
            limits["pids"] = made.pop("pids_limit")
        return limits

    def _restart(self, name: str, made: Service) -> Service:
        word, _colon, times = str(made.pop("restart", "no")).partition(":")
        known = {"always": "any", "unless-stopped": "any", "on-failure": "on-failure", "no": "none", "False": "none"}
        if word not in known:
            self._refused(name, "has restart %s, which is none of %s" % (word, ", ".join(known)))
        policy: Service = {"condition": known.get(word, "any")}
        if times.isdigit():
            policy["max_attempts"] = int(times)
        elif times:
            self._refused(name, "has restart %s:%s, and %s is no number" % (word, times, times))
        return {"restart_policy": policy}

    def _mounts(self, name: str, made: Service) -> list[Service]:
        configured = set(self.services[name].get("config") or {})
        volumes = [
            self._mount(name, dict(one)) for one in made.pop("volumes", ()) if one.get("target") not in configured
        ]
        tmpfs = made.pop("tmpfs", None) or []
        # As a line of its own `docker stack deploy` leaves it out without a word.
        return volumes + [self._tmpfs(name, str(one)) for one in ([tmpfs] if isinstance(tmpfs, str) else tmpfs)]

    def _mount(self, name: str, made: Service) -> Service:
        where, kind = "the mount at %s" % made.get("target"), str(made.get("type"))
        if kind not in _MOUNT or not kind:
            self._refused(name, "has %s of type %s, which Swarm does not do" % (where, kind))
        given = {part: dict(made.pop(part, None) or {}) for part in ("bind", "volume", "tmpfs")}
        if given["bind"].get("create_host_path") is False:  # as it is on Swarm
            del given["bind"]["create_host_path"]
        if given["tmpfs"].get("mode") in (0o1777, "1777", "01777"):
            del given["tmpfs"]["mode"]
        if "size" in given["tmpfs"]:
            given["tmpfs"]["size"] = _bytes(given["tmpfs"]["size"])
        for part, options in (("", made), *given.items()):
            for key in sorted(options.keys() - _MOUNT[part]):
                self._refused(name, "has %s with %s, which Swarm does not do. Take it out" % (where, key))
        made.update({part: options for part, options in given.items() if options})
        return made

    def _tmpfs(self, name: str, text: str) -> Service:
        target, _colon, options = text.partition(":")
        made: Service = {"type": "tmpfs", "target": target}
        for option in filter(None, options.split(",")):
            word, _equals, value = option.partition("=")
            if word == "size" and isinstance(_bytes(value), int):
                made["tmpfs"] = {"size": _bytes(value)}
                continue
            if option not in _TMPFS_AS_IT_IS:
                self._refused(name, "has tmpfs %s, and Swarm does not do %s. Leave that out" % (text, option))
        return made

    def _as_configs(self, name: str, top: dict[str, t.Any]) -> list[Service]:
        found = []
        for one, target in self._placed(name):
            named = self._content(name, one, hashlib.sha256(one.content.encode()).hexdigest())
            self._note(
                "Swarm puts each file of a config beside what the image has in that directory; Compose mounts the directory in its place."
            )
            top["configs"][named] = {"name": named, "file": "./" + one.path}
            found.append({"source": named, "target": target, "mode": 0o444})
        return found

    def _content(self, name: str, one: File, digest: str) -> str:
        """The name of a config or a secret, which Swarm takes with something in it, and not too much."""
        size = len(one.content.encode())
        if not 0 < size < _LIMIT_BYTES:
            self._refused(name, "has %s of %d bytes, and Swarm takes 1 to %d" % (one.path, size, _LIMIT_BYTES - 1))
        named = "%s_%s_%s" % (self.name, name, digest[:_DIGITS])
        if len(named) > _NAME_LENGTH:
            self._refused(
                name,
                "would have a config or a secret of the name %s, and Swarm takes %d characters. Give it or the stack a shorter name"
                % (named, _NAME_LENGTH),
            )  # fmt: skip
        return named

    def _placed(self, name: str) -> t.Iterable[tuple[File, str]]:
        """Config files, and where in the container they are."""
        config = self.services[name].get("config") or {}
        places = ["%s/%s" % (target.rstrip("/"), file) for target, texts in config.items() for file in texts]
        return zip(self._configs(name), places)

    def _as_secrets(self, name: str, made: Service, top: dict[str, t.Any]) -> list[Service]:
        made.pop("secrets", None)
        found, owner = [], self._owner(name)
        for one in self._secrets(name):
            named = self._content(name, one, hmac.new(self.key, one.content.encode(), "sha256").hexdigest())
            top["secrets"][named] = {"name": named, "file": "./" + one.path}
            entry: Service = {"source": named, "target": one.path.rpartition("/")[2], "mode": 0o400}
            if owner:
                entry.update(uid=str(owner[0]), gid=str(owner[1]))
            found.append(entry)
        return found

    def _privileges(self, name: str, made: Service) -> None:
        for option in made.pop("security_opt", None) or ():
            if str(option) not in ("no-new-privileges", "no-new-privileges:true"):
                self._refused(name, "has security_opt %s, which Swarm drops. Take it out" % option)
            elif self.node.no_new_privileges is False:
                self._refused(
                    name,
                    "has security_opt %s, which Swarm drops, and the engine of this node does not set it by itself. Put "
                    '"no-new-privileges": true into the daemon.json of every node, or set hardening: {privileges: false}' % option,
                )  # fmt: skip
            elif self.node.no_new_privileges is None:
                self._note(
                    "Swarm drops no-new-privileges, and no image here could tell whether the engine sets it for every container. "
                    'Put "no-new-privileges": true into the daemon.json of every node.'
                )

    def _without(self, name: str, made: Service) -> None:
        """What is left out, and does not have to be there."""
        made.pop("container_name", None)
        if made.pop("depends_on", None):
            self._note(
                "Swarm starts all services at once: one that depends on another is started again until that one answers."
            )

    def _stay(self, name: str, full: str, data: bool) -> None:
        """Refuse what this node must not have, or cannot."""
        other = self.node.elsewhere.get(name)
        if data and other:
            self._refused(
                name,
                "has data, and is kept on the node %s. From here it would be started on empty volumes. Deploy it on that node, or, if its "
                "data is to be here, end it first: docker service rm %s" % (other, full),
            )  # fmt: skip
        if not self.node.active:
            self._refused(
                name,
                "would stay on this node, which takes no tasks. Let it (docker node update --availability active self), or say where in "
                "deploy.placement.constraints",
            )  # fmt: skip

    def _network(self, name: str, options: Service) -> Service:
        if options.get("external"):
            return options
        # attachable: what watches the stack, or looks into it, comes as a container of its own
        made = {"driver": "overlay", "attachable": True, **options}
        wrong = sorted(made.keys() - _NETWORK)
        for config in (made.get("ipam") or {}).get("config") or ():
            wrong += sorted("ipam %s" % key for key in config.keys() - {"subnet"})
        if made["driver"] != "overlay":
            wrong.append("driver %s" % made["driver"])
        for one in wrong:
            self._refuse("network %s" % name, "has %s, which Swarm does not do. Take it out" % one)
        return made

    def _names(self, name: str, made: Service) -> None:
        if made.get("extra_hosts"):
            made["extra_hosts"] = [self._host(name, one) for one in _listed(made["extra_hosts"])]
        if isinstance(made.get("env_file"), list):
            made["env_file"] = [self._env_file(name, one) for one in made["env_file"]]
        networks = made.get("networks")
        for network, options in networks.items() if isinstance(networks, dict) else ():
            for key in sorted((options or {}).keys() - {"aliases"}):
                self._refused(name, "has %s on the network %s, which Swarm does not do. Take it out" % (key, network))

    def _host(self, name: str, given: str) -> str:
        host, _sign, address = re.sub("=", ":", given, count=1).partition(":")
        if address == "host-gateway":
            self._refused(name, "has extra_hosts %s, and Swarm knows no host-gateway. Write an address" % given)
        return "%s:%s" % (host, address.strip("[]"))

    def _env_file(self, name: str, given: t.Any) -> t.Any:
        if not isinstance(given, dict):
            return given
        if given.get("required", True) is not True or given.keys() - {"path", "required"}:
            self._refused(name, "has env_file %s, and Swarm takes a path alone" % given)
        return given.get("path")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _port(self, name: str, given: t.Any) -> t.Any:
        port = _long_port(self._filled(given))
        if port is None:
            self._refused(name, "publishes %s. Write PORT:PORT for Swarm, or the long form" % (given,))
            return {}
        address = str(port.pop("host_ip", "") or "").strip("[]")
        if address and _is_loopback(address):
            self._refused(
                name,
                "publishes port %s on %s, and Swarm publishes on every address of a node. Take it out, and come over a network of the "
                "stack (attachable), or use the backend compose" % (port.get("published"), address),
            )  # fmt: skip
        elif self._on(name, "ports"):
            self._refused(
                name,
                "publishes port %s%s, and Swarm does that on every address of a node. If that may be, set hardening: {ports: false}"
                % (port.get("published"), " on " + address if address else ""),
            )  # fmt: skip
        else:
            self._note("Swarm publishes port %s on every address of a node." % port.get("published"))
        return {"mode": "host", **port}

    def _filled(self, given: t.Any) -> t.Any:
        """With what .env has for a ${NAME}: a port is taken apart before `docker stack deploy` would fill it in."""
        if isinstance(given, dict):
            return {key: self._filled(value) for key, value in given.items()}
        if not isinstance(given, str):
            return given
        return re.sub(r"\$\{(\w+)\}", lambda found: str(self.environment.get(found[1], found[0])), given)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _long_port(given: t.Any) -> Service | None:
    if isinstance(given, dict):
        # a name and a protocol above are for whoever reads the file
        made = {key: value for key, value in given.items() if key not in ("name", "app_protocol")}
        numbers = [made[key] for key in ("target", "published") if key in made]
        if made.keys() - {"target", "published", "protocol", "mode", "host_ip"} or "target" not in made:
            return None
        if not all(str(one).isdigit() for one in numbers):
            return None
        return {key: int(value) if key in ("target", "published") else value for key, value in made.items()}
    found = re.match(r"(?:(\[[^]]*\]|[^:\[\]]*):)?(\d+):(\d+)(?:/(tcp|udp|sctp))?\Z", str(given))
    if not found:
        return None
    made = {"target": int(found[3]), "published": int(found[2]), "protocol": found[4] or "tcp"}
    return {**made, "host_ip": found[1]} if found[1] else made


def _listed(given: t.Any) -> list[str]:
    """Names with a value each, out of a list or a mapping."""
    if not isinstance(given, dict):
        return [str(one) for one in given]
    return [
        "%s=%s" % (key, one) for key, value in given.items() for one in (value if isinstance(value, list) else [value])
    ]


def _bytes(given: t.Any) -> t.Any:
    """A size as a number, or as it was given where it is none."""
    found = re.match(r"(\d+(?:\.\d+)?)\s*([kmg]?)b?\Z", str(given).lower())
    return int(float(found[1]) * (1 << {"": 0, "k": 10, "m": 20, "g": 30}[found[2]])) if found else given


def _seconds(given: t.Any) -> float:
    """A duration of Compose, such as 1m30s."""
    return sum(float(number) * _DURATION[unit] for number, unit in re.findall(r"([\d.]+)(us|ms|h|m|s)", str(given)))


def merged(ours: t.Any, given: t.Any) -> t.Any:
    """What a user says, beside what they did not say."""
    if isinstance(ours, dict) and isinstance(given, dict):
        return {**ours, **{key: merged(ours.get(key), value) for key, value in given.items()}}
    return given
