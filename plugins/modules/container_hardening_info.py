#!/usr/bin/python
# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: container_hardening_info
short_description: How running containers stand against the CIS Docker benchmark, and what drifted
version_added: 1.0.0
author: the njoy.untangle authors (@njoy)
description:
  - Compares C(docker inspect) of each container with the container part of the CIS Docker Benchmark 1.6 (4.1 and chapter 5).
  - Left out is what no inspection tells, 5.1 (the engine's swarm mode), 5.7 (sshd within), 5.9 (which ports are needed), 5.23 and 5.24
    (exec sessions to come), and what the engine's kernel does not have (AppArmor, SELinux).
  - Names what drifted, files that were changed inside a container (C(docker diff)) and, with O(directory), what differs from the release
    that M(njoy.untangle.compose_release) recorded.
  - A project without a container is an error, since it would have full marks. Nothing is changed.
options:
  project:
    description: The Compose project whose containers are meant.
    type: str
  containers:
    description: Names or IDs of containers, instead of O(project).
    type: list
    elements: str
  directory:
    description: The directory of the stack, with its releases.
    type: path
  exceptions:
    description:
      - Checks that may fail, each with its reason. They count as passed and are named in the result.
      - The default is the one that every stack of this collection has.
    type: dict
    default:
      "5.15": A server of data comes back after its host restarts, however often (unless-stopped).
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
    details:
      - It changes nothing.
  idempotent:
    support: full
extends_documentation_fragment:
  - njoy.untangle.connection.attributes
requirements:
  - Docker on the host
"""

EXAMPLES = r"""
- name: Judge the stack
  njoy.untangle.container_hardening_info:
    project: shop
    directory: /srv/shop
  register: hardening

- name: Expect full marks, and that nobody has changed anything
  ansible.builtin.assert:
    that:
      - hardening.score == hardening.out_of
      - hardening.drift == []
      - hardening.elsewhere == []
"""

RETURN = r"""
score:
  description: Checks that all containers together passed, exceptions included.
  returned: success
  type: int
  sample: 52
out_of:
  description: Checks that there were.
  returned: success
  type: int
  sample: 52
containers:
  description: Per container its name, service, score, and each check.
  returned: success
  type: list
  elements: dict
  sample:
    - name: shop-web-1
      service: web
      score: 25
      out_of: 26
      checks:
        - {check: "5.11", title: a memory limit, passed: false, reason: no memory limit, excepted: null, advice: mem_limit}
elsewhere:
  description: Services of a stack on Swarm that run on other nodes too. What is here is judged, and not those.
  returned: success
  type: list
  elements: str
  sample: []
drift:
  description: What differs from the images and from the release, as sentences.
  returned: success
  type: list
  elements: str
  sample: ["web: /etc/passwd was changed inside the container"]
"""

import json

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.njoy.untangle.plugins.module_utils.docker_cli import docker
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError
from ansible_collections.njoy.untangle.plugins.module_utils.hardening import changed_files, judged
from ansible_collections.njoy.untangle.plugins.module_utils.releases import (
    Releases,
    containers,
    service_of,
)
from ansible_collections.njoy.untangle.plugins.module_utils.swarm_services import elsewhere

COMES_BACK = "A server of data comes back after its host restarts, however often (unless-stopped)."


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str"},
            "containers": {"type": "list", "elements": "str"},
            "directory": {"type": "path"},
            "exceptions": {"type": "dict", "default": {"5.15": COMES_BACK}},
        },
        mutually_exclusive=[("project", "containers")],
        required_one_of=[("project", "containers")],
        required_by={"directory": "project"},
        supports_check_mode=True,
    )
    asked = module.params
    exceptions = {str(number): str(reason) for number, reason in asked["exceptions"].items()}
    try:
        info = json.loads(docker("info", "--format", "{{json .}}"))
        security, swarm = info.get("SecurityOptions") or [], info.get("Swarm") or {}
        away = (
            elsewhere(asked["project"], swarm["NodeID"]) if asked["project"] and swarm.get("ControlAvailable") else []
        )
        found = (
            containers(asked["project"])
            if asked["project"]
            else json.loads(docker("inspect", "--type", "container", *asked["containers"]))
        )
        if not found:
            raise UntangleError(
                "No container of %s is on this host, so there is nothing to judge. Check project, and whether the stack is up."
                % (asked["project"] or "containers")
            )
        drift, facts = [], []
        for one in found:
            checks = judged(one, security, exceptions)
            passed = sum(check["passed"] or bool(check["excepted"]) for check in checks)
            name, service = one["Name"].strip("/"), service_of(one)
            facts.append({"name": name, "service": service, "score": passed, "out_of": len(checks), "checks": checks})
            drift += [
                "%s: %s was changed inside the container" % (service, path)
                for path in changed_files(one, docker("diff", one["Id"]))
            ]
        if asked["directory"]:
            drift += Releases(asked["directory"], asked["project"]).drift()
    except UntangleError as exc:
        module.fail_json(msg=exc.message)
    module.exit_json(
        changed=False,
        containers=facts,
        score=sum(one["score"] for one in facts),
        out_of=sum(one["out_of"] for one in facts),
        elsewhere=away,
        drift=drift,
    )


if __name__ == "__main__":
    main()
