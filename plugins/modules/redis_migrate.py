#!/usr/bin/python
# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_migrate
short_description: Copy databases of a Redis or Valkey server to instances of their own
version_added: 1.0.0
author:
  - the njoy.untangle authors (@njoy)
description:
  - Brings the databases of O(source) over along O(routes). Unlike the MIGRATE command it deletes nothing at the source.
  - All types, binary keys, stream groups with their pending entries, and expiries to the millisecond arrive as they are.
  - An instance that serves already is never copied over, whoever asks. A target that holds other keys is refused.
  - The work is done by a process of its own on the host. When the controller is lost it goes on, and the next call finds it.
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
      - V(copied) copies each database once, to the end, while it is in use; RV(purposes) then says V(copied) and a second call changes
        nothing. What is written meanwhile is brought over by M(njoy.untangle.redis_cutover).
      - V(mirrored) brings the databases into step through the source's change feed and keeps them so, by a job on the host that goes
        on after this call. RV(purposes) then says V(mirrored); a second call finds the job and changes nothing. The cutover is made
        by that job, in milliseconds. The target is a replica of the engine meanwhile and takes no writes from others. After the
        cutover the job goes on in the other direction, so that a way back takes as little.
      - V(stopped) ends a job that is running and lets go of a fence that a broken-off cutover left.
    type: str
    choices: [copied, mirrored, stopped]
    default: copied
  feed:
    description:
      - How a mirror learns what is written. RV(purposes) says which feed it is (C(feed)), and why it is not the first
        (C(feed_because)).
      - V(replication) attaches as a replica that asks for no data. It needs the rights C(+psync) and C(+replconf).
      - V(notifications) takes the source's keyspace notifications as hints which keys to dump again, for a service that offers no
        PSYNC. Its C(notify-keyspace-events) must be C(AE) at least.
      - V(auto) tries V(replication), and takes V(notifications) where it is refused.
    type: str
    choices: [auto, replication, notifications]
    default: auto
  on_conflict:
    description:
      - V(replace) makes the target equal to the source.
      - V(skip) keeps keys that the target has already, for an application that writes to both sides. It is for targets that are
        not empty; nothing is ever removed from them.
    type: str
    choices: [replace, skip]
    default: replace
  match:
    description: Copy only keys that match this pattern, as SCAN understands it.
    type: str
  exclude:
    description: Leave out keys that match any of these patterns (C(*), C(?), C([...])).
    type: list
    elements: str
seealso:
  - module: njoy.untangle.redis_compare
  - module: njoy.untangle.redis_cutover
"""

EXAMPLES = r"""
- name: Copy database 10 to the instance that will be the cache
  njoy.untangle.redis_migrate:
    source: {host: 10.0.0.5, username: admin, password: "{{ vault_redis_password }}"}
    routes:
      - purpose: cache
        database: 10
        target: {host: 10.0.0.6, port: 6381, username: untangle, password: "{{ vault_cache_password }}"}
"""

RETURN = r"""
purposes:
  description: What was done per purpose, and where it stands (C(state)); in check mode C(would) says what would be done.
  returned: success
  type: dict
  sample: {"cache": {"state": "copied", "keys_before": 120000, "keys_copied": 120000, "bytes": 23456789, "copy_seconds": 1.2}}
actions:
  description: What would be done, a sentence per purpose.
  returned: in check mode
  type: list
  elements: str
  sample: ["cache: copy 120000 keys of database 10 of 10.0.0.5:6379 to 10.0.0.6:6381"]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.njoy.untangle.plugins.module_utils.engine import jobs, preview
from ansible_collections.njoy.untangle.plugins.module_utils.engine.state import default_directory
from ansible_collections.njoy.untangle.plugins.module_utils.engine_options import ENGINE_OPTIONS, run


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            ENGINE_OPTIONS,
            state={"type": "str", "choices": ["copied", "mirrored", "stopped"], "default": "copied"},
            feed={"type": "str", "choices": ["auto", "replication", "notifications"], "default": "auto"},
            on_conflict={"type": "str", "choices": ["replace", "skip"], "default": "replace"},
            match={"type": "str"},
            exclude={"type": "list", "elements": "str"},
        ),
        supports_check_mode=True,
    )
    if module.params["state"] == "copied":
        run(module, "copied", preview.copied)
        return
    if module.params["state"] == "mirrored":
        run(module, "mirrored", preview.mirrored)
        return
    ended = False

    def stop_preview(options):
        return {"changed": bool(jobs.running(options["state_dir"])), "purposes": {}}

    if not module.check_mode and not module.params["job"]:
        ended = jobs.stop(module.params["state_dir"] or default_directory())
    run(module, "stopped", stop_preview, lambda result: dict(result, changed=result["changed"] or ended))


if __name__ == "__main__":
    main()
