#!/usr/bin/python
# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: env_file
short_description: Set names in an application's env file
version_added: 1.0.0
author: the njoy.untangle authors (@njoy)
description:
  - Sets, removes or puts back names in a dotenv file (C(.env), the C(env_file) of Docker Compose, a file that a shell sources).
  - Comments, order, indentation, C(export), line breaks and all other names stay as they are, and so do owner, group and mode.
    A name that stands in the file more than once gets the value in every place, because readers differ in which one wins.
  - A value is written bare where that is safe, else in single or double quotes, and never with an escape, so that shells,
    Docker Compose, python-dotenv, PHP dotenv and Ruby's dotenv read the same. A value for which there is no such form is refused.
  - Every value may be a secret. Values are shown neither in the result nor in the diff nor in the host's log; the diff tells which names change.
extends_documentation_fragment:
  - ansible.builtin.files
options:
  path:
    description:
      - The env file. A symbolic link is followed, the file that it points to is changed.
    type: path
    required: true
  state:
    description:
      - V(present) gives the names in O(set) their values.
      - V(absent) removes every line that sets one of O(names).
      - V(restored) gives O(names) back what the kept file says of them (see O(backup)); a name that the kept file lacks is removed.
        Other names keep what they have now. Without a kept file nothing is changed.
    type: str
    choices: [present, absent, restored]
    default: present
  set:
    description:
      - Names and their values, for O(state=present). Numbers are written as they are, booleans as C(true) and C(false).
    type: dict
  names:
    description:
      - The names to remove or to put back.
    type: list
    elements: str
  dest:
    description:
      - Write the result into this file, and leave O(path) alone. The file gets the owner, group and mode of O(path).
      - Where O(path) needs no change, this file is removed if it is there.
    type: path
  create:
    description:
      - Create the file where it is missing, with mode V(0600) unless O(mode) says otherwise. By default a missing file is an error,
        because it is more often a misspelt path.
    type: bool
    default: false
  backup:
    description:
      - Keep the file, before its first change, as O(path) with C(.before-untangle) at the end, readable by its owner alone.
      - A file kept earlier is never overwritten, so that it is what was there before the first change. O(state=restored) reads it.
    type: bool
    default: false
  mark:
    description:
      - Create this empty file before O(path) is changed. The module never removes it.
      - It says that something has yet to follow the change, such as a restart, and says so even where the run is broken off
        between the two. Remove it when that is done. RV(marked) tells whether it is there.
    type: path
attributes:
  check_mode:
    support: full
    description: Can run in check mode and tells what would be changed.
  diff_mode:
    support: full
    description: Names the lines that change. Values are masked.
  platform:
    support: full
    description: POSIX.
    platforms: posix
seealso:
  - module: ansible.builtin.lineinfile
"""

EXAMPLES = r"""
- name: Point the shop at its new cache
  njoy.untangle.env_file:
    path: /srv/shop/.env
    backup: true
    set:
      CACHE_URL: "redis://cache:{{ cache_password | urlencode | replace('/', '%2F') }}@10.0.0.5:6381/0"
      CACHE_PREFIX: "shop:"

- name: Go back to what was there before
  njoy.untangle.env_file:
    path: /srv/shop/.env
    state: restored
    names: [CACHE_URL, CACHE_PREFIX]

- name: Look at the new file before it is used
  njoy.untangle.env_file:
    path: /srv/shop/.env
    dest: /srv/shop/.env.new
    set:
      QUEUE_PORT: 6380
"""

RETURN = r"""
path:
  description: The file that was looked at, symbolic links resolved.
  returned: success
  type: str
  sample: /srv/shop/.env
names:
  description: The names that were changed, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [CACHE_URL]
actions:
  description: What was done, one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["kept /srv/shop/.env as /srv/shop/.env.before-untangle", "changed CACHE_URL in /srv/shop/.env"]
backup_file:
  description: The kept file, if there is one.
  returned: when O(backup=true) or O(state=restored), and there is one
  type: str
  sample: /srv/shop/.env.before-untangle
marked:
  description: Whether the file that O(mark) names is there.
  returned: when O(mark) is given
  type: bool
"""

import os
import stat
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.njoy.untangle.plugins.module_utils import env_file
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

KEPT = ".before-untangle"
ENCODING = ("utf-8", "surrogateescape")
#: A value this short cannot be told from ordinary words, and masking it everywhere would spoil paths and names in the result.
SHORTEST_SECRET = 8


def as_text(name: str, value: t.Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    raise UntangleError('The value of %s is neither text nor a number. Write "" for an empty value.' % name)


def read(path: str) -> str | None:
    if not os.path.exists(path):
        return None
    if not os.path.isfile(path):
        raise UntangleError("%s is not a regular file. Check path." % path)
    with open(path, "rb") as file:
        return file.read().decode(*ENCODING)


def plan(params: dict[str, t.Any], text: str, kept: str | None) -> env_file.Edit:
    if params["state"] == "present":
        return env_file.assign(text, {str(name): as_text(name, value) for name, value in params["set"].items()})
    if params["state"] == "absent":
        return env_file.remove(text, params["names"])
    return env_file.put_back(text, text if kept is None else kept, params["names"])


def write(module: AnsibleModule, path: str, text: str, like: str, only_owner: bool = False) -> None:
    """Write a whole file or none, with the owner and mode of ``like``; at no moment can anyone read it who could not before."""
    handle, temporary = tempfile.mkstemp(prefix=".untangle-", dir=os.path.dirname(path))
    module.add_cleanup_file(temporary)
    with os.fdopen(handle, "wb") as file:
        file.write(text.encode(*ENCODING))
        file.flush()
        os.fsync(file.fileno())
    if os.path.exists(like):
        there, mine = os.stat(like), os.stat(temporary)
        if (there.st_uid, there.st_gid) != (mine.st_uid, mine.st_gid):
            os.chown(temporary, there.st_uid, there.st_gid)
        os.chmod(temporary, 0o600 if only_owner else stat.S_IMODE(there.st_mode))
    if path == like and os.path.exists(path):
        module.atomic_move(
            temporary, path, unsafe_writes=module.params["unsafe_writes"]
        )  # keeps the SELinux context too
    else:
        os.replace(temporary, path)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    params = module.params
    path = os.path.realpath(params["path"])
    kept_path, target, mark = path + KEPT, os.path.realpath(params["dest"] or path), params["mark"]
    text, kept = read(path), read(kept_path)
    if text is None and not (params["create"] and params["state"] == "present"):
        raise UntangleError("%s does not exist. Check path, or let the file be made with create." % path)
    edit = plan(params, text or "", kept)
    names = [name for name, dummy in edit.changes]
    actions = ["%s %s in %s" % (what, name, target) for name, what in edit.changes]
    if target == path:
        todo = bool(edit.changes) or text is None
        if text is None:
            actions.insert(0, "created %s" % path)
        elif todo and params["backup"] and kept is None:
            actions.insert(0, "kept %s as %s" % (path, kept_path))
            kept = text if module.check_mode else keep(module, path, text)
        if todo and mark and not module.check_mode:
            with open(mark, "ab"):
                pass
    else:
        todo = (edit.text if edit.changes else None) != read(target)
        actions = actions if todo else []
        if todo and not edit.changes:
            actions = ["removed %s" % target]
    if todo and not module.check_mode:
        if target != path and not edit.changes:
            os.unlink(target)
        else:
            write(module, target, edit.text, like=path)
    diff = edit.diff(target) if todo else {"before": "", "after": ""}
    result = {"changed": todo, "path": path, "names": names, "actions": actions, "diff": diff}
    if kept is not None and (params["backup"] or params["state"] == "restored"):
        result["backup_file"] = kept_path
    if mark:
        result["marked"] = os.path.exists(mark)
    if os.path.exists(target):
        # Owner, group and mode, where they are given.
        arguments = module.load_file_common_arguments(params, path=target)
        result["changed"] = module.set_fs_attributes_if_different(arguments, todo)
    return result


def keep(module: AnsibleModule, path: str, text: str) -> str:
    write(module, path + KEPT, text, like=path, only_owner=True)
    return text


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent", "restored"], "default": "present"},
            "set": {"type": "dict", "no_log": True},
            "names": {"type": "list", "elements": "str"},
            "dest": {"type": "path"},
            "create": {"type": "bool", "default": False},
            "backup": {"type": "bool", "default": False},
            "mark": {"type": "path"},
        },
        required_if=[("state", "present", ["set"]), ("state", "absent", ["names"]), ("state", "restored", ["names"])],
        mutually_exclusive=[("set", "names"), ("dest", "backup"), ("dest", "mark"), ("dest", "create")],
        supports_check_mode=True,
        add_file_common_args=True,
    )
    # no_log keeps the values out of the host's log. Ansible would mask them in the whole result as well, and a value such as "0"
    # or "cache" would spoil every path and name in it. So that stays for those that can be secrets; the values themselves
    # stand nowhere in the result but in the invocation, where they are masked by name.
    paths = [module.params[option] or "" for option in ("path", "dest", "mark")]
    shown = " ".join(paths + list(module.params["set"] or ()))
    module.no_log_values = {
        value for value in module.no_log_values if len(value) >= SHORTEST_SECRET and value not in shown
    }
    masked = dict.fromkeys(module.params["set"] or (), env_file.MASK) or None
    invocation = {"module_args": dict(module.params, set=masked)}
    try:
        module.exit_json(invocation=invocation, **run(module))
    except UntangleError as error:
        module.fail_json(msg=error.message, invocation=invocation)
    except OSError as error:
        module.fail_json(
            msg="%s: %s. Check path and the rights of the user that the task runs as."
            % (error.filename or module.params["path"], error.strerror),
            invocation=invocation,
        )


if __name__ == "__main__":
    main()
