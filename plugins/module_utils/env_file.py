# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Editing dotenv text: names are set, taken out or put back; everything else stays as it was, byte for byte.

Nobody knows which program reads an env file, and often several do: a shell, Docker Compose, a library of the application.
They disagree on escapes, so no escape is ever written. A value goes out in the first form that all of them read alike:

====================  ================================================================================================
bare                  letters, digits and ``_ . / : @ % + , = -``, which ``docker run --env-file`` can read as well
``'single quotes'``   no single quote, no ``\\\\``, no ``\\`` at the end, no ``="`` (PHP dotenv takes it for a value of several lines)
``"double quotes"``   no double quote, no ``$``, no back-quote, no backslash
====================  ================================================================================================

A value for which no form is left (``it's $5``) is refused, as are line breaks and other control characters. ``${`` is refused
because python-dotenv replaces variables inside single quotes too.

Text is what ``bytes.decode("utf-8", "surrogateescape")`` gives, so that a file in another encoding survives.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, replace

from .errors import UntangleError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
MASK = "********"

_BARE = re.compile(r"[A-Za-z0-9_./:@%+,=-]*\Z")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_ASSIGNMENT = re.compile(
    "(?P<head>\ufeff?[ \t]*(?P<export>export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)[ \t]*=)(?P<gap>[ \t]*)(?P<rest>.*)",
    re.DOTALL,
)
_QUOTED = r"""(?P<token>'(?:\\'|[^'%(stop)s])*'|"(?:\\"|[^"%(stop)s])*")(?P<tail>[ \t]*(?:\#[^\r\n]*)?)"""
_QUOTED_LINE = re.compile(_QUOTED % {"stop": r"\n"} + r"\Z", re.VERBOSE)
_QUOTED_LINES = re.compile(_QUOTED % {"stop": ""} + r"(?P<end>\r?\n|\Z)", re.VERBOSE)
_BARE_LINE = re.compile(r"(?P<token>[^\n]*?)(?P<tail>[ \t]+\#[^\n]*|[ \t]*)\Z", re.VERBOSE)


@dataclass(frozen=True)
class Piece:
    """An assignment (``name`` is set) or a run of text between assignments; ``str()`` of all pieces is the file."""

    head: str  # up to the value: indentation, export, name, equals sign
    token: str = ""  # the value as it is written, quotes included
    tail: str = ""  # a comment behind the value
    end: str = ""  # the line break, as this line has it
    name: str = ""
    number: int = 0  # of the line, from 1
    exported: bool = False

    def __str__(self) -> str:
        return self.head + self.token + self.tail + self.end


@dataclass(frozen=True)
class Edit:
    """A new text, and what makes it differ: (name, 'added' | 'changed' | 'removed' | 'put back'), in the file's order."""

    text: str
    changes: tuple[tuple[str, str], ...]

    def diff(self, path: str) -> dict[str, str]:
        """Before and after for Ansible's diff: which names, never a value, because any value may be a secret."""
        before = [name for name, what in self.changes if what != "added"]
        after = [(name, what) for name, what in self.changes if what != "removed"]
        return {
            "before_header": path,
            "after_header": path,
            "before": "".join("%s=%s\n" % (name, MASK) for name in before),
            "after": "".join(
                "%s=%s (%s)\n" % (name, MASK, "new value" if what == "changed" else what) for name, what in after
            ),
        }


def forms(value: str) -> tuple[str, ...]:
    """Every way of writing a value that all readers read alike, the best one first; empty when there is none."""
    if _CONTROL.search(value) or "${" in value:
        return ()
    found = []
    if _BARE.match(value):
        found.append(value)
    if not re.search(r"""'|\\\\|\\\Z|=\"""", value):
        found.append("'%s'" % value)
    if not re.search(r'["$`\\]', value):
        found.append('"%s"' % value)
    return tuple(found)


def parse(text: str) -> list[Piece]:
    """A file's pieces. A quoted value may go over several lines; a quote that nothing closes ends with its line."""
    pieces: list[Piece] = []
    position, number = 0, 1
    while position < len(text):
        stop = text.find("\n", position) + 1 or len(text)
        piece = _assignment(text, position, stop, number) or Piece(text[position:stop], number=number)
        pieces.append(piece)
        position += len(str(piece))
        number += max(1, str(piece).count("\n"))
    return pieces


def _assignment(text: str, position: int, stop: int, number: int) -> Piece | None:
    line = text[position:stop]
    end = line[len(line.rstrip("\r\n")) :] if line.endswith("\n") else ""
    found = _ASSIGNMENT.match(line[: len(line) - len(end)])
    if found is None:
        return None
    piece = Piece(
        found["head"] + found["gap"], end=end, name=found["name"], number=number, exported=bool(found["export"])
    )
    rest = found["rest"]
    if rest.startswith("#") and found["gap"]:  # NAME= # a comment
        return replace(piece, head=found["head"], tail=found["gap"] + rest)
    if rest[:1] in ("'", '"'):
        quoted = _QUOTED_LINE.match(rest)
        if quoted:
            return replace(piece, token=quoted["token"], tail=quoted["tail"])
        quoted = _QUOTED_LINES.match(text, position + len(piece.head))
        if quoted:
            return replace(piece, token=quoted["token"], tail=quoted["tail"], end=quoted["end"])
        return replace(
            piece, token=rest
        )  # parts glued together, as in 'it'\''s', or a quote left open: all of it is the value
    bare = _BARE_LINE.match(rest)
    return replace(piece, token=bare["token"], tail=bare["tail"]) if bare else piece


def assign(text: str, values: t.Mapping[str, str]) -> Edit:
    """Give every name its value, wherever it stands: readers differ in which of two lines wins, so both get it.

    A line that says the value already, in whichever form, stays as it is. New names follow at the end, with ``export`` where
    all other assignments have it. Raises UntangleError for a name or value that cannot be written.
    """
    for name, value in values.items():
        _check(name, value)
    pieces = parse(text)
    changed: dict[str, str] = {}
    for index, piece in enumerate(pieces):
        if piece.name not in values:
            continue
        ways = forms(values[piece.name])
        commented = bool(piece.tail.strip())
        if piece.token in ways and (piece.token or not commented):
            continue
        _refuse_continued(piece)
        # An empty value in front of a comment needs its quotes: python-dotenv would read the comment.
        pieces[index] = replace(piece, token=ways[0] or ("''" if commented else ""))
        changed[piece.name] = "changed"
    present = {piece.name for piece in pieces}
    added = [name for name in values if name not in present]
    changed.update(dict.fromkeys(added, "added"))
    return Edit(_append(pieces, [(name, forms(values[name])[0]) for name in added]), tuple(changed.items()))


def remove(text: str, names: t.Collection[str]) -> Edit:
    """Take out every line that sets one of the names. Raises UntangleError where a line goes on behind a backslash."""
    for name in names:
        _check(name)
    pieces = parse(text)
    for piece in pieces:
        if piece.name in names:
            _refuse_continued(piece)
    gone = dict.fromkeys((piece.name for piece in pieces if piece.name in names), "removed")
    return Edit(
        "".join(str(piece) for piece in pieces if not piece.name or piece.name not in names), tuple(gone.items())
    )


def put_back(text: str, kept: str, names: t.Collection[str]) -> Edit:
    """Give the names back what ``kept``, an earlier state of the file, says of them.

    What else was changed since then stays. Where nothing else was, the result is ``kept`` to the byte.
    """
    old = {piece.name: piece for piece in parse(kept) if piece.name in names}
    changes = []
    for name in dict.fromkeys(names):
        now = [piece.token for piece in parse(text) if piece.name == name]
        then = [piece.token for piece in parse(kept) if piece.name == name]
        if now != then and not (
            now and then and set(now) == set(then[-1:])
        ):  # of lines that differ, the last one is put back
            changes.append((name, "put back" if then else "removed"))
    if not changes:
        return Edit(text, ())
    if remove(text, names).text.rstrip("\r\n") == remove(kept, names).text.rstrip("\r\n"):
        return Edit(kept, tuple(changes))
    pieces = []
    for piece in parse(text):
        if piece.name in old:
            piece = replace(piece, token=old[piece.name].token)
        elif piece.name in names:
            continue
        pieces.append(piece)
    present = {piece.name for piece in pieces}
    return Edit(
        _append(pieces, [(name, piece.token) for name, piece in old.items() if name not in present]), tuple(changes)
    )


def _append(pieces: list[Piece], lines: t.Sequence[tuple[str, str]]) -> str:
    text = "".join(str(piece) for piece in pieces)
    if not lines:
        return text
    assignments = [piece for piece in pieces if piece.name]
    export = "export " if assignments and all(piece.exported for piece in assignments) else ""
    end = "\r\n" if "\r\n" in text else "\n"
    new = end.join("%s%s=%s" % (export, name, token) for name, token in lines)
    if text and not text.endswith("\n"):  # the file ends without a line break, and goes on doing so
        return text + end + new
    return text + new + end


def _check(name: str, value: str = "") -> None:
    if not NAME.match(name):
        raise UntangleError(
            "%r is no name for an environment variable: letters, digits and _ only, and no digit first." % name
        )
    if not forms(value):
        raise UntangleError(
            "The value of %s cannot be written so that shells, Docker Compose and dotenv libraries read the same: it holds a line break "
            'or another control character, ${, =", a backslash before a backslash or at its end, or a single quote together with one of '
            'the characters " $ ` \\. Use the URL form, which encodes such characters, render a template, or choose another value.'
            % name
        )


def _refuse_continued(piece: Piece) -> None:
    if piece.token.endswith("\\") and not piece.tail:
        raise UntangleError(
            "Line %d ends with a backslash: a shell reads the value of %s on in the next line, a dotenv library does not. "
            "Write it on one line, in single quotes." % (piece.number, piece.name)
        )
