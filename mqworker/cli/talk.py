"""Data goes to stdout, talk to stderr, so that what a program reads is never mixed with what a person reads."""

from __future__ import annotations

import re
import sys

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def say(line: str) -> None:
    """Tell the user something, on stderr."""
    print(printable(line), file=sys.stderr, flush=True)


def put(line: str) -> None:
    """Print one line of data on stdout."""
    print(line, flush=True)


def printable(text: str) -> str:
    """``text`` without what would move a terminal's cursor or colour it: part of it may be anybody's."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
