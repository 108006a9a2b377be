# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A TCP proxy before one server: what goes through it can be delayed, and all its connections can be reset."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading

import servers


class Proxy:
    """Listens on a port of its own from the start, in a thread of its own, until ``close``."""

    def __init__(self, server: servers.Server) -> None:
        self.server = server
        #: Seconds by which every piece that comes in is held back.
        self.delay = 0.0
        #: The same for connections that carry a change feed: it comes later than everything else that the server says.
        self.feed_delay = 0.0
        self.port = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        threading.Thread(target=self._run, args=(ready,), daemon=True).start()
        ready.wait(10)

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self.port = servers.free_port()
        listener = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port))
        ready.set()
        self._loop.run_forever()
        listener.close()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, on = await asyncio.open_connection("127.0.0.1", self.server.port)
        except OSError:
            self._abort(writer)
            return
        self._open |= {writer, on}
        feed = asyncio.Event()
        ways = [
            asyncio.ensure_future(self._pump(reader, on, feed)),
            asyncio.ensure_future(self._pump(back, writer, feed)),
        ]
        # cancelled only at the very end, where asyncio complains of every stream that did not expect it
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        self._open -= {writer, on}
        for way in ways:
            way.cancel()
        for one in (writer, on):
            with contextlib.suppress(Exception):
                one.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, feed: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 18):
                if b"PSYNC" in data:
                    feed.set()
                delay = self.delay + (self.feed_delay if feed.is_set() else 0.0)
                if delay:
                    await asyncio.sleep(delay)
                writer.write(data)
                await writer.drain()

    @staticmethod
    def _abort(writer: asyncio.StreamWriter) -> None:
        """RST, as a firewall or a host that went away gives it."""
        with contextlib.suppress(Exception):
            held = writer.get_extra_info("socket")
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def reset(self) -> None:
        """Cut every connection at once, with what was on its way."""
        self._loop.call_soon_threadsafe(lambda: [self._abort(one) for one in list(self._open)])

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
