# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a service of Compose becomes on Swarm, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from ansible_collections.njoy.untangle.plugins.module_utils import swarm_services
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError
from ansible_collections.njoy.untangle.plugins.module_utils.swarm import IMAGE, KEPT, Node, Stack

WEB = {"image": "nginx:1.22", "healthcheck": {"test": ["CMD", "true"], "start_interval": "1s"}}
FACTS = {
    "reference": "nginx:1.22",
    "id": "sha256:ab",
    "user": {"uid": 101, "gid": 102},
    "volumes": [],
    "healthcheck": False,
}


def stack(service: dict[str, Any] | None = None, flag: bool | None = True, **more: Any) -> Stack:
    facts = {**FACTS, **more.pop("facts", {})}
    return Stack("shop", {"web": {**WEB, **(service or {})}}, images={"web": facts}, node=Node("n0", flag), **more)


def whole(*args: Any, **more: Any) -> dict[str, Any]:
    files = stack(*args, **more).files()
    assert files[-1].path == "stack.yaml"
    read: dict[str, Any] = yaml.safe_load(files[-1].content)
    assert "name" not in read and read["version"] == "3.9"
    return read


def web(*args: Any, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = whole(*args, **more)["services"]["web"]
    return found


def test_what_swarm_knows_otherwise_is_translated() -> None:
    made = web(
        {"cpus": 1.5, "depends_on": ["db"], "container_name": "w", "mem_limit": "64m", "restart": "on-failure:5"}
    )
    assert set(made) <= KEPT | {"deploy"}
    assert made["deploy"]["resources"]["limits"] == {"memory": "64m", "cpus": "1.5", "pids": 200}
    assert made["deploy"]["restart_policy"] == {"condition": "on-failure", "max_attempts": 5}
    assert made["deploy"]["update_config"] == {"order": "start-first", "failure_action": "rollback"}
    assert "placement" not in made["deploy"] and "start_interval" not in made["healthcheck"]
    assert made["volumes"] == [{"type": "tmpfs", "target": "/tmp", "tmpfs": {"size": 16 << 20}}]
    assert made["cap_drop"] == ["ALL"] and made["user"] == "101:102"


@pytest.mark.parametrize(("word", "condition"), [("no", "none"), ("always", "any"), ("unless-stopped", "any")])
def test_restarts(word: str, condition: str) -> None:
    assert web({"restart": word})["deploy"]["restart_policy"] == {"condition": condition}


def test_data_stays_on_its_node_and_the_next_task_waits_for_the_place() -> None:
    made = web({"volumes": ["data:/data"]})
    assert made["deploy"]["placement"] == {"constraints": ["node.id == n0"]}
    assert made["deploy"]["endpoint_mode"] == "dnsrr" and "endpoint_mode" not in web({})["deploy"]
    ingress = {"ports": [{"target": 80, "published": 80, "mode": "ingress"}], "hardening": {"ports": False}}
    assert "endpoint_mode" not in web({"volumes": ["data:/data"], **ingress})["deploy"]
    assert made["deploy"]["update_config"]["order"] == "stop-first"
    own = web({"volumes": ["data:/data"], "deploy": {"placement": {"constraints": ["x"]}, "replicas": 2}})
    assert own["deploy"]["placement"] == {"constraints": ["x"]} and own["deploy"]["replicas"] == 2
    port = web({"ports": ["8080:80"], "hardening": {"ports": False}})
    assert port["ports"] == [{"mode": "host", "target": 80, "published": 8080, "protocol": "tcp"}]
    assert port["deploy"]["update_config"]["order"] == "stop-first"


def test_configs_and_secrets_are_named_by_content() -> None:
    def named(text: str, word: str, key: bytes = b"key") -> tuple[list[str], list[str], str]:
        read = whole({"config": {"/etc/x/": {"a.conf": text}}}, secrets={"web": {"word": word}}, key=key)
        service = read["services"]["web"]
        assert [one["target"] for one in service["configs"]] == ["/etc/x/a.conf"]
        assert service["secrets"][0] | {"source": ""} == {
            "source": "", "target": "word", "uid": "101", "gid": "102", "mode": 0o400
        }  # fmt: skip
        assert [one["file"] for one in read["configs"].values()] == ["./config/web/etc-x/a.conf"]
        assert not any(one["type"] == "bind" for one in service["volumes"])
        return list(read["configs"]), list(read["secrets"]), json.dumps(read)

    one, other, third = named("a", "the word"), named("b", "the word"), named("a", "another")
    assert one[0] != other[0] and one[1] == other[1] and one[0] == third[0] and one[1] != third[1]
    # a plain digest would tell a short word to whoever may list secrets
    assert named("a", "the word", b"other")[1] != one[1] and "the word" not in one[2]


def test_an_image_without_a_registry_goes_by_its_id() -> None:
    made = web()
    assert made["image"] == "sha256:ab" and made["labels"][IMAGE] == "nginx:1.22"
    assert web(facts={"reference": "nginx:1.22@sha256:cd"})["image"] == "nginx:1.22@sha256:cd"
    assert web({"hardening": {"pinned": False}})["image"] == "nginx:1.22"


def test_networks() -> None:
    read = whole(
        {"ports": ["8080:80"], "hardening": {"ports": False}},
        networks={"published": {"driver_opts": {"encrypted": ""}}},
    )
    assert read["networks"] == {
        "default": {"driver": "overlay", "attachable": True, "internal": True},
        "published": {"driver": "overlay", "attachable": True, "driver_opts": {"encrypted": ""}},
    }
    outer = whole({"networks": ["there"]}, networks={"there": {"external": True}})
    assert outer["networks"] == {"there": {"external": True}}


@pytest.mark.parametrize(
    ("service", "said"),
    [
        ({"privileged": True}, "has privileged, which Swarm does not do"),
        ({"network_mode": "host"}, "has network_mode, which"),
        ({"devices": ["/dev/x"]}, "has devices, which"),
        ({"userns_mode": "host"}, "has userns_mode, which"),
        ({"extends": {"file": "x"}}, "has extends, which"),
        ({"memswap_limit": "1g"}, "has memswap_limit 1g"),
        ({"cpu_shares": 512}, "has cpu_shares 512"),
        ({"security_opt": ["apparmor=x"]}, "has security_opt apparmor=x"),
        ({"networks": {"default": {"ipv4_address": "10.0.0.1"}}}, "has ipv4_address on the network default"),
        ({"tmpfs": ["/run:uid=5"]}, "Swarm does not do uid=5"),
        ({"restart": "sometimes"}, "has restart sometimes"),
        ({"config": {"/etc/x": {"a": "x" * 600_000}}}, "a config of Swarm has 512000 at most"),
        ({"ports": ["8080:80"]}, "publishes port 8080, and Swarm does that on every address"),
        ({"ports": ["10.0.0.5:8080:80"]}, "publishes port 8080 on 10.0.0.5, and Swarm does that on every"),
        ({"ports": ["8000-8010:80"], "hardening": {"ports": False}}, "publishes 8000-8010:80"),
        ({"ports": ["127.0.0.1:8080:80"], "hardening": {"ports": False}}, "publishes port 8080 on 127.0.0.1"),
        ({"ports": ["[::1]:8080:80/udp"], "hardening": {"ports": False}}, "publishes port 8080 on ::1"),
    ],
)
def test_what_swarm_cannot_do_is_refused_by_name(service: dict[str, Any], said: str) -> None:
    with pytest.raises(UntangleError) as caught:
        stack(service).files()
    assert "service web " + said in caught.value.message or said in caught.value.message
    assert caught.value.message.endswith("Nothing was changed.")


def test_privileges_are_the_engines_matter() -> None:
    with pytest.raises(UntangleError, match=r'"no-new-privileges": true into the daemon.json'):
        stack(flag=False).files()
    stack({"hardening": {"privileges": False}}, flag=False).files()
    # not known before the image is here
    stack(flag=None).files()


def test_what_swarm_does_otherwise_is_said() -> None:
    made = stack({"depends_on": ["db"]})
    made.files()
    assert [note.split(" ")[:3] for note in made.notes] == [["Swarm", "sets", "no"], ["Swarm", "starts", "all"]]


def test_a_stack_whose_tasks_are_not_there_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def standing(project: str) -> tuple[list[str], list[str]]:
        looks.append(project)
        if len(looks) < 3:
            raise UntangleError("docker stack ps failed: nothing found in stack: shop")
        return [], []

    looks: list[str] = []
    monkeypatch.setattr(swarm_services, "standing", standing)
    monkeypatch.setattr(swarm_services, "_POLL_SECONDS", 0)
    swarm_services.converge("shop", 5)
    assert len(looks) == 3
    looks = []
    monkeypatch.setattr(swarm_services, "last_words", lambda project: "")
    with pytest.raises(UntangleError, match="nothing found in stack"):
        swarm_services.converge("shop", 0)
