#!/usr/bin/python
# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: container_image
short_description: Have an image on a Docker host, and see what it is
version_added: 1.0.0
author: the njoy.untangle authors (@njoy)
description:
  - Pulls or builds an image, pushes it where it is told to, and tells whom it runs as, where its data is and how big it is.
  - Nothing in the image is run for that. A container is created, never started, and removed.
options:
  name:
    description: The image, with tag or digest. With O(source=build) the name that it gets.
    type: str
    required: true
  source:
    description:
      - V(pull) pulls it where it is missing.
      - V(build) builds it where it is missing, or was built from something else. An image of that name that was not built by this
        module is refused.
    type: str
    choices: [pull, build]
    default: pull
  dockerfile:
    description: The text of the Dockerfile for O(source=build). It begins with C(ARG BASE) and C(FROM ${BASE}).
    type: str
  base:
    description: The image that O(source=build) builds on. It is pulled where it is missing.
    type: str
  context:
    description: A directory on the host with the files that O(dockerfile) copies. Without it there are none.
    type: path
  push:
    description:
      - A repository, such as C(registry.example.com/shop/web), to push it to. Without a tag it gets that of O(name).
      - The name and the reference that are returned are then those of the repository.
    type: str
  refresh:
    description:
      - Pull the image, or the base of O(source=build), although it is on the host. So a tag that was moved is seen.
      - In check mode no registry is asked.
    type: bool
    default: false
  budget:
    description: How many MB (millions of bytes, unpacked) the image may have. V(0) means any. It is not pushed if it has more.
    type: float
    default: 0
attributes:
  check_mode:
    support: partial
    details:
      - With O(refresh) it is not known whether a tag was moved. The action is listed, and no change told.
  diff_mode:
    support: none
  idempotent:
    support: full
extends_documentation_fragment:
  - njoy.untangle.connection.attributes
requirements:
  - Docker on the host
"""

EXAMPLES = r"""
- name: Have the image, and see whom it runs as
  njoy.untangle.container_image:
    name: redis:8.0
    budget: 250
  register: image

- name: Build where there is no registry, and give it to those who have none either
  njoy.untangle.container_image:
    name: shop/web:1.4
    source: build
    base: debian:bookworm-slim
    dockerfile: "{{ lookup('ansible.builtin.file', 'Dockerfile') }}"
    context: /srv/build/web
    push: registry.example.com/shop/web
"""

RETURN = r"""
image:
  description:
    - What the image is; null in check mode where it is not on the host yet.
    - C(reference) has the digest where a registry gave one. C(user) is whom it runs as, or whom its entrypoint changes to when
      it is started as root (C(runs_as_root)). It is what C(USER) says; where that is root, the owner of a volume; where that is
      root too, a well-known service user that the image has; else null.
    - C(size) is in bytes, unpacked. C(variant) is C(ID) of the image's C(os-release), null where it has none.
  returned: success
  type: dict
  sample:
    name: redis:8.0
    reference: redis:8.0@sha256:0123
    id: sha256:4567
    digests: ["redis@sha256:0123"]
    size: 180000000
    user: {uid: 999, gid: 999, name: redis}
    runs_as_root: true
    volumes: [/data]
    entrypoint: [docker-entrypoint.sh]
    command: [redis-server]
    ports: [6379/tcp]
    healthcheck: false
    variant: debian
actions:
  description: What was done, or would be.
  returned: success
  type: list
  elements: str
  sample: [pull redis:8.0]
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.njoy.untangle.plugins.module_utils import images
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError


class Work:
    """Each step says what it does, and does it unless this is only a check."""

    def __init__(self, check: bool) -> None:
        self.check, self.changed = check, False
        self.actions: list[str] = []

    def pulled(self, name: str, refresh: bool) -> images.Facts | None:
        there = images.inspected(name)
        if there and not refresh:
            return there
        self.actions.append("pull " + name)
        self.changed |= not there
        if self.check:
            return there
        images.pull(name)
        now = images.inspected(name)
        self.changed |= bool(there and now and there["Id"] != now["Id"])
        return now

    def built(self, name: str, dockerfile: str, base: str, context: str, refresh: bool) -> images.Facts | None:
        if context and not os.path.isdir(context):
            raise UntangleError("%s: the context %s is no directory of this host." % (name, context))
        there = images.inspected(name)
        label = ((there or {}).get("Config", {}).get("Labels") or {}).get(images.LABEL)
        if there and not label:
            raise UntangleError(
                "%s is on this host already and was not built by this collection. Choose another name for what is built, or remove "
                "that image." % name
            )
        ground = self.pulled(base, refresh)
        built_from = images.sum_of(dockerfile, ground["Id"], context) if ground else ""
        if there and label == built_from:
            return there
        self.actions.append("build %s on %s" % (name, base))
        self.changed = True
        if self.check:
            return there
        images.build(name, dockerfile, base, built_from, context)
        return images.inspected(name)

    def pushed(self, name: str, target: str, found: images.Facts | None) -> bool:
        """Whether the host has it under that name."""
        there, repository = images.inspected(target) or {}, images.parted(target)[0]
        given = [one for one in there.get("RepoDigests") or () if images.parted(one)[0] == repository]
        known = bool(found and given and there["Id"] == found["Id"])
        if self.check:
            told = not known
        else:
            # each time, because the registry may have lost it; what is there is not sent again
            told = images.push(name, target) or not known
        if told:
            self.actions.append("push " + target)
            self.changed = True
        return known or not self.check


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "source": {"type": "str", "choices": ["pull", "build"], "default": "pull"},
            "dockerfile": {"type": "str"},
            "base": {"type": "str"},
            "context": {"type": "path"},
            "push": {"type": "str"},
            "refresh": {"type": "bool", "default": False},
            "budget": {"type": "float", "default": 0},
        },
        required_if=[("source", "build", ["dockerfile", "base"])],
        supports_check_mode=True,
    )
    asked, work = module.params, Work(module.check_mode)
    name = asked["name"]
    try:
        if asked["source"] == "build":
            found = work.built(name, asked["dockerfile"], asked["base"], asked["context"] or "", asked["refresh"])
        else:
            found = work.pulled(name, asked["refresh"])
        if found:
            images.within(name, found["Size"], asked["budget"])
        if asked["push"]:
            target = asked["push"]
            if not images.parted(target)[1]:
                target += ":" + (images.parted(name)[1] or "latest")
            if work.pushed(name, target, found):
                name = target
        image = images.facts(name) if found else None
    except UntangleError as exc:
        module.fail_json(msg=exc.message)
    module.exit_json(changed=work.changed, actions=work.actions, image=image)


if __name__ == "__main__":
    main()
