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
#: Swarm's own limit for one.
_CONFIG_BYTES = 500 * 1024
#: What a tmpfs of Swarm is anyway.
_TMPFS_AS_IT_IS = frozenset(("rw", "noexec", "nosuid", "nodev", "mode=1777"))
IMAGE = "njoy.untangle.image"


class Node(t.NamedTuple):
    """The manager that deploys. ``no_new_privileges``: whether its engine sets that for every container; None is not known."""

    id: str
    no_new_privileges: bool | None


class Stack(Project):
    """``files`` has stack.yaml in the place of compose.yaml, and ``notes`` says what Swarm does otherwise."""

    def __init__(self, *args: t.Any, node: Node, **more: t.Any) -> None:
        super().__init__(*args, **more)
        self.node, self.notes = node, list[str]()

    def _rendered(self, compose: t.Mapping[str, t.Any]) -> File:
        top: dict[str, t.Any] = {"services": {}, "configs": {}, "secrets": {}}
        for name, service in compose["services"].items():
            top["services"][name] = self._translated(name, dict(service), top)
        top["networks"] = {
            # attachable: what watches the stack, or looks into it, comes as a container of its own
            name: options if (options or {}).get("external") else {"driver": "overlay", "attachable": True, **(options or {})}
            for name, options in (compose.get("networks") or {}).items()
        }  # fmt: skip
        top["volumes"] = compose.get("volumes") or {}
        return File("stack.yaml", render({name: part for name, part in top.items() if part}, None))

    def _refused(self, name: str, what: str) -> None:
        self._refuse("service %s" % name, what)

    def _translated(self, name: str, made: Service, top: dict[str, t.Any]) -> Service:
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
        deploy["update_config"] = {"order": order, "failure_action": "rollback"}
        deploy["rollback_config"] = {"order": order}
        if here:
            deploy["placement"] = {"constraints": ["node.id == %s" % self.node.id]}
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
        image = self.images.get(name) or {}
        if image.get("id") and "@" not in str(made.get("image")) and self._on(name, "pinned"):
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
        if swap is not None and str(swap) != str(memory):
            self._refused(name, "has memswap_limit %s, and Swarm sets no limit for swap. Take it out" % swap)
        elif swap is not None:
            self._note(
                "Swarm sets no limit for swap: where a node has any, a service may take as much of it as of memory."
            )
        if "cpus" in made:
            limits["cpus"] = str(made.pop("cpus"))
        shares = made.pop("cpu_shares", 1024)
        if shares != 1024:
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
        if times:
            policy["max_attempts"] = int(times)
        return {"restart_policy": policy}

    def _mounts(self, name: str, made: Service) -> list[Service]:
        configured = set(self.services[name].get("config") or {})
        volumes = [one for one in made.pop("volumes", ()) if one["target"] not in configured]
        tmpfs = made.pop("tmpfs", None) or []
        # As a line of its own `docker stack deploy` leaves it out without a word.
        return volumes + [self._tmpfs(name, str(one)) for one in ([tmpfs] if isinstance(tmpfs, str) else tmpfs)]

    def _tmpfs(self, name: str, text: str) -> Service:
        target, _colon, options = text.partition(":")
        made: Service = {"type": "tmpfs", "target": target}
        for option in filter(None, options.split(",")):
            word, _equals, value = option.partition("=")
            if word == "size":
                found = re.match(r"(\d+)([kmg]?)b?\Z", value.lower())
                if found:
                    made["tmpfs"] = {"size": int(found[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[found[2]]}
                    continue
            if option not in _TMPFS_AS_IT_IS:
                self._refused(name, "has tmpfs %s, and Swarm does not do %s. Leave that out" % (text, option))
        return made

    def _as_configs(self, name: str, top: dict[str, t.Any]) -> list[Service]:
        found = []
        for one, target in self._placed(name):
            content = one.content.encode()
            if len(content) > _CONFIG_BYTES:
                self._refused(
                    name,
                    "has %s of %d bytes, and a config of Swarm has %d at most"
                    % (one.path, len(content), _CONFIG_BYTES),
                )
            named = "%s_%s_%s" % (self.name, name, hashlib.sha256(content).hexdigest()[:_DIGITS])
            top["configs"][named] = {"name": named, "file": "./" + one.path}
            found.append({"source": named, "target": target, "mode": 0o444})
        return found

    def _placed(self, name: str) -> t.Iterable[tuple[File, str]]:
        """Config files, and where in the container they are."""
        config = self.services[name].get("config") or {}
        places = ["%s/%s" % (target.rstrip("/"), file) for target, texts in config.items() for file in texts]
        return zip(self._configs(name), places)

    def _as_secrets(self, name: str, made: Service, top: dict[str, t.Any]) -> list[Service]:
        made.pop("secrets", None)
        found, owner = [], self._owner(name)
        for one in self._secrets(name):
            digest = hmac.new(self.key, one.content.encode(), "sha256").hexdigest()[:_DIGITS]
            named = "%s_%s_%s" % (self.name, name, digest)
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

    def _without(self, name: str, made: Service) -> None:
        """What is left out, and does not have to be there."""
        made.pop("container_name", None)
        if made.pop("depends_on", None):
            self._note(
                "Swarm starts all services at once: one that depends on another is started again until that one answers."
            )

    def _names(self, name: str, made: Service) -> None:
        networks = made.get("networks")
        for network, options in networks.items() if isinstance(networks, dict) else ():
            for key in sorted((options or {}).keys() - {"aliases"}):
                self._refused(name, "has %s on the network %s, which Swarm does not do. Take it out" % (key, network))

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _port(self, name: str, given: t.Any) -> t.Any:
        port = _long_port(given)
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
        return {"mode": "host", **port}


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _long_port(given: t.Any) -> Service | None:
    if isinstance(given, dict):
        return dict(given)
    found = re.match(r"(?:(\[[^]]*\]|[^:\[\]]*):)?(\d+):(\d+)(?:/(tcp|udp|sctp))?\Z", str(given))
    if not found:
        return None
    made: Service = {"target": int(found[3]), "published": int(found[2]), "protocol": found[4] or "tcp"}
    return {**made, "host_ip": found[1]} if found[1] else made


def merged(ours: t.Any, given: t.Any) -> t.Any:
    """What a user says, beside what they did not say."""
    if isinstance(ours, dict) and isinstance(given, dict):
        return {**ours, **{key: merged(ours.get(key), value) for key, value in given.items()}}
    return given
