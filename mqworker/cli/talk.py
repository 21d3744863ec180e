"""Data goes to stdout, talk to stderr, so that what a program reads is never mixed with what a person reads."""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime
from uuid import UUID

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def say(line: str) -> None:
    """Tell the user something, on stderr."""
    print(printable(line), file=sys.stderr, flush=True)


def put(line: str) -> None:
    """Print one line of data on stdout."""
    print(line, flush=True)


def put_json(data: object) -> None:
    """Print data as one line of JSON on stdout."""
    put(json.dumps(data, default=_plain))


def _plain(value: object) -> str:
    match value:
        case datetime():
            return value.isoformat()
        case UUID():
            return str(value)
        case _:
            raise TypeError(f"{type(value).__name__} is no data of ours")


def printable(text: str) -> str:
    """``text`` without what would move a terminal's cursor or colour it: part of it may be anybody's."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def in_one_line(text: str) -> str:
    """The same without line feeds, too."""
    return printable(text).replace("\n", "\\u000a")
