#!/usr/bin/python
# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_keyspace_info
short_description: What a Redis or Valkey server holds, who uses it, and what its databases do to each other
version_added: 1.0.0
author:
  - the njoy.untangle authors (@njoy)
description:
  - Reads the facts of one server, database by database, and judges them by five checks.
  - Nothing is written. Keys that are looked at do not count as used where the server can be told so (Redis 7.2 and later, Valkey).
  - What the server does not let this user see is V(null) in the result, and RV(refused) says so; it is not an error.
extends_documentation_fragment:
  - njoy.untangle.connection
  - njoy.untangle.connection.attributes
  - njoy.untangle.connection.actiongroup_redis
attributes:
  check_mode:
    support: full
    details:
      - It reads in check mode as well.
  diff_mode:
    support: N/A
    details:
      - It changes nothing.
  idempotent:
    support: full
options:
  plan:
    description:
      - What the databases are for, as RV(databases[].purpose) shall name them. The purposes of a plan can be given as they are.
      - Of each entry C(name) and C(database) are used, and C(profile) where there is one, to tell unlike uses apart. Others are ignored.
    type: list
    elements: dict
  settings:
    description:
      - Whether to return all settings of the running server, for reading back what was configured. Secrets among them are masked.
    type: bool
    default: false
  memory_sample:
    description:
      - How many keys of each database to measure for RV(databases[].memory); V(0) measures none.
      - Each costs the server one C(MEMORY USAGE), some microseconds, in batches of 100.
    type: int
    default: 200
seealso:
  - name: The audit
    description: The five checks and how their figures come about.
    link: https://github.com/njoy/untangle/blob/main/docs/audit.md
"""

EXAMPLES = r"""
- name: Look at the shared server
  njoy.untangle.redis_keyspace_info:
    source:
      host: 10.0.0.5
      username: admin
      password: "{{ vault_redis_password }}"
    plan:
      - {name: sessions, database: 0}
      - {name: pipeline, database: 5}
      - {name: cache, database: 10}
  register: audit

- name: Show what one database does to another
  ansible.builtin.debug:
    msg: "{{ item.severity }}: {{ item.evidence }} {{ item.advice }}"
  loop: "{{ audit.findings | rejectattr('severity', 'equalto', 'ok') }}"
  loop_control:
    label: "{{ item.check }}"

- name: Keys per database (in a template, write ['keys'], since .keys is a method of every dictionary)
  ansible.builtin.debug:
    msg: "db {{ item.database }} ({{ item.purpose }}): {{ item['keys'] }} keys"
  loop: "{{ audit.databases }}"

- name: Read the settings of a running instance
  njoy.untangle.redis_keyspace_info:
    source: {host: 127.0.0.1, port: 6381, username: untangle, password: "{{ instance_password }}"}
    settings: true
    memory_sample: 0
  register: instance
  failed_when: instance is failed or instance.settings['maxmemory-policy'] != 'allkeys-lru'
"""

RETURN = r"""
address:
  description: The server that was asked, as C(host:port) or the path of its socket.
  returned: success
  type: str
  sample: 10.0.0.5:6379
server:
  description: The server as a whole. A fact that the server does not give is V(null).
  returned: success
  type: dict
  contains:
    flavour:
      description: V(redis) or V(valkey).
      type: str
    version:
      description: The server's own version, of Valkey not the Redis version that it says it is compatible with.
      type: str
    mode:
      description: V(standalone), V(cluster) or V(sentinel).
      type: str
    role:
      description: V(master) or V(replica).
      type: str
    cluster:
      description: Whether it is in cluster mode.
      type: bool
    replicas:
      description: Replicas that are connected.
      type: int
    min_replicas_to_write:
      description: How many of them it needs to take writes. V(null) where it does not allow C(CONFIG GET).
      type: int
    databases:
      description: How many database numbers it has. V(null) where it does not allow C(CONFIG GET).
      type: int
    uptime_seconds:
      description: Seconds since it was started.
      type: int
    used_memory:
      description: Bytes in use.
      type: int
    maxmemory:
      description: Limit in bytes, V(0) for none.
      type: int
    maxmemory_policy:
      description: What it does at the limit.
      type: str
    total_system_memory:
      description: Memory of the machine that it runs on, in bytes.
      type: int
    evicted_keys:
      description: Keys evicted since the statistics began.
      type: int
    expired_keys:
      description: Keys expired since the statistics began.
      type: int
    keyspace_hits:
      description: Successful look-ups, of all databases together. A server does not count them by database.
      type: int
    keyspace_misses:
      description: Look-ups that found nothing, of all databases together.
      type: int
    payload_version:
      description:
        - The version of the data format that C(DUMP) gives, learnt from one small key. V(null) where there is none, where it is not allowed,
          or where O(memory_sample) is V(0).
      type: int
    persistence:
      description: How it keeps its data.
      type: dict
      contains:
        save:
          description: The points at which it writes an RDB file, empty for never. V(null) where it does not allow C(CONFIG GET).
          type: str
        appendonly:
          description: Whether it keeps an append-only file.
          type: bool
        last_save_status:
          description: V(ok) or V(err).
          type: str
        last_save_at:
          description: When it last saved, in seconds since 1970.
          type: int
        last_append_status:
          description: V(ok) or V(err).
          type: str
  sample:
    cluster: false
    databases: 16
    evicted_keys: 0
    expired_keys: 1204
    flavour: redis
    keyspace_hits: 901322
    keyspace_misses: 5012
    maxmemory: 0
    maxmemory_policy: noeviction
    mode: standalone
    payload_version: 10
    persistence: {appendonly: false, last_append_status: ok, last_save_at: 1795357728, last_save_status: ok, save: 3600 1 300 100 60 10000}
    replicas: 1
    min_replicas_to_write: 0
    role: master
    total_system_memory: 8201113600
    uptime_seconds: 864000
    used_memory: 1288816
    version: 7.0.15
databases:
  description: Every database that holds keys, that O(plan) names or that a client has selected, by number.
  returned: success
  type: list
  elements: dict
  contains:
    database:
      description: Its number.
      type: int
    purpose:
      description: Its name in O(plan), or V(null).
      type: str
    profile:
      description: Its profile in O(plan), or V(null).
      type: str
    exists:
      description: Whether the server has this number. V(null) where it would not tell.
      type: bool
    keys:
      description: Keys, as C(INFO keyspace) gives them. V(null) where it does not allow C(INFO).
      type: int
    expires:
      description: Keys with an expiry.
      type: int
    avg_ttl:
      description: Average time to live of a sample of them, in milliseconds, as the server estimates it.
      type: int
    subexpiry:
      description: Hashes whose fields expire, where the server counts them; further counts of later servers are returned in the same way.
      type: int
    clients:
      description: Connections that selected this database last; V(null) where it does not allow C(CLIENT LIST).
      type: dict
      contains:
        connections:
          description: How many, without the one that asks, and without replicas.
          type: int
        seen:
          description: The ten most frequent kinds among them, by name, user and host.
          type: list
          elements: dict
    memory:
      description: What its keys take; V(null) where it was not or could not be measured.
      type: dict
      contains:
        bytes:
          description: Mean of the sample times the number of keys.
          type: int
        margin:
          description: The true mean lies within this many bytes of it in 19 of 20 cases. V(0) where every key was measured.
          type: int
        sampled:
          description: How many keys were measured.
          type: int
  sample:
    - avg_ttl: 0
      clients:
        connections: 4
        seen: [{address: 10.0.0.7, connections: 4, idle_seconds: 0, last_command: brpop, library: phpredis, name: worker, user: default}]
      database: 5
      exists: true
      expires: 0
      keys: 1200
      memory: {bytes: 131400, margin: 2100, sampled: 200}
      profile: null
      purpose: pipeline
commands:
  description:
    - How often C(FLUSHALL), C(FLUSHDB), C(KEYS), C(SELECT), C(SWAPDB) and C(MOVE) ran, failed while they ran, and were rejected before.
      Redis counts them per server, since its start or the last C(CONFIG RESETSTAT). Redis 6.0 counts calls alone.
    - V(null) where the server does not tell.
  returned: success
  type: dict
  sample:
    FLUSHALL: {calls: 0, failed: 0, rejected: 1}
    FLUSHDB: {calls: 3, failed: 0, rejected: 0}
slow_log:
  description: The newest 128 entries of the slow log by command. Arguments are not returned. V(null) where it does not allow C(SLOWLOG).
  returned: success
  type: dict
  contains:
    entries:
      description: How many entries it has.
      type: int
    read:
      description: How many of them were looked at.
      type: int
    slowest_ms:
      description: The slowest of these, in milliseconds.
      type: float
    threshold_us:
      description: From how many microseconds on a command is logged.
      type: int
    commands:
      description: The ten slowest commands by name.
      type: list
      elements: dict
  sample:
    commands: [{command: KEYS, entries: 12, slowest_ms: 210.4}]
    entries: 12
    read: 12
    slowest_ms: 210.4
    threshold_us: 10000
settings:
  description: All settings, as C(CONFIG GET) gives them, secrets masked. V(null) where not asked for or not allowed.
  returned: success
  type: dict
  sample: {maxmemory-policy: noeviction}
refused:
  description:
    - The commands that the server did not allow this user, with its reason.
    - Where O(plan) or O(settings) is given, a warning names them as well.
  returned: success
  type: list
  elements: dict
  sample: [{command: CONFIG GET, reason: User app has no permissions to run the 'config|get' command}]
findings:
  description:
    - The five checks, always all of them and in this order.
    - C(severity) is V(ok), V(unknown) where the server would not tell, V(info), V(warning) where one database can harm another,
      or V(critical) where one has, or where the plan cannot work.
  returned: success
  type: list
  elements: dict
  contains:
    check:
      description: V(databases_in_use), V(one_policy), V(cluster), V(flush_seen) or V(slow_commands).
      type: str
    severity:
      description: How bad it is.
      type: str
    evidence:
      description: The facts that it rests on.
      type: str
    advice:
      description: What to do about it; empty where nothing is to be done.
      type: str
  sample:
    - advice: After the split each instance uses db 0, so that it can become a cluster by itself.
      check: cluster
      evidence: db 5 (pipeline), db 10 (cache) cannot move into Redis Cluster, which has db 0 alone.
      severity: info
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.njoy.untangle.plugins.module_utils import connection, keyspace
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError


def look(params: dict) -> dict:
    """The facts of the server that ``params`` names. Raises UntangleError."""
    connection.use_library(params["client_library"])
    import redis

    source = params["source"]
    # nameless: a user that may not even give its connection a name shall see what it may see
    client = connection.connect(source, client_name="")
    try:
        return keyspace.facts(
            client, params["plan"], settings=params["settings"], memory_sample=params["memory_sample"]
        )
    except (redis.RedisError, OSError) as exc:
        raise UntangleError(connection.explain(exc, source)) from exc
    finally:
        client.close()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "dict", "required": True, "options": connection.CONNECTION_OPTIONS},
            "client_library": {"type": "list", "elements": "path"},
            "plan": {"type": "list", "elements": "dict"},
            "settings": {"type": "bool", "default": False},
            "memory_sample": {"type": "int", "default": 200},
        },
        supports_check_mode=True,
    )
    for purpose in module.params["plan"] or ():
        # a purpose may carry the password of its instance, which is not asked for here and must not be shown
        module.no_log_values.update(
            str(value) for name, value in purpose.items() if value and name.endswith(keyspace.SECRET_ENDINGS)
        )
    address = connection.address(module.params["source"])
    try:
        facts = look(module.params)
    except UntangleError as exc:
        module.fail_json(msg=exc.message)
    # without either, somebody only tries a login, and its user is right to see little
    if facts["refused"] and (module.params["plan"] or module.params["settings"]):
        module.warn(
            "%s does not allow user %s: %s. What rests on them is null in the result."
            % (
                address,
                module.params["source"]["username"] or "default",
                ", ".join(refused["command"] for refused in facts["refused"]),
            )
        )
    module.exit_json(changed=False, address=address, **facts)


if __name__ == "__main__":
    main()
