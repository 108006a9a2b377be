#!/usr/bin/python
# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: compose_project
short_description: Write the files of a hardened Compose project, or of a stack for Docker Swarm
version_added: 1.0.0
author: the njoy.untangle authors (@njoy)
description:
  - Writes C(compose.yaml), C(.env), configuration directories and secrets of a project, with the lines of a hardened container
    where a service does not say otherwise. Files of the project that nothing needs any more are removed.
  - Everything that stands in the way is named at once, before anything is written. A directory with files of these names that were
    not written by it is refused.
  - Containers are not touched. The role P(njoy.untangle.compose_stack#role) does both.
options:
  directory:
    description: The project's directory, an absolute path.
    type: path
    required: true
  project:
    description: Its name.
    type: str
    required: true
  services:
    description:
      - Services by name, in the words of Compose, and these of our own.
      - C(config), per directory of the container the files in it with their text. It is mounted read-only.
      - C(data), the expected size of what it writes when it is told to stop, such as V(2gb). It gives the stop grace.
      - C(hardening), lines that are switched off for this service, as in O(hardening).
    type: dict
    required: true
  secrets:
    description: Per service the secrets by name. They are files below C(/run/secrets), readable by the container's user alone.
    type: dict
    default: {}
  environment:
    description: Names and values for C(.env), with which Compose fills in C(${NAME}). Not for secrets.
    type: dict
    default: {}
  networks:
    description:
      - Options of networks, by name. Without any, a network is internal. A service that publishes a port is on the network C(published)
        too, which does no masquerading unless options are given for it.
    type: dict
    default: {}
  hardening:
    description: Lines that are switched off for the whole stack, each by V(false).
    type: dict
    default: {}
  images:
    description: What M(njoy.untangle.container_image) returns, by service. A service without is written as it was asked for.
    type: dict
    default: {}
  backend:
    description:
      - With V(swarm) a C(stack.yaml) is written. What Swarm would drop without a word is translated, or refused by name.
    type: str
    choices: [compose, swarm]
    default: compose
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Secrets are named, and their text is never shown.
  idempotent:
    support: full
extends_documentation_fragment:
  - njoy.untangle.connection.attributes
"""

EXAMPLES = r"""
- name: Have the files of a shop
  njoy.untangle.compose_project:
    directory: /srv/shop
    project: shop
    services:
      web:
        image: nginx:1.22
        ports: ["10.0.0.5:8080:8080"]
        config:
          /etc/nginx/conf.d: {default.conf: "{{ lookup('ansible.builtin.template', 'default.conf.j2') }}"}
        healthcheck: {test: [CMD, curl, -fsS, "http://127.0.0.1:8080/health"]}
"""

RETURN = r"""
files:
  description: Files that were written or removed.
  returned: success
  type: list
  elements: str
  sample: [compose.yaml, config/web/etc-nginx-conf.d/default.conf]
services:
  description:
    - Services that are another now. Compose makes these anew, and no other.
    - A change in the options of a network names none. Compose 2.26 leaves a network as it is until the stack was taken away.
  returned: success
  type: list
  elements: str
  sample: [web]
notes:
  description: What Swarm does otherwise than Compose, and cannot be told, as sentences.
  returned: success
  type: list
  elements: str
"""

import functools
import os
import secrets as random_
import stat
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError
from ansible_collections.njoy.untangle.plugins.module_utils.stacks import MARK, File, Project, touched
from ansible_collections.njoy.untangle.plugins.module_utils.swarm import Stack
from ansible_collections.njoy.untangle.plugins.module_utils.swarm_services import expect_read, node

_KEY = "secrets/.key"
#: What would be overwritten, removed, or read by Compose beside or instead of ours.
_THEIRS = (
    ".env", "config", "secrets", "compose.yml", "docker-compose.yml", "docker-compose.yaml",
    "compose.override.yml", "compose.override.yaml",
)  # fmt: skip
_DIRECTORY = 0o711


class Place:
    """The directory on the host."""

    def __init__(self, directory: str, check: bool) -> None:
        self.directory, self.check = directory, check

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def read(self, name: str) -> str:
        try:
            with open(self.path(name), encoding="utf-8", errors="surrogateescape", newline="") as stream:
                return stream.read()
        except FileNotFoundError:
            return ""

    def same(self, one: File) -> bool:
        path = self.path(one.path)
        if not os.path.isfile(path) or self.read(one.path) != one.content:
            return False
        facts = os.stat(path)
        owner = one.owner is None or (facts.st_uid, facts.st_gid) == one.owner
        return stat.S_IMODE(facts.st_mode) == one.mode and owner

    def key(self, wanted: bool) -> bytes:
        """Made once: with another one every service with a secret would be a changed one."""
        found = self.read(_KEY)
        if not found and wanted:
            found = random_.token_hex(32)
            self.write(File(_KEY, found, 0o400))
        return found.encode()

    def write(self, one: File) -> None:
        if self.check:
            return
        path = self.path(one.path)
        above = os.path.dirname(one.path)
        for top in [
            self.directory,
            *(self.path(above[:i]) for i in range(1, len(above) + 1) if (above + "/")[i] == "/"),
        ]:
            if not os.path.isdir(top):
                os.makedirs(top)
                # A container's user comes through, and config directories are read by it.
                os.chmod(top, 0o755 if one.path.startswith("config/") and top != self.directory else _DIRECTORY)
        part = path + ".part"
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            stream.write(one.content)
        if one.owner is not None:
            os.chown(part, *one.owner)
        os.chmod(part, one.mode)
        os.replace(part, path)

    def others(self, files: t.Iterable[File]) -> list[str]:
        """Files below config/ and secrets/ that no service has any more."""
        wanted, found = {one.path for one in files} | {_KEY}, list[str]()
        for part in ("config", "secrets"):
            for top, _dirs, names in os.walk(self.path(part)):
                found += [os.path.relpath(os.path.join(top, name), self.directory) for name in names]
        if not any(one.path == ".env" for one in files) and os.path.exists(self.path(".env")):
            found.append(".env")
        return sorted(name for name in found if name not in wanted)

    def remove(self, name: str) -> None:
        if self.check:
            return
        if os.path.lexists(self.path(name)):  # what a broken-off run has left was written since
            os.unlink(self.path(name))
        above = os.path.dirname(name)
        while above and not os.listdir(self.path(above)):
            os.rmdir(self.path(above))
            above = os.path.dirname(above)


def expect_ours(place: Place, name: str) -> None:
    """A directory that this module has not written, a checkout say, is left alone."""
    there = [one for one in (name, *_THEIRS) if os.path.lexists(place.path(one))]
    if there and not place.read(name).startswith(MARK.partition(";")[0]):
        raise UntangleError(
            "%s has %s, which this collection did not write. Choose another directory (compose_stack_dir), or move that away. "
            "Nothing was changed." % (place.directory, ", ".join(there))
        )


def expect_owners(files: t.Iterable[File]) -> None:
    """An ordinary user cannot give files away."""
    us, ours = os.geteuid(), {os.getegid(), *os.getgroups()}
    for one in files:
        if us and one.owner is not None and (one.owner[0] != us or one.owner[1] not in ours):
            raise UntangleError(
                '%s must belong to %d:%d, and this user (%d) cannot give files away. Deploy with become, or set user: "%d:%d" for '
                "the service. Nothing was changed." % (one.path, *one.owner, us, us, os.getegid())
            )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "project": {"type": "str", "required": True},
            "services": {"type": "dict", "required": True},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "environment": {"type": "dict", "default": {}},
            "networks": {"type": "dict", "default": {}},
            "hardening": {"type": "dict", "default": {}},
            "images": {"type": "dict", "default": {}},
            "backend": {"type": "str", "choices": ["compose", "swarm"], "default": "compose"},
        },
        supports_check_mode=True,
    )
    asked = module.params
    place = Place(asked["directory"], module.check_mode)
    try:
        make: t.Callable[..., Project] = Project
        if asked["backend"] == "swarm":
            here = [str(one["name"]) for one in asked["images"].values() if one.get("id")]
            make = functools.partial(Stack, node=node(asked["project"], here))
        other = {"compose": "stack.yaml", "swarm": "compose.yaml"}[asked["backend"]]
        if place.read(other):
            raise UntangleError(
                "%s has it with the other backend already (%s). Remove that stack first (compose_stack_state: absent with the "
                "compose_stack_backend of then), or choose another directory." % (asked["directory"], other)
            )
        name = {"compose": "compose.yaml", "swarm": "stack.yaml"}[asked["backend"]]
        expect_ours(place, name)
        before = place.read(name)
        # All problems are found before the first file, the key's, is written.
        for wanted in (False, True):
            project = make(
                asked["project"], asked["services"], asked["secrets"], asked["environment"], asked["networks"],
                asked["hardening"], asked["images"], place.key(wanted and any(asked["secrets"].values())),
            )  # fmt: skip
            files = project.files()
            expect_owners(files)
            if asked["backend"] == "swarm" and not wanted:
                expect_read(
                    files[-1].content, place.directory, {name: str(one) for name, one in project.environment.items()}
                )
            if not before:
                # so that a run which is broken off can be run again
                place.write(File(name, MARK + "\n"))
    except UntangleError as exc:
        module.fail_json(msg="The stack %s: %s" % (asked["project"], exc.message))
    written = [one for one in files if not place.same(one)]
    removed = place.others(files)
    diff = [
        {
            "before_header": one.path,
            "after_header": one.path,
            "before": "" if one.secret else before if one.path == name else place.read(one.path),
            "after": "a secret that is not shown\n" if one.secret else one.content,
        }
        for one in written
    ]
    diff += [{"before_header": name, "after_header": "removed", "before": name + "\n", "after": ""} for name in removed]
    environment = "".join(one.content for one in files if one.path == ".env")
    services = touched(before, files[-1].content, (place.read(".env"), environment))
    for one in written:
        place.write(one)
    for name in removed:
        place.remove(name)
    module.exit_json(
        changed=bool(written or removed),
        files=[one.path for one in written] + removed,
        services=services,
        notes=getattr(project, "notes", []),
        diff=diff,
    )


if __name__ == "__main__":
    main()
