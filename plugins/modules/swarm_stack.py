#!/usr/bin/python
# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_stack
short_description: Deploy a stack to Docker Swarm and wait until it runs
version_added: 1.0.0
author: the njoy.untangle authors (@njoy)
description:
  - Runs C(docker stack deploy) with C(stack.yaml) and C(.env) of a directory, on a manager, and waits until every service runs
    what is asked for and is healthy. C(docker stack deploy) itself returns before, and never says that a service failed.
  - Configs and secrets of the stack that no service has any more are removed afterwards.
  - The files are written by M(njoy.untangle.compose_project). The role P(njoy.untangle.compose_stack#role) does both.
options:
  directory:
    description: The directory of the stack, with C(stack.yaml).
    type: path
    required: true
  project:
    description: Name of the stack.
    type: str
    required: true
  state:
    description: V(absent) removes services, networks, configs and secrets. Volumes stay.
    type: str
    choices: [present, absent]
    default: present
  wait:
    description: How long to wait for it, in seconds, beside the stop grace that tasks of before may need.
    type: int
    default: 60
attributes:
  check_mode:
    support: partial
    details:
      - With O(state=present) it changes nothing and tells nothing.
  diff_mode:
    support: none
  idempotent:
    support: full
extends_documentation_fragment:
  - njoy.untangle.connection.attributes
requirements:
  - Docker on the host, which is a manager of a swarm
"""

EXAMPLES = r"""
- name: Have the shop on the swarm
  njoy.untangle.swarm_stack:
    directory: /srv/shop
    project: shop
"""

RETURN = r"""
services:
  description: Services that are another now, or are gone.
  returned: success
  type: list
  elements: str
  sample: [web]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.njoy.untangle.plugins.module_utils import swarm_services as swarm
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "project": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "wait": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    asked, project = module.params, module.params["project"]
    try:
        before, wait = swarm.specs(project), asked["wait"] + swarm.grace(project)
        if asked["state"] == "absent":
            left = swarm.left(project)
            if left and not module.check_mode:
                swarm.remove(project, wait)
            module.exit_json(changed=bool(left), services=sorted(before))
        if module.check_mode:
            module.exit_json(changed=False, services=[])
        swarm.node()
        swarm.deploy(asked["directory"], project)
        swarm.converge(project, wait)
        swarm.forget_unused(project)
        after = swarm.specs(project)
    except UntangleError as exc:
        module.fail_json(msg=exc.message)
    services = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    module.exit_json(changed=bool(services), services=services)


if __name__ == "__main__":
    main()
