# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No acknowledged write is lost, none comes back and none is there twice, whatever happens to servers, network and engine.

make faults                                     every fault at every stage, and some seeds
UNTANGLE_SEED=7 pytest tests/faults -k seed     one seed alone; of the soak with UNTANGLE_BIG=100
make soak MINUTES=30                            new seeds for as long, with keys of 100 MB
"""

from __future__ import annotations

import itertools
import os
import random
import time

import pytest
from faults import scenario
from faults.table import FAULTS

import servers

pytestmark = [pytest.mark.servers, pytest.mark.timeout(400)]
SEEDS = [int(os.environ["UNTANGLE_SEED"])] if os.environ.get("UNTANGLE_SEED") else [1, 2, 3, 4]
#: Big keys of this many MB.
BIG = int(os.environ.get("UNTANGLE_BIG", "30"))


@pytest.mark.parametrize(("fault", "version"), list(zip(FAULTS, itertools.cycle(servers.MAIN))))
def test_a_fault_at_every_stage(fault, version):
    again = "pytest tests/faults -k 'every_stage and %s'" % fault
    print(scenario.run(scenario.everywhere(fault), version, 0, again, BIG * scenario.MEGABYTE))


def drawn(seed, big):
    again = "UNTANGLE_SEED=%d UNTANGLE_BIG=%d pytest tests/faults -k seed" % (seed, big)
    print(scenario.run(scenario.drawn(seed), scenario.version(seed), seed, again, big * scenario.MEGABYTE), flush=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed(seed):
    drawn(seed, BIG)


if os.environ.get("UNTANGLE_SOAK"):

    @pytest.mark.timeout(0)
    def test_soak():
        end, seeds = time.monotonic() + 60 * float(os.environ["UNTANGLE_SOAK"]), random.SystemRandom()
        while time.monotonic() < end:
            seed = seeds.randrange(1 << 30)
            print("UNTANGLE_SEED=%d" % seed, end=" ", flush=True)
            drawn(seed, 100)
