# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host has, what it runs of ours, and what stands in the way. Reads only; answers with one line of JSON.

Run by the role on the managed host, with the question as JSON in the first argument.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import ipaddress
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys

ASK_IMAGE = """
server=$(command -v valkey-server || command -v redis-server) || exit 3
echo "$server"; echo "${server%server}cli"; "$server" --version
grep NoNewPrivs /proc/self/status
"""

TRY_PAYLOAD = """
dir=$(mktemp -d) || exit 0
"$1" --port 0 --unixsocket "$dir/s" --save "" --appendonly no --dir "$dir" > /dev/null 2>&1 < /dev/null &
server=$!
trap 'kill $server; wait $server; rm -rf "$dir"' EXIT
for _ in $(seq 50); do
  [ -S "$dir/s" ] && break
  sleep 0.1
done
"$2" -s "$dir/s" -x RESTORE canary 0
"""


def run(*words):
    """(exit code, output) of a command; 127 where it is not there."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    except OSError as exc:
        return 127, str(exc)
    except subprocess.TimeoutExpired:
        return 124, "%s did not answer within two minutes" % words[0]
    return done.returncode, done.stdout if done.returncode == 0 else (done.stderr or done.stdout)


def read(path):
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def named(problem, called):
    """A sentence with the variables that its reader knows: `called` has them where another role has ours filled."""
    for name in ("server", "backend", "image", "user", "tls", "dir", "network", "host_settings", "monitoring"):
        problem = problem.replace("{%s}" % name, called.get(name) or "redis_instances_" + name)
    return problem


def version_of(text):
    found = re.search(r"v=(\d[0-9.]*)", text)
    return found.group(1) if found else ""


def server_on_host(asked, problems):
    """The server's binary, its command line client and its version."""
    names = [asked] if asked else ["redis-server", "valkey-server"]
    places = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin"
    path = next(filter(None, (shutil.which(name, path=places) for name in names)), None)
    if not path:
        problems.append(
            "%s is not on this host. Install redis-server or valkey-server there, name its path in {server}, or use "
            "{backend}: compose." % " or ".join(names)
        )
        return {}
    client = re.sub("server$", "cli", path)
    if not os.access(client, os.X_OK):
        client = next(filter(None, (shutil.which(name, path=places) for name in ("redis-cli", "valkey-cli"))), None)
    version = version_of(run(path, "--version")[1])
    if not client or not version:
        problems.append(
            "%s. Name another binary in {server}, or install the package's command line client."
            % (
                "%s does not tell its version" % path
                if client
                else "there is no redis-cli or valkey-cli beside %s" % path
            )
        )
        return {}
    return {"path": path, "cli": client, "version": version, "flavour": "valkey" if "valkey" in path else "redis"}


def swarm_of(engine, problems):
    """What a swarm needs of this host."""
    code, text = run("docker", "info", "--format", "{{json .Swarm}}")
    swarm = json.loads(text) if not code else {}
    state = run("docker", "node", "inspect", "--format", "{{.Spec.Availability}}", "self")
    if not state[0] and state[1].strip() != "active":
        problems.append(
            "this node of the swarm takes no tasks (%s). Let it (docker node update --availability active self), or use {backend}: compose."
            % state[1].strip()
        )
    if not swarm.get("ControlAvailable"):
        problems.append(
            "this host is no manager of a swarm (%s). Run docker swarm init, name a manager in the inventory, or use {backend}: compose."
            % (swarm.get("LocalNodeState") or "unknown")
        )
    if engine.get("no_new_privileges") is False:
        problems.append(
            'Swarm drops no-new-privileges, and the Docker engine does not set it by itself. Put "no-new-privileges": true into the '
            "daemon.json of this node, or use {backend}: compose."
        )


def server_in_image(image, backend, problems):
    """The same of an image. Empty where the image is not here yet."""
    code, text = run("docker", "version", "--format", "{{.Server.Version}}")
    if code:
        problems.append(
            "the Docker engine does not answer (%s). Start it, let this user use it, or use {backend}: host."
            % (text.strip().splitlines() or ["no reason given"])[-1]
        )
        return {}, {}
    engine = {"version": text.strip()}
    code, text = run("docker", "compose", "version", "--short") if backend == "compose" else (0, "")
    if code:
        problems.append("the Compose plugin is not on this host (docker compose). Install it, or use {backend}: host.")
    if run("docker", "image", "inspect", "--format", "{{.Id}}", image)[0]:
        return engine, {}
    code, text = run("docker", "run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", ASK_IMAGE)
    lines = text.split("\n")
    if code in (126, 127):
        problems.append(
            "the image %s has no shell (sh), and its health check needs one. Name another in {image}." % image
        )
        return engine, {}
    if code or len(lines) < 3 or not version_of(lines[2]):
        problems.append("the image %s holds no redis-server or valkey-server. Name another in {image}." % image)
        return engine, {}
    engine["no_new_privileges"] = lines[3:4] == ["NoNewPrivs:\t1"]
    return engine, {
        "path": lines[0],
        "cli": lines[1],
        "version": version_of(lines[2]),
        "flavour": "valkey" if "valkey" in lines[0] else "redis",
    }


def payload(version):
    """A string as a server with that data format would DUMP it: value, version, and CRC-64 (Jones) over both."""
    text = b"\x00\x01x" + version.to_bytes(2, "little")
    crc = 0
    for byte in text:
        crc ^= byte
        for _bit in range(8):
            crc = crc >> 1 ^ (0x95AC9329AC4BC9B5 if crc & 1 else 0)
    return text + crc.to_bytes(8, "little")


def check_payload(asked, server, problems):
    """Whether the server that instances would run takes what the source dumps: tried on one of its own, without network."""
    words = ["sh", "-c", TRY_PAYLOAD, "sh", server["path"], server["cli"]]
    if asked["backend"] != "host":
        inside = ["docker", "run", "--rm", "--interactive", "--network", "none", "--entrypoint", "sh", asked["image"]]
        words = [*inside, *words[1:]]
    try:
        done = subprocess.run(
            words,
            input=payload(asked["source"]["payload_version"]),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return
    if b"payload version or checksum" in done.stdout or b"Bad data format" in done.stdout:
        problems.append(
            "%s %s does not take the data format of the shared server, which is %s %s. Name %s of that version in %s, or of a later one."
            % (
                server["flavour"],
                server["version"],
                asked["source"]["flavour"],
                asked["source"]["version"],
                *(("a binary", "{server}") if asked["backend"] == "host" else ("an image", "{image}")),
            )
        )


def run_as(asked, flavour, problems):
    """The user that an instance runs as: root gives its rights away, anybody else keeps their own."""
    if os.getuid():
        return {"name": pwd.getpwuid(os.getuid()).pw_name, "uid": os.getuid(), "gid": os.getgid(), "by": []}
    for name in [asked] if asked else [flavour, "redis", "valkey"]:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        if found.pw_uid == 0:
            return {"name": name, "uid": 0, "gid": 0, "by": []}
        setpriv = shutil.which("setpriv", path=os.environ.get("PATH", "") + ":/usr/bin:/bin")
        if not setpriv:
            problems.append(
                "setpriv (util-linux) is not on this host; without it an instance cannot run as user %s. Install it."
                % name
            )
        by = [
            setpriv,
            "--reuid=%d" % found.pw_uid,
            "--regid=%d" % found.pw_gid,
            "--clear-groups",
            "--no-new-privs",
            "--",
        ]
        return {"name": name, "uid": found.pw_uid, "gid": found.pw_gid, "by": by}
    problems.append(
        "user %s is not on this host, and an instance should not run as root. Create it, or name another in {user}."
        % (asked or "redis or valkey")
    )
    return {"name": "root", "uid": 0, "gid": 0, "by": []}


def barred(path, uid, gid):
    """The first directory above `path` that a user cannot pass through."""
    while path != "/":
        path = os.path.dirname(path)
        try:
            found = os.stat(path)
        except OSError:
            continue
        bit = 0o100 if found.st_uid == uid else 0o010 if found.st_gid == gid else 0o001
        if not found.st_mode & bit:
            return path
    return ""


def alive(pid, command=None, cwd=None):
    """Whether a process with that number is the one that is meant, and no stranger that got its number."""
    if not pid.isdigit():
        return False
    try:
        if command is not None:
            return command in read("/proc/%s/cmdline" % pid).replace("\0", " ")
        return os.readlink("/proc/%s/cwd" % pid) == cwd and "-server" in read("/proc/%s/comm" % pid) + os.readlink(
            "/proc/%s/exe" % pid
        )
    except OSError:
        return False


def who_listens(port, address=""):
    """The number of the process that listens on a port, at any address or at that one, where it can be seen."""
    # as /proc has it: words of four bytes, each as a number of this machine
    packed = ipaddress.ip_address(address.partition("%")[0]).packed if address else b""
    at = "".join("%08X" % int.from_bytes(packed[i : i + 4], sys.byteorder) for i in range(0, len(packed), 4))
    wanted = set()
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in read(path).splitlines()[1:]:
            words = line.split()
            host, _colon, number = words[1].rpartition(":")
            if words[3] == "0A" and int(number, 16) == port and at in ("", host):
                wanted.add("socket:[%s]" % words[9])
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(link) in wanted:
                return link.split("/")[2]
        except OSError:
            pass
    return ""


def by_whom(port):
    pid = who_listens(port)
    return " by %s (pid %s)" % (read("/proc/%s/comm" % pid).strip(), pid) if pid else ""


def has_already(name, home, seen, address, port):
    """Whether what runs of an instance is who listens there. Asked of what runs: a run that broke off has written nothing down."""
    if seen["backend"] == "swarm":
        code, text = run(
            "docker", "service", "inspect", "--format", "{{json .Endpoint.Ports}}", "untangle-%s_server" % name
        )
        return not code and any(one.get("PublishedPort") == port for one in json.loads(text) or ())
    if seen["container"]:
        return seen["running"] and [address, str(port)] in seen["published"]
    listener = who_listens(port, address=address)
    if listener:
        return listener == read(os.path.join(home, "data", "server.pid")).strip()
    # in a container root cannot look into processes of others; what runs was told its port
    return seen["alive"] and bool(
        re.search(r"^(tls-)?port %d$" % port, read(os.path.join(home, "conf", "redis.conf")), re.MULTILINE)
    )


def check_listen(one, home, seen, everywhere, problems):
    """The address as numbers, and whether a server could listen there, or with `everywhere` on all addresses of this host."""
    where = "purpose %s" % one["name"]
    try:
        found = socket.getaddrinfo(one["address"], one["port"], 0, socket.SOCK_STREAM)
    except OSError as exc:
        problems.append(
            "%s: this host cannot resolve address %s (%s). Give the purpose an IP address."
            % (where, one["address"], exc)
        )
        return ""
    # one family is enough: a name with both would need both to be on this host
    family, _kind, _proto, _name, place = found[0]
    address = place[0]
    if ipaddress.ip_address(address.partition("%")[0]).is_loopback and not re.match(
        r"(127\.[0-9.]+|::1|localhost)$", one["address"]
    ):
        problems.append(
            "%s: its address %s is %s on this host, which no other host can reach (see /etc/hosts). Give the purpose the IP address "
            "of this host, or 127.0.0.1 if its applications run here." % (where, one["address"], address)
        )
        return address
    wide = [("::" if family == socket.AF_INET6 else "", one["port"])] if everywhere else []
    for probed in [place, *wide] if not has_already(one["name"], home, seen, address, one["port"]) else []:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(probed)
                probe.listen(1)
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                problems.append(
                    "%s: port %s on %s is in use%s. Choose another port for it in redis_split_purposes, or stop what uses it."
                    % (
                        where,
                        one["port"],
                        address
                        if probed == place
                        else "another address of this host, and Swarm publishes on every one,",
                        by_whom(one["port"]),
                    )
                )
            elif exc.errno == errno.EADDRNOTAVAIL:
                problems.append(
                    "%s: address %s is not an address of this host. Give the purpose the address that the instance is to listen on."
                    % (where, address)
                )
            else:
                problems.append(
                    "%s: nothing can listen on %s port %s (%s). Choose another port."
                    % (where, address, one["port"], exc)
                )
            break
    return address


def network_of(name, problems):
    """Subnets of a Docker network, what it gives away by itself, and who has which address there."""
    code, text = run("docker", "network", "inspect", name)
    if code:
        problems.append(
            "there is no Docker network %s on this host. Create it (docker network create --subnet 172.30.0.0/24 --ip-range 172.30.0.128/25 %s), or leave "
            "{network} empty to publish ports on the host." % (name, name)
        )
        return None
    found = json.loads(text)[0]
    pools = [one for one in (found.get("IPAM") or {}).get("Config") or () if one.get("Subnet")]
    return {
        "subnets": [one["Subnet"] for one in pools],
        "gateways": [one["Gateway"] for one in pools if one.get("Gateway")],
        "ranges": [one.get("IPRange") or one["Subnet"] for one in pools],
        "taken": {
            one["IPv4Address"].partition("/")[0]: one["Name"] for one in (found.get("Containers") or {}).values()
        },
    }


def check_on_network(one, name, network, problems):
    """Whether a purpose can have its address on a network: it is no address of the host."""
    where, address = "purpose %s" % one["name"], one["address"]
    range_of_it = ""
    try:
        numbers = ipaddress.ip_address(address)
        if numbers.version == 6:
            problems.append(
                "%s: %s is an IPv6 address, and on {network} an instance has an IPv4 one. Give it one."
                % (where, address)
            )
            return address
        range_of_it = next((text for text in network["ranges"] if numbers in ipaddress.ip_network(text)), "")
        inside = any(
            numbers in found and numbers not in (found.network_address, found.broadcast_address)
            for found in map(ipaddress.ip_network, network["subnets"])
        )
    except ValueError:
        inside = False
    if not inside or address in network["gateways"]:
        problems.append(
            "%s: %s is no address for a container on the network %s (%s). Give the purpose a free address of it, or leave {network} empty."
            % (where, address, name, ", ".join(network["subnets"]) or "no subnet")
        )
    elif network["taken"].get(address, "untangle-" + one["name"]) != "untangle-" + one["name"]:
        problems.append(
            "%s: %s has the address %s on the network %s. Give the purpose another."
            % (where, network["taken"][address], address, name)
        )
    elif range_of_it:
        # While the host starts, whoever comes first would get it.
        problems.append(
            "%s: the network %s gives %s to any container that asks for none (its range is %s). Give the purpose an address outside of "
            "that, or create the network with a smaller --ip-range." % (where, name, address, range_of_it)
        )
    # the next one cannot have it
    network["taken"][address] = "untangle-" + one["name"]
    return address


def seconds(text):
    """How long that is in the words of Prometheus, as far as anybody writes them here; 0 where it is none."""
    found = re.match(r"(?:(\d+)m)?(?:(\d+)s)?\Z", text)
    return 60 * int(found.group(1) or 0) + int(found.group(2) or 0) if found else 0


def watching(asked, directory, problems):
    """Whether a stack of ours watches these instances; and what stands in the way of one that is to."""
    watch, place = asked["watch"], os.path.join(os.path.dirname(directory), "monitoring")
    there = read(os.path.join(place, "compose.yaml"))
    ours = there.startswith("# Written by the role njoy.untangle.compose_stack") and (
        "\nname: %s\n" % json.dumps(watch["name"]) in there
    )
    if not (ours or watch["wanted"]):
        return False
    code, text = run("docker", "ps", "--all", "--filter", "label=com.docker.compose.project=" + watch["name"], "--format",
                     '{{.State}}|{{.Label "com.docker.compose.service"}}|{{.Label "com.docker.compose.project.working_dir"}}')  # fmt: skip
    running = [] if code else [line.split("|", 2) for line in text.splitlines()]
    strangers = sorted({home for _state, _service, home in running} - {place})
    names = {one["name"] for one in asked["instances"]}
    seen = set(re.findall(r'^  "exporter-(.*)":$', there, re.MULTILINE)) if ours else set()
    # of another split with this state directory; a purpose that was removed is nobody's
    others = sorted(name for name in seen - names if os.path.isdir(os.path.join(directory, name)))
    if watch["wanted"]:
        problems += hindrances(asked, place, ours)
        if strangers or others:
            problems.append(
                "%s watches other instances there, %s. Switch {monitoring} off here or there, or let one split have all of them."
                % (watch["name"], "from " + ", ".join(strangers) if strangers else ", ".join(others))
            )
        elif not (ours and '"%s:9090"' % watch["listen"] in there and ["running", "prometheus", place] in running):
            problems += nobody_listens(watch["listen"])
    return ours and not strangers and (not seen or bool(seen & names))


def hindrances(asked, place, ours):
    """What a stack that watches would not come up for, or would overwrite."""
    watch, metrics = asked["watch"], os.path.join(os.path.dirname(place), "metrics")
    for words in () if asked["backend"] == "compose" else (["docker", "version"], ["docker", "compose", "version"]):
        code, text = run(*words)
        if code:
            yield (
                "what watches runs in containers, and %s does not answer (%s). Install or start it, or switch {monitoring} off."
                % (" ".join(words[:-1]), (text.strip().splitlines() or ["no reason given"])[-1])
            )
            break
    # what was begun and broken off has a key already
    if not (ours or os.path.exists(os.path.join(place, "secrets", ".key"))):
        strange = [place] if os.path.isdir(place) and os.listdir(place) else []
        if os.path.isdir(metrics):
            strange += [
                os.path.join(metrics, one)
                for one in sorted(os.listdir(metrics))
                if not one.startswith((".untangle-", "mirror.prom"))
            ]
        if strange:
            yield (
                "%s is not ours, and what watches would have its files there. Move it away, set {dir} to another place, or switch "
                "{monitoring} off." % ", ".join(strange)
            )
    for name, most in (("interval", 60), ("patience", 86400)):
        if not 0 < seconds(watch[name]) <= most:
            yield (
                "redis_instances_monitoring_%s is %s. Write it as 15s or 1m30s, and not over %d seconds: alerts look at the last five minutes."
                % (name, watch[name], most)
                if name == "interval"
                else "redis_instances_monitoring_%s is %s. Write it as 30s or 2m." % (name, watch[name])
            )


def nobody_listens(listen):
    """Where the host is to have Prometheus nothing else may be."""
    found = re.match(r"(\d+\.\d+\.\d+\.\d+|\[[0-9a-fA-F:]+\]):(\d{1,5})\Z", listen)
    if not found:
        yield (
            "redis_instances_monitoring_listen is %s. Write an IP address and a port, such as 127.0.0.1:9090 or [::1]:9090."
            % listen
        )
        return
    address, port = found.group(1).strip("[]"), int(found.group(2))
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            probe.listen(1)
    except (OSError, OverflowError) as exc:
        # a port below 1024 is the engine's to take
        if getattr(exc, "errno", 0) != errno.EACCES:
            yield (
                "redis_instances_monitoring_listen is %s, and nothing can listen there: %s%s. Choose another address or port."
                % (listen, getattr(exc, "strerror", "") or exc, by_whom(port))
            )


def kernel_settings(top, backend):
    """What the kernel of this host is set to and Redis needs otherwise, with what that costs. ``top`` is / but in tests."""
    settings = [
        {
            "name": "vm.overcommit_memory",
            "path": "/proc/sys/vm/overcommit_memory",
            "well": lambda value: value == "1",
            "wanted": "1",
            "cost": "a fork to save the data can fail though there is memory for it",
        },
        {
            "name": "transparent huge pages",
            "path": "/sys/kernel/mm/transparent_hugepage/enabled",
            "well": lambda value: value != "always",
            "wanted": "madvise",
            "cost": "while it saves, a server copies 2 MB for each byte that is written, which costs memory and milliseconds",
        },
    ]
    if backend == "host":
        # a container has its own, and is told
        settings.append(
            {
                "name": "net.core.somaxconn",
                "path": "/proc/sys/net/core/somaxconn",
                "well": lambda value: int(value or 0) >= 511,
                "wanted": "1024",
                "cost": "of many clients that connect at once some are turned away (tcp-backlog is 511)",
            }
        )
    found = []
    for one in settings:
        path = top + one["path"]
        text = read(path).strip()
        chosen = re.search(r"\[(\w+)\]", text)
        value = chosen.group(1) if chosen else text
        if not value or one["well"](value):
            continue
        sysctl = one["path"].startswith("/proc/sys/")
        found.append(
            {
                "name": one["name"],
                "value": value,
                "wanted": one["wanted"],
                "cost": one["cost"],
                "path": path,
                "file": top + ("/etc/sysctl.d/99-untangle.conf" if sysctl else "/etc/tmpfiles.d/untangle.conf"),
                "line": "%s = %s" % (one["name"], one["wanted"])
                if sysctl
                else "w %s - - - - %s" % (one["path"], one["wanted"]),
            }
        )
    return found


def containers(names):
    """Our containers by purpose, as docker inspect gives them."""
    if not names or not shutil.which("docker"):
        return {}
    # of a swarm's service the one that is not ending
    found = run("docker", "ps", "--filter", "label=com.docker.swarm.service.name", "--format",
                '{{.ID}} {{.Label "com.docker.swarm.service.name"}}')[1]  # fmt: skip
    tasks = dict(line.split(" ")[::-1] for line in reversed(found.splitlines()) if line.count(" ") == 1)
    # the answer is a list of those that exist, whatever the exit code says about the others
    try:
        done = subprocess.run(
            ["docker", "container", "inspect"]
            + [tasks.get("untangle-%s_server" % name, "untangle-%s" % name) for name in names],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=120,
            check=False,
        )
        found = json.loads(done.stdout or "[]")
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}
    return {
        (one["Config"]["Labels"] or {}).get("njoy.untangle.purpose", one["Name"][len("/untangle-") :]): one
        for one in found
    }


def node_called(node):
    code, text = run("docker", "node", "inspect", "--format", "{{.Description.Hostname}}", node)
    return node if code else "%s, %s" % (text.strip(), node)


def services(names):
    """What the swarm has for our instances, by purpose: whose it is, and the node that it is kept on, '' where that is this one."""
    code, me = run("docker", "info", "--format", "{{.Swarm.NodeID}}")
    found = {}
    for name in names if not code and me.strip() else ():
        code, text = run("docker", "service", "inspect", "untangle-%s_server" % name)
        if code:
            continue
        task = json.loads(text)[0]["Spec"]["TaskTemplate"]
        nodes = [
            re.sub(r"^node\.id *== *", "", line)
            for line in (task.get("Placement") or {}).get("Constraints") or ()
            if re.match(r"node\.id *==", line)
        ]
        found[name] = {
            "home": (task["ContainerSpec"].get("Labels") or {}).get("njoy.untangle.home", ""),
            "node": next((node for node in nodes if node != me.strip()), ""),
        }
    return found


def existing(name, home, container, service=None):
    """What there is of one instance already."""
    found = {
        "backend": "",
        "running": False,
        "unit": "",
        "supervisor": "",
        "server": "",
        "container": False,
        "published": [],
        "user": "",
        "applied": {},
    }
    for line in read(os.path.join(home, "applied")).splitlines():
        key, _equals, value = line.partition("=")
        found["applied"][key] = value
    if container:
        labels = container["Config"]["Labels"] or {}
        swarm = "com.docker.swarm.service.name" in labels
        found.update(
            backend="swarm" if swarm else "compose", container=True, running=bool(container["State"]["Running"])
        )
        found["directory"] = labels.get("njoy.untangle.home" if swarm else "com.docker.compose.project.working_dir", "")
        found["label"] = labels.get("njoy.untangle.config", "")
        found["user"] = container["Config"]["User"]
        bindings = (container["HostConfig"]["PortBindings"] or {}).values()
        found["published"] = [[one["HostIp"], one["HostPort"]] for several in bindings for one in several or ()]
    else:
        for backend, file in (("compose", "compose.yaml"), ("swarm", "stack.yaml")):
            if os.path.exists(os.path.join(home, file)):
                found["backend"] = backend
        if service:
            found.update(backend="swarm", directory=service["home"])
    unit = "/etc/systemd/system/untangle-%s.service" % name
    if os.path.exists(unit):
        found["unit"] = unit
        found["backend"] = "host"
        if home + "/" in read(unit):
            found["running"] = run("systemctl", "is-active", "--quiet", os.path.basename(unit))[0] == 0
        else:
            found["directory"] = unit
    elif not found["backend"] and os.path.exists(os.path.join(home, "instance")):
        found["backend"] = "host"
        pid = read(os.path.join(home, "supervisor.pid")).strip()
        found["supervisor"] = pid if alive(pid, command=os.path.join(home, "instance") + " run") else ""
        pid = read(os.path.join(home, "data", "server.pid")).strip()
        found["server"] = pid if alive(pid, cwd=os.path.join(home, "data")) else ""
        found["running"] = bool(found["supervisor"])
    found["alive"] = bool(found["running"] or found["server"])
    return found


def main():
    asked = json.loads(sys.argv[1])
    asked["instances"] = [
        {"name": name, "address": address, "port": int(port)} for name, address, port in asked["instances"]
    ]
    problems = []
    root = os.getuid() == 0
    state = "/var/lib/untangle" if root else os.path.expanduser("~/.local/state/untangle")
    directory = (asked["dir"] or os.path.join(state, "instances")).rstrip("/")
    answer = {
        "root": root,
        "dir": directory,
        "secrets_dir": asked["secrets_dir"] or os.path.join(os.path.dirname(directory), "secrets"),
        # as sd_booted(3) has it; an ordinary user's services would end with their last login
        "systemd": root and os.path.isdir("/run/systemd/system"),
        "engine": {},
        "server": {},
        "instances": {},
        "tls_sha": "",
        "shut": "",
        # seconds that something lasts until it is an alert
        "patience": seconds((asked.get("watch") or {}).get("patience", "")),
        # whether a stack of ours watches these instances
        "watched": False,
        "settings": [],
    }
    top = asked.get("top") or ""
    present = asked["state"] == "present"
    compose, swarm = asked["backend"] == "compose", asked["backend"] == "swarm"
    if not os.path.isabs(directory):
        problems.append("{dir} is %s. Write it as an absolute path." % directory)
        directory = "/"
    if present and (compose or swarm):
        answer["engine"], answer["server"] = server_in_image(asked["image"], asked["backend"], problems)
        if swarm and answer["engine"]:
            swarm_of(answer["engine"], problems)
        # an ordinary user cannot give files away: the container runs as that user
        answer["run_as"] = (
            (asked.get("image_user") or {"uid": 999, "gid": 999}) if root else {"uid": os.getuid(), "gid": os.getgid()}
        )
    elif present:
        answer["server"] = server_on_host(asked["server"], problems)
        answer["run_as"] = run_as(asked["user"], answer["server"].get("flavour", "redis"), problems)
        closed = barred(os.path.join(directory, "x"), answer["run_as"]["uid"], answer["run_as"]["gid"])
        # the state directory is ours; whoever made it first may have kept it shut
        parent = os.path.dirname(directory)
        if closed == parent and (parent == state or os.path.exists(os.path.join(parent, "split.json"))):
            answer["shut"] = closed
            closed = barred(closed, answer["run_as"]["uid"], answer["run_as"]["gid"])
        if closed and answer["run_as"]["uid"]:
            problems.append(
                "directory %s does not let user %s through to its instance. Allow it (chmod a+x), or set {dir} to another place."
                % (closed, answer["run_as"]["name"])
            )
    if present and asked["tls"]:
        digest = hashlib.sha256()
        for key in ("ca_file", "cert_file", "key_file"):
            try:
                with open(asked["tls"].get(key) or "", "rb") as file:
                    digest.update(file.read())
            except OSError as exc:
                problems.append(
                    "{tls}: %s cannot be read on this host (%s). Put the file there, or name another." % (key, exc)
                )
        answer["tls_sha"] = digest.hexdigest()
    if present and answer["server"] and (asked.get("source") or {}).get("payload_version"):
        check_payload(asked, answer["server"], problems)
    if present:
        answer["settings"] = kernel_settings(top, asked["backend"])
        if asked.get("host_settings") == "set" and answer["settings"] and not root:
            problems.append("{host_settings} is set, which takes root. Become root, or leave it at report.")
        elif asked.get("host_settings") == "set":
            # as in a container of somebody's own
            problems += [
                "{host_settings} is set, and %s cannot be written here (%s is read-only). Set it on the machine itself, to %s, or leave "
                "{host_settings} at report." % (one["name"], one["path"], one["wanted"])
                for one in answer["settings"]
                if not os.access(one["path"], os.W_OK)
            ]
    found = containers([one["name"] for one in asked["instances"]])
    there = services([one["name"] for one in asked["instances"]]) if swarm else {}
    if present and not compose and asked.get("network"):
        problems.append(
            "{network} is %s, and the backend %s gives no instance an address there. Use {backend}: compose."
            % (asked["network"], asked["backend"])
        )
    network = network_of(asked["network"], problems) if present and compose and asked.get("network") else None
    answer["watched"] = watching(asked, directory, problems) if asked.get("watch") else False
    for one in asked["instances"]:
        home = os.path.join(directory, one["name"])
        service = there.get(one["name"])
        seen = existing(one["name"], home, found.get(one["name"]), service)
        where = "purpose %s" % one["name"]
        if service and service["node"]:
            problems.append(
                "%s: Swarm keeps untangle-%s on another node (%s), with its data. From here it would be started on an empty volume. Let "
                "the plan name that host, or, if its data is to be here, end it first: docker service rm untangle-%s_server."
                % (where, one["name"], node_called(service["node"]), one["name"])
            )
        elif seen.get("directory") not in (None, home):
            problems.append(
                "%s: untangle-%s on this host belongs to another installation (%s). Choose another name, or remove that one first."
                % (where, one["name"], seen["directory"] or "unknown")
            )
        elif present:
            if root and seen["user"]:
                # whom its data belong to, whatever a newer image's own user is
                answer["run_as"] = dict(zip(("uid", "gid"), map(int, seen["user"].split(":"))))
            if seen["backend"] not in ("", asked["backend"]):
                problems.append(
                    "%s: it runs here already with backend %s, and {backend} is %s. Set that back, or remove the instance first."
                    % (where, seen["backend"], asked["backend"])
                )
            if compose and asked.get("network"):
                seen["bind"] = check_on_network(one, asked["network"], network, problems) if network else ""
                answer["instances"][one["name"]] = seen
                continue
            seen["bind"] = check_listen(one, home, seen, swarm, problems)
            if swarm and seen["bind"] and ipaddress.ip_address(seen["bind"].partition("%")[0]).is_loopback:
                problems.append(
                    "%s: its address is %s, and Swarm publishes on every address of a node. Give the purpose the address at which its "
                    "applications find this host, or use {backend}: compose." % (where, one["address"])
                )
        answer["instances"][one["name"]] = seen
    answer["problems"] = [named(problem, asked.get("called") or {}) for problem in problems]
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
