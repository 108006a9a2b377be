#!/usr/bin/python
# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_compare
short_description: Prove that instances hold what their source databases hold
version_added: 1.0.0
author:
  - the njoy.untangle authors (@njoy)
description:
  - Reads both sides both ways and compares every key. Found are keys that are missing or extra, and differences of type, value, expiry,
    field expiry, stream groups, consumers and pending entries.
  - Values are compared by meaning, not by encoding. A difference is looked at again before it counts, so that a key which is written to
    meanwhile is none.
  - Nothing is changed on either side.
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
options:
  sample:
    description: Compare at least this many keys of each side, then stop. Without it all keys are compared.
    type: int
  fail_on_difference:
    description:
      - Whether a difference fails the task. One that is explained does not, be it a source that was written to since the copy or a
        target that serves already (C(drift) in RV(purposes)).
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Prove the copy
  njoy.untangle.redis_compare:
    source: {host: 10.0.0.5, username: admin, password: "{{ vault_redis_password }}"}
    routes:
      - purpose: cache
        database: 10
        target: {host: 10.0.0.6, port: 6381, username: untangle, password: "{{ vault_cache_password }}"}
"""

RETURN = r"""
equal:
  description: Whether no difference was found.
  returned: success
  type: bool
  sample: true
differences:
  description: How many keys differ.
  returned: success
  type: int
  sample: 0
details:
  description: Path of a file on the host that names up to 1000 differing keys per purpose; readable by its owner only.
  returned: when keys differ
  type: str
  sample: /var/lib/untangle/differences.tsv
purposes:
  description:
    - Counts per purpose, differences by kind. C(moving) counts keys over O(big_key_bytes) that both sides write to all the time, as a
      mirror does, so that they were never seen in one state; they are neither equal nor different.
  returned: success
  type: dict
  sample: {"cache": {"compared": 120000, "source_keys": 120000, "differences": 0, "kinds": {}, "moving": 0, "in_step": true, "drift": false}}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.njoy.untangle.plugins.module_utils.engine import preview
from ansible_collections.njoy.untangle.plugins.module_utils.engine_options import ENGINE_OPTIONS, run


def main() -> None:
    module = AnsibleModule(
        argument_spec=dict(
            ENGINE_OPTIONS,
            sample={"type": "int"},
            fail_on_difference={"type": "bool", "default": True},
        ),
        supports_check_mode=True,
    )

    def verdict(result):
        wrong = {name: p for name, p in result["purposes"].items() if p["differences"] and not p["drift"]}
        if wrong and module.params["fail_on_difference"]:
            counts = "; ".join(
                "%s: %s" % (name, ", ".join("%s %d" % item for item in p["kinds"].items())) for name, p in wrong.items()
            )
            message = "The targets do not hold what the source holds (%s). The keys are named in %s. Nothing was changed; run sync again."
            return dict(result, failed=True, msg=message % (counts, result["details"]))
        return result

    run(module, "compare", preview.compared, verdict)


if __name__ == "__main__":
    main()
