# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How every module reaches a Redis or Valkey server: one specification, one way to connect, one place for errors.

The client library is redis-py. Managed hosts do not have it: it comes with the task (see ``use_library``), so that it is
imported inside functions only, after the path is known.
"""

from __future__ import annotations

import os
import sys
import typing as t

from .errors import Away, UntangleError

Options = t.Mapping[str, t.Any]

#: The argument specification of one connection; the doc fragment ``njoy.untangle.connection`` says the same in words.
CONNECTION_OPTIONS: dict[str, dict[str, t.Any]] = {
    "host": {"type": "str", "default": "127.0.0.1"},
    "port": {"type": "int", "default": 6379},
    "unix_socket": {"type": "path"},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "tls": {"type": "bool", "default": False},
    "tls_ca_file": {"type": "path"},
    "tls_cert_file": {"type": "path"},
    "tls_key_file": {"type": "path", "no_log": False},
    "tls_verify": {"type": "bool", "default": True},
    "timeout": {"type": "float", "default": 5.0},
}


def use_library(paths: t.Sequence[str] | None) -> None:
    """Put the archives or directories that hold redis-py in front of the import path, unless redis-py is loaded already."""
    if "redis" in sys.modules:
        return
    for path in reversed(list(paths or ())):
        # Compiled parts cannot be imported from an archive: jobs unpack hiredis, the rest does without.
        archive = os.path.basename(path).startswith("hiredis") and not os.path.isdir(path)
        if path not in sys.path and not archive:
            sys.path.insert(0, path)
    try:
        import redis  # noqa: F401
    except ImportError as exc:
        raise UntangleError(
            "The Python library redis (redis-py) is not at hand on this host: %s. It is brought along from the controller; "
            "run `make setup` there, or name a directory with the library in client_library." % exc
        ) from exc


def address(options: Options) -> str:
    """``host:port`` of a connection, or the path of its socket: the name by which errors and records call an instance."""
    if options.get("unix_socket"):
        return str(options["unix_socket"])
    return "%s:%s" % (options.get("host") or "127.0.0.1", options.get("port") or 6379)


def explain(error: BaseException, options: Options, variable: str = "source") -> str:
    """A Redis or network error as a sentence which names the instance, the fact, the variable and the fix.

    ``variable`` is what the user calls this connection. Secrets never stand in a Redis error, so its text can be quoted.
    """
    import redis

    where = address(options)
    text = str(error) or type(error).__name__
    user = options.get("username") or "default"
    if (
        isinstance(error, redis.AuthenticationError)
        or "WRONGPASS" in text
        or "NOAUTH" in text
        or "invalid password" in text
    ):
        return "%s refuses the login of user %s (%s). Check username and password of %s." % (
            where,
            user,
            text,
            variable,
        )
    if "NOPERM" in text or isinstance(error, redis.exceptions.NoPermissionError):
        return "%s lets user %s in but not do this (%s). Give the user of %s that right, or name another user." % (
            where,
            user,
            text,
            variable,
        )
    if isinstance(error, redis.TimeoutError):
        return "%s did not answer within %s s. Check that the server is not blocked, or raise timeout of %s." % (
            where,
            options.get("timeout") or 5.0,
            variable,
        )
    if "CERTIFICATE" in text.upper() or "SSL" in text.upper():
        return "%s: TLS failed (%s). Check tls, tls_ca_file, tls_cert_file and tls_verify of %s." % (
            where,
            text,
            variable,
        )
    if isinstance(error, (redis.ConnectionError, OSError)):
        return "%s cannot be reached (%s). Check host, port and tls of %s, and that the server runs." % (
            where,
            text,
            variable,
        )
    if "DB index is out of range" in text:
        return (
            "%s does not have this database number (%s). Check `database` in %s against the server's `databases` setting."
            % (where, text, variable)
        )
    return "%s answered: %s (asked through %s)." % (where, text, variable)


def failure(error: BaseException, options: Options, variable: str = "source") -> UntangleError:
    """``explain`` as an exception: Away where trying again may help, and the error is not about who asks or what is asked."""
    import redis

    passing = (redis.ConnectionError, redis.TimeoutError, OSError)
    lasting = (redis.AuthenticationError, redis.exceptions.AuthorizationError)
    away = isinstance(error, passing) and not isinstance(error, lasting)
    # without a master, or while it loads
    away = away or str(error).startswith(("LOADING", "MASTERDOWN", "NOMASTERLINK"))
    return (Away if away else UntangleError)(explain(error, options, variable))


def connect(options: Options, database: int = 0, client_name: str = "untangle", variable: str = "source") -> t.Any:
    """A connected redis-py client (RESP2, bytes in and out) on one database.

    It has a pool of connections, so that one client can be used for a command while another of its connections streams.
    Raises UntangleError when the server cannot be used as described.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    timeout = float(options.get("timeout") or 5.0)
    arguments: dict[str, t.Any] = {
        "db": database,
        "username": options.get("username") or None,
        "password": options.get("password") or None,
        "socket_connect_timeout": timeout,
        # A reply may take longer than a connection: a server that loads or saves is slow, not gone.
        "socket_timeout": max(timeout, 30.0),
        "socket_keepalive": True,
        "client_name": client_name,
        "protocol": 2,
        "lib_name": None,
        "lib_version": None,
        # A command that was cut off must not be sent again behind our back: a push would happen twice.
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
    }
    if options.get("unix_socket"):
        arguments["unix_socket_path"] = os.path.expanduser(str(options["unix_socket"]))
    else:
        arguments["host"] = options.get("host") or "127.0.0.1"
        arguments["port"] = int(options.get("port") or 6379)
        if options.get("tls"):
            verify = options.get("tls_verify", True)
            arguments.update(
                ssl=True,
                ssl_ca_certs=options.get("tls_ca_file"),
                ssl_certfile=options.get("tls_cert_file"),
                ssl_keyfile=options.get("tls_key_file"),
                ssl_cert_reqs="required" if verify else "none",
                ssl_check_hostname=bool(verify),
            )
    client = redis.Redis(**arguments)
    try:
        try:
            client.ping()
        except redis.exceptions.NoPermissionError as exc:
            # A name is a courtesy to whoever reads CLIENT LIST; a user that may not set one can work without.
            if "setname" not in str(exc):
                raise
            client = redis.Redis(**dict(arguments, client_name=None))
            client.ping()
    except redis.exceptions.BusyLoadingError as exc:
        raise Away(
            "%s is still loading its data. Wait until it answers PING, then run again." % address(options)
        ) from exc
    except (redis.RedisError, OSError) as exc:
        raise failure(exc, options, variable) from exc
    return client
