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
import ssl
import time
import typing as t

from ..errors import Away, UntangleError
from .feed import command_at
from .server import Server

#: A snapshot without a key. Its checksum of zero means that there is none.
_EMPTY = b"REDIS0009\xff" + bytes(8)
_PING = b"*1\r\n$4\r\nPING\r\n"
GETACK = b"*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n"
#: Seconds between signs of life; a replica gives its master up after 60.
_PING_SECONDS = 5.0
CONNECT_SECONDS = 30.0
#: How much is handed to the system at once.
_PIECE = 256 << 10


def pack_command(words: t.Sequence[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


class Broken(Away):
    """The target is no longer our replica, or not the process that it was: the route starts over."""


class Refused(Broken):
    """The target has refused a command: it does not hold what it was given."""


def release(target: Server) -> None:
    """Take a target back from an engine that has died: it is still its replica. One whose engine lives is left alone."""
    facts = target.info("replication")
    if str(facts.get("role")) != "master" and facts.get("master_link_status") != "up":
        target.run("REPLICAOF", "NO", "ONE")


def certificate(target: Server) -> ssl.SSLContext | None:
    """An instance that speaks TLS wants it of its master too, with a certificate of its own CA."""
    options = target.options
    if not options.get("tls"):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = options.get("tls_cert_file"), options.get("tls_key_file")
    try:
        context.load_cert_chain(str(files[0]), files[1])
    except OSError as exc:
        raise UntangleError(
            "%s follows its master over TLS, and this engine has no certificate to show: %s, %s (%s). Put both, signed by the CA of the "
            "instances, on the host of the engine (redis_split_tls), or use redis_split_strategy: copy."
            % (target.address, *files, exc)
        ) from exc
    return context


class Link:
    """``open`` makes the target a replica, ``send`` queues, ``pump`` moves bytes without waiting, ``promote`` lets go of it."""

    def __init__(self, target: Server) -> None:
        self.target = target
        self.offset = 0
        self.acknowledged = 0
        self._out: collections.deque[bytes | memoryview] = collections.deque()
        self.queued = 0
        self._peer: socket.socket | None = None
        self._in = b""
        self._errors = 0
        self._kept = False
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
        tls = certificate(self.target)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server(("", 0), family=family) as listener:
            port = listener.getsockname()[1]
            for name, value in (("masteruser", user), ("masterauth", secret)):
                self.target.run("CONFIG", "SET", name, value)
            self.target.run("REPLICAOF", host or "127.0.0.1", port)
            try:
                self._accept(listener, user, secret, tls)
            except BaseException:
                self.target.run("REPLICAOF", "NO", "ONE")
                raise
            finally:
                self.target.run("CONFIG", "SET", "masteruser", "")
                self.target.run("CONFIG", "SET", "masterauth", "")
        self._errors = self._count_errors()

    def _accept(self, listener: socket.socket, user: str, secret: str, tls: ssl.SSLContext | None) -> None:
        end = time.monotonic() + CONNECT_SECONDS
        listener.settimeout(1.0)
        while time.monotonic() < end:
            try:
                peer, _address = listener.accept()
            except socket.timeout:
                continue
            peer.settimeout(5.0)
            try:
                if tls:
                    peer = tls.wrap_socket(peer, server_side=True)
                if self._greet(peer, user, secret):
                    peer.setblocking(False)
                    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._peer, self._pinged = peer, time.monotonic()
                    return
            except (OSError, ValueError):
                pass
            # Somebody else, who does not know the word.
            peer.close()
        raise Away(
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
                self._gather()
                sent = peer.send(self._out[0])
                self.queued -= sent
                if sent < len(self._out[0]):
                    # (TLS sends in pieces of 16 KiB, and a dump may have hundreds of MB)
                    self._out[0] = memoryview(self._out[0])[sent:]
                    break
                self._out.popleft()
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as exc:
            raise Broken("%s closed its link: %s." % (self.target.address, exc)) from exc
        try:
            data = peer.recv(65536)
            if not data:
                raise Broken("%s closed its link. See its log." % self.target.address)
            self._in += data
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as exc:
            raise Broken("%s closed its link: %s." % (self.target.address, exc)) from exc
        # A replica that empties itself sends line ends as signs of life.
        while found := command_at(self._in.lstrip(b"\n"), 0):
            words, end = found
            self._in = self._in.lstrip(b"\n")[end:]
            if words[1].upper() == b"ACK":
                self.acknowledged = max(self.acknowledged, int(words[2]))

    def _gather(self) -> None:
        """Many small commands as one piece: each call of the system costs more than a command."""
        parts, size = list[t.Union[bytes, memoryview]](), 0
        while self._out and size < _PIECE:
            size += len(self._out[0])
            parts.append(self._out.popleft())
        self._out.appendleft(parts[0] if len(parts) == 1 else b"".join(parts))

    def barrier(self, seconds: float = 30.0) -> None:
        """Wait until the target has run everything that was sent, and see that it refused none of it."""
        end = time.monotonic() + seconds
        goal = self.send(GETACK)
        while self.acknowledged < goal - len(GETACK):
            self.pump()
            if self.acknowledged >= goal - len(GETACK):
                break
            if time.monotonic() > end:
                raise Broken(
                    "%s has run %d of %d bytes within %d s." % (self.target.address, self.acknowledged, goal, seconds)
                )
            waiting = select.poll()
            waiting.register(self, select.POLLIN | (select.POLLOUT if self._out else 0))
            waiting.poll(10)
        self.check()

    def check(self) -> None:
        """That the target is the same process, still our replica, and has refused nothing."""
        info = self.target.info("replication")
        if str(self.target.info("server").get("run_id")) != self._run_id:
            raise Broken("%s was restarted." % self.target.address)
        if str(info.get("role")) != "slave":
            raise Broken("%s is no longer a replica of the engine." % self.target.address)
        if self._count_errors() != self._errors:
            raise Refused("%s has refused a command of the feed." % self.target.address)
        # Looked at early: of a file that is being rewritten later nobody could tell whether it has been there before.
        self.kept()

    def kept(self) -> bool:
        """Whether the target has an append-only file again, where it is to have one.

        A replica that has been given a snapshot begins its file anew. Until that is written for the first time, one that is
        killed comes back without anything that it was given; rewriting it later, it keeps the one before meanwhile.
        """
        if not self._kept and self.target.info("replication").get("master_link_status") == "up":
            file = self.target.info("persistence")
            begun = any(int(file.get(name) or 0) for name in ("aof_rewrite_in_progress", "aof_rewrite_scheduled"))
            self._kept = not (int(file.get("aof_enabled") or 0) and begun)
        return self._kept

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


class Down:
    """What ``values`` wants of a target, by a link: commands go down it, nothing comes back. ``sent`` is called after each."""

    def __init__(self, link: Link, sent: t.Callable[[], None]) -> None:
        self._link, self._sent = link, sent
        self.version = link.target.version
        #: Keys that something was put into.
        self._made: set[t.Any] = set()

    def run(self, *words: t.Any) -> t.Any:
        if words[0] == "EXISTS":
            return words[1] in self._made
        return self.batch([words])

    def batch(self, commands: t.Sequence[t.Sequence[t.Any]]) -> None:
        for words in commands:
            self._made.update(words[2:3] if words[0] == "XGROUP" else words[1:2])
            self._link.send(pack_command([word if isinstance(word, bytes) else str(word).encode() for word in words]))
        self._sent()

    def raw(self, *words: t.Any) -> t.Any:
        return None
