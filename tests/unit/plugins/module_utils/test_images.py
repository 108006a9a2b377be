# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, users and sums, without an engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.njoy.untangle.plugins.module_utils import images
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

D = "sha256:" + "0" * 64
DEBIAN = "root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/:\nnobody:x:65534:65534::/:\nredis:x:999:999::/:\n"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("redis", ("redis", "", "")),
        ("redis:8.0", ("redis", "8.0", "")),
        (f"redis:8.0@{D}", ("redis", "8.0", D)),
        (f"redis@{D}", ("redis", "", D)),
        ("127.0.0.1:5000/shop/web", ("127.0.0.1:5000/shop/web", "", "")),
        (f"127.0.0.1:5000/shop/web:1@{D}", ("127.0.0.1:5000/shop/web", "1", D)),
        # the engine shows the public registry's images without it
        ("docker.io/library/redis:8.0", ("redis", "8.0", "")),
        ("docker.io/valkey/valkey", ("valkey/valkey", "", "")),
        ("index.docker.io/library/redis", ("redis", "", "")),
    ],
)
def test_parted(name: str, parts: tuple[str, str, str]) -> None:
    assert images.parted(name) == parts


@pytest.mark.parametrize(
    ("name", "digests", "wanted"),
    [
        ("redis:8.0", [], "redis:8.0"),
        ("redis:8.0", [f"redis@{D}"], f"redis:8.0@{D}"),
        ("redis", [f"redis@{D}"], f"redis:latest@{D}"),
        ("docker.io/library/redis:8.0", [f"redis@{D}"], f"docker.io/library/redis:8.0@{D}"),
        # what another registry says of the same image
        ("redis:8.0", [f"mirror:5000/redis@{D}"], "redis:8.0"),
        ("mirror:5000/redis", [f"redis@{D}", f"mirror:5000/redis@{D}"], f"mirror:5000/redis:latest@{D}"),
        (f"redis:8.0@{D}", [f"redis@{D}"], f"redis:8.0@{D}"),
    ],
)
def test_reference(name: str, digests: list[str], wanted: str) -> None:
    assert images.reference(name, digests) == wanted


@pytest.mark.parametrize(
    ("passwd", "name"),
    [
        (DEBIAN, "redis"),
        (DEBIAN.replace("redis:", "sshd:"), "www-data"),
        ("root:x:0:0::/:\nnobody:x:65534:65534::/:\n", "nobody"),
        ("root:x:0:0::/:\n", None),
        ("", None),
        ("not a line of passwd\nredis:x:what\n", None),
    ],
)
def test_service_user(passwd: str, name: str | None) -> None:
    found = images.service_user(passwd)
    assert (found and found["name"]) == name


def test_a_budget() -> None:
    images.within("x", 10**9, 0)
    images.within("x", 200_000_000, 200)
    with pytest.raises(UntangleError, match="The image x has 201 MB, and the budget is 200 MB"):
        images.within("x", 200_600_000, 200)


def test_what_an_image_is_built_from(tmp_path: Path) -> None:
    """Everything that a build can see of its context, and nothing else, such as times."""
    (tmp_path / "dir").mkdir()
    file = tmp_path / "dir/file"
    file.write_text("1")

    def now() -> str:
        return images.sum_of("FROM x", "sha256:1", str(tmp_path))

    seen = [now()]
    file.write_text("2")
    seen.append(now())
    file.chmod(0o755)
    seen.append(now())
    file.rename(tmp_path / "dir/other")
    seen.append(now())
    (tmp_path / "link").symlink_to("dir")
    seen.append(now())
    (tmp_path / "empty").mkdir()
    seen.append(now())
    (tmp_path / "empty").touch()
    assert now() == seen[-1]
    seen += [images.sum_of("FROM x", one, "") for one in ("sha256:1", "sha256:2")]
    seen.append(images.sum_of("FROM y", "sha256:1", ""))
    assert len(set(seen)) == len(seen)
