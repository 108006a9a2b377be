# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An application that writes to both sides: sessions with a sliding expiry, rendered pages, counters."""

from __future__ import annotations

from dual import Dual, milliseconds


class Shop:
    def __init__(self, sessions: Dual, cache: Dual):
        self.sessions, self.cache = sessions, cache

    def visit(self, visitor: str, page: str) -> str:
        """One request: renew the session, count, and look at a page."""
        session, hits, text = "session:" + visitor, "hits:" + page, "page:" + page
        self.sessions.update(session, lambda server: server.hincrby(session, "visits", 1))
        until = milliseconds(1800)
        self.sessions.update(session, lambda server: server.pexpireat(session, until))
        self.cache.update(hits, lambda server: server.incr(hits))
        found = self.cache.first.get(text)
        if found is None:
            found = b"the page %s" % page.encode()
            self.cache.set(text, found, 600)
        return found.decode()

    def log_out(self, visitor: str) -> None:
        self.sessions.delete("session:" + visitor)
