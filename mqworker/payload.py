"""A payload as JSON: what may be in it, its text in the database, and the JSON lines of the command line.

``json.dumps`` merges ``{1: .., "1": ..}`` in silence and writes NaN; ``json.loads`` takes lone surrogates,
``1e400`` and double keys. PostgreSQL then refuses one half of that in the middle of a batch and stores the
other half, which no reader can load. So each payload is walked once. A refusal names the place
(``payload.items[3]``) and never the text that stands there.

Subclasses of dict, list, str and the rest are first made plain: what they say of themselves need not be what they hold.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
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
    if issubclass(type(payload), BaseModel):
        payload = _dumped(payload)
    if not issubclass(type(payload), dict):
        raise InvalidMessage("payload", f"must be an object (dict), got {kind_of(payload)}")
    try:
        _walk(payload, max_bytes)
    except _NotPlain:
        payload = _plain(payload)
        _walk(payload, max_bytes)
    text = _dump(payload)
    if (size := utf8_length(text)) > max_bytes:
        raise InvalidMessage("payload", f"must be at most {max_bytes} bytes as JSON, got {size}")
    return text


_name_of = type.__dict__["__name__"].__get__


def kind_of(value: object) -> str:
    """The name of a value's type, fit for an error's text, whatever its metaclass says."""
    name: str = _name_of(type(value))
    return ascii(name)[1:-1][:80]


def utf8_length(text: str) -> int:
    """How many bytes ``text`` takes as UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def _dumped(model: Any) -> Any:
    try:
        return model.model_dump(mode="json")
    except Exception as error:
        # Its name only: its text may quote the payload.
        reason = f"{kind_of(model)} cannot be dumped: {kind_of(error)}"
        raise InvalidMessage("payload", reason) from None


class _NotPlain(Exception):
    """The payload holds an instance of a subclass."""


def _plain(payload: Any) -> Any:
    """The same of dict, list, str, int and float only; cycles and shared parts stay what they are."""
    copies: dict[int, Any] = {}
    unfilled: list[Any] = []

    def copied(value: Any) -> Any:
        kind = type(value)
        for plain, copy in _COPIES:
            if issubclass(kind, plain):
                return copy(value)
        if not issubclass(kind, _CONTAINERS):
            return value
        if id(value) not in copies:
            copies[id(value)] = {} if issubclass(kind, dict) else []
            unfilled.append(value)
        return copies[id(value)]

    whole = copied(payload)
    while unfilled:
        source = unfilled.pop()
        target = copies[id(source)]
        if issubclass(type(source), dict):
            target.update((_plain_key(key), copied(value)) for key, value in dict.items(source))
            if len(target) < dict.__len__(source):
                raise InvalidMessage("payload", "has two keys with the same text in one object")
        else:
            members = list.__iter__ if issubclass(type(source), list) else tuple.__iter__
            target.extend(copied(value) for value in members(source))
    return whole


def plain_text(value: Any) -> str:
    """What an instance of str or of a subclass holds: an enum's member is its value."""
    return str.__str__(value)


_COPIES: tuple[tuple[type, Callable[[Any], object]], ...] = (
    (str, plain_text),
    (bool, bool),
    (int, int.__int__),
    (float, float.__float__),
)


def _plain_key(key: Any) -> str:
    if not issubclass(type(key), str):
        raise InvalidMessage("payload", _key_reason(key))
    return plain_text(key)


def _key_reason(key: object) -> str:
    return f"has a key of type {kind_of(key)}: keys must be str"


_Container = dict[Any, Any] | list[Any] | tuple[Any, ...]
_CONTAINERS = (dict, list, tuple)
_PLAIN_CONTAINERS = frozenset(_CONTAINERS)
_SUBCLASSED = (*_CONTAINERS, str, int, float)


class _Place(NamedTuple):
    """A container of the payload and the way to it."""

    value: _Container
    parent: _Place | None
    key: str | int
    depth: int


def _walk(payload: Any, max_bytes: int) -> None:
    """Refuse what JSON, PostgreSQL or a reader cannot hold.

    ``size`` is at most what the JSON text will have: shared lists that would unfold to gigabytes end here.
    """
    if type(payload) is not dict:
        raise _NotPlain
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
    value: Any
    for key, value in _members(place.value):
        kind = type(value)
        if kind is str:
            length += len(value)
            if fault := _text_fault(value):
                _refuse(place, key, fault)
        elif kind in _PLAIN_CONTAINERS:
            places.append(_inside(place, key, value))
        elif value is not None and (fault := _scalar_fault(value, kind)):
            _refuse(place, key, fault)
    return length


def _members(value: _Container) -> Iterable[tuple[str | int, Any]]:
    return value.items() if type(value) is dict else enumerate(value)


def _keys_length(place: _Place) -> int:
    """The length of a dict's keys together, each of them checked."""
    length = 0
    for key in place.value if type(place.value) is dict else ():
        if type(key) is not str:
            if issubclass(type(key), str):
                raise _NotPlain
            _refuse(place.parent, place.key, _key_reason(key))
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


_JSON_TYPES = "str, int, float, bool, None, dict or list"
_INSTEAD = {
    "bytes": "base64 text",
    "set": "a list",
    "datetime": "value.isoformat()",
    "date": "value.isoformat()",
    "Decimal": "str(value)",
    "UUID": "str(value)",
}


def _scalar_fault(value: Any, kind: type) -> str | None:
    if kind is int:
        return None if -(2**63) <= value < 2**63 else "must fit 64 bits: pass a larger integer as str"
    if kind is float:
        return None if math.isfinite(value) else "must be finite: JSON has no NaN and no infinity"
    if kind is bool:
        return None
    if issubclass(kind, _SUBCLASSED):
        raise _NotPlain
    name = kind_of(value)
    return f"cannot be JSON: pass {_INSTEAD.get(name, _JSON_TYPES)}, not {name}"


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
