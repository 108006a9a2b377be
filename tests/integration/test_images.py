# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images on the real engine: what they are, building them, and a real registry to push to, deploy from and go back with."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cores
import pytest
from machine import docker, module, needs_docker
from registry import Registry, needs_registry, registry

import servers
from ansible_collections.njoy.untangle.plugins.module_utils import images

pytestmark = [needs_docker, pytest.mark.timeout(300)]
PASSWD = "root:x:0:0::/:\napp:x:999:1000::/:\nnginx:x:101:102::/:\n"
GROUP = "root:x:0:\napp:x:1000:\nweb:x:1001:app\n"

PLAY = """
- name: A role
  hosts: here
  gather_facts: false
  tasks:
    - name: Have it
      ansible.builtin.include_role:
        name: njoy.untangle.{{ role }}
"""


class Place:
    """Names and files of one test, gone with it."""

    def __init__(self) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="ut-image-", dir="/tmp"))
        self.top.chmod(0o711)
        self.name = self.top.name.lower().replace("_", "x")
        self.more: list[str] = []

    def made(self, tag: str, *changes: str, release: str = "ID=alpine\n") -> str:
        """An image of a few files, without a shell."""
        archive = self.top / f"{tag}.tar"
        with tarfile.open(archive, "w") as tar:
            for name, text in {"passwd": PASSWD, "group": GROUP, "os-release": release}.items():
                if text:
                    info = tarfile.TarInfo(f"etc/{name}")
                    info.size = len(text)
                    tar.addfile(info, io.BytesIO(text.encode()))
            for name, uid in {"data": 999, "spool": 0}.items():
                info = tarfile.TarInfo(name)
                info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, 0o755, uid, 1000 if uid else 0
                tar.addfile(info)
            tar.addfile(tarfile.TarInfo(f"data/{self.name}"))
        image = f"{self.name}:{tag}"
        docker("import", *(word for one in changes for word in ("--change", one)), str(archive), image)
        return image

    def play(self, *words: str, ok: bool = True, **variables: Any) -> str:
        (self.top / "play.yml").write_text(PLAY)
        (self.top / "hosts").write_text("here ansible_connection=local ansible_python_interpreter=/usr/bin/python3\n")
        env = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(Path(__file__).resolve().parents[2] / ".venv/collections"),
            "ANSIBLE_HOME": str(self.top / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
        }
        done = subprocess.run(
            [str(cores.ansible_playbook()), "-i", "hosts", "play.yml", "-e", json.dumps(variables), *words],
            cwd=self.top, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) == ok, done.stdout[-5000:] + done.stderr
        return done.stdout

    def close(self) -> None:
        containers = docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={self.name}").split()
        if containers:
            docker("rm", "-fv", *containers)
        docker("network", "rm", f"{self.name}_default")
        form = "{{.Repository}}:{{.Tag}} {{.Repository}}@{{.Digest}} {{.ID}}"
        lines = docker("image", "ls", "--all", "--digests", "--format", form).splitlines()
        ours = [line.split() for line in lines if line.startswith((self.name + ":", *self.more))]
        for tag, digest, _id in ours:
            docker("image", "rm", tag)
            docker("image", "rm", digest)
        shutil.rmtree(self.top, ignore_errors=True)


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.close()


def image(**asked: Any) -> dict[str, Any]:
    return module("container_image", **asked)


def id_of(name: str) -> str:
    return docker("image", "inspect", "--format", "{{.Id}}", name).strip()


@pytest.mark.parametrize(
    ("name", "user"), [("redis:7.0", "redis"), ("redis:8.0", "redis"), ("valkey/valkey:8.1", "valkey")]
)
def test_what_well_known_images_are(name: str, user: str) -> None:
    """Root by what they say of themselves; the owner of /data by what their entrypoint does."""
    found = image(name=name, budget=1000)
    inside = docker(
        "run", "--rm", "--network", "none", "--entrypoint", "sh", name, "-c", "stat -c '%u %g' /data"
    ).split()
    assert not found["changed"] and found["actions"] == []
    assert found["image"] == {
        "name": name,
        "reference": name,  # no registry gave these a digest
        "id": id_of(name),
        "digests": [],
        "size": int(docker("image", "inspect", "--format", "{{.Size}}", name)),
        "user": {"uid": int(inside[0]), "gid": int(inside[1]), "name": user},
        "runs_as_root": True,
        "volumes": ["/data"],
        "entrypoint": ["docker-entrypoint.sh"],
        "command": [],
        "ports": ["6379/tcp"],
        "healthcheck": False,
        "variant": "debian",
    }


APPLICATION = {
    "nginx:1.22": ("101:101 nginx", [], ["/docker-entrypoint.sh"]),
    "httpd:2.4": ("33:33 www-data", [], []),
    "php:8.2-fpm": ("33:33 www-data", [], []),
    "mariadb:10.11": ("999:999 mysql", ["/var/lib/mysql"], ["docker-entrypoint.sh"]),
}


def test_what_an_application_brings(place: Place) -> None:
    """Each image's user is found, and they serve as that user with the root read only and no capability."""
    for name, (user, volumes, entrypoint) in APPLICATION.items():
        found = images.facts(name)
        assert "{uid}:{gid} {name}".format(**found["user"]) == user and found["runs_as_root"]
        assert (found["volumes"], found["entrypoint"], found["variant"]) == (volumes, entrypoint, "debian")
    port = servers.free_port()
    often = {"interval": "1s", "retries": 30}
    page = {"index.php": "<?php echo 'served by ', posix_getuid();"}
    fcgi = "SCRIPT_NAME=/index.php SCRIPT_FILENAME=/var/www/html/index.php REQUEST_METHOD=GET cgi-fcgi -bind -connect 127.0.0.1:9000"
    stack: dict[str, Any] = {
        "role": "compose_stack",
        "compose_stack_name": place.name,
        "compose_stack_dir": str(place.top / "stack"),
        "compose_stack_wait": 60,
        "compose_stack_services": {
            "web": {
                "image": "nginx:1.22",
                "ports": [f"127.0.0.1:{port}:8080"],
                "config": {"/etc/nginx/conf.d": {"default.conf": NGINX}},
                "tmpfs": ["/var/cache/nginx:uid=101", "/run:uid=101"],
                "depends_on": {"httpd": {"condition": "service_healthy"}},
                "healthcheck": {"test": ["CMD", "curl", "-fsS", "http://127.0.0.1:8080/index.php"], **often},
            },
            "httpd": {
                "image": "httpd:2.4",
                "config": {"/usr/local/apache2/conf": {"httpd.conf": HTTPD}, "/var/www/html": page},
                "tmpfs": ["/usr/local/apache2/logs:uid=33"],
                "healthcheck": {"test": ["CMD", "curl", "-fsS", "http://127.0.0.1:8080/index.php"], **often},
            },
            "php": {
                "image": "php:8.2-fpm",
                "config": {"/var/www/html": page},
                "healthcheck": {"test": ["CMD-SHELL", fcgi + " | grep -q served"], **often},
            },
            "db": {
                "image": "mariadb:10.11",
                "environment": {"MARIADB_ROOT_PASSWORD_FILE": "/run/secrets/root"},
                "volumes": ["data:/var/lib/mysql"],
                "tmpfs": ["/run/mysqld:uid=999"],
                "data": "4gb",
                "healthcheck": {"test": ["CMD", "healthcheck.sh", "--connect", "--innodb_initialized"], **often},
            },
        },
        "compose_stack_secrets": {"db": {"root": "the root's own word"}},
    }
    try:
        place.play(**stack)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/index.php", timeout=5) as answer:
            assert answer.read() == b"served by 33"
        found = module("container_hardening_info", project=place.name, directory=stack["compose_stack_dir"])
        assert found["score"] == found["out_of"] and found["drift"] == [] and len(found["containers"]) == 4
        say = 'mariadb -uroot -p"$(cat /run/secrets/root)" -e "select 6*7"'
        assert docker("exec", f"{place.name}-db-1", "sh", "-c", say).split()[-1] == "42"
        assert "changed=0" in place.play(**stack)
    finally:
        place.play(**stack, compose_stack_state="absent", compose_stack_volumes=True)


NGINX = "server { listen 8080; location / { proxy_pass http://httpd:8080; } }\n"
HTTPD = """
Listen 8080
LoadModule mpm_event_module modules/mod_mpm_event.so
LoadModule authz_core_module modules/mod_authz_core.so
LoadModule proxy_module modules/mod_proxy.so
LoadModule proxy_fcgi_module modules/mod_proxy_fcgi.so
PidFile /tmp/httpd.pid
ErrorLog /proc/self/fd/2
DocumentRoot /var/www/html
ServerName localhost
<FilesMatch "[.]php$">
    SetHandler "proxy:fcgi://php:9000"
</FilesMatch>
"""

APP = {"uid": 999, "gid": 1000, "name": "app"}


@pytest.mark.parametrize(
    ("changes", "user"),
    [
        (["USER app"], APP),
        (["USER app:web"], {**APP, "gid": 1001}),
        (["USER 999"], APP),
        (["USER 999:7"], {**APP, "gid": 7}),
        (["USER 5000"], {"uid": 5000, "gid": 0, "name": ""}),
        (["USER nobody-knows"], None),
        # the owner of a volume, and of none that is root's
        (["VOLUME /data", "USER root"], APP),
        (["VOLUME /spool", "VOLUME /data"], APP),
        # known by name
        (["VOLUME /spool"], {"uid": 101, "gid": 102, "name": "nginx"}),
        ([], {"uid": 101, "gid": 102, "name": "nginx"}),
    ],
)
def test_whom_an_image_runs_as(place: Place, changes: list[str], user: dict[str, Any] | None) -> None:
    """Without a shell in it, and without starting it."""
    name = place.made("one", *changes)
    found = images.facts(name)
    assert found["user"] == user and found["variant"] == "alpine"
    assert found["runs_as_root"] == (not any(one.startswith("USER") and one != "USER root" for one in changes))
    # nothing is left of looking at it: no container, no volume with what the image has in it
    assert docker("ps", "-aq", "--filter", f"ancestor={name}") == ""
    volumes = Path(docker("info", "-f", "{{.DockerRootDir}}").strip(), "volumes")
    assert list(volumes.glob(f"*/_data/{place.name}")) == []


def test_an_image_that_says_little(place: Place) -> None:
    name = place.made("bare", "HEALTHCHECK CMD x", 'ENTRYPOINT ["/x"]', 'CMD ["y"]', "EXPOSE 81/udp", release="")
    found = images.facts(name)
    assert found["variant"] is None and found["healthcheck"] is True
    assert (found["entrypoint"], found["command"], found["ports"]) == (["/x"], ["y"], ["81/udp"])


def test_built_once(place: Place) -> None:
    context = place.top / "context"
    context.mkdir()
    (context / "hello").write_text("1")
    asked = {
        "name": f"{place.name}:built",
        "source": "build",
        "base": place.made("base"),
        "dockerfile": "ARG BASE\nFROM ${BASE}\nCOPY hello /\nUSER app\n",
        "context": str(context),
    }
    would = module("container_image", "--check", **asked)
    assert would["changed"] and would["image"] is None and id_of(asked["name"]) == ""
    assert would["actions"] == [f"build {asked['name']} on {asked['base']}"]
    first = image(**asked)
    assert first["changed"] and first["actions"] == would["actions"] and first["image"]["user"] == APP
    again = image(**asked)
    assert not again["changed"] and again["actions"] == [] and again["image"] == first["image"]
    assert not module("container_image", "--check", **asked)["changed"]

    # each of the three things that it is built from
    seen = {first["image"]["id"]}
    (context / "hello").write_text("2")
    seen.add(image(**asked)["image"]["id"])
    asked["dockerfile"] += "EXPOSE 80\n"
    assert module("container_image", "--check", **asked)["changed"]
    seen.add(image(**asked)["image"]["id"])
    place.made("base", "LABEL another=one")
    seen.add(image(**asked)["image"]["id"])
    assert len(seen) == 4 and not image(**asked)["changed"]

    refused = image(**{**asked, "name": asked["base"]})
    assert "was not built by this collection" in refused["msg"] and id_of(asked["base"]) not in seen
    failed = image(**{**asked, "dockerfile": asked["dockerfile"] + "COPY no-such-file /\n"})
    assert "no-such-file" in failed["msg"] and "cannot be built on" in failed["msg"]
    assert "is no directory of this host" in image(**{**asked, "context": "/no/such"})["msg"]


def test_what_is_not_to_be_had(place: Place) -> None:
    name = f"127.0.0.1:1/{place.name}:1"
    for said in (image(name=name), image(name="x", source="build", base=name, dockerfile="FROM x")):
        assert "image" not in said and f"The image {name} is not to be had" in said["msg"]
        assert "connection refused" in said["msg"] and "docker load" in said["msg"]
    assert "The image redis 8.0 is not to be had: docker pull" in image(name="redis 8.0")["msg"]
    would = module("container_image", "--check", name=name)
    assert would["changed"] and would["actions"] == [f"pull {name}"] and would["image"] is None


def test_built_where_there_is_no_registry(place: Place) -> None:
    """By the role redis_instances, from the packages of a base image."""
    tag = "i" + place.name[-8:]  # a name begins with a letter
    given: dict[str, Any] = {
        "role": "redis_instances",
        "redis_instances": [{"name": tag}],
        "redis_instances_dir": str(place.top / "state/instances"),
        "redis_instances_image_source": "build",
    }
    said = place.play(ok=False, **given)
    assert "redis_instances_image_source is build, with the image redis:8.0 on the base (none)" in said
    pulled = {"redis_instances_image": "redis:7.0", "redis_instances_image_source": "pull"}
    said = place.play(ok=False, **(given | pulled), compose_stack_image_budget=1)
    assert "The image redis:7.0 has" in said and "compose_stack_image_budget" in said
    given |= {"redis_instances_image": f"{place.name}:built", "redis_instances_image_base": "debian:bookworm-slim"}
    purpose = {"name": tag, "database": 0, "port": servers.free_port(), "profile": "cache", "maxmemory": "32mb"}
    plan = "{{ {'source': {'host': '10.255.255.1'}, 'purposes': [purpose]} | njoy.untangle.split_plan(hosts) }}"
    hosts = {"instances": ["here"], "vars": {"here": {"ansible_connection": "local"}}}
    given |= {"made": plan, "purpose": purpose, "hosts": hosts, "redis_instances": "{{ made.purposes }}"}
    place.play("--check", **given)
    assert id_of(f"{place.name}:built") == ""
    try:
        place.play(**given)
        found = images.facts(f"{place.name}:built")
        assert (found["user"], found["runs_as_root"]) == ({"uid": 999, "gid": 999, "name": "redis"}, False)
        assert found["volumes"] == ["/data"] and found["variant"] == "debian"
        form = "{{.Config.Image}} {{.Config.User}} {{.State.Health.Status}}"
        assert docker("inspect", "--format", form, f"untangle-{tag}").strip() == f"{found['name']} 999:999 healthy"
        assert "changed=0" in place.play(**given)
    finally:
        docker("rm", "-fv", f"untangle-{tag}")
        docker("volume", "rm", f"untangle-{tag}_data")
        docker("network", "rm", f"untangle-{tag}_default", f"untangle-{tag}_published")


# -- with a registry --------------------------------------------------------------------------------------------------------

COMPOSE = """
name: {{ compose_stack_name }}
services:
  store:
    image: {{ image }}
    command: [redis-server, --save, ""]
    volumes: [{type: tmpfs, target: /data}]
    healthcheck: {test: [CMD-SHELL, "redis-cli ping | grep -q PONG"], interval: 1s, timeout: 2s, retries: 5}
"""


class Shop(Place):
    """A stack whose image comes from a registry of its own."""

    def __init__(self, of: Registry) -> None:
        super().__init__()
        self.registry = of
        self.repository = f"{of.address}/{self.name}/store"
        self.more = [self.repository]
        (self.top / "compose.yaml.j2").write_text(COMPOSE)

    def version(self, number: int) -> dict[str, Any]:
        """Build it, push it under the one tag, and forget it."""
        made = image(
            name=f"{self.name}:v{number}",
            source="build",
            base="redis:7.0",
            dockerfile=f"ARG BASE\nFROM ${{BASE}}\nENV SHOP={number}\n",
            push=self.repository + ":current",
        )
        assert made["changed"], made
        self.forget(made["image"]["id"])
        found: dict[str, Any] = made["image"]
        return found

    def forget(self, name: str) -> None:
        docker("image", "rm", "--force", name)
        assert id_of(name) == ""

    def deploy(self, image: str) -> str:
        return self._stack(image=image)

    def back(self, ok: bool = True) -> str:
        return self._stack(ok=ok, compose_stack_state="rolled_back")

    def _stack(self, **variables: Any) -> str:
        return self.play(
            role="compose_stack",
            compose_stack_name=self.name,
            compose_stack_dir=str(self.top / "stack"),
            compose_stack_files=[{"src": str(self.top / "compose.yaml.j2"), "dest": "compose.yaml"}],
            compose_stack_wait=20,
            **variables,
        )

    def serves(self) -> tuple[str, str]:
        """The image by name, and the version within."""
        one = docker("ps", "-q", "--filter", f"label=com.docker.compose.project={self.name}").strip()
        shown = docker("exec", one, "sh", "-c", "echo $SHOP; redis-cli ping").split()
        assert shown[1] == "PONG"
        return docker("inspect", "--format", "{{.Config.Image}}", one).strip(), shown[0]


@pytest.fixture
def shop() -> Iterator[Shop]:
    with registry() as of:
        made = Shop(of)
        yield made
        made.close()


@needs_registry
def test_deployed_from_a_registry_and_gone_back_to(shop: Shop) -> None:
    """By digest and by tag, with the old image gone from the host, and with the registry away."""
    first, second = shop.version(1), shop.version(2)
    tag = shop.repository + ":current"
    assert first["name"] == tag and first["reference"] == f"{tag}@{first['digests'][0].partition('@')[2]}"
    assert first["reference"] != second["reference"]

    shop.deploy(first["reference"])
    assert shop.serves() == (first["reference"], "1")
    shop.deploy(second["reference"])
    assert shop.serves() == (second["reference"], "2")
    shop.forget(first["id"])
    shop.registry.stop()
    said = shop.back(ok=False)
    assert "no registry gives it" in said and "connection refused" in said
    assert shop.serves() == (second["reference"], "2")
    assert second["reference"] in (shop.top / "stack/compose.yaml").read_text()
    shop.registry.start()
    shop.back()
    assert shop.serves() == (first["reference"], "1")

    # by tag: it means the second version in the registry, then the first again
    assert image(name=tag)["image"]["id"] == second["id"]
    shop.deploy(tag)
    assert shop.serves() == (tag, "2")
    docker("tag", first["reference"], tag)
    docker("push", tag)
    docker("tag", second["id"], tag)
    assert not image(name=tag)["changed"]
    would = module("container_image", "--check", name=tag, refresh=True)
    assert not would["changed"] and would["actions"] == [f"pull {tag}"]
    moved = image(name=tag, refresh=True)
    assert moved["changed"] and moved["image"]["id"] == first["id"]
    assert not image(name=tag, refresh=True)["changed"]
    shop.deploy(tag)
    assert shop.serves() == (tag, "1")
    shop.forget(second["id"])
    shop.back()
    assert shop.serves() == (tag, "2") and id_of(tag) == second["id"]


@needs_registry
def test_pushed_unless_it_is_over_the_budget(shop: Shop) -> None:
    name, target = shop.made("small"), shop.repository
    asked = {"name": name, "push": target}

    def known() -> list[str]:
        with urllib.request.urlopen(f"http://{shop.registry.address}/v2/_catalog") as answer:
            found: list[str] = json.load(answer)["repositories"]
            return found

    size = image(name=name)["image"]["size"]
    said = image(**asked, budget=size / 1e6 - 0.00001)
    assert f"The image {name} has" in said["msg"] and "compose_stack_image_budget" in said["msg"]
    would = module("container_image", "--check", **asked)
    assert would["changed"] and would["actions"] == [f"push {target}:small"] and known() == []
    assert id_of(f"{target}:small") == ""
    done = image(**asked, budget=size / 1e6)
    assert done["changed"] and done["actions"] == would["actions"] and known() == [f"{shop.name}/store"]
    assert done["image"]["reference"] == f"{target}:small@" + done["image"]["digests"][0].partition("@")[2]
    assert not image(**asked)["changed"]
    would = module("container_image", "--check", **asked)
    assert not would["changed"] and would["image"] == done["image"]
    shop.registry.stop()
    assert "cannot be pushed to" in image(**asked)["msg"]
