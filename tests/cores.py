# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The versions of ansible-core that tests run with: that of .venv, and those that `tools/units-matrix.sh` lays down beside it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = "2.17.14"
NEWEST = "2.21.5"


def ansible_playbook(version: str | None = None) -> Path:
    """The program of a version, or of the running environment; of that one too where the version is not laid down and may be left out."""
    other = ROOT / ".cache" / f"venv-core-{version}" / "bin" / "ansible-playbook"
    if version and not other.exists() and os.environ.get("UNTANGLE_ALL"):
        raise FileNotFoundError(f"ansible-core {version} is not here: run `make cores`")
    return other if version and other.exists() else Path(sys.executable).with_name("ansible-playbook")
