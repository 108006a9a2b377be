# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each check of the benchmark passes a container that is as it should be, and fails one that differs in this alone."""

from __future__ import annotations

import copy

import pytest

from ansible_collections.njoy.untangle.plugins.module_utils import hardening

SECURITY = ["name=seccomp,profile=default", "name=apparmor", "name=selinux"]
GOOD = {
    "Name": "/shop-web-1",
    "AppArmorProfile": "docker-default",
    "Config": {"User": "101:101", "Image": "nginx:1.22", "Healthcheck": {"Test": ["CMD", "true"]}},
    "HostConfig": {
        "CapDrop": ["ALL"],
        "CapAdd": None,
        "Privileged": False,
        "PortBindings": {"8080/tcp": [{"HostIp": "10.0.0.5", "HostPort": "8080"}]},
        "NetworkMode": "shop_default",
        "Memory": 268435456,
        "CpuShares": 1024,
        "ReadonlyRootfs": True,
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 5},
        "PidMode": "",
        "IpcMode": "private",
        "Devices": None,
        "Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 1024}],
        "UTSMode": "",
        "UsernsMode": "",
        "CgroupParent": "",
        "SecurityOpt": ["no-new-privileges:true"],
        "PidsLimit": 100,
        "Tmpfs": {"/tmp": ""},
    },
    "Mounts": [
        {
            "Type": "bind",
            "Source": "/srv/shop/conf",
            "Destination": "/etc/nginx/conf.d",
            "RW": False,
            "Propagation": "rprivate",
        },
        {"Type": "volume", "Source": "/var/lib/docker/volumes/x/_data", "Destination": "/data", "Propagation": ""},
    ],
    "NetworkSettings": {"Networks": {"shop_default": {}}},
}
WORSE = [
    ("4.1", "Config.User", ""),
    ("4.1", "Config.User", "0:0"),
    ("4.1", "Config.User", "00"),
    ("5.2", "AppArmorProfile", "unconfined"),
    ("5.3", "HostConfig.SecurityOpt", ["no-new-privileges", "label=disable"]),
    ("5.4", "HostConfig.CapDrop", ["CHOWN"]),
    ("5.4", "HostConfig.CapAdd", ["NET_ADMIN"]),
    ("5.5", "HostConfig.Privileged", True),
    ("5.6", "Mounts", [{"Type": "bind", "Source": "/etc/ssl", "Destination": "/x", "Propagation": ""}]),
    ("5.6", "Mounts", [{"Type": "bind", "Source": "/", "Destination": "/x", "Propagation": ""}]),
    ("5.8", "HostConfig.PortBindings", {"80/tcp": [{"HostIp": "10.0.0.5", "HostPort": "80"}]}),
    ("5.10", "HostConfig.NetworkMode", "host"),
    ("5.11", "HostConfig.Memory", 0),
    ("5.12", "HostConfig.CpuShares", 0),
    ("5.13", "HostConfig.ReadonlyRootfs", False),
    ("5.14", "HostConfig.PortBindings", {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}),
    ("5.14", "HostConfig.PortBindings", {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}),
    ("5.14", "HostConfig.PublishAllPorts", True),
    ("5.15", "HostConfig.RestartPolicy", {"Name": "always", "MaximumRetryCount": 0}),
    ("5.16", "HostConfig.PidMode", "host"),
    ("5.17", "HostConfig.IpcMode", "host"),
    ("5.18", "HostConfig.Devices", [{"PathOnHost": "/dev/kvm"}]),
    ("5.19", "HostConfig.Ulimits", None),
    ("5.20", "Mounts", [{"Type": "bind", "Source": "/srv/x", "Destination": "/x", "Propagation": "rshared"}]),
    ("5.21", "HostConfig.UTSMode", "host"),
    ("5.22", "HostConfig.SecurityOpt", ["no-new-privileges", "seccomp=unconfined"]),
    ("5.25", "HostConfig.CgroupParent", "/other"),
    ("5.26", "HostConfig.SecurityOpt", None),
    ("5.27", "Config.Healthcheck", None),
    ("5.27", "Config.Healthcheck", {"Test": ["NONE"]}),
    ("5.28", "Config.Image", "nginx"),
    ("5.28", "Config.Image", "registry:5000/nginx:latest"),
    ("5.29", "HostConfig.PidsLimit", None),
    ("5.29", "HostConfig.PidsLimit", -1),
    ("5.30", "NetworkSettings.Networks", {"bridge": {}}),
    ("5.31", "HostConfig.UsernsMode", "host"),
    ("5.32", "Mounts", [{"Type": "bind", "Source": "/run/docker.sock", "Destination": "/x", "Propagation": ""}]),
    ("5.32", "Mounts", [{"Type": "bind", "Source": "/var/run", "Destination": "/x", "Propagation": ""}]),
]


def failed(container, exceptions=None):
    return [one["check"] for one in hardening.judged(container, SECURITY, exceptions or {}) if not one["passed"]]


def test_a_good_one_gets_full_marks():
    assert failed(GOOD) == []
    assert len(hardening.judged(GOOD, SECURITY, {})) == len(hardening.CHECKS)


@pytest.mark.parametrize(("number", "place", "value"), WORSE)
def test_what_is_worse_fails_its_check(number, place, value):
    worse = copy.deepcopy(GOOD)
    *way, name = place.split(".")
    inner = worse
    for step in way:
        inner = inner[step]
    inner[name] = value
    assert failed(worse) == [number]


def test_every_check_has_a_case():
    assert {check.number for check in hardening.CHECKS} == {number for number, _place, _value in WORSE}


def test_digests_are_releases_as_well():
    for name in ("nginx@sha256:0123", "registry:5000/nginx:1@sha256:0123", "sha256:0123", "registry:5000/nginx:1"):
        assert failed({**GOOD, "Config": {**GOOD["Config"], "Image": name}}) == []


def test_a_share_of_the_processor_in_other_words():
    for word in ("NanoCpus", "CpuQuota"):
        assert failed({**GOOD, "HostConfig": {**GOOD["HostConfig"], "CpuShares": 0, word: 50000}}) == []


def test_an_exception_has_its_reason_and_is_no_failure():
    worse = {**GOOD, "Config": {**GOOD["Config"], "Healthcheck": None}}
    (one,) = [x for x in hardening.judged(worse, SECURITY, {"5.27": "because"}) if x["reason"]]
    assert (one["excepted"], one["advice"], one["passed"]) == ("because", None, False)


def test_what_the_kernel_does_not_have_is_not_asked_for():
    numbers = {one["check"] for one in hardening.judged(GOOD, ["name=seccomp,profile=default"], {})}
    assert not numbers & {"5.2", "5.3"}


def test_places_that_something_is_mounted_on_have_not_changed():
    diff = "C /etc\nC /etc/nginx\nA /etc/nginx/conf.d\nA /data\nC /tmp\nC /etc/passwd\nA /root/.ash_history\nD /bin/x"
    assert hardening.changed_files(GOOD, diff) == ["/etc/passwd", "/root/.ash_history", "/bin/x"]
