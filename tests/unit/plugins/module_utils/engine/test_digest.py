# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sums by which a database is known again."""

from __future__ import annotations

import json

from ansible_collections.njoy.untangle.plugins.module_utils.engine.digest import HOUR, Digest, differs

SINCE = 1_700_000_000_000
NOON = SINCE - SINCE % HOUR + 12 * HOUR


def digest(*keys):
    made = Digest(SINCE, "meaning")
    for key in keys:
        made.add(*key)
    return json.loads(json.dumps(made.facts()))


A, B = (b"a", b"1" * 40, 0), (b"b", b"2" * 40, 0)


def test_order_does_not_matter():
    assert not differs(digest(A, B), digest(B, A), SINCE)


def test_values_that_change_places_do():
    assert differs(digest(A, B), digest((b"a", B[1], 0), (b"b", A[1], 0)), SINCE)


def test_a_key_more_or_less_does():
    assert differs(digest(A), digest(A, B), SINCE) and differs(digest(A, B), digest(A), SINCE)


def test_what_has_expired_is_not_missed_and_what_has_not_is():
    short = (b"s", b"3" * 40, NOON + 1)
    assert differs(digest(A, short), digest(A), NOON - 1)
    assert not differs(digest(A, short), digest(A), NOON)
    # an expiry that was moved, or taken away
    assert differs(digest(A, short), digest(A, (*short[:2], NOON + 2)), NOON - 1)
    assert differs(digest(A, short), digest(A, (*short[:2], 0)), NOON + HOUR)


def test_a_year_of_expiries_makes_few_sums():
    sums = digest(*[(b"%d" % n, b"4" * 40, SINCE + n * HOUR) for n in range(365 * 24)])["sums"]
    assert len(sums) < 480
