# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a running container stands against the container part of the CIS Docker benchmark, out of what `docker inspect` says. Pure.

Numbers are those of the CIS Docker Benchmark 1.6, chapter 5 (and 4.1). Left out is what no inspection of a container tells: 5.1
(the engine's swarm mode), 5.7 (sshd within), 5.9 (which ports are needed), 5.23 and 5.24 (exec sessions to come). A tag passes 5.28:
of an image that no registry gave there is no digest.
"""

from __future__ import annotations

import typing as t

Facts = t.Mapping[str, t.Any]

#: Directories of the host that hold its system or its secrets.
SENSITIVE = ("/", "/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr")


Judge = t.Callable[[Facts], t.Optional[str]]


class Check(t.NamedTuple):
    """``fails`` takes what ``docker inspect`` says of a container, and returns the reason why it does not pass, or None."""

    number: str
    title: str
    advice: str
    fails: Judge
    #: A kernel's feature without which there is nothing to pass, as ``docker info`` lists it.
    needs: str = ""


def judged(container: Facts, security: t.Iterable[str], exceptions: t.Mapping[str, str]) -> list[dict[str, t.Any]]:
    """Per check its ``number``, ``title``, whether it ``passed``, and why not; ``excepted`` has the reason that somebody gave for it.

    ``security``: the engine's ``SecurityOptions``.
    """
    there, found = [str(one) for one in security], []
    for check in CHECKS:
        if check.needs and not any("name=" + check.needs in one for one in there):
            continue
        reason = check.fails(container)
        excepted = exceptions.get(check.number) if reason else None
        found.append(
            {
                "check": check.number,
                "title": check.title,
                "passed": reason is None,
                "reason": reason,
                "excepted": excepted,
                "advice": check.advice if reason and not excepted else None,
            }
        )
    return found


def changed_files(container: Facts, diff: str) -> list[str]:
    """Paths that differ from the image, out of what ``docker diff`` says: without the places that something is mounted on."""
    mounts = [str(one["Destination"]) for one in container.get("Mounts") or ()]
    mounts += list(_host(container).get("Tmpfs") or ())
    found = [line.partition(" ")[2] for line in diff.splitlines()]
    return [path for path in found if not any((one + "/").startswith(path + "/") for one in mounts)]


def _host(one: Facts) -> Facts:
    return t.cast(Facts, one.get("HostConfig") or {})


def _named(name: str, one: Facts) -> bool:
    """Whether a namespace is shared with the host."""
    return str(_host(one).get(name) or "") == "host"


def _user(one: Facts) -> str | None:
    user = str((one.get("Config") or {}).get("User") or "").partition(":")[0]
    return "it runs as root" if user in ("", "root") or (user.isdigit() and not int(user)) else None


def _apparmor(one: Facts) -> str | None:
    return "no AppArmor profile" if str(one.get("AppArmorProfile") or "unconfined") == "unconfined" else None


def _selinux(one: Facts) -> str | None:
    options = _host(one).get("SecurityOpt") or ()
    return "SELinux labels are off" if any("label" in str(x) and "disable" in str(x) for x in options) else None


def _capabilities(one: Facts) -> str | None:
    if "ALL" not in {str(x).upper() for x in _host(one).get("CapDrop") or ()}:
        return "cap_drop is not ALL"
    added = [str(x) for x in _host(one).get("CapAdd") or ()]
    return "cap_add: %s" % ", ".join(added) if added else None


def _sensitive(one: Facts) -> str | None:
    found = [m["Source"] for m in one.get("Mounts") or () if m.get("Type") == "bind" and _is_sensitive(m["Source"])]
    return "mounts %s of the host" % ", ".join(sorted(found)) if found else None


def _is_sensitive(path: str) -> bool:
    return path in SENSITIVE or path.startswith(tuple(one + "/" for one in SENSITIVE if one not in ("/", "/usr")))


def _published(one: Facts) -> list[tuple[str, str]]:
    """(address, port) of the host for each port that is published."""
    bound = (_host(one).get("PortBindings") or {}).values()
    return [(str(b.get("HostIp") or ""), str(b.get("HostPort") or "")) for ports in bound for b in ports or ()]


def _low_ports(one: Facts) -> str | None:
    low = [port for _address, port in _published(one) if port.isdigit() and 0 < int(port) < 1024]
    return "publishes port %s" % ", ".join(low) if low else None


def _everywhere(one: Facts) -> str | None:
    if _host(one).get("PublishAllPorts"):
        return "every port of its image is published, on every address"
    wide = [port for address, port in _published(one) if address in ("", "0.0.0.0", "::")]
    return "port %s is published on every address" % ", ".join(wide) if wide else None


def _restart(one: Facts) -> str | None:
    policy = _host(one).get("RestartPolicy") or {}
    if policy.get("Name") == "on-failure" and 0 < int(policy.get("MaximumRetryCount") or 0) <= 5:
        return None
    return "restart is %s" % (policy.get("Name") or "no")


def _shared(one: Facts) -> str | None:
    found = [m["Destination"] for m in one.get("Mounts") or () if "shared" in str(m.get("Propagation") or "")]
    return "%s is mounted shared" % ", ".join(found) if found else None


def _options(one: Facts) -> list[str]:
    return [str(x).replace("=", ":") for x in _host(one).get("SecurityOpt") or ()]


def _seccomp(one: Facts) -> str | None:
    return "seccomp is off" if "seccomp:unconfined" in _options(one) else None


def _privileges(one: Facts) -> str | None:
    found = {"no-new-privileges", "no-new-privileges:true"} & set(_options(one))
    return None if found else "no-new-privileges is not set"


def _health(one: Facts) -> str | None:
    test = ((one.get("Config") or {}).get("Healthcheck") or {}).get("Test") or ["NONE"]
    return "no health check" if test[0] == "NONE" else None


def _pinned(one: Facts) -> str | None:
    name = str((one.get("Config") or {}).get("Image") or "")
    if "@sha256:" in name or name.startswith("sha256:"):
        return None
    tag = name.rpartition("/")[2].partition(":")[2]
    return "the image is %s, which says no release" % name if tag in ("", "latest") else None


def _docker0(one: Facts) -> str | None:
    networks = (one.get("NetworkSettings") or {}).get("Networks") or {}
    return "it is on the engine's own bridge" if "bridge" in networks else None


def _socket(one: Facts) -> str | None:
    """Itself, or a directory that it is in."""
    found = [str(m.get("Source")) for m in one.get("Mounts") or ()]
    found = [path for path in found if path.endswith("docker.sock") or path in ("/run", "/var/run", "/var")]
    return "the engine's socket is mounted (%s)" % ", ".join(found) if found else None


def _has(name: str, reason: str) -> Judge:
    """Passes where a setting of the host's side is set to anything."""
    return lambda one: None if _host(one).get(name) else reason


def _has_not(name: str, reason: str) -> Judge:
    return lambda one: reason if _host(one).get(name) else None


def _own(name: str, what: str) -> Judge:
    """Passes where a namespace is not the host's."""
    return lambda one: "it shares the host's %s" % what if _named(name, one) else None


CHECKS = (
    Check("4.1", "a user other than root", "user: a number", _user),
    Check("5.2", "AppArmor", "leave apparmor alone", _apparmor, "apparmor"),
    Check("5.3", "SELinux", "leave labels on", _selinux, "selinux"),
    Check("5.4", "no capabilities", "cap_drop: [ALL]", _capabilities),
    Check("5.5", "not privileged", "privileged: false", _has_not("Privileged", "it is privileged")),
    Check("5.6", "no directories of the host's system", "mount directories of the project", _sensitive),
    Check("5.8", "no ports below 1024", "publish a higher port", _low_ports),
    Check("5.10", "a network of its own", "no network_mode: host", _own("NetworkMode", "network")),
    Check("5.11", "a memory limit", "mem_limit", _has("Memory", "no memory limit")),
    Check("5.12", "a share of the processor", "cpu_shares, cpus or cpu_quota", lambda one: (
        None if any(int(_host(one).get(x) or 0) > 0 for x in ("CpuShares", "NanoCpus", "CpuQuota")) else "no share of the processor")),
    Check("5.13", "a root that is read only", "read_only: true", _has("ReadonlyRootfs", "its root can be written to")),
    Check("5.14", "ports on the addresses that are meant", "host_ip of the port", _everywhere),
    Check("5.15", "restarts that end", "restart: on-failure:5", _restart),
    Check("5.16", "processes of its own", "no pid: host", _own("PidMode", "processes")),
    Check("5.17", "shared memory of its own", "no ipc: host", _own("IpcMode", "shared memory")),
    Check("5.18", "no devices", "no devices", _has_not("Devices", "devices of the host")),
    Check("5.19", "limits of its own for files and processes", "ulimits", _has("Ulimits", "no ulimits of its own")),
    Check("5.20", "no shared mounts", "no propagation: shared", _shared),
    Check("5.21", "a name of its own", "no uts: host", _own("UTSMode", "name")),
    Check("5.22", "seccomp", "no seccomp:unconfined", _seccomp),
    Check("5.25", "its control group where the engine has it", "no cgroup_parent", _has_not("CgroupParent", "cgroup_parent")),
    Check("5.26", "no new privileges", "security_opt: [no-new-privileges:true]", _privileges),
    Check("5.27", "a health check", "healthcheck", _health),
    Check("5.28", "an image that says its release", "image: a tag and a digest", _pinned),
    Check("5.29", "a limit of processes", "pids_limit", lambda one: (
        None if int(_host(one).get("PidsLimit") or 0) > 0 else "no limit of processes")),
    Check("5.30", "not on docker0", "networks", _docker0),
    Check("5.31", "user namespaces as the engine has them", "no userns_mode: host", _own("UsernsMode", "users")),
    Check("5.32", "not the engine's socket", "no docker.sock", _socket),
)  # fmt: skip
