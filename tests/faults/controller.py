# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A controller: one call of a phase, as the modules make it, in a process that can be killed.

Reads {kind, options} from its input; writes a line "go" when it begins and one with the answer in JSON.
"""

from __future__ import annotations

import json
import sys

from ansible_collections.njoy.untangle.plugins.module_utils.engine import jobs
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError


def main() -> None:
    spec = json.load(sys.stdin)
    print("go", flush=True)
    try:
        answer = jobs.call({"by": "the fault suite"}, spec["kind"], spec["options"], None)
    except UntangleError as exc:
        answer = {"failed": True, "msg": exc.message}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
