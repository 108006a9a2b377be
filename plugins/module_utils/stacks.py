# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Compose project out of a few lines per service: its files, and a compose.yaml that is hardened where nobody said otherwise.

    DIRECTORY/compose.yaml
    DIRECTORY/.env
    DIRECTORY/config/SERVICE/PLACE/FILE     directories that a service has mounted read-only
    DIRECTORY/secrets/SERVICE/NAME          0400, owned by the user that the container runs as

``docs/containers.md`` has the reason of each line that is put in.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import ipaddress
import json
import re
import typing as t

from .errors import UntangleError

Service = dict[str, t.Any]
#: Words of a service that are ours and not Compose's.
OWN = ("config", "hardening", "data", "build")
LABEL = "njoy.untangle.file."
#: The first line of a compose.yaml of ours: whose directory it is.
MARK = "# Written by the role njoy.untangle.compose_stack; what is changed here is overwritten."
#: What can be switched off, for a stack or for a service.
SWITCHES = (
    "user", "capabilities", "privileges", "read_only", "pids", "memory", "cpu", "core", "logs", "stop", "restart", "health",
    "networks", "pinned", "ports", "volumes",
)  # fmt: skip
#: What words of Compose and ours are, where more is done with them than to hand them on.
_SHAPES: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(("config", "hardening", "build", "healthcheck", "logging", "ulimits", "deploy"), ((dict,), "names with values")),
    **dict.fromkeys(("ports", "volumes", "cap_drop", "cap_add", "security_opt"), ((list, tuple), "a list")),
    **dict.fromkeys(("labels", "environment", "networks"), ((dict, list, tuple), "a list, or names with values")),
    "tmpfs": ((list, tuple, str), "a list"),
    "restart": ((str, bool), "a word"),
    "user": ((str,), 'text in quotes, "UID:GID", as YAML takes 33:33 for the number 2013'),
}  # fmt: skip
_TMP = "/tmp:rw,noexec,nosuid,nodev,size=16m,mode=1777"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*\Z")
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "kb": 1 << 10, "m": 1 << 20, "mb": 1 << 20, "g": 1 << 30, "gb": 1 << 30}
#: Secrets that are shorter stand in too many places by chance.
_TELLING = 6


@dataclasses.dataclass(frozen=True)
class File:
    """One file of a project. ``owner`` is (uid, gid), None for whoever deploys."""

    path: str
    content: str
    mode: int = 0o644
    owner: tuple[int, int] | None = None
    secret: bool = False


class Project:
    """What a stack is to be, from what its user says and what its images are.

    ``images`` has the facts of `container_image` by service; a service whose image is not on the host yet has none. ``key`` makes
    the labels of secrets: a plain digest of a short one would tell it to whoever may inspect containers.
    """

    def __init__(
        self,
        name: str,
        services: t.Mapping[str, t.Mapping[str, t.Any]],
        secrets: t.Mapping[str, t.Mapping[str, str]] | None = None,
        environment: t.Mapping[str, t.Any] | None = None,
        networks: t.Mapping[str, t.Any] | None = None,
        switches: t.Mapping[str, bool] | None = None,
        images: t.Mapping[str, t.Mapping[str, t.Any]] | None = None,
        key: bytes = b"",
    ):
        self.name, self.key = name, key
        self._problems: list[str] = []
        self.services = {str(one): self._shaped(str(one), service) for one, service in services.items()}
        self.secrets = {
            str(one): self._named("compose_stack_secrets", str(one), found)
            for one, found in (secrets or {}).items()
            if found
        }
        self.environment = self._named("compose_stack_env", ".env", environment or {})
        for one in self.environment:
            if not re.match(r"[A-Za-z_]\w*\Z", one, re.ASCII):
                self._refuse("compose_stack_env", "has %r, which is no name that Compose fills in" % one)
        self.networks = dict(networks or {})
        self.switches = dict(switches or {})
        self.images = images or {}

    # -- files --------------------------------------------------------------------------------------------------------------

    def files(self) -> list[File]:
        """All of them, with compose.yaml last; or all problems at once, before anything is written."""
        self._settle()
        for service in self.secrets.keys() - self.services.keys():
            self._refuse("compose_stack_secrets", "has the service %s, which compose_stack_services has not" % service)
        for switch in self.switches.keys() - set(SWITCHES):
            self._refuse("compose_stack_hardening", "has %s, which is none of %s" % (switch, ", ".join(SWITCHES)))
        places = ["%s.%s" % (service, name) for service, names in self.secrets.items() for name in names]
        places += [
            _place(service, one) for service, asked in self.services.items() for one in asked.get("config") or {}
        ]
        for place in sorted({one for one in places if places.count(one) > 1}):
            self._refuse(
                "the place %s" % place, "would be that of two secrets or directories: call one of them otherwise"
            )
        compose = self.compose()
        found = [one for service in self.services for one in (*self._configs(service), *self._secrets(service))]
        if self.environment:
            found.append(File(".env", "".join("%s=%s\n" % (k, quoted(v)) for k, v in self.environment.items()), 0o640))
        found.append(self._rendered(compose))
        self._expect_no_secrets()
        self._settle()
        return found

    def _settle(self) -> None:
        if self._problems:
            raise UntangleError("%s Nothing was changed." % " ".join(dict.fromkeys(self._problems)))

    def _shaped(self, name: str, service: t.Any) -> Service:
        """A service in whose words there is what they need; what is none is refused."""
        where, found = "service " + name, Service()
        if not _NAME.match(name):
            self._refuse(where, "is no name: letters, digits, _, . and - are")
        if not isinstance(service, dict):
            self._refuse(where, "has no lines: it needs an image")
            return found
        for word, value in service.items():
            types, wanted = _SHAPES.get(word, ((object,), ""))
            if not isinstance(value, types) and value is not None:
                self._refuse(where, "has %s %s, and that is %s" % (word, value, wanted))
            elif value is not None:
                found[word] = value
        if found.get("restart") in (True, False):
            found["restart"] = "always" if found["restart"] else "no"  # as YAML reads the word no
        for target, files in (found.get("config") or {}).items():
            if not isinstance(files, dict) or not str(target).startswith("/"):
                self._refuse(
                    where,
                    "has config %s, and that is an absolute directory with names of files and their text" % target,
                )
        return found

    def _named(self, variable: str, where: str, values: t.Any) -> dict[str, str]:
        """Names with values; of no value nobody knows what it was to be."""
        if not isinstance(values, dict):
            self._refuse(variable, "has no names with values for %s" % where)
            return {}
        for name in [name for name, value in values.items() if value is None or isinstance(value, (dict, list))]:
            self._refuse(variable, "has no text for %s of %s" % (name, where))
        return {
            str(name): str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()
        }

    def _rendered(self, compose: t.Mapping[str, t.Any]) -> File:
        networks = compose.get("networks") or {}
        if networks.get("published") == {} and "published" not in self.networks and self.switches.get("networks", True):
            # who answers may not call
            networks["published"] = {"driver_opts": {"com.docker.network.bridge.enable_ip_masquerade": "false"}}
        return File("compose.yaml", render(compose, self.name))

    def _refuse(self, where: str, what: str) -> None:
        self._problems.append("%s %s." % (where, what))

    def _configs(self, service: str) -> t.Iterator[File]:
        for target, files in (self.services[service].get("config") or {}).items():
            for name, content in files.items():
                if not _NAME.match(str(name)) or not isinstance(content, str):
                    self._refuse("service %s" % service, "config %s: %r is no file name with text" % (target, name))
                yield File("%s/%s" % (_place(service, target), name), str(content))

    def _secrets(self, service: str) -> t.Iterator[File]:
        for name, value in self.secrets.get(service, {}).items():
            if not _NAME.match(name):
                self._refuse("compose_stack_secrets", "%s: %r is no file name" % (service, name))
            yield File("secrets/%s/%s" % (service, name), str(value), 0o400, self._owner(service), secret=True)

    def _expect_no_secrets(self) -> None:
        """A secret that stands elsewhere too is in `docker inspect`, in an image, in a diff and in backups."""
        places = [
            ("%s of service %s" % (word, service), texts)
            for service, asked in self.services.items()
            for word, texts in ((word, list(_texts(value))) for word, value in asked.items())
        ]
        places.append((".env", list(_texts(self.environment))))
        places.append(("compose_stack_networks", list(_texts(self.networks))))
        for service, secrets in self.secrets.items():
            for name, value in secrets.items():
                secret = str(value).strip()
                for where, texts in places if len(secret) >= _TELLING else ():
                    # in a text of JSON it is escaped
                    if any(one in text for text in texts for one in (secret, json.dumps(secret)[1:-1])):
                        self._refuse(
                            "the secret %s of service %s" % (name, service),
                            "stands in %s too: take it out there, and read it from /run/secrets/%s" % (where, name),
                        )

    # -- compose.yaml ---------------------------------------------------------------------------------------------------------

    def compose(self) -> dict[str, t.Any]:
        services = {name: self._service(name) for name in self.services}
        networks = self._networks(services)
        volumes = sorted(
            {
                v["source"]
                for s in services.values()
                for v in s.get("volumes", ())
                if v["type"] == "volume" and v.get("source")
            }
        )
        secrets = {
            "%s.%s" % (service, name): {"file": "./secrets/%s/%s" % (service, name)}
            for service, found in self.secrets.items()
            for name in found
        }
        whole = {
            "services": services,
            "networks": networks,
            "volumes": {name: {} for name in volumes},
            "secrets": secrets,
        }
        return {name: part for name, part in whole.items() if part}

    def _on(self, service: str, switch: str) -> bool:
        own = self.services[service].get("hardening") or {}
        return bool(own.get(switch, self.switches.get(switch, True)))

    def _owner(self, service: str) -> tuple[int, int] | None:
        """Whom a container runs as, in numbers: its files are theirs. None is root, or not known yet."""
        given = self.services[service].get("user")
        if given is None:
            image = self.images.get(service) or {}
            user = image.get("user")
            if not self._on(service, "user") and image.get("runs_as_root"):
                user = None  # without its capabilities root reads its own files alone
            return (int(user["uid"]), int(user["gid"])) if user else None
        uid, _colon, gid = str(given).partition(":")
        if not uid.isdigit() or (gid and not gid.isdigit()):
            self._refuse(
                "service %s" % service, 'has user %s: write numbers, "UID:GID", as files are owned by numbers' % given
            )
            return None
        if not int(uid) and self._on(service, "user"):
            self._refuse(
                "service %s" % service,
                "has user %s, which is root. Set another, or hardening: {user: false}" % given,
            )
        return int(uid), int(gid or uid)

    def _service(self, name: str) -> Service:
        asked, image = self.services[name], self.images.get(name) or {}
        for switch in (asked.get("hardening") or {}).keys() - set(SWITCHES):
            self._refuse("service %s" % name, "has hardening %s, which is none of %s" % (switch, ", ".join(SWITCHES)))
        if not asked.get("image"):
            self._refuse("service %s" % name, "has no image")
        elif self._on(name, "pinned") and not _says_release(str(asked["image"])):
            self._refuse(
                "service %s" % name,
                "has image %s, which says no release. Write a tag other than latest" % asked["image"],
            )
        for word, instead in (("secrets", "compose_stack_secrets"), ("configs", "config")):
            if asked.get(word):
                self._refuse("service %s" % name, "has %s, and %s is what writes the files of it" % (word, instead))
        made: Service = {"image": image.get("reference") if self._on(name, "pinned") and image else asked.get("image")}
        owner = self._owner(name)
        if owner and ("user" in asked or self._on(name, "user")):
            made["user"] = "%d:%d" % owner
        elif self._on(name, "user") and image:
            self._refuse(
                "service %s" % name,
                "would run as root: its image %s names no other user. Set user: \"UID:GID\", or hardening: {user: false}" % asked.get("image"),
            )  # fmt: skip
        made.update(self._defaults(name, asked))
        for key, value in asked.items():
            if key not in (*OWN, "image", "user", "labels", "secrets"):
                made[key] = _joined(made.get(key), [value] if key == "tmpfs" and isinstance(value, str) else value)
        made["volumes"] = self._volumes(name, asked, image, made)
        if self.secrets.get(name):
            made["secrets"] = [{"source": "%s.%s" % (name, one), "target": one} for one in self.secrets[name]]
        health = asked.get("healthcheck") or {}
        if self._on(name, "health") and (health.get("disable") or health.get("test") in ("NONE", ["NONE"])):
            self._refuse(
                "service %s" % name, "switches its healthcheck off. Say hardening: {health: false} if that is meant"
            )
        elif self._on(name, "health") and not health.get("test") and image and not image.get("healthcheck"):
            self._refuse(
                "service %s" % name, "has no healthcheck, and its image has none: nobody would know whether it serves"
            )
        if asked.get("ports"):
            made["ports"] = [self._port(name, one) for one in asked["ports"]]
        made["labels"] = {**_labels(asked.get("labels")), **self._digests(name)}
        return {key: value for key, value in made.items() if value not in ([], {}, None)}

    def _defaults(self, name: str, asked: t.Mapping[str, t.Any]) -> Service:
        # the same thing in other words, which Compose refuses where the two differ
        limits = _inner(asked, "deploy", "resources", "limits")
        memory = asked.get("mem_limit", limits.get("memory", "512m"))
        wanted: dict[str, Service] = {
            "capabilities": {"cap_drop": ["ALL"]},
            "privileges": {"security_opt": ["no-new-privileges:true"]},
            "read_only": {"read_only": True, "tmpfs": [_TMP]},
            "pids": {"pids_limit": limits.get("pids", 200)},
            "memory": {"mem_limit": memory, "memswap_limit": memory},
            "cpu": {"cpu_shares": 1024},
            "core": {"ulimits": {"core": 0}},
            "logs": {"logging": {"driver": "local", "options": {"max-size": "10m", "max-file": "3"}}},
            "stop": {"stop_grace_period": "%ds" % self._stop_seconds(name)},
            "restart": {"restart": "unless-stopped"},
        }
        made = Service()
        for switch, lines in wanted.items():
            if self._on(name, switch):
                made.update(lines)
        return made

    def _stop_seconds(self, name: str) -> int:
        data = self.services[name].get("data", 0)
        found = stop_seconds(data)
        if found is None:
            self._refuse("service %s" % name, "has data: %s. Write a size, such as 2gb" % data)
        return found or 0

    def _volumes(
        self, name: str, asked: t.Mapping[str, t.Any], image: t.Mapping[str, t.Any], made: Service
    ) -> list[Service]:
        volumes = [self._volume(name, one) for one in asked.get("volumes") or ()]
        places = {_path(one) for one in volumes}
        if "/tmp" in places:
            made["tmpfs"] = [one for one in made.get("tmpfs") or () if one != _TMP]
        for target in asked.get("config") or {}:
            volumes.append({"type": "bind", "source": "./" + _place(name, target), "target": target, "read_only": True})
        covered = {_path(one) for one in (*volumes, *(made.get("tmpfs") or ()))}
        for path in image.get("volumes") or ():
            if self._on(name, "volumes") and _path(path) not in covered:
                self._refuse(
                    "service %s" % name,
                    "would keep %s in an anonymous volume, which the next container does not get (its image declares it). "
                    "Name a volume or a tmpfs for it" % path,
                )  # fmt: skip
        return [one for one in volumes if one]

    def _volume(self, name: str, given: t.Any) -> Service:
        """The long form of what a service mounts."""
        made = dict(given) if isinstance(given, dict) else _long_volume(str(given))
        if "?" in made:
            self._refuse(
                "service %s" % name, "mounts %s, and %s is no option of the short form here" % (given, made.pop("?"))
            )
        if made.get("type") == "volume" and not made.get("source") and self._on(name, "volumes"):
            self._refuse("service %s" % name, "has an anonymous volume at %s. Give it a name" % made.get("target"))
        return made

    def _port(self, name: str, given: t.Any) -> t.Any:
        if isinstance(given, dict):
            host = self._filled(given.get("host_ip") or "")
        else:
            # what nobody here can fill in may hold colons of its own
            parts = re.sub(r"\$\{[^}]*\}", "$", self._filled(given)).rpartition("/")
            address = (parts[0] or parts[2]).rsplit(":", 2)
            host = address[0] if len(address) == 3 else ""
        if self._on(name, "ports") and not _is_address(host):
            self._refuse(
                "service %s" % name,
                "publishes %s%s. Say on which address, in numbers: ADDRESS:PORT:PORT"
                % (given, " on %s" % host if host else " on every address of the host"),
            )
        return given

    def _filled(self, text: t.Any) -> str:
        """With what compose_stack_env gives."""
        return re.sub(
            r"\$(?:(\w+)|\{(\w+)(?::?-[^}]*)?\})",
            lambda found: self.environment.get(found[1] or found[2], found[0]),
            str(text),
        )

    def _networks(self, services: t.Mapping[str, Service]) -> dict[str, t.Any]:
        """A network per stack that leads nowhere else. Who publishes a port is on another as well: on these the engine publishes nothing."""
        found: dict[str, t.Any] = {}
        for name, service in services.items():
            on = self._on(name, "networks")
            if service.get("network_mode") == "host" and on:
                self._refuse(
                    "service %s" % name,
                    "has network_mode host, in which every port that it opens is one of the host. Publish those that are needed, or set "
                    "hardening: {networks: false}",
                )
            if service.get("network_mode"):
                continue
            there = service.get("networks") or ["default"]
            if service.get("ports") and on and not any(one in self.networks for one in there):
                service["networks"] = (
                    {**there, "published": there.get("published")}
                    if isinstance(there, dict)
                    else [*(one for one in there if one != "published"), "published"]
                )
            for network in service.get("networks") or ["default"]:
                found[network] = (
                    {"internal": True} if on and network != "published" and found.get(network) != {} else {}
                )
        return {
            name: self.networks.get(name, options)
            for name, options in found.items()
            if name in self.networks or options or name != "default"
        }

    def _digests(self, service: str) -> dict[str, str]:
        """Compose does not look into mounted files: these make a changed file a changed service."""
        made = {
            LABEL + one.path: hashlib.sha256(one.content.encode()).hexdigest()[:16] for one in self._configs(service)
        }
        for one in self._secrets(service):
            made[LABEL + one.path] = hmac.new(self.key, one.content.encode(), "sha256").hexdigest()[:16]
        return made


def _texts(value: t.Any) -> t.Iterator[str]:
    """Every word in it, names too, as it is given, and as Compose makes it of $$."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from (*_texts(name), *_texts(one))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts(one)
    else:
        yield from {str(value), str(value).replace("$$", "$")}


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        return False


def _joined(ours: t.Any, given: t.Any) -> t.Any:
    """What a service says beside what it has by default: lists and mappings have both, else its own word counts."""
    if isinstance(ours, list) and isinstance(given, list):
        places = {_path(one) for one in given}
        return [one for one in ours if _path(one) not in places] + given
    if isinstance(ours, dict) and isinstance(given, dict):
        if given.get("driver", ours.get("driver")) != ours.get("driver"):
            return given  # options are a driver's own
        return {**ours, **given}
    return given


def stop_seconds(data: t.Any) -> int | None:
    """How long a service may take to write its data when it is told to stop: 20 s per GiB, at least 30 s; 10 s where it has none.

    None for what is no size.
    """
    found = re.match(r"(\d+(?:\.\d+)?)\s*([a-z]*)\Z", str(data).lower())
    if not found or found[2] not in _UNITS:
        return None
    size = int(float(found[1]) * _UNITS[found[2]])
    return max(30, (20 * size) >> 30) if size else 10


def _says_release(image: str) -> bool:
    return "@sha256:" in image or image.rpartition("/")[2].partition(":")[2] not in ("", "latest")


#: What the options of the short form are in the long one.
_OPTIONS: dict[str, Service] = {
    "": {}, "rw": {}, "ro": {"read_only": True}, "z": {"bind": {"selinux": "z"}}, "Z": {"bind": {"selinux": "Z"}},
    "nocopy": {"volume": {"nocopy": True}},
    **{one: {"bind": {"propagation": one}} for one in ("shared", "slave", "private", "rshared", "rslave", "rprivate")},
    **{one: {"consistency": one} for one in ("consistent", "cached", "delegated")},
}  # fmt: skip


def _long_volume(text: str) -> Service:
    source, _colon, rest = text.partition(":")
    if not rest:
        return {"type": "volume", "target": source}
    target, _colon, options = rest.partition(":")
    made: Service = {"type": "bind" if source[:1] in ("/", ".", "~") else "volume", "source": source, "target": target}
    for option in options.split(","):
        for key, value in _OPTIONS.get(option, {"?": option}).items():
            made[key] = {**made.get(key, {}), **value} if isinstance(value, dict) else value
    return made


def _path(mount: t.Any) -> str:
    """Where in the container it is."""
    target = mount.get("target") if isinstance(mount, dict) else str(mount).partition(":")[0]
    return str(target).rstrip("/") or "/"


def _inner(facts: t.Any, *names: str) -> t.Mapping[str, t.Any]:
    for name in names:
        facts = facts.get(name) if isinstance(facts, dict) else None
    return facts if isinstance(facts, dict) else {}


def _labels(given: t.Any) -> dict[str, str]:
    if isinstance(given, list):
        given = dict(str(one).partition("=")[::2] for one in given)
    return {str(key): str(value) for key, value in (given or {}).items()}


def _place(service: str, target: str) -> str:
    return "config/%s/%s" % (service, target.strip("/").replace("/", "-") or "root")


_ESCAPES = {"\\": "\\\\", '"': '\\"', "$": "\\$", "\n": "\\n", "\r": "\\r"}


def quoted(value: t.Any) -> str:
    """A value as Compose reads it back from .env. In single quotes a value that ends in a backslash cannot be written."""
    return '"%s"' % "".join(_ESCAPES.get(one, one) for one in str(value))


def unquoted(text: str) -> str:
    """The value that `quoted` was given."""
    back = {escaped: one for one, escaped in _ESCAPES.items()}
    return re.sub(r"\\.", lambda found: back.get(found[0], found[0]), text[1:-1])


def _json(value: t.Any) -> str:
    """JSON that is YAML as well, which knows no pairs of surrogates, and takes some characters by their numbers alone."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda found: "\\u%04x" % ord(found[0]), text)


def render(compose: t.Mapping[str, t.Any], name: str | None) -> str:
    """YAML without a library, which managed hosts may lack: names as they are, and what they have as JSON, a line each.

    Without a ``name`` it is a stack of Swarm, which is told its name when it is deployed.
    """
    lines = [MARK]
    if name is None:
        lines.append('version: "3.9"')
    else:
        lines += [
            "# The name is fixed: by default it would be the directory's, and moving that would start a second stack with empty volumes.",
            "name: %s" % _json(name),
        ]
    for part, entries in compose.items():
        lines.append("%s:" % part)
        for entry, facts in entries.items():
            lines.append("  %s:%s" % (_json(entry), "" if part == "services" else " " + _json(facts)))
            if part == "services":
                lines += ["    %s: %s" % (key, _json(value)) for key, value in facts.items()]
    return "\n".join(lines) + "\n"


def touched(before: str, after: str, environment: tuple[str, str] = ("", "")) -> list[str]:
    """The services whose lines differ between two compose.yaml of ours, or what the lines of .env, before and after, make of them."""
    old, new = _blocks(before), _blocks(after)
    lines = set(environment[0].split("\n")) ^ set(environment[1].split("\n"))
    names = "|".join(re.escape(line.partition("=")[0]) for line in sorted(lines) if line)
    filled = re.compile(r"\$\{?(?:%s)\b" % names) if names else None
    return sorted(
        name
        for name in {*old, *new}
        if old.get(name) != new.get(name) or (filled and filled.search(new[name].replace("$$", "")))
    )


def _blocks(text: str) -> dict[str, str]:
    part = text.partition("\nservices:\n")[2]
    part = re.split(r"^\S", part, maxsplit=1, flags=re.MULTILINE)[0]
    found = re.split(r'^  "(.*)":$', part, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2]))
