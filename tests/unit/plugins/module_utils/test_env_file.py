# Copyright (c) 2026, the njoy.untangle authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dotenv text: what is written is read alike by a shell and by python-dotenv, and nothing else in the file moves."""

from __future__ import annotations

import io
import subprocess

import dotenv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.njoy.untangle.plugins.module_utils import env_file
from ansible_collections.njoy.untangle.plugins.module_utils.errors import UntangleError

NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True)
# Far more of what is special to one reader or another than chance would give.
VALUES = st.text(
    st.sampled_from("ab0 \t'\"\\$`{}#=!&;*~%@:/-é\u00a0\u2028💥") | st.characters(codec="utf-8"), max_size=12
)
WRITABLE = VALUES.filter(env_file.forms)


def read(text):
    return dict(dotenv.dotenv_values(stream=io.StringIO(text)))


# --- values


@given(st.dictionaries(NAMES, WRITABLE, max_size=5))
def test_python_dotenv_reads_what_was_written(values):
    assert read(env_file.assign("", values).text) == values


@given(st.lists(WRITABLE, min_size=1, max_size=60))
@settings(max_examples=20, deadline=None)
def test_a_shell_reads_what_was_written(values):
    names = ["V%d" % number for number in range(len(values))]
    text = env_file.assign("", dict(zip(names, values))).text
    script = text + "printf '%s\\0' " + " ".join('"$%s"' % name for name in names)
    shell = subprocess.run(["/bin/sh"], input=script.encode(), capture_output=True, check=True)
    assert shell.stdout.decode().split("\0")[:-1] == values


@given(VALUES)
def test_every_form_is_read_alike(value):
    for form in env_file.forms(value):
        assert read("A=%s\n" % form) == {"A": value}


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("", ""),
        ("redis://cache:s%2Fcret@127.0.0.1:6381/0", "redis://cache:s%2Fcret@127.0.0.1:6381/0"),
        ("two words", "'two words'"),
        ("a#b", "'a#b'"),
        ("$HOME", "'$HOME'"),
        ("~/x", "'~/x'"),
        ("C:\\dir\\file", "'C:\\dir\\file'"),
        ('say "hi"', "'say \"hi\"'"),
        ("it's", '"it\'s"'),
    ],
)
def test_the_form_chosen(value, written):
    assert env_file.assign("", {"A": value}).text == "A=%s\n" % written


@pytest.mark.parametrize(
    "value",
    ["a\nb", "a\rb", "a\0b", "\x1b[0m", "\x85", "${HOME}", "it's $5", 'it\'s "x"', "'\\", "x\\", "a\\\\b", 'x="y'],
)
def test_a_value_without_a_common_form_is_refused(value):
    with pytest.raises(UntangleError) as caught:
        env_file.assign("", {"SECRET": value})
    assert "SECRET" in caught.value.message
    assert value not in caught.value.message  # it may be a password


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A.B", "A B", "A=", "A\n", "É"])
def test_names_that_a_shell_does_not_take_are_refused(name):
    for edit in (lambda: env_file.assign("", {name: "x"}), lambda: env_file.remove("", [name])):
        with pytest.raises(UntangleError, match="no name"):
            edit()


# --- files

FILE = """\
# Settings of the shop.  CACHE_URL=not this one
export APP=shop

CACHE_URL=redis://10.0.0.5:6379/10   # shared
  SESSION_URL = "redis://10.0.0.5:6379/0"
KEY="-----BEGIN
CACHE_URL=inside a value
-----END"
EMPTY= # nothing yet
"""


def test_only_the_values_named_move():
    edit = env_file.assign(FILE, {"CACHE_URL": "redis://new/0", "SESSION_URL": "a b", "EMPTY": "x"})
    assert edit.text == (
        FILE.replace("redis://10.0.0.5:6379/10", "redis://new/0")
        .replace('"redis://10.0.0.5:6379/0"', "'a b'")
        .replace("EMPTY= #", "EMPTY=x #")
    )
    assert edit.changes == (("CACHE_URL", "changed"), ("SESSION_URL", "changed"), ("EMPTY", "changed"))


def test_a_value_that_stands_in_another_form_stays():
    text = "A='abc'\nB=\"abc\" # why\nC=abc\n"
    assert env_file.assign(text, {"A": "abc", "B": "abc", "C": "abc"}) == env_file.Edit(text, ())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "N=1\n"),
        ("A=1\n", "A=1\nN=1\n"),
        ("A=1", "A=1\nN=1"),
        ("A=1\r\n", "A=1\r\nN=1\r\n"),
        ("A=1\r\nB=2", "A=1\r\nB=2\r\nN=1"),
        ("N=0\r\nB=2\r\n", "N=1\r\nB=2\r\n"),
        ("export A=1\nexport B=2\n", "export A=1\nexport B=2\nexport N=1\n"),
        ("export A=1\nB=2\n", "export A=1\nB=2\nN=1\n"),
        ("export  N = old\n", "export  N = 1\n"),
        ("\ufeffN=0\n", "\ufeffN=1\n"),
        ("N=first\nA=1\nN=last\n", "N=1\nA=1\nN=1\n"),
        ("N=\n", "N=1\n"),
        ("N=#old\n", "N=1\n"),
        ("N= # why\n", "N=1 # why\n"),
        ("N='it'\\''s' # x\n", "N=1\n"),
        ("N='open\nA=1\n", "N=1\nA=1\n"),
        ("N='two\nlines' # why\nA=1\n", "N=1 # why\nA=1\n"),
        ("N='two\r\nlines'\r\nA=1\r\n", "N=1\r\nA=1\r\n"),
        ('N="a \\" quote"\nA=1\n', "N=1\nA=1\n"),
        ('N="ends with \\\\"\nA="1"\n', 'N=1\nA="1"\n'),
        ("#N=0\n", "#N=0\nN=1\n"),
        ("NN=0\n", "NN=0\nN=1\n"),
        ("echo hello\n", "echo hello\nN=1\n"),
    ],
)
def test_files_of_every_kind(before, after):
    edit = env_file.assign(before, {"N": "1"})
    assert edit.text == after
    assert env_file.assign(after, {"N": "1"}) == env_file.Edit(after, ())


def test_an_empty_value_before_a_comment_is_quoted():
    assert env_file.assign("N=old # why\n", {"N": ""}).text == "N='' # why\n"
    assert env_file.assign("N= # why\n", {"N": ""}).text == "N='' # why\n"


def test_bytes_that_are_no_utf8_survive():
    raw = b"A=caf\xe9\nN=old\n"
    edit = env_file.assign(raw.decode("utf-8", "surrogateescape"), {"N": "new"})
    assert edit.text.encode("utf-8", "surrogateescape") == b"A=caf\xe9\nN=new\n"


def test_a_line_that_goes_on_is_refused():
    for edit in (
        lambda: env_file.assign("A=1\nN=x\\\ny\n", {"N": "1"}),
        lambda: env_file.remove("A=1\nN=x\\\ny\n", ["N"]),
    ):
        with pytest.raises(UntangleError, match="Line 2"):
            edit()


LINES = st.lists(
    st.tuples(
        st.sampled_from(["", "export ", "  "]),
        NAMES,
        st.sampled_from(["=", " = ", "= "]),
        WRITABLE.flatmap(lambda value: st.sampled_from(env_file.forms(value))),
        st.sampled_from(["", " # why", "  "]),
    ).map("".join)
    | st.sampled_from(["", "# a comment", "   ", "A='two\nlines'", "AB=it's"]),
    max_size=8,
)
FILES = st.tuples(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans()).map(
    lambda x: x[1].join(x[0]) + (x[1] if x[2] and x[0] else "")
)


@given(FILES)
def test_the_pieces_are_the_file(text):
    assert "".join(map(str, env_file.parse(text))) == text


@given(FILES, st.dictionaries(NAMES, WRITABLE, max_size=3))
def test_other_names_keep_their_values(text, values):
    before, edit = read(text), env_file.assign(text, values)
    assert read(edit.text) == {**before, **values}
    assert env_file.assign(edit.text, values) == env_file.Edit(edit.text, ())
    assert bool(edit.changes) == (edit.text != text)


@given(FILES, st.dictionaries(NAMES, WRITABLE, max_size=3))
def test_there_and_back_is_the_same_file(text, values):
    there = env_file.assign(text, values).text
    back = env_file.put_back(there, text, list(values))
    assert back.text == text or read(back.text) == read(text)
    assert env_file.put_back(back.text, text, list(values)) == env_file.Edit(back.text, ())


@given(FILES, st.dictionaries(NAMES, WRITABLE, min_size=1, max_size=3), WRITABLE)
def test_what_was_changed_meanwhile_stays(text, values, other):
    there = env_file.assign(text, values).text
    there = env_file.assign(there, {"MEANWHILE": other}).text
    back = env_file.put_back(there, text, list(values)).text
    assert read(back) == {**read(text), "MEANWHILE": other}


def test_put_back_is_exact_without_a_last_line_break():
    there = env_file.assign("A=1", {"A": "2", "N": "3"}).text
    assert there == "A=2\nN=3"
    assert env_file.put_back(there, "A=1", ["A", "N"]).text == "A=1"


def test_remove_takes_every_line_of_a_name():
    edit = env_file.remove("N=1\nA=2\nexport N='x\ny'\nNN=3\n", ["N", "GONE"])
    assert edit == env_file.Edit("A=2\nNN=3\n", (("N", "removed"),))


# --- diff


def test_a_diff_names_what_changes_and_shows_no_value():
    edit = env_file.assign(
        "A=old-secret\nB=same\nOTHER=other-secret\n", {"A": "new-secret", "B": "same", "N": "added-secret"}
    )
    assert edit.diff("/srv/.env") == {
        "before_header": "/srv/.env",
        "after_header": "/srv/.env",
        "before": "A=********\n",
        "after": "A=******** (new value)\nN=******** (added)\n",
    }
    assert env_file.remove("A=secret\n", ["A"]).diff("x")["after"] == ""
