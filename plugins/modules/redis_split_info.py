#!/usr/bin/python
# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_split_info
short_description: Where a split stands, read from its servers
version_added: 1.0.0
author:
  - the njoy.untangle authors (@njoy)
description:
  - Reads from the servers where each purpose stands, who is fenced, which clients are still on the old databases, and which job runs.
  - Nothing is changed. A server that does not answer is reported and is no error.
extends_documentation_fragment:
  - njoy.untangle.connection
  - njoy.untangle.engine
  - njoy.untangle.connection.attributes
  - njoy.untangle.connection.actiongroup_redis
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
    details:
      - It changes nothing.
  idempotent:
    support: full
"""

EXAMPLES = r"""
- name: See where the split stands
  njoy.untangle.redis_split_info:
    source: {host: 10.0.0.5, username: admin, password: "{{ vault_redis_password }}"}
    routes:
      - purpose: cache
        database: 10
        target: {host: 10.0.0.6, port: 6381, username: untangle, password: "{{ vault_cache_password }}"}
"""

RETURN = r"""
purposes:
  description:
    - Per purpose its C(state) (planned, copying, copied, mirrored, cut_over, returned, retired) and the figures of both sides.
    - Look-ups and evictions are counted from its cutover on.
  returned: success
  type: dict
  sample: {"cache": {"state": "cut_over", "keys_source": 120000, "keys_target": 120100, "hits": 900, "misses": 10, "evicted": 0}}
fenced:
  description: ACL users of the source that may not write.
  returned: success
  type: list
  elements: str
  sample: [default]
job:
  description: The job that runs just now, or none.
  returned: success
  type: dict
  sample: null
split:
  description: What the engine has recorded of the split.
  returned: success
  type: dict
  sample: {"version": 1, "purposes": {}, "log": []}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.njoy.untangle.plugins.module_utils.engine import preview
from ansible_collections.njoy.untangle.plugins.module_utils.engine_options import ENGINE_OPTIONS, run


def main() -> None:
    module = AnsibleModule(argument_spec=dict(ENGINE_OPTIONS), supports_check_mode=True)
    run(module, None, preview.info)


if __name__ == "__main__":
    main()
