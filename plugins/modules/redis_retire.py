#!/usr/bin/python
# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_retire
short_description: Back up and empty old databases once their instances serve
version_added: 1.0.0
author:
  - the njoy.untangle authors (@njoy)
description:
  - Refuses while a client has the database selected, while a key of it changes, inside the watch period, and where the database does
    not hold what it held at the cutover. The last is not known where a mirror kept the way back open, where the server has evicted keys
    or was restarted since, and of keys that expire within the hour.
  - Writes a backup, loads it into a server of its own and compares it with the database; only then the database is emptied, page by page.
  - The backup is a gzip file of RESTORE commands, so that C(zcat FILE | redis-cli -n 10 --pipe) restores it without this collection.
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
      - V(retired) backs up and empties.
      - V(restored) puts the backup back into the old database, which must be empty. It holds nothing of what was written since the cutover.
    type: str
    choices: [retired, restored]
    default: retired
  watch_seconds:
    description: How long after the cutover a database must be left alone.
    type: float
    default: 86400
  quiet_seconds:
    description: For how long the database is watched for changes during the call.
    type: float
    default: 5
  accept_loss:
    description: Purposes whose old database may be emptied although somebody wrote to it since the cutover. The backup holds that too.
    type: list
    elements: str
  backup_dir:
    description: Directory for backups. Without it C(backup) in O(state_dir).
    type: path
  server_command:
    description:
      - Command of a server into which the backup is loaded for the test. Options for a unix socket are added to it.
      - C({dir}) in it is the temporary directory which holds the socket.
    type: list
    elements: str
    default: [redis-server]
"""

EXAMPLES = r"""
- name: Empty the old cache
  njoy.untangle.redis_retire:
    source: {host: 10.0.0.5, username: admin, password: "{{ vault_redis_password }}"}
    routes:
      - purpose: cache
        database: 10
        target: {host: 10.0.0.6, port: 6381, username: untangle, password: "{{ vault_cache_password }}"}
"""

RETURN = r"""
server_empty:
  description: Whether the old server holds no key any more, so that it may be stopped.
  returned: when O(state=retired)
  type: bool
  sample: false
databases_left:
  description: Numbers of the databases that still hold keys.
  returned: when O(state=retired)
  type: list
  elements: int
  sample: [0, 5]
purposes:
  description: What was done per purpose, and where it stands (C(state)); in check mode C(would) says what would be done.
  returned: success
  type: dict
  sample: {"cache": {"state": "retired", "backup": "/var/lib/untangle/backup/cache-db10-20261122T144427.resp.gz", "backup_keys": 120000}}
actions:
  description: What would be done, a sentence per purpose.
  returned: in check mode
  type: list
  elements: str
  sample: ["cache: back up and empty database 10 of 10.0.0.5:6379 (120000 keys)"]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.njoy.untangle.plugins.module_utils.engine import preview
from ansible_collections.njoy.untangle.plugins.module_utils.engine_options import ENGINE_OPTIONS, run


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            ENGINE_OPTIONS,
            state={"type": "str", "choices": ["retired", "restored"], "default": "retired"},
            watch_seconds={"type": "float", "default": 86400},
            quiet_seconds={"type": "float", "default": 5},
            accept_loss={"type": "list", "elements": "str"},
            backup_dir={"type": "path"},
            server_command={"type": "list", "elements": "str", "default": ["redis-server"]},
        ),
        supports_check_mode=True,
    )
    state = module.params["state"]
    run(module, state, preview.retired if state == "retired" else preview.restored)


if __name__ == "__main__":
    main()
