"""A payload as JSON: what may be in it, its text in the database, and the JSON lines of the command line.

``json.dumps`` merges ``{1: .., "1": ..}`` in silence and writes NaN; ``json.loads`` takes lone surrogates,
``1e400`` and double keys. PostgreSQL then refuses one half of that in the middle of a batch and stores the
other half, which no reader can load. So each payload is walked once. A refusal names the place
(``payload.items[3]``) and never the text that stands there.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn

from pydantic import BaseModel

from mqworker.errors import InvalidMessage

MAX_PAYLOAD_BYTES = 262_144
MAX_LINE_CHARACTERS = 16 * 1024 * 1024
MAX_DEPTH = 64

# The walk has found every fault, cycles included, before the encoder runs.
_dump = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode


def check_payload(payload: object, max_bytes: int = MAX_PAYLOAD_BYTES) -> str:
    """The JSON text of ``payload``: a dict, or a pydantic model by its ``model_dump(mode="json")``."""
    if isinstance(payload, BaseModel):
        payload = _dumped(payload)
    if not isinstance(payload, dict):
        raise InvalidMessage("payload", f"must be an object (dict), got {type(payload).__name__}")
    _walk(payload, max_bytes)
    text = _dump(payload)
    if (size := utf8_length(text)) > max_bytes:
        raise InvalidMessage("payload", f"must be at most {max_bytes} bytes as JSON, got {size}")
    return text


def utf8_length(text: str) -> int:
    """How many bytes ``text`` takes as UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def _dumped(model: BaseModel) -> object:
    try:
        return model.model_dump(mode="json")
    except Exception as error:
        # Its name only: its text may quote the payload.
        reason = f"{type(model).__name__} cannot be dumped: {type(error).__name__}"
        raise InvalidMessage("payload", reason) from None


_Container = dict[Any, Any] | list[Any] | tuple[Any, ...]
# Named here: a union written in the call is built anew for every value.
_CONTAINERS = (dict, list, tuple)


class _Place(NamedTuple):
    """A container of the payload and the way to it."""

    value: _Container
    parent: _Place | None
    key: str | int
    depth: int


def _walk(payload: dict[Any, Any], max_bytes: int) -> None:
    """Refuse what JSON, PostgreSQL or a reader cannot hold.

    ``size`` is at most what the JSON text will have: shared lists that would unfold to gigabytes end here.
    """
    size = 0
    places = [_Place(payload, None, "payload", 1)]
    while places:
        place = places.pop()
        size += len(place.value) + _keys_length(place)
        if size <= max_bytes:
            size += _check_members(place, places)
        if size > max_bytes:
            raise InvalidMessage("payload", f"must be at most {max_bytes} bytes as JSON")


def _check_members(place: _Place, places: list[_Place]) -> int:
    """The length of the texts in ``place``; its containers are added to ``places``."""
    length = 0
    value: object
    for key, value in _members(place.value):
        if isinstance(value, str):
            length += len(value)
            if fault := _text_fault(value):
                _refuse(place, key, fault)
        elif isinstance(value, _CONTAINERS):
            places.append(_inside(place, key, value))
        elif value is not None and (fault := _scalar_fault(value)):
            _refuse(place, key, fault)
    return length


def _members(value: _Container) -> Iterable[tuple[str | int, Any]]:
    return value.items() if isinstance(value, dict) else enumerate(value)


def _keys_length(place: _Place) -> int:
    """The length of a dict's keys together, each of them checked."""
    length = 0
    for key in place.value if isinstance(place.value, dict) else ():
        if not isinstance(key, str):
            _refuse(place.parent, place.key, f"has a key of type {type(key).__name__}: keys must be str")
        if fault := _text_fault(key):
            _refuse(place.parent, place.key, f"has a key that {fault}")
        length += len(key)
    return length


def _inside(place: _Place, key: str | int, value: _Container) -> _Place:
    above: _Place | None = place
    while above is not None:
        if above.value is value:
            _refuse(place, key, "is circular: it holds itself")
        above = above.parent
    if place.depth >= MAX_DEPTH:
        _refuse(place, key, f"is nested deeper than {MAX_DEPTH} levels")
    return _Place(value, place, key, place.depth + 1)


def _text_fault(text: str) -> str | None:
    if "\0" in text:
        return f"contains NUL (U+0000) at index {text.index(chr(0))}"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return f"is not valid Unicode (lone surrogate at index {error.start})"
    return None


_PLAIN = "str, int, float, bool, None, dict or list"
_INSTEAD = {
    "bytes": "base64 text",
    "set": "a list",
    "datetime": "value.isoformat()",
    "date": "value.isoformat()",
    "Decimal": "str(value)",
    "UUID": "str(value)",
}


def _scalar_fault(value: object) -> str | None:
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**63 else "must fit 64 bits: pass a larger integer as str"
    if isinstance(value, float):
        return None if math.isfinite(value) else "must be finite: JSON has no NaN and no infinity"
    name = type(value).__name__
    return f"cannot be JSON: pass {_INSTEAD.get(name, _PLAIN)}, not {name[:80]}"


def _refuse(place: _Place | None, key: str | int, reason: str) -> NoReturn:
    path = _step(key) if place is not None else str(key)
    while place is not None:
        path = (_step(place.key) if place.parent else str(place.key)) + path
        place = place.parent
    raise InvalidMessage(path if len(path) <= 200 else f"{path[:80]}…{path[-119:]}", reason)


def _step(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    if key.isidentifier() and key.isascii() and len(key) <= 40:
        return f".{key}"
    return f"[{key[:40]!a}{'…' if len(key) > 40 else ''}]"


def parse_json_object(line: str) -> dict[str, object]:
    """One JSON object from text, strictly; a refusal's field is ``line``. Its payload is checked later."""
    if len(line) > MAX_LINE_CHARACTERS:
        raise InvalidMessage("line", f"must be at most {MAX_LINE_CHARACTERS} characters")
    try:
        value = json.loads(
            line, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int
        )
    except json.JSONDecodeError as error:
        raise InvalidMessage("line", f"is not JSON: {error.msg} (column {error.pos + 1})") from None
    except RecursionError:
        raise InvalidMessage("line", f"is nested deeper than {MAX_DEPTH} levels") from None
    if not isinstance(value, dict):
        raise InvalidMessage("line", f"must be a JSON object, got {type(value).__name__}")
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        double = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise InvalidMessage("line", f"has the key {double[:40]!a} twice in one object")
    return value


def _constant(name: str) -> NoReturn:
    raise InvalidMessage("line", f"contains {name}, which is not JSON")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise InvalidMessage("line", "contains a number beyond 1.8e308")
    return value


def _int(digits: str) -> int:
    # Beyond 4300 digits int() refuses in words of its own; beyond 64 bits the payload check would.
    if len(digits) > 20:
        raise InvalidMessage("line", f"contains an integer of {len(digits)} digits: at most 64 bits fit")
    return int(digits)
