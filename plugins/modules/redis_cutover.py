#!/usr/bin/python
# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_cutover
short_description: Make new instances the ones that are written to, or go back
version_added: 1.0.0
author:
  - the njoy.untangle authors (@njoy)
description:
  - With O(state=cut_over) writers of the old databases are shut out (the fence), a last pass brings over what changed since the copy,
    every key is compared, and the instances are marked as serving. That is one call in one process, where a failure before the mark
    undoes the fence.
  - With O(state=returned) the same happens the other way round, and what changed at the instances is copied back.
  - All routes of one source belong into one call, so that its users can be fenced together.
  - The fence takes the right to write from ACL users and keeps their rules beside them. It stays after a cutover, so that a forgotten
    client cannot write to the old database.
extends_documentation_fragment:
  - njoy.untangle.connection
  - njoy.untangle.engine
  - njoy.untangle.connection.attributes
  - njoy.untangle.connection.actiongroup_redis
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details:
      - RV(actions) says what would be done.
  idempotent:
    support: full
options:
  state:
    description:
      - V(cut_over) makes the targets serve. A cutover that was broken off is finished.
      - V(returned) makes the old databases serve again.
    type: str
    choices: [cut_over, returned]
    default: cut_over
  fence:
    description:
      - ACL users of O(source) who write to these databases.
      - Without it they are found. Where all databases in use move, that is every enabled user; else the users that are connected to
        these databases and to no others.
    type: list
    elements: str
  writers_stopped:
    description: Whether the applications are stopped already. Then nobody is fenced, and a source that is written to all the same is refused.
    type: bool
    default: false
  pause_max_seconds:
    description:
      - Where the writers of these databases cannot be told apart from those of databases that stay, so that nobody can be fenced, every
        write of the server is made to wait for so long at most, and the clients on these databases are cut off after the commit. Who
        of them comes back to the old address can write there; C(watch) names them. Without it such a cutover is refused.
      - It is for O(state=cut_over) of databases that are mirrored.
    type: float
  rehearse:
    description:
      - Do everything but the commit, and say how long writes were refused. Writers are shut out for as long.
      - It is for O(state=cut_over).
    type: bool
    default: false
  accept_loss:
    description: Purposes that may go back although their instance came back empty. What was written since the cutover is lost then.
    type: list
    elements: str
seealso:
  - module: njoy.untangle.redis_migrate
"""

EXAMPLES = r"""
- name: Cut over
  njoy.untangle.redis_cutover:
    source: {host: 10.0.0.5, username: admin, password: "{{ vault_redis_password }}"}
    routes:
      - purpose: cache
        database: 10
        target: {host: 10.0.0.6, port: 6381, username: untangle, password: "{{ vault_cache_password }}"}

- name: Go back
  njoy.untangle.redis_cutover:
    state: returned
    source: {host: 10.0.0.5, username: admin, password: "{{ vault_redis_password }}"}
    routes:
      - purpose: cache
        database: 10
        target: {host: 10.0.0.6, port: 6381, username: untangle, password: "{{ vault_cache_password }}"}
"""

RETURN = r"""
fenced:
  description: ACL users of the source that may not write any more.
  returned: when O(state=cut_over)
  type: list
  elements: str
  sample: [default]
write_refused_seconds:
  description: From the fence to the mark, in seconds.
  returned: when something was switched over
  type: float
  sample: 1.9
kept_off_by:
  description: How writers were kept off, C(fence), C(pause) or C(stopped by the user).
  returned: when a mirror was cut over
  type: str
  sample: fence
rehearsed:
  description: Whether everything was done but the commit.
  returned: when O(rehearse=true)
  type: bool
  sample: true
purposes:
  description: What was done per purpose, and where it stands (C(state)); in check mode C(would) says what would be done.
  returned: success
  type: dict
  sample: {"cache": {"state": "cut_over", "keys_before": 120000, "keys_after": 120000, "differences": 0, "last_pass_keys": 17}}
actions:
  description: What would be done, a sentence per purpose.
  returned: in check mode
  type: list
  elements: str
  sample: ["refuse writes of default at 10.0.0.5:6379 from the last pass on"]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.njoy.untangle.plugins.module_utils.engine import preview
from ansible_collections.njoy.untangle.plugins.module_utils.engine_options import ENGINE_OPTIONS, run


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            ENGINE_OPTIONS,
            state={"type": "str", "choices": ["cut_over", "returned"], "default": "cut_over"},
            fence={"type": "list", "elements": "str"},
            writers_stopped={"type": "bool", "default": False},
            pause_max_seconds={"type": "float"},
            rehearse={"type": "bool", "default": False},
            accept_loss={"type": "list", "elements": "str"},
        ),
        supports_check_mode=True,
    )
    state = module.params["state"]
    run(module, state, preview.cut_over if state == "cut_over" else preview.returned)


if __name__ == "__main__":
    main()
