# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What profiles say, how it is written and how it is compared. Real servers judge the same in tests/integration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ansible_collections.njoy.untangle.plugins.module_utils import profiles
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

ROOT = Path(__file__).resolve().parents[4]
HASHES = {"app": "a" * 64, "admin": "b" * 64, "health": "c" * 64}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2gb", 2 << 30),
        ("512mb", 512 << 20),
        ("512MB", 512 << 20),
        ("1g", 10**9),
        ("1k", 1000),
        ("1kb", 1024),
        ("100", 100),
        ("100b", 100),
        (" 1 gb ", 1 << 30),
        (1234, 1234),
    ],
)
def test_memory_as_redis_reads_it(text, wanted):
    assert profiles.parse_memory(text) == wanted


@pytest.mark.parametrize("text", ["", "lots", "1.5gb", "-1", "2tb", True, None, [1], "1gbb", -5])
def test_what_is_no_memory(text):
    with pytest.raises(UntangleError, match="not an amount of memory"):
        profiles.parse_memory(text)


@pytest.mark.parametrize(
    ("profile", "maxmemory", "policy", "save"),
    [
        ("queue", "1gb", "noeviction", "900 1"),
        ("cache", "2gb", "allkeys-lru", ""),
        ("sessions", "512mb", "volatile-lru", "60 1000"),
    ],
)
def test_the_worked_example_is_exact(profile, maxmemory, policy, save):
    found = profiles.settings(profile, profiles.parse_memory(maxmemory), {})
    assert (found["maxmemory-policy"], found["save"]) == (policy, save)
    assert found["maxmemory"] == str(profiles.parse_memory(maxmemory))
    assert found["databases"] == "1" and found["repl-diskless-sync-delay"] == "0"
    lines = profiles.conf_lines(found)
    assert "maxmemory-policy %s" % policy in lines
    assert ("save %s" % save if save else 'save ""') in lines


@pytest.mark.parametrize("profile", profiles.PROFILES)
def test_every_value_is_in_the_form_in_which_a_server_answers(profile):
    for name, value in profiles.settings(profile, 1 << 30, {}).items():
        assert profiles.normal(name, value) == value
        assert profiles.same(name, value, value)


def test_overrides_come_last_and_in_normal_form():
    found = profiles.settings(
        "cache",
        1 << 30,
        {
            "Maxmemory-Policy": "allkeys-lfu",
            "save": [900, 1, 300, 10],
            "appendonly": True,
            "client-output-buffer-limit": "replica 512mb 128mb 60",
            "repl-backlog-size": "10mb",
            "maxmemory-clients": "20%",
            "hz": 20,
            "notify-keyspace-events": None,
        },
    )
    assert found["maxmemory-policy"] == "allkeys-lfu"
    assert found["save"] == "900 1 300 10"
    assert found["appendonly"] == "yes"
    assert found["client-output-buffer-limit"] == "normal 0 0 0 slave 536870912 134217728 60 pubsub 33554432 8388608 60"
    assert (found["repl-backlog-size"], found["maxmemory-clients"], found["hz"]) == ("10485760", "20%", "20")
    assert found["notify-keyspace-events"] == ""


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"maxmemory": "1gb"}, "maxmemory is not a setting to give here. Use the purpose's own maxmemory"),
        ({"requirepass": "x"}, "the purpose's password"),
        ({"port": 1}, "the purpose's port"),
        ({"rename-command": "KEYS x"}, "the purpose's acl"),
        ({"save": "900"}, "save cannot be '900'"),
        ({"save": "often"}, "Write pairs of seconds and changes"),
        ({"client-output-buffer-limit": "normal 1mb"}, "client-output-buffer-limit cannot be"),
        ({"client-output-buffer-limit": "stranger 1mb 1mb 1"}, "client-output-buffer-limit cannot be"),
        ({"repl-backlog-size": "much"}, "not an amount of memory"),
        ({"hz": {"a": 1}}, "hz cannot be"),
        ({"hz": "10\nrequirepass x"}, "hz holds a line break"),
        ({"hz 10\nport": "x"}, "is not the name of a setting"),
    ],
)
def test_settings_that_are_refused(given, sentence):
    with pytest.raises(UntangleError) as error:
        profiles.settings("cache", 1 << 30, given)
    assert sentence in error.value.message


def test_unknown_profile():
    with pytest.raises(UntangleError, match=r"no profile 'cash'\. The profiles are queue, cache, sessions"):
        profiles.settings("cash", 1, {})


def test_old_servers_are_spared_what_they_do_not_know():
    wanted = profiles.settings("cache", 1 << 30, {})
    assert "lazyfree-lazy-user-flush" not in profiles.known(wanted, (6, 0, 16))
    assert profiles.known(wanted, (7, 0)) == wanted
    # what the user asked for is not left out in silence: the server refuses it by name
    assert "lazyfree-lazy-user-flush" in profiles.known(wanted, (6, 0), ["lazyfree-lazy-user-flush"])


@pytest.mark.parametrize(
    ("name", "planned", "running", "equal"),
    [
        ("maxmemory", "1073741824", "1073741824", True),
        ("some-limit", "4kb", "4096", True),
        ("some-limit", "4kb", "4095", False),
        ("appendonly", "yes", "YES", True),
        ("notify-keyspace-events", "Ex", "xE", True),
        ("notify-keyspace-events", "KEA", "AKE", True),
        ("notify-keyspace-events", "Ex", "", False),
        (
            "client-output-buffer-limit",
            "normal 0 0 0 slave 1 1 1 pubsub 2 2 2",
            "normal 0 0 0 replica 1 1 1 pubsub 2 2 2",
            True,
        ),
        ("bind", "127.0.0.1  ::1", "127.0.0.1 ::1", True),
        ("save", "", "900 1", False),
        ("maxmemory-policy", "noeviction", "allkeys-lru", False),
    ],
)
def test_values_are_compared_by_meaning(name, planned, running, equal):
    assert profiles.same(name, planned, running) is equal


def test_differences_name_setting_and_both_values():
    found = profiles.differences({"a": "1", "save": "", "b": "x"}, {"a": "1", "save": "900 1"})
    assert [one["text"] for one in found] == ["save is '900 1', planned ''", "b is unknown to it, planned 'x'"]


def test_answers_of_the_command_line_client():
    text = '"maxmemory","100"\n\n"save","900 1"\n"dir","/a \\"b\\" \\\\ c"\nERR unknown command\n"master",0,\n'
    found = profiles.parse_config(text)
    assert (found["maxmemory"], found["save"], found["dir"]) == ("100", "900 1", '/a "b" \\ c')


def test_lines_quote_what_is_one_word_and_split_what_is_several():
    lines = profiles.conf_lines(
        {
            "save": "900 1 300 10",
            "bind": "* -::*",
            "proc-title-template": '{title} "x" \\',
            "logfile": "",
            "dir": "/srv/a b",
            "client-output-buffer-limit": "normal 0 0 0 slave 1 1 1 pubsub 2 2 2",
        }
    )
    assert lines == [
        "save 900 1",
        "save 300 10",
        "bind * -::*",
        'proc-title-template "{title} \\"x\\" \\\\"',
        'logfile ""',
        'dir "/srv/a b"',
        "client-output-buffer-limit normal 0 0 0",
        "client-output-buffer-limit slave 1 1 1",
        "client-output-buffer-limit pubsub 2 2 2",
    ]


def test_users_have_hashes_and_nobody_is_default():
    lines = profiles.acl_lines("web", "cache", HASHES, (7, 0), "+config|get")
    assert lines[0] == "user default off resetpass ~* &* +@all"
    assert lines[1].startswith("user web on #%s ~* &* +@all -@admin -@dangerous " % HASHES["app"])
    assert lines[1].endswith("+flushdb +config|get")
    assert lines[2] == "user untangle on #%s ~* &* +@all" % HASHES["admin"]
    assert lines[3] == "user health on #%s resetkeys resetchannels -@all +ping" % HASHES["health"]
    assert "+flushdb" not in profiles.acl_lines("web", "queue", HASHES, (7, 0))[1]


def test_an_exporter_reads_and_resets_nothing():
    hashes = {**HASHES, "exporter": "e" * 64}
    line = profiles.acl_lines("web", "cache", hashes, (7, 0))[4]
    assert line.startswith("user exporter on #%s resetkeys resetchannels -@all +ping +info" % hashes["exporter"])
    assert "+slowlog|get " in line and "+slowlog " not in line + " " and "+latency " not in line + " "
    # which knows no subcommands of these
    assert profiles.acl_lines("web", "cache", hashes, (6, 2))[4].endswith(" +slowlog +latency")


def test_users_of_redis_6_0_know_no_channels():
    text = "\n".join(profiles.acl_lines("web", "queue", HASHES, (6, 0, 16)))
    assert "&" not in text and "channels" not in text and "+client|setname" in text


def test_instance_settings_say_where_and_with_tls():
    purpose = {"port": 6381, "settings": profiles.settings("cache", 1 << 30, {}), "overrides": []}
    layout = {"bind": "10.0.0.7", "dir": "/d", "aclfile": "/c/users.acl", "pidfile": "", "logfile": ""}
    plain = profiles.instance_settings(purpose, (7, 0), layout)
    assert (plain["bind"], plain["port"], plain["protected-mode"]) == ("10.0.0.7", "6381", "yes")
    assert "tls-port" not in plain
    tls = {"ca_file": "/c/ca", "cert_file": "/c/crt", "key_file": "/c/key"}
    secure = profiles.instance_settings(purpose, (7, 0), {**layout, "tls": tls})
    assert (secure["port"], secure["tls-port"], secure["tls-replication"]) == ("0", "6381", "yes")
    assert (secure["tls-ca-cert-file"], secure["tls-key-file"]) == ("/c/ca", "/c/key")


def test_modules_are_several_with_their_arguments():
    given = {"loadmodule": ["/m/one.so A 1", "/m/two.so"]}
    lines = profiles.conf_lines(profiles.settings("cache", 1 << 20, given))
    assert [line for line in lines if "module" in line] == ["loadmodule /m/one.so A 1", "loadmodule /m/two.so"]
    assert profiles.conf_lines({"loadmodule": profiles.normal("loadmodule", "/m/one.so A 1")}) == [
        "loadmodule /m/one.so A 1"
    ]
    with pytest.raises(UntangleError, match="on one line"):
        profiles.normal("loadmodule", ["/m/one.so\nrequirepass x"])


def test_limits_leave_room_for_what_maxmemory_does_not_count():
    gib = 1 << 30
    with_disk, without = 2 * gib + (128 << 20), int(1.25 * gib) + (64 << 20)
    for profile, own, room in (
        ("cache", {}, without),
        ("cache", {"appendonly": "yes"}, with_disk),
        ("cache", {"save": "60 1"}, with_disk),
        ("sessions", {}, with_disk),
        ("sessions", {"save": "", "appendonly": "no"}, without),
        ("queue", {}, with_disk),
    ):
        assert profiles.container_memory(profiles.settings(profile, gib, own)) == room
    assert profiles.stop_seconds(profiles.settings("cache", gib, {})) == 10
    assert profiles.stop_seconds(profiles.settings("queue", gib, {})) == 30
    assert profiles.stop_seconds(profiles.settings("queue", 8 * gib, {})) == 160


@pytest.mark.parametrize(
    ("text", "wanted"), [("7.0.15", (7, 0, 15)), ("8.0", (8, 0)), ("7.4-rc1", (7, 4)), ("9", (9,))]
)
def test_versions(text, wanted):
    assert profiles.parse_version(text) == wanted


def test_what_is_no_version():
    with pytest.raises(UntangleError, match="not the version of a server"):
        profiles.parse_version("unknown")


# -- the page that lists it -------------------------------------------------------------------------------------------------


def documented() -> dict[str, dict[str, str]]:
    """profile -> {setting: value} of the table in docs/instances.md; an empty cell is a setting left to the server."""
    text = (ROOT / "docs" / "instances.md").read_text()
    rows = [
        [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
        for line in re.search(r"<!-- profiles -->\n(.*?)\n\n", text, re.DOTALL).group(1).splitlines()
    ]
    head, _rule, *body = rows
    found: dict[str, dict[str, str]] = {name: {} for name in head[1:]}
    for setting, *cells in body:
        for name, value in zip(head[1:], cells):
            if value:
                found[name][setting] = value
    return found


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the docs are not part of the tarball")
def test_the_docs_list_every_setting_of_every_profile():
    page = documented()
    assert sorted(page) == sorted(profiles.PROFILES)
    for profile, listed in page.items():
        real = profiles.settings(profile, 1 << 30, {})
        del real["maxmemory"]
        assert listed == {name: value or '""' for name, value in real.items()}
    text = (ROOT / "docs" / "instances.md").read_text()
    example = "| %s | %s | %s | `%s` | `%s` |"
    for name, port, profile, memory in (
        ("pipeline", 6380, "queue", "1gb"),
        ("cache", 6381, "cache", "2gb"),
        ("sessions", 6382, "sessions", "512mb"),
    ):
        real = profiles.settings(profile, 1 << 30, {})
        assert example % (name, port, memory, real["maxmemory-policy"], real["save"] or '""') in text
