# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where whoever wants something of a running mirror leaves a request: files in the directory of its job."""

from __future__ import annotations

import json
import os
import secrets
import time
import typing as t

from ..errors import UntangleError
from .state import write_atomically


class Desk:
    """``ready.json`` says that the mirror is in step; ``request.json`` asks for a cutover, ``answer-ID.json`` is what came of it."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name + ".json")

    def _read(self, name: str) -> dict[str, t.Any] | None:
        try:
            with open(self._path(name)) as stream:
                return t.cast("dict[str, t.Any]", json.load(stream))
        except FileNotFoundError:
            return None

    def ready(self) -> dict[str, t.Any] | None:
        return self._read("ready")

    def say_ready(self, facts: t.Mapping[str, t.Any]) -> None:
        write_atomically(self._path("ready"), json.dumps(facts))

    def say_late(self) -> None:
        """Not in step any more."""
        os.unlink(self._path("ready"))

    def request(self) -> dict[str, t.Any] | None:
        found = self._read("request")
        if found is not None:
            os.unlink(self._path("request"))
        return found

    def answer(self, request: t.Mapping[str, t.Any], facts: t.Mapping[str, t.Any]) -> None:
        write_atomically(self._path("answer-%s" % request["id"]), json.dumps(facts))

    def ask(self, request: t.Mapping[str, t.Any], alive: t.Callable[[], bool], seconds: float) -> dict[str, t.Any]:
        """Leave a request and wait for its answer. Refused while somebody else's lies there."""
        number = secrets.token_hex(6)
        mine, name = self._path("request-" + number), "answer-" + number
        write_atomically(mine, json.dumps(dict(request, id=number)))
        try:
            os.link(mine, self._path("request"))
        except FileExistsError:
            other = self._read("request") or {}
            raise UntangleError(
                "The mirror has just been asked for %s by %s. Look at status, then run the phase again."
                % (other.get("what", "something else"), other.get("by", "somebody"))
            ) from None
        finally:
            os.unlink(mine)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            # in this order: a job that has ended may have answered before
            lives = alive()
            found = self._read(name)
            if found is not None:
                os.unlink(self._path(name))
                return found
            if not lives:
                raise UntangleError(
                    "The mirror's job ended before it answered; its log is in %s. Run the phase again: it goes on from what the "
                    "servers say." % self.directory
                )
            time.sleep(0.005)
        raise UntangleError("The mirror did not answer within %d s. See the log in %s." % (seconds, self.directory))
