# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The target as a replica of the engine: it expires and evicts nothing by itself, and takes writes from nobody else.

The engine listens, the target does REPLICAOF, gets an empty snapshot and from there whatever the engine sends. Errors are not
answered on such a link: the target counts them, and its count is read wherever something depends on it.
"""

from __future__ import annotations

import collections
import secrets
import select
import socket
import time

from ..errors import UntangleError
from .feed import command_at
from .server import Server

#: A snapshot without a key. Its checksum of zero means that there is none.
_EMPTY = b"REDIS0009\xff" + bytes(8)
_PING = b"*1\r\n$4\r\nPING\r\n"
_GETACK = b"*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n"
#: Seconds between signs of life; a replica gives its master up after 60.
_PING_SECONDS = 5.0
CONNECT_SECONDS = 30.0


class Broken(UntangleError):
    """The target is no longer our replica, or not the process that it was: the route starts over."""


def release(target: Server) -> None:
    """Take a target back from an engine that has died: it is still its replica. One whose engine lives is left alone."""
    facts = target.info("replication")
    if str(facts.get("role")) != "master" and facts.get("master_link_status") != "up":
        target.run("REPLICAOF", "NO", "ONE")


class Link:
    """``open`` makes the target a replica, ``send`` queues, ``pump`` moves bytes without waiting, ``promote`` lets go of it."""

    def __init__(self, target: Server) -> None:
        self.target = target
        self.offset = 0
        self.acknowledged = 0
        self._out: collections.deque[bytes] = collections.deque()
        self.queued = 0
        self._peer: socket.socket | None = None
        self._in = b""
        self._errors = 0
        self._pinged = 0.0
        self._run_id = target.run_id

    def fileno(self) -> int:
        return self._peer.fileno() if self._peer else -1

    # -- becoming its master --------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Make the target our replica. It loses what it holds: who calls this has looked at its mark."""
        # Where it sees us: the address that our own connection comes from, as the target itself tells it.
        client = self.target.run("CLIENT", "ID")
        host = next(
            str(one["addr"]).rpartition(":")[0].strip("[]")
            for one in self.target.client.client_list()
            if int(one["id"]) == int(client)
        )
        user, secret = "untangle-link", secrets.token_hex(24)
        with socket.create_server(("", 0), family=socket.AF_INET) as listener:
            port = listener.getsockname()[1]
            for name, value in (("masteruser", user), ("masterauth", secret)):
                self.target.run("CONFIG", "SET", name, value)
            self.target.run("REPLICAOF", host or "127.0.0.1", port)
            try:
                self._accept(listener, user, secret)
            except BaseException:
                self.target.run("REPLICAOF", "NO", "ONE")
                raise
            finally:
                self.target.run("CONFIG", "SET", "masteruser", "")
                self.target.run("CONFIG", "SET", "masterauth", "")
        self._errors = self._count_errors()

    def _accept(self, listener: socket.socket, user: str, secret: str) -> None:
        end = time.monotonic() + CONNECT_SECONDS
        listener.settimeout(1.0)
        while time.monotonic() < end:
            try:
                peer, _address = listener.accept()
            except socket.timeout:
                continue
            peer.settimeout(5.0)
            try:
                if self._greet(peer, user, secret):
                    peer.setblocking(False)
                    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._peer, self._pinged = peer, time.monotonic()
                    return
            except (OSError, ValueError):
                pass
            # Somebody else, who does not know the word.
            peer.close()
        raise UntangleError(
            "%s cannot reach this engine on port %d within %d s. Open the way from the target to the host that runs the engine."
            % (self.target.address, listener.getsockname()[1], CONNECT_SECONDS)
        )

    def _greet(self, peer: socket.socket, user: str, secret: str) -> bool:
        """Answer a replica until it asks for data. False for one that does not know the password."""
        stream, known = peer.makefile("rb"), False
        while True:
            line = stream.readline()
            if not line:
                return False
            if not line.startswith(b"*"):
                words = line.split()
            else:
                words = []
                for _dummy in range(int(line[1:])):
                    size = int(stream.readline()[1:])
                    words.append(stream.read(size + 2)[:-2])
            name = words[0].upper() if words else b""
            if name == b"AUTH":
                known = secrets.compare_digest(b" ".join(words[1:]), ("%s %s" % (user, secret)).encode())
                if not known:
                    return False
                peer.sendall(b"+OK\r\n")
            elif name == b"PING":
                peer.sendall(b"+PONG\r\n")
            elif not known:
                return False
            elif name == b"PSYNC":
                reply = "+FULLRESYNC %s 0\r\n$%d\r\n" % (secrets.token_hex(20), len(_EMPTY))
                peer.sendall(reply.encode() + _EMPTY)
                return True
            else:
                peer.sendall(b"+OK\r\n")

    # -- sending --------------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> int:
        """Queue commands in wire form; returns the link's offset behind them."""
        self._out.append(data)
        self.queued += len(data)
        self.offset += len(data)
        return self.offset

    def pump(self) -> None:
        """Send what the target takes and read what it acknowledges, without waiting."""
        now = time.monotonic()
        if now - self._pinged > _PING_SECONDS:
            self.send(_PING)
            self._pinged = now
        peer = self._peer
        if peer is None:
            raise Broken("%s is not connected." % self.target.address)
        try:
            while self._out:
                sent = peer.send(self._out[0])
                self.queued -= sent
                if sent < len(self._out[0]):
                    self._out[0] = self._out[0][sent:]
                    break
                self._out.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as exc:
            raise Broken("%s closed its link: %s." % (self.target.address, exc)) from exc
        try:
            data = peer.recv(65536)
            if not data:
                raise Broken("%s closed its link. See its log." % self.target.address)
            self._in += data
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            raise Broken("%s closed its link: %s." % (self.target.address, exc)) from exc
        # A replica that empties itself sends line ends as signs of life.
        while found := command_at(self._in.lstrip(b"\n"), 0):
            words, end = found
            self._in = self._in.lstrip(b"\n")[end:]
            if words[1].upper() == b"ACK":
                self.acknowledged = max(self.acknowledged, int(words[2]))

    def barrier(self, seconds: float = 30.0) -> None:
        """Wait until the target has run everything that was sent, and see that it refused none of it."""
        end = time.monotonic() + seconds
        goal = self.send(_GETACK)
        while self.acknowledged < goal - len(_GETACK):
            self.pump()
            if self.acknowledged >= goal - len(_GETACK):
                break
            if time.monotonic() > end:
                raise Broken(
                    "%s has run %d of %d bytes within %d s." % (self.target.address, self.acknowledged, goal, seconds)
                )
            select.select([self], [self] if self._out else [], [], 0.01)
        self.check()

    def check(self) -> None:
        """That the target is the same process, still our replica, and has refused nothing."""
        info = self.target.info("replication")
        if str(self.target.info("server").get("run_id")) != self._run_id:
            raise Broken("%s was restarted." % self.target.address)
        if str(info.get("role")) != "slave":
            raise Broken("%s is no longer a replica of the engine." % self.target.address)
        if self._count_errors() != self._errors:
            raise Broken("%s has refused a command of the feed." % self.target.address)

    def _count_errors(self) -> int:
        """Errors that the target owed to its master: nobody else's count."""
        return int(self.target.info("stats").get("unexpected_error_replies") or 0)

    # -- letting go -----------------------------------------------------------------------------------------------------

    def promote(self) -> None:
        """Make the target a master of its own: from here on it serves, and nothing of the link reaches it any more."""
        self.target.run("REPLICAOF", "NO", "ONE")
        self.close()

    def close(self) -> None:
        if self._peer is not None:
            self._peer.close()
            self._peer = None
        self._out.clear()
        self.queued = 0
