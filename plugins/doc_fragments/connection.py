# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # The words for module_utils/connection.py, CONNECTION_OPTIONS: the two change together.
    DOCUMENTATION = r"""
options:
  source:
    description:
      - The Redis or Valkey server that is asked or taken apart, and how to log in to it.
      - It is reached from the host that the task runs on.
    type: dict
    required: true
    suboptions:
      host:
        description: Name or address of the server.
        type: str
        default: 127.0.0.1
      port:
        description: TCP port of the server.
        type: int
        default: 6379
      unix_socket:
        description: Path of the server's unix socket. Where it is given, O(source.host), O(source.port) and O(source.tls) are not used.
        type: path
      username:
        description: ACL user. Without it the server takes the user V(default).
        type: str
      password:
        description: Password of the user. It is never put into results, logs or command lines.
        type: str
      tls:
        description: Whether the server speaks TLS on this port.
        type: bool
        default: false
      tls_ca_file:
        description: PEM file with the authorities that the server's certificate is checked against. Without it the system's are used.
        type: path
      tls_cert_file:
        description: PEM file with the certificate that is shown to a server that asks for one.
        type: path
      tls_key_file:
        description: PEM file with the key of O(source.tls_cert_file).
        type: path
      tls_verify:
        description: Whether the server's certificate and its name are checked.
        type: bool
        default: true
      timeout:
        description: Seconds to wait for a connection. A reply may take 30 seconds, or this where it is more.
        type: float
        default: 5.0
  client_library:
    description:
      - Directories or archives on the host that hold the Python library C(redis) (redis-py).
      - It need not be installed on the host. The collection brings the controller's along and fills this option in by itself.
        Name a directory only where the library lies on the host already.
    type: list
    elements: path
requirements:
  - Redis 6.0 or later, or Valkey
  - Python 3.9 or later on the host that the task runs on
"""

    # What every module says about itself; a module adds `support`, and `details` where there is more to say.
    ATTRIBUTES = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and predict what would be changed without changing it.
  diff_mode:
    description: Shows what has changed or would change in C(diff) mode.
  idempotent:
    description: A second run with the same options changes nothing.
"""

    ACTIONGROUP_REDIS = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/njoy.untangle.redis) in C(module_defaults) to give all Redis modules of this collection one connection.
    support: full
    membership:
      - njoy.untangle.redis
"""
