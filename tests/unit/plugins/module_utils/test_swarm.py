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


def stack(
    service: dict[str, Any] | None = None, flag: bool | None = True, node: dict[str, Any] | None = None, **more: Any
) -> Stack:
    facts = {**FACTS, **more.pop("facts", {})}
    here = Node("n0", flag, **(node or {}))
    return Stack("shop", {"web": {**WEB, **(service or {})}}, images={"web": facts}, node=here, **more)


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
    assert "start_interval" not in made["healthcheck"]
    assert made["volumes"] == [{"type": "tmpfs", "target": "/tmp", "tmpfs": {"size": 16 << 20}}]
    assert made["cap_drop"] == ["ALL"] and made["user"] == "101:102"


def test_odd_forms_of_a_line_are_the_same_line() -> None:
    limits = web({"mem_limit": "1g", "memswap_limit": "1024M", "cpu_shares": "1024"})["deploy"]["resources"]["limits"]
    assert limits["memory"] == "1g"
    made = web({
        "extra_hosts": ["db=10.0.0.5", "x:10.0.0.6", "y=[::1]"], "env_file": ["a.env", {"path": "b.env"}],
        "ports": ["${PORT}:80", {"target": 81, "published": "${OTHER}", "name": "http", "app_protocol": "http"}],
        "volumes": [
            {"type": "tmpfs", "target": "/run/x", "tmpfs": {"size": "16m", "mode": 0o1777}},
            {"type": "bind", "source": "/x", "target": "/x", "bind": {"create_host_path": False}}, "/y:/y:ro,rslave", "d:/d:nocopy",
        ],
        "hardening": {"ports": False},
    }, environment={"PORT": 8080, "OTHER": "8081"})  # fmt: skip
    assert made["extra_hosts"] == ["db:10.0.0.5", "x:10.0.0.6", "y:::1"] and made["env_file"] == ["a.env", "b.env"]
    assert made["ports"] == [
        {"mode": "host", "target": 80, "published": 8080, "protocol": "tcp"},
        {"mode": "host", "target": 81, "published": 8081},
    ]
    assert made["volumes"][:4] == [
        {"type": "tmpfs", "target": "/run/x", "tmpfs": {"size": 16 << 20}},
        {"type": "bind", "source": "/x", "target": "/x"},
        {"type": "bind", "source": "/y", "target": "/y", "read_only": True, "bind": {"propagation": "rslave"}},
        {"type": "volume", "source": "d", "target": "/d", "volume": {"nocopy": True}},
    ]
    assert web({"extra_hosts": {"z": ["10.0.0.1", "10.0.0.2"]}})["extra_hosts"] == ["z:10.0.0.1", "z:10.0.0.2"]


def test_a_job_has_no_update() -> None:
    made = web({"deploy": {"mode": "replicated-job"}})["deploy"]
    assert not made.keys() & {"update_config", "rollback_config", "restart_policy"}
    again = web({"deploy": {"mode": "global-job"}, "restart": "on-failure:2"})["deploy"]
    assert again["restart_policy"] == {"condition": "on-failure", "max_attempts": 2}


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


DATA = {"volumes": ["data:/data"]}


def test_data_that_another_node_has_is_not_begun_anew_here() -> None:
    with pytest.raises(
        UntangleError, match=r"has data, and is kept on the node b \(n1\).*docker service rm shop_web. Nothing"
    ):
        stack(DATA, node={"elsewhere": {"web": "b (n1)"}}).files()
    for service in ({}, {**DATA, "deploy": {"placement": {"constraints": ["node.labels.x == y"]}}}):
        stack(service, node={"elsewhere": {"web": "b (n1)"}}).files()
    with pytest.raises(UntangleError, match="would stay on this node, which takes no tasks"):
        stack(DATA, node={"active": False}).files()
    stack(facts={"reference": "nginx:1.22@sha256:cd"}, node={"active": False}).files()


def test_two_servers_never_have_one_volume() -> None:
    slow = {**DATA, "data": "4gb"}
    with pytest.raises(
        UntangleError, match="has a stop grace of 80s and data, and Swarm starts the next task after 60 s"
    ):
        stack(slow).files()
    with pytest.raises(UntangleError, match="has a stop grace of 1m30s and data"):
        stack({**DATA, "stop_grace_period": "1m30s"}).files()
    stack({**slow, "ports": ["80:80"], "hardening": {"ports": False}}).files()
    stack({**DATA, "data": "3gb"}).files()
    stack({"volumes": ["/srv/x:/x:ro"], "data": "4gb"}).files()


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
    # no other node has it
    assert made["deploy"]["placement"] == {"constraints": ["node.id == n0"]}
    assert "placement" not in web(facts={"reference": "nginx:1.22@sha256:cd"})["deploy"]
    one, two = stack(), stack(node={"nodes": 2})
    one.files(), two.files()
    assert next(note for note in two.notes if note not in one.notes).startswith("No registry gave the image of web")
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
    # the stack's own network is attachable too where nothing is said about it
    assert whole({"hardening": {"networks": False}})["networks"] == {
        "default": {"driver": "overlay", "attachable": True}
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
        ({"restart": "on-failure:abc"}, "has restart on-failure:abc, and abc is no number"),
        ({"config": {"/etc/x": {"a": "x" * 512_000}}}, "of 512000 bytes, and Swarm takes 1 to 511999"),
        ({"config": {"/etc/x": {"a": ""}}}, "of 0 bytes, and Swarm takes"),
        ({"volumes": ["/x:/x:Z"]}, "has the mount at /x with selinux, which Swarm does not do"),
        (
            {"volumes": [{"type": "bind", "source": "/x", "target": "/x", "bind": {"create_host_path": True}}]},
            "with create_host_path",
        ),
        ({"volumes": [{"type": "volume", "source": "d", "target": "/x", "volume": {"subpath": "a"}}]}, "with subpath"),
        ({"volumes": [{"type": "tmpfs", "target": "/x", "tmpfs": {"mode": 0o700}}]}, "with mode"),
        ({"volumes": [{"type": "image", "source": "a", "target": "/x"}]}, "of type image"),
        ({"extra_hosts": ["x=host-gateway"]}, "has extra_hosts x=host-gateway"),
        ({"env_file": [{"path": "a", "required": False}]}, "has env_file"),
        ({"ports": [{"target": 80, "published": "80-90"}], "hardening": {"ports": False}}, "Write PORT:PORT"),
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


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"networks": {"default": {"driver": "bridge"}}}, "network default has driver bridge, which Swarm does not do"),
        ({"networks": {"default": {"enable_ipv6": True}}}, "network default has enable_ipv6"),
        ({"networks": {"default": {"ipam": {"config": [{"subnet": "10.1.0.0/24", "gateway": "10.1.0.1"}]}}}}, "has ipam gateway"),
        ({"environment": {"DOCKER_HOST": "tcp://x"}}, "compose_stack_env has DOCKER_HOST, by which the Docker client itself goes"),
        ({"environment": {"PATH": "/x"}}, "compose_stack_env has PATH"),
        ({"secrets": {"web": {"word": ""}}, "key": b"k"}, "of 0 bytes, and Swarm takes"),
    ],
)  # fmt: skip
def test_what_swarm_cannot_do_of_a_stack_is_refused_by_name(more: dict[str, Any], said: str) -> None:
    with pytest.raises(UntangleError, match=said):
        stack(**more).files()


def test_names_that_are_too_long_for_swarm_are_refused() -> None:
    def made(name: str) -> None:
        service = {**WEB, "config": {"/etc/x": {"a.conf": "x"}}}
        Stack("shop", {name: service}, images={name: FACTS}, node=Node("n0", True)).files()

    made("a" * 46)
    with pytest.raises(UntangleError, match="and Swarm takes 64 characters"):
        made("a" * 47)
    for name in ("a" * 60, "a.b"):
        with pytest.raises(UntangleError, match="would be the service shop_%s, and Swarm takes 63" % name):
            made(name)


def test_privileges_are_the_engines_matter() -> None:
    with pytest.raises(UntangleError, match=r'"no-new-privileges": true into the daemon.json'):
        stack(flag=False).files()
    stack({"hardening": {"privileges": False}}, flag=False).files()
    # not known before the image is here, or where it has no cat
    made = stack(flag=None)
    made.files()
    assert any("no image here could tell whether the engine sets it" in note for note in made.notes)


def test_what_swarm_does_otherwise_is_said() -> None:
    made = stack({
        "depends_on": ["db"], "config": {"/etc/x": {"a.conf": "x"}}, "ports": ["8080:80"], "hardening": {"ports": False},
    })  # fmt: skip
    made.files()
    assert [note.split(" ")[:3] for note in made.notes] == [
        ["Swarm", "publishes", "port"], ["Swarm", "sets", "no"], ["Swarm", "puts", "each"], ["Swarm", "starts", "all"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        {"A": "one\nB='two'", "B": "it's", "C": "a\\", "D": "\\'", "E": "", "F": "x=$y", "G": "\\n \r\n'\\\\"},
        {"A": "'"},
    ],
)
def test_an_environment_is_read_as_it_was_written(values: dict[str, str], tmp_path: Any) -> None:
    (text,) = (one.content for one in stack(environment=values).files() if one.path == ".env")
    (tmp_path / ".env").write_bytes(text.encode())
    assert swarm_services.environment(str(tmp_path)) == values


class Client:
    """The engine's client, with an answer for the words that a call begins with."""

    def __init__(self, **answers: str | None) -> None:
        self.answers = answers

    def __call__(self, *words: str, **more: Any) -> str:
        for start, answer in self.answers.items():
            if "_".join(words).startswith(start):
                if answer is None:
                    raise UntangleError("docker %s failed" % words[0])
                return answer
        raise AssertionError(words)


def info(**more: Any) -> str:
    return json.dumps({"Swarm": {"NodeID": "n0", "ControlAvailable": True, "Nodes": 2}, **more})


@pytest.mark.parametrize(
    ("options", "status", "known"),
    [
        (["name=no-new-privileges"], "", True),
        ([], "NoNewPrivs:\t1", True),
        ([], "NoNewPrivs:\t0", False),
        # an image without cat tells nothing
        ([], None, None),
    ],
)
def test_a_manager_knows_itself(
    monkeypatch: pytest.MonkeyPatch, options: list[str], status: str | None, known: bool | None
) -> None:
    spec = {"Name": "shop_store", "TaskTemplate": {"Placement": {"Constraints": ["node.id == n1"]}}}
    mine = {"Name": "shop_web", "TaskTemplate": {"Placement": {"Constraints": ["node.id==n0", "node.role == manager"]}}}
    client = Client(
        info=info(SecurityOptions=options), run=status, node_inspect_n0=json.dumps([{"Spec": {"Availability": "drain"}}]),
        node_inspect_=" b\n", service_ls="1 2", service_inspect=json.dumps([{"Spec": spec}, {"Spec": mine}]),
    )  # fmt: skip
    monkeypatch.setattr(swarm_services, "docker", client)
    assert swarm_services.node("shop", ["nginx:1.22"]) == Node("n0", known, False, 2, {"store": "b (n1)"})


def task(state: str = "running", desired: str = "running", node: str = "n0", **spec: Any) -> dict[str, Any]:
    return {
        "ServiceID": "1",
        "Status": {"State": state},
        "DesiredState": desired,
        "NodeID": node,
        "Spec": {**TOLD, **spec},
    }


TOLD: dict[str, Any] = {
    "ContainerSpec": {"Image": "a"}, "Resources": {}, "LogDriver": {"Name": "local"}, "Networks": [{"Target": "x"}],
}  # fmt: skip
ONCE = {"RestartPolicy": {"Condition": "none"}}


@pytest.mark.parametrize(
    ("asked", "tasks", "stands"),
    [
        ({}, [task()], True),
        ({}, [], False),
        ({}, [task("starting")], False),
        ({"ContainerSpec": {"Image": "b"}}, [task()], False),
        ({"LogDriver": {"Name": "none"}}, [task()], False),
        ({"Networks": [{"Target": "y"}]}, [task()], False),
        ({"Placement": {"Constraints": ["node.id == n0"]}}, [task()], True),
        ({"Placement": {"Constraints": ["node.id == n1"]}}, [task()], False),
        # what ends is done where it is not started again, and else it is not
        (ONCE, [task("complete", "shutdown", **ONCE)], True),
        (ONCE, [task("failed", "shutdown", **ONCE)], False),
        ({**ONCE, "ContainerSpec": {"Image": "b"}}, [task("complete", "shutdown", **ONCE)], False),
        ({"RestartPolicy": {"Condition": "any"}}, [task("complete", "shutdown")], False),
    ],
)
def test_what_stands_runs_what_it_was_told(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], tasks: list[dict[str, Any]], stands: bool
) -> None:
    service = {"ID": "1", "Spec": {"Mode": {"Replicated": {"Replicas": 1}}, "TaskTemplate": {**TOLD, **asked}}}
    monkeypatch.setattr(swarm_services, "services", lambda project: {"web": service})
    monkeypatch.setattr(swarm_services, "_tasks", lambda project: tasks)
    waiting, given_up = swarm_services.standing("shop")
    assert (not waiting) == stands and not given_up


def test_what_a_stack_waits_for_and_has_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def service(key: str, **container: Any) -> dict[str, Any]:
        return {"ID": key, "Spec": {"TaskTemplate": {"ContainerSpec": container}}}

    there = {"web": service("1"), "store": service("2", StopGracePeriod=25_000_000_000)}
    monkeypatch.setattr(swarm_services, "services", lambda project: there)
    assert swarm_services.grace("shop") == 25
    monkeypatch.setattr(
        swarm_services, "_tasks", lambda project: [task(), task(node="n1"), {**task(), "ServiceID": "2"}]
    )
    assert swarm_services.elsewhere("shop", "n0") == ["web"] and swarm_services.elsewhere("shop", "n1") == [
        "store",
        "web",
    ]
    there.clear()
    assert swarm_services.grace("shop") == 0 and swarm_services.elsewhere("shop", "n0") == []


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
