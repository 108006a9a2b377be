# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a few lines per service become, and what is refused before a file is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError
from ansible_collections.njoy.untangle.plugins.module_utils.stacks import (
    LABEL,
    SWITCHES,
    Project,
    quoted,
    stop_seconds,
    touched,
    unquoted,
)

ROOT = Path(__file__).resolve().parents[4]
WEB = {"image": "nginx:1.22", "healthcheck": {"test": ["CMD", "true"]}}
FACTS = {"reference": "nginx:1.22@sha256:12", "user": {"uid": 101, "gid": 102}, "volumes": [], "healthcheck": False}


def project(service: dict[str, Any] | None = None, facts: dict[str, Any] | None = None, **more: Any) -> Project:
    return Project("shop", {"web": {**WEB, **(service or {})}}, images={"web": {**FACTS, **(facts or {})}}, **more)


def web(*args: Any, **more: Any) -> dict[str, Any]:
    made = project(*args, **more)
    read = yaml.safe_load(made.files()[-1].content)
    assert read["name"] == "shop"
    found: dict[str, Any] = read["services"]["web"]
    return found


LINES = {
    "user": {"user": "101:102"},
    "capabilities": {"cap_drop": ["ALL"]},
    "privileges": {"security_opt": ["no-new-privileges:true"]},
    "read_only": {"read_only": True, "tmpfs": ["/tmp:rw,noexec,nosuid,nodev,size=16m,mode=1777"]},
    "pids": {"pids_limit": 200},
    "memory": {"mem_limit": "512m", "memswap_limit": "512m"},
    "cpu": {"cpu_shares": 1024},
    "core": {"ulimits": {"core": 0}},
    "logs": {"logging": {"driver": "local", "options": {"max-size": "10m", "max-file": "3"}}},
    "stop": {"stop_grace_period": "10s"},
    "restart": {"restart": "unless-stopped"},
}


@pytest.mark.parametrize("switch", LINES)
def test_each_line_has_a_switch(switch: str) -> None:
    hardened = web()
    assert LINES[switch].items() <= hardened.items()
    rest = {key: value for key, value in hardened.items() if key not in LINES[switch]}
    assert web({"hardening": {switch: False}}) == rest
    assert web(switches={switch: False}) == rest
    assert web({"hardening": {switch: True}}, switches={switch: False}) == hardened


def test_what_a_service_says_counts() -> None:
    found = web(
        {"mem_limit": "1g", "tmpfs": ["/run"], "cap_drop": ["ALL"], "ulimits": {"nofile": 1024}, "restart": "no"}
    )
    assert (found["mem_limit"], found["memswap_limit"], found["restart"]) == ("1g", "1g", "no")
    assert found["tmpfs"] == [*LINES["read_only"]["tmpfs"], "/run"] and found["cap_drop"] == ["ALL"]  # type: ignore[misc]
    assert found["ulimits"] == {"core": 0, "nofile": 1024}
    assert web({"tmpfs": ["/tmp:size=1g"]})["tmpfs"] == ["/tmp:size=1g"]
    assert web({"user": "33"})["user"] == "33:33"
    assert web({"tmpfs": "/run"})["tmpfs"] == [*LINES["read_only"]["tmpfs"], "/run"]  # type: ignore[misc]
    assert web({"volumes": ["scratch:/tmp/"], "tmpfs": ["/run"]})["tmpfs"] == ["/run"]
    # what the options of one driver are to another
    assert web({"logging": {"driver": "journald"}})["logging"] == {"driver": "journald"}
    assert web({"logging": {"options": {"max-size": "1m"}}})["logging"]["driver"] == "local"


def test_limits_are_said_once() -> None:
    """In the two words of Compose for one thing it has to be the same."""
    found = web({"deploy": {"resources": {"limits": {"memory": "1g", "pids": 500, "cpus": "2"}}}})
    assert (found["mem_limit"], found["memswap_limit"], found["pids_limit"]) == ("1g", "1g", 500)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("./x:/x:ro,Z", {"type": "bind", "source": "./x", "target": "/x", "read_only": True, "bind": {"selinux": "Z"}}),
        ("./x:/x:z", {"type": "bind", "source": "./x", "target": "/x", "bind": {"selinux": "z"}}),
        ("x:/x:rw,nocopy", {"type": "volume", "source": "x", "target": "/x", "volume": {"nocopy": True}}),
    ],
)
def test_options_of_a_mount_are_kept(text: str, facts: dict[str, Any]) -> None:
    assert web({"volumes": [text]})["volumes"] == [facts]


def test_images_by_digest() -> None:
    assert web()["image"] == "nginx:1.22@sha256:12"
    assert web({"hardening": {"pinned": False}})["image"] == "nginx:1.22"
    assert Project("shop", {"web": WEB}).compose()["services"]["web"]["image"] == "nginx:1.22"


def test_files_and_their_labels() -> None:
    service = {"config": {"/etc/nginx/conf.d": {"a.conf": "a", "b.conf": "b"}}}
    made = project(service, secrets={"web": {"password": "hunter22"}}, key=b"1")
    files = {one.path: one for one in made.files()}
    assert set(files) == {
        "compose.yaml", "secrets/web/password", "config/web/etc-nginx-conf.d/a.conf", "config/web/etc-nginx-conf.d/b.conf",
    }  # fmt: skip
    secret = files["secrets/web/password"]
    assert (secret.mode, secret.owner, secret.content) == (0o400, (101, 102), "hunter22")
    assert "hunter22" not in files["compose.yaml"].content
    found = made.compose()
    assert found["secrets"] == {"web.password": {"file": "./secrets/web/password"}}
    one = found["services"]["web"]
    assert one["secrets"] == [{"source": "web.password", "target": "password"}]
    assert one["volumes"] == [
        {"type": "bind", "source": "./config/web/etc-nginx-conf.d", "target": "/etc/nginx/conf.d", "read_only": True}
    ]
    labels = one["labels"]
    assert {name[len(LABEL) :] for name in labels} == set(files) - {"compose.yaml"}
    other = project(
        {"config": {"/etc/nginx/conf.d": {"a.conf": "A", "b.conf": "b"}}},
        secrets={"web": {"password": "hunter23"}},
        key=b"1",
    )
    differs = {name for name, value in other.compose()["services"]["web"]["labels"].items() if labels[name] != value}
    assert differs == {LABEL + "config/web/etc-nginx-conf.d/a.conf", LABEL + "secrets/web/password"}
    # a label does not tell a secret to who guesses
    with_other_key = project(service, secrets={"web": {"password": "hunter22"}}, key=b"2").compose()["services"]["web"][
        "labels"
    ]
    assert with_other_key[LABEL + "secrets/web/password"] != labels[LABEL + "secrets/web/password"]


def test_two_secrets_or_directories_have_not_one_place() -> None:
    names = {"db": {"root_password": "one-word"}, "db_root": {"password": "another-word"}}
    found = Project("shop", {"db": WEB, "db_root": WEB}, secrets=names).compose()
    for service, (name,) in (("db", names["db"]), ("db_root", names["db_root"])):
        (given,) = found["services"][service]["secrets"]
        assert found["secrets"][given["source"]]["file"] == "./secrets/%s/%s" % (service, name)
    with pytest.raises(UntangleError, match=r"the place a\.b\.c would be that of two"):
        Project("shop", {"a.b": WEB, "a": WEB}, secrets={"a.b": {"c": "x"}, "a": {"b.c": "y"}}).files()
    with pytest.raises(UntangleError, match=r"the place config/web/etc-nginx-conf\.d would be that of two"):
        project({"config": {"/etc/nginx/conf.d": {"a": "1"}, "/etc/nginx-conf.d": {"b": "2"}}}).files()


def test_environment_is_taken_literally() -> None:
    # that Compose reads the same is seen in tests/integration/test_compose_stack.py
    made = project(environment={"A": "it's $5 \\ #\n"})
    assert next(one for one in made.files() if one.path == ".env").content == 'A="it\'s \\$5 \\\\ #\\n"\n'
    for value in ("a\\b", "end\\", "\\n", 'say "$hi"\r\n', "\\\\$x", ""):
        assert unquoted(quoted(value)) == value and "\n" not in quoted(value)


def test_networks() -> None:
    services = {
        "web": {**WEB, "ports": ["127.0.0.1:8080:80"]},
        "job": WEB,
        "db": {**WEB, "networks": ["data"]},
        "fetch": {**WEB, "networks": ["out"]},
    }
    found = Project("shop", services, networks={"out": {"driver": "bridge"}}).compose()
    assert found["networks"] == {
        "default": {"internal": True}, "published": {}, "data": {"internal": True}, "out": {"driver": "bridge"},
    }  # fmt: skip
    assert (
        found["services"]["web"]["networks"] == ["default", "published"] and "networks" not in found["services"]["job"]
    )
    open_ = Project("shop", services, networks={"out": {"driver": "bridge"}}, switches={"networks": False}).compose()
    assert "networks" not in open_["services"]["web"] and open_["networks"] == {"data": {}, "out": {"driver": "bridge"}}


PORT = {"ports": ["127.0.0.1:8080:80"]}


@pytest.mark.parametrize(
    ("service", "more", "on", "there"),
    [
        ({"networks": ["front"]}, {}, ["front", "published"], {"front": {"internal": True}, "published": {}}),
        ({"networks": ["published", "front"]}, {}, ["front", "published"], {"front": {"internal": True}, "published": {}}),
        (
            {"networks": {"front": {"aliases": ["w"]}}}, {},
            {"front": {"aliases": ["w"]}, "published": None}, {"front": {"internal": True}, "published": {}},
        ),
        ({"networks": ["front"]}, {"networks": {"front": {"external": True}}}, ["front"], {"front": {"external": True}}),
        ({"networks": ["front"]}, {"switches": {"networks": False}}, ["front"], {"front": {}}),
    ],
)  # fmt: skip
def test_what_is_published_is_reached(service: dict[str, Any], more: dict[str, Any], on: Any, there: Any) -> None:
    """On an internal network the engine publishes nothing."""
    made = project({**PORT, **service}, **more).compose()
    assert made["services"]["web"]["networks"] == on and made["networks"] == there


def test_who_answers_does_not_call() -> None:
    def published(**more: Any) -> Any:
        service = {**PORT, "networks": ["published"]}
        return yaml.safe_load(project(service, **more).files()[-1].content)["networks"].get("published")

    assert published() == {"driver_opts": {"com.docker.network.bridge.enable_ip_masquerade": "false"}}
    assert published(networks={"published": {}}) == {}
    assert published(networks={"published": {"driver": "x"}}) == {"driver": "x"}
    assert published(switches={"networks": False}) == {}


REFUSED = [
    ({"image": "nginx"}, {}, {}, "which says no release"),
    ({"image": "nginx:latest"}, {}, {}, "which says no release"),
    ({"image": ""}, {}, {}, "has no image"),
    ({"user": "www-data"}, {}, {}, "write numbers"),
    ({}, {"user": None}, {}, "would run as root"),
    ({"ports": ["8080:80"]}, {}, {}, "on every address"),
    ({"ports": ["80"]}, {}, {}, "on every address"),
    ({"ports": [{"target": 80, "published": "80"}]}, {}, {}, "on every address"),
    ({"ports": ["${PORT:-8080}:80"]}, {}, {}, "on every address"),
    ({"ports": ["${BIND:-0.0.0.0}:8080:80"]}, {}, {}, "publishes ${BIND:-0.0.0.0}:8080:80 on $"),
    ({"ports": ["$BIND:8080:80"]}, {}, {"environment": {"BIND": ""}}, "on every address"),
    (
        {"ports": ["somewhere:8080:80"]},
        {},
        {},
        "publishes somewhere:8080:80 on somewhere. Say on which address, in numbers",
    ),
    ({"ports": [{"target": 80, "published": "80", "host_ip": "${BIND}"}]}, {}, {}, "on ${BIND}"),
    ({"network_mode": "host"}, {}, {}, "has network_mode host"),
    ({"volumes": ["/data"]}, {}, {}, "an anonymous volume at /data"),
    ({}, {"volumes": ["/data"]}, {}, "would keep /data in an anonymous volume"),
    ({"hardening": {"nonsense": False}}, {}, {}, "has hardening nonsense"),
    ({}, {}, {"switches": {"nonsense": False}}, "compose_stack_hardening has nonsense"),
    ({}, {}, {"secrets": {"other": {"a": "b"}}}, "which compose_stack_services has not"),
    ({"config": {"/etc/x": {"../y": "z"}}}, {}, {}, "no file name"),
    ({"data": "much"}, {}, {}, "Write a size"),
    ({"data": "much", "ports": ["80"]}, {}, {}, "on every address"),
    ({"user": "0"}, {}, {}, "which is root"),
    ({"user": "00:101"}, {}, {}, "which is root"),
    ({"user": 2013}, {}, {}, 'text in quotes, "UID:GID"'),
    ({"healthcheck": {"disable": True}}, {}, {}, "switches its healthcheck off"),
    ({"healthcheck": {"test": ["NONE"]}}, {}, {}, "switches its healthcheck off"),
    ({"healthcheck": {"interval": "5s"}}, {}, {}, "nobody would know"),
    ({"config": "text"}, {}, {}, "has config text, and that is names with values"),
    ({"config": {"/etc/x": "text"}}, {}, {}, "has config /etc/x, and that is an absolute directory"),
    ({"config": {"etc/x": {"a": "b"}}}, {}, {}, "has config etc/x, and that is an absolute directory"),
    ({"config": {"/etc/x": {1: "text"}}, "restart": 3}, {}, {}, "has restart 3, and that is a word"),
    ({"ports": "127.0.0.1:80:80"}, {}, {}, "has ports 127.0.0.1:80:80, and that is a list"),
    ({"hardening": ["user"]}, {}, {}, "has hardening"),
    ({}, {}, {"environment": {"A": None}}, "compose_stack_env has no text for A"),
    ({}, {}, {"environment": {"A B": "x"}}, "compose_stack_env has 'A B'"),
    ({}, {}, {"secrets": {"web": {"a": None}}}, "compose_stack_secrets has no text for a of web"),
    ({}, {}, {"secrets": {"web": "word"}}, "compose_stack_secrets has no names with values for web"),
    ({"volumes": ["x:/x:shard"]}, {}, {}, "shard is no option of the short form"),
    ({"secrets": ["other"]}, {}, {}, "has secrets, and compose_stack_secrets"),
    ({"configs": ["other"]}, {}, {}, "has configs, and config"),
]


@pytest.mark.parametrize(("service", "facts", "more", "said"), REFUSED)
def test_what_is_refused(service: dict[str, Any], facts: dict[str, Any], more: dict[str, Any], said: str) -> None:
    with pytest.raises(UntangleError, match="Nothing was changed") as caught:
        project(service, facts, **more).files()
    assert said in caught.value.message and "hunter22" not in caught.value.message


SPOKEN = [
    ({"environment": {"P": "hunter22"}}, {}, "hunter22", "environment of service web"),
    ({"environment": ["P=x-hunter22-y"]}, {}, "hunter22\n", "environment of service web"),
    ({"environment": {"P": "pa$$word1"}}, {}, "pa$word1", "environment of service web"),
    ({"environment": {"P": 'say "hi"'}}, {}, 'say "hi"', "environment of service web"),
    ({"environment": {"P": 1234567}}, {}, "1234567", "environment of service web"),
    ({"labels": {"hunter22": ""}}, {}, "hunter22", "labels of service web"),
    ({"command": ["sh", "-c", "x hunter22"]}, {}, "hunter22", "command of service web"),
    ({"image": "there/hunter22:1"}, {}, "hunter22", "image of service web"),
    ({"build": {"base": "x:1", "dockerfile": "ENV P=hunter22"}}, {}, "hunter22", "build of service web"),
    ({"config": {"/etc/x": {"a.json": '{"p": "say \\"hi\\""}'}}}, {}, 'say "hi"', "config of service web"),
    ({}, {"environment": {"P": "it's s3cret\\"}}, "it's s3cret\\", ".env"),
    ({}, {"networks": {"n": {"driver_opts": {"p": "hunter22"}}}}, "hunter22", "compose_stack_networks"),
]


@pytest.mark.parametrize(("service", "more", "secret", "where"), SPOKEN)
def test_a_secret_stands_nowhere_else(service: dict[str, Any], more: dict[str, Any], secret: str, where: str) -> None:
    with pytest.raises(UntangleError, match="Nothing was changed") as caught:
        project(service, secrets={"web": {"p": secret}}, **more).files()
    assert f"the secret p of service web stands in {where} too" in caught.value.message
    assert secret.strip() not in caught.value.message
    project(service, secrets={"web": {"p": secret[:2] + "another"}}, **more).files()


def test_words_that_are_no_services() -> None:
    with pytest.raises(UntangleError, match="service web has no lines"):
        Project("shop", {"web": None}).files()  # type: ignore[dict-item]
    with pytest.raises(UntangleError, match=r"service \.\./web is no name"):
        Project("shop", {"../web": WEB}).files()


def test_numbers_are_text_where_text_is_wanted() -> None:
    made = project(
        {"restart": False}, secrets={"web": {"pin": 123456}}, environment={"A": True, "B": 5}
    )  # fmt: skip
    files = {one.path: one.content for one in made.files()}
    assert files["secrets/web/pin"] == "123456" and files[".env"] == 'A="true"\nB="5"\n'
    assert made.compose()["services"]["web"]["restart"] == "no"


@pytest.mark.parametrize(("root", "owner"), [(False, (101, 102)), (True, None)])
def test_a_secret_is_its_readers(root: bool, owner: Any) -> None:
    """Whoever the image runs as, where nothing else is said; root without its capabilities reads its own files alone."""
    off = {"hardening": {"user": False}}
    made = project(off, {"runs_as_root": root}, secrets={"web": {"word": "a secret"}})
    assert next(one for one in made.files() if one.secret).owner == owner
    assert "user" not in made.compose()["services"]["web"]
    assert web({**off, "user": "0"})["user"] == "0:0"
    assert web({}, {"runs_as_root": root})["user"] == "101:102"


def test_no_health_check() -> None:
    lines = {key: value for key, value in WEB.items() if key != "healthcheck"}
    with pytest.raises(UntangleError, match="nobody would know"):
        Project("shop", {"web": lines}, images={"web": FACTS}).files()
    Project("shop", {"web": lines}, images={"web": {**FACTS, "healthcheck": True}}).files()
    Project("shop", {"web": {**lines, "hardening": {"health": False}}}, images={"web": FACTS}).files()


ALLOWED = [
    {"ports": ["127.0.0.1:8080:80", "[::1]:81:81/tcp", {"target": 80, "host_ip": "10.0.0.1"}]},
    {"ports": ["${BIND:-0.0.0.0}:${PORT:-8080}:80", "$BIND::81", {"target": 80, "host_ip": "${BIND}"}, "[::]:82:82"]},
    {"network_mode": "host", "hardening": {"networks": False}},
    {"ports": ["8080:80"], "hardening": {"ports": False}},
    {"volumes": ["data:/data/", "./x:/x:ro", {"type": "tmpfs", "target": "/y"}]},
]


@pytest.mark.parametrize("service", ALLOWED)
def test_what_is_not_refused(service: dict[str, Any]) -> None:
    found = project(service, {"volumes": ["/data"] if "volumes" in service else []}, environment={"BIND": "10.0.0.5"})
    found.files()
    if "volumes" in service:
        assert found.compose()["volumes"] == {"data": {}}
        assert found.compose()["services"]["web"]["volumes"][1] == {
            "type": "bind",
            "source": "./x",
            "target": "/x",
            "read_only": True,
        }


def test_the_options_of_a_short_mount_are_kept() -> None:
    made = project({"volumes": ["/x:/x:Z,rslave,ro", "data:/data:nocopy,rw", "/y:/y:cached"]}).compose()
    assert made["services"]["web"]["volumes"] == [
        {"type": "bind", "source": "/x", "target": "/x", "bind": {"selinux": "Z", "propagation": "rslave"}, "read_only": True},
        {"type": "volume", "source": "data", "target": "/data", "volume": {"nocopy": True}},
        {"type": "bind", "source": "/y", "target": "/y", "consistency": "cached"},
    ]  # fmt: skip


def test_every_switch_is_known() -> None:
    assert set(LINES) | {"health", "networks", "pinned", "ports", "volumes"} == set(SWITCHES)
    table = (ROOT / "docs/containers.md").read_text().partition("| switch |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(SWITCHES)
    spec = yaml.safe_load((ROOT / "roles/compose_stack/meta/argument_specs.yml").read_text())["argument_specs"]["main"]
    (said,) = spec["options"]["compose_stack_hardening"]["description"]
    assert re.findall(r"C\((\w+)\)", said) == list(SWITCHES)


@pytest.mark.parametrize(
    ("data", "seconds"),
    [(0, 10), ("1mb", 30), ("1gb", 30), ("4gb", 80), ("1.5gb", 30), ("3.5 gb", 70), ("4294967296", 80)],
)
def test_stop_grace(data: Any, seconds: int) -> None:
    assert stop_seconds(data) == seconds


def test_which_services_are_touched() -> None:
    before = Project("shop", {"a": WEB, "b": WEB, "c": WEB}).files()[-1].content
    after = Project("shop", {"a": WEB, "b": {**WEB, "cpu_shares": 2}, "d": WEB}).files()[-1].content
    assert touched(before, after) == ["b", "c", "d"]
    assert touched("", after) == ["a", "b", "d"] and touched(after, after) == []
    words = ("${ONE}", "$ONE", "${ONE:-x}", "$$ONE", "${ONES}", "${TWO}", "ONE")
    whole = Project("shop", {"s%d" % i: {**WEB, "command": word} for i, word in enumerate(words)}).files()[-1].content
    assert touched(whole, whole, ('ONE="1"\nTWO="2"\n', 'ONE="3"\nTWO="2"\n')) == ["s0", "s1", "s2"]
    assert touched(whole, whole, ('TWO="2"\n', "")) == ["s5"]
