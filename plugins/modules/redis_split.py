#!/usr/bin/python
# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_split
short_description: Take away what a split left at its source and in its state directory
version_added: 1.0.0
author:
  - the njoy.untangle authors (@njoy)
description:
  - Removes the engine's own ACL user from the source, and the engine's files from the state directory.
  - Refuses while a database has moved to an instance that serves, while somebody is kept from writing, and while a job runs.
  - Backups of old databases stay, and so do the instances; those are the role redis_instances' to remove.
extends_documentation_fragment:
  - njoy.untangle.connection
  - njoy.untangle.connection.attributes
  - njoy.untangle.connection.actiongroup_redis
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details:
      - RV(actions) says what is removed.
  idempotent:
    support: full
options:
  state:
    description: V(absent) takes it away. A split begins by M(njoy.untangle.redis_migrate), so there is no other state.
    type: str
    choices: [absent]
    default: absent
  state_dir:
    description:
      - Directory on the host where the engine keeps its files.
      - Without it C(/var/lib/untangle) for root, C(~/.local/state/untangle) for other users.
    type: path
seealso:
  - module: njoy.untangle.redis_cutover
"""

EXAMPLES = r"""
- name: Leave the shared server as it was before the split
  njoy.untangle.redis_split:
    source: {host: 10.0.0.5, username: admin, password: "{{ vault_redis_password }}"}
    state: absent
"""

RETURN = r"""
actions:
  description: What was removed, or in check mode would be.
  returned: success
  type: list
  elements: str
  sample: ["remove user untangle of 10.0.0.5:6379", "remove /var/lib/untangle/split.json"]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.njoy.untangle.plugins.module_utils import connection
from ansible_collections.njoy.untangle.plugins.module_utils.engine import forget, state
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "dict", "required": True, "options": connection.CONNECTION_OPTIONS},
            "client_library": {"type": "list", "elements": "path"},
            "state": {"type": "str", "choices": ["absent"], "default": "absent"},
            "state_dir": {"type": "path"},
        },
        supports_check_mode=True,
    )
    directory = module.params["state_dir"] or state.default_directory()
    try:
        connection.use_library(module.params["client_library"])
        found = (forget.left if module.check_mode else forget.forget)(module.params["source"], directory)
    except UntangleError as exc:
        module.fail_json(msg=exc.message)
        return
    module.exit_json(changed=bool(found), actions=["remove %s" % one for one in found])


if __name__ == "__main__":
    main()
