#!/usr/bin/python
# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: compose_release
short_description: Keep what a Compose stack runs as a release, and put one back
version_added: 1.0.0
author: the njoy.untangle authors (@njoy)
description:
  - A release is what a stack runs at one time. Per service its image by name, ID and digest; C(compose.yaml), C(.env) and the files
    that containers have mounted read-only from below O(directory); when it was deployed, and by whom. What any container may write to
    is data and no part of it; links are not followed.
  - Releases are kept in C(releases) below O(directory), readable by root alone, because the files may be secrets.
  - This module moves files and tags. Containers are changed by Compose afterwards, which recreates those that differ.
options:
  directory:
    description: The directory of the stack, with C(compose.yaml).
    type: path
    required: true
  project:
    description: Name of the Compose project.
    type: str
    required: true
  state:
    description:
      - V(recorded) keeps what runs now as a release, unless it is the current one still.
      - V(restored) has the files of the current release again, after a deployment that failed.
      - V(rolled_back) has the files of the release before it. V(withdrawn) then makes that one the current one, when it serves.
      - With V(restored) and V(rolled_back) the names of images mean what they meant in that release. An image that is no longer on the
        host is pulled by its digest.
    type: str
    choices: [recorded, restored, rolled_back, withdrawn]
    default: recorded
  by:
    description: Who deploys, for the record.
    type: str
    default: ""
  written:
    description:
      - Files below O(directory) that a deployment may have added. V(restored) and V(rolled_back) remove those that the release has not
        got, as they do with what M(njoy.untangle.compose_project) wrote.
    type: list
    elements: str
    default: []
  keep:
    description: How many releases are kept. Those that were withdrawn are counted by themselves.
    type: int
    default: 5
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: partial
    details:
      - V(withdrawn) goes one release further back each time.
extends_documentation_fragment:
  - njoy.untangle.connection.attributes
requirements:
  - Docker on the host
"""

EXAMPLES = r"""
- name: Remember what runs
  njoy.untangle.compose_release:
    directory: /srv/shop
    project: shop
    by: "{{ lookup('ansible.builtin.env', 'USER') }}"
"""

RETURN = r"""
release:
  description: The release that was recorded, or put back; null in check mode where none is there yet.
  returned: success
  type: dict
  sample:
    number: 3
    at: "2026-11-23T10:00:00.000Z"
    by: ann
    services:
      web: {image: "nginx:1.22", id: "sha256:0123", digests: ["nginx@sha256:4567"], size: 142000000, config: "89ab"}
    files: [compose.yaml, conf/web.conf]
put_back:
  description: Files and image names that were changed.
  returned: O(state=restored) and O(state=rolled_back)
  type: list
  elements: str
  sample: [compose.yaml, config/web.conf]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError
from ansible_collections.njoy.untangle.plugins.module_utils.releases import Releases


def shown(release: dict[str, t.Any] | None) -> dict[str, t.Any] | None:
    """Without the digests of files: those of a password are what some servers keep instead of it."""
    return release and {**release, "files": sorted(release["files"])}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "project": {"type": "str", "required": True},
            "state": {
                "type": "str",
                "choices": ["recorded", "restored", "rolled_back", "withdrawn"],
                "default": "recorded",
            },
            "by": {"type": "str", "default": ""},
            "written": {"type": "list", "elements": "str", "default": []},
            "keep": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    asked = module.params
    releases = Releases(asked["directory"], asked["project"])
    try:
        if asked["state"] == "recorded":
            changed, release = releases.record(asked["by"], asked["keep"], module.check_mode)
            module.exit_json(changed=changed, release=shown(release))
        if asked["state"] == "withdrawn":
            module.exit_json(changed=True, release=shown(releases.withdraw(module.check_mode)))
        back = asked["state"] == "rolled_back"
        put_back, release = releases.put_back(back, asked["written"], module.check_mode)
        module.exit_json(changed=bool(put_back) or back, release=shown(release), put_back=put_back)
    except UntangleError as exc:
        module.fail_json(msg=exc.message)
    except OSError as exc:
        module.fail_json(msg="%s: %s. Mend that, and run again." % (asked["project"], exc))


if __name__ == "__main__":
    main()
