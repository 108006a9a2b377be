# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of the demo: show.py DIR prints what the split recorded, and what the application saw of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HEADINGS = ("purpose", "keys before", "keys after", "differences", "endpoint")


def main() -> None:
    directory = Path(sys.argv[1])
    split = json.loads((directory / "untangle" / "split.json").read_text())
    shop = json.loads((directory / "shop.json").read_text())
    rows = [HEADINGS]
    for name, one in sorted(split["purposes"].items(), key=lambda item: item[1]["database"]):
        numbers = [one.get(key) for key in ("keys_before", "keys_after", "differences")]
        shown = ["-" if number is None else f"{number:,}" for number in numbers]
        rows.append((name, *shown, f"redis://{name}@{one['target']}/0"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    print()
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:4], widths[1:4])), row[4]]
        print("  " + "   ".join(cells))
    missing = "none of them missing" if not shop["missing"] else f"{shop['missing']} OF THEM MISSING"
    print(
        f"\n  The shop placed {shop['orders']:,} orders meanwhile, {missing}; "
        f"its longest pause was {shop['longest_pause']:.1f} s."
    )
    moved = all(one.get("state") == "cut_over" and one.get("differences") == 0 for one in split["purposes"].values())
    sys.exit(
        0 if moved and len(rows) == 4 and not shop["missing"] else "demo: something is not as it should be, see above"
    )


if __name__ == "__main__":
    main()
