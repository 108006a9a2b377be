# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # The words for module_utils/engine_options.py: the two change together.
    DOCUMENTATION = r"""
options:
  routes:
    description: The databases of O(source) and where each of them goes.
    type: list
    elements: dict
    required: true
    suboptions:
      purpose:
        description: What the database is for, and the name of the instance that serves it.
        type: str
        required: true
      database:
        description: Number of the database at O(source).
        type: int
        required: true
      target:
        description: How to reach the instance, with the suboptions of O(source).
        type: dict
        required: true
        suboptions:
          host:
            description: Name or address of the instance.
            type: str
            default: 127.0.0.1
          port:
            description: TCP port of the instance.
            type: int
            default: 6379
          unix_socket:
            description: Path of its unix socket. Where it is given, host, port and tls are not used.
            type: path
          username:
            description: ACL user. Without it the server takes the user V(default).
            type: str
          password:
            description: Password of the user.
            type: str
          tls:
            description: Whether the instance speaks TLS on this port.
            type: bool
            default: false
          tls_ca_file:
            description: PEM file with the authorities that its certificate is checked against.
            type: path
          tls_cert_file:
            description: PEM file with the certificate that is shown to it.
            type: path
          tls_key_file:
            description: PEM file with the key of that certificate.
            type: path
          tls_verify:
            description: Whether its certificate and name are checked.
            type: bool
            default: true
          timeout:
            description: Seconds to wait for a connection.
            type: float
            default: 5.0
      target_database:
        description: Number of the database at the target.
        type: int
        default: 0
  state_dir:
    description:
      - Directory on the host where the engine keeps what it must know beyond the servers' own marks, its jobs and its code.
      - Without it C(/var/lib/untangle) for root, C(~/.local/state/untangle) for other users.
    type: path
  max_latency_ms:
    description: What the other clients of a server may notice of its being read, in milliseconds. A page of keys ends at half of it.
    type: float
    default: 5.0
  big_key_bytes:
    description: Keys that take more memory than this are copied and compared in chunks, so that they hold up no server.
    type: int
    default: 262144
  tolerance_ms:
    description: By how many milliseconds two expiries may differ and still count as equal.
    type: int
    default: 0
  by:
    description: Who runs this, for the record. Filled in by the collection.
    type: str
  job:
    description: The job to ask after, instead of starting one. Used by the collection while it waits.
    type: str
  wait:
    description: Seconds to wait for the job. Without it the module waits to the end. Used by the collection to show progress.
    type: float
"""
