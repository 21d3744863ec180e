"""Objects that are not what they say: subclasses of plain types whose methods raise or lie, odd zones, odd shapes."""

from __future__ import annotations

import enum
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, NamedTuple
from unittest.mock import Mock
from uuid import UUID

from pydantic import BaseModel

_METHODS = (
    "__len__ __iter__ __str__ __repr__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __bool__ __contains__ __getitem__",
    "__int__ __index__ __float__ __format__ __add__ __neg__ __abs__ __round__ strip encode isascii replace split",
    "startswith endswith lower upper find index count join items keys values get pop copy update append extend",
    "bit_length is_integer as_integer_ratio utcoffset astimezone isoformat timestamp",
)
_BASES: list[type] = [str, int, float, dict, list, tuple, datetime]


def _subclass(base: type, name: str, answer: Callable[..., Any]) -> Any:
    methods = {method: answer for line in _METHODS for method in line.split() if hasattr(base, method)}
    # A dict must be able to hold it: its hash stays what it is.
    return type(f"{name}{base.__name__.title()}", (base,), {**methods, "__hash__": base.__hash__})


def _raise(*_: Any, **__: Any) -> Any:
    raise LookupError("hostile")


RAISING = {base: _subclass(base, "Raising", _raise) for base in _BASES}
LYING = {base: _subclass(base, "Lying", lambda *_, **__: 1) for base in _BASES}


class LyingMembers(dict[Any, Any]):
    """Empty by its words, then full of what no JSON holds."""

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Any]:
        return iter([float("nan")])

    def items(self) -> Any:
        return [("a", float("nan")), ("b", {1: {2}})]


class LyingList(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([object()])


class Growing(dict[Any, Any]):
    """It changes while it is looked at."""

    def items(self) -> Any:
        self[str(len(self))] = 1
        return super().items()

    def __iter__(self) -> Iterator[Any]:
        for key in super().__iter__():
            self[f"more than {key}"] = 1
            yield key


class Apart(str):
    """A text that is equal to no other: a dict can hold it twice."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return False


class Untouchable:
    """Not even its attributes can be looked at."""

    def __getattribute__(self, name: str) -> Any:
        raise LookupError("hostile")


class Pretender:
    """It says that it is a str."""

    @property
    def __class__(self) -> Any:
        return str

    @__class__.setter
    def __class__(self, value: Any) -> None: ...


class BadZone(tzinfo):
    """A time zone whose answer is an error, or no answer."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def utcoffset(self, when: datetime | None) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def tzname(self, when: datetime | None) -> str:
        raise LookupError("hostile")

    def dst(self, when: datetime | None) -> timedelta:
        raise LookupError("hostile")


class Model(BaseModel):
    text: str = "é"
    when: date = date(2030, 1, 31)
    inner: dict[str, Any] = {}


class BadModel(BaseModel):
    def model_dump(self, **_: Any) -> Any:
        raise LookupError("hostile")


class OddModel(BaseModel):
    def model_dump(self, **_: Any) -> Any:
        return ["a list"]


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 7


class Point(NamedTuple):
    x: int = 1
    y: int = 2


def circular() -> dict[str, Any]:
    whole: dict[str, Any] = {"list": []}
    whole["list"].append(whole)
    return whole


def circular_subclass() -> dict[str, Any]:
    whole: dict[str, Any] = {"list": LyingList()}
    whole["list"].append(whole)
    return whole


def deep(levels: int, kind: type[Any] = dict) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = kind({"a": value}) if issubclass(kind, dict) else kind([value])
    return value


def bomb() -> dict[str, Any]:
    """Some hundred bytes that unfold to gigabytes."""
    value: list[Any] = ["boom"] * 10
    for _ in range(12):
        value = [value] * 10
    return {"a": value}


# Made anew for each use: some change when they are looked at.
# A payload may hold these.
PLAIN: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: Colour.RED,
    lambda: Level.HIGH,
    lambda: Point(),
    lambda: OrderedDict(a=1),
    lambda: defaultdict(list, a=[1]),
    lambda: {Colour.RED: Colour.RED},
    lambda: RAISING[str]("text"),
    lambda: RAISING[int](7),
    lambda: RAISING[float](0.5),
    lambda: RAISING[dict]({"a": 1}),
    lambda: RAISING[list]([1]),
    lambda: RAISING[tuple]([1]),
    lambda: LYING[str]("text"),
    lambda: LYING[int](7),
    lambda: LYING[dict]({"a": LYING[list]([1])}),
    lambda: LyingMembers({"a": 1}),
    lambda: LyingList([1]),
    lambda: Growing(a=1),
    lambda: {RAISING[str]("key"): 1},
    lambda: deep(60),
    lambda: deep(60, RAISING[list]),
]
# A payload may not hold these.
NEVER: list[Callable[[], Any]] = [
    object,
    Untouchable,
    Pretender,
    lambda: Mock(spec=str),
    lambda: Mock(spec=dict),
    lambda: Mock(spec=BaseModel),
    lambda: LYING[str]("a\0b"),
    lambda: LYING[int](2**70),
    lambda: LYING[float]("nan"),
    lambda: LYING[dict]({"a": float("nan")}),
    lambda: LYING[dict]({1: 1}),
    lambda: {"key": 1, Apart("key"): 2},
    lambda: {LYING[str]("key\ud800"): 3},
    lambda: {Untouchable: 1},
    lambda: (n for n in range(3)),
    lambda: iter([1]),
    lambda: range(3),
    lambda: {1, 2},
    lambda: b"bytes",
    lambda: bytearray(b"bytes"),
    lambda: memoryview(b"bytes"),
    lambda: Decimal("1.5"),
    lambda: 1j,
    lambda: print,
    lambda: int,
    lambda: ...,
    lambda: NotImplemented,
    lambda: ValueError("x"),
    lambda: 10**5000,
    lambda: -(2**64),
    lambda: float("nan"),
    lambda: float("-inf"),
    lambda: "\ud800",
    lambda: "a\0",
    lambda: "x" * 300_000,
    lambda: ["x"] * 300_000,
    lambda: {"a\ud800": 1},
    lambda: {b"a": 1},
    lambda: {None: 1, "None": 2},
    lambda: BadModel(),
    lambda: OddModel(),
    circular,
    circular_subclass,
    bomb,
    lambda: deep(65),
    lambda: deep(100_000),
    lambda: deep(100_000, list),
    lambda: deep(5_000, LYING[list]),
    lambda: datetime(2030, 1, 1),  # noqa: DTZ001 - without a zone on purpose
    lambda: datetime.min.replace(tzinfo=UTC),
    lambda: datetime.max.replace(tzinfo=timezone(timedelta(hours=-23))),
    lambda: datetime(2030, 1, 1, tzinfo=BadZone(LookupError("hostile"))),
    lambda: datetime(2030, 1, 1, tzinfo=BadZone("soon")),
    lambda: datetime(2030, 1, 1, tzinfo=BadZone(timedelta(days=3))),
    lambda: datetime(2030, 1, 1, tzinfo=BadZone(None)),
    lambda: RAISING[datetime](2030, 1, 1, tzinfo=UTC),
    lambda: LYING[datetime](9999, 1, 1, tzinfo=UTC),
    lambda: UUID(int=0),
]

# As arguments some of these are good, or a payload themselves.
OTHERS: list[Callable[[], Any]] = [
    Model,
    lambda: Model(inner={"n": [1, None]}),
    lambda: datetime.now(UTC),
    lambda: UUID(int=7),
    lambda: str(UUID(int=7)),
    lambda: LYING[str]("x" * 600),
    lambda: LYING[str](" "),
    lambda: LYING[str](""),
]


def plain(value: Any) -> Any:
    """What a reader must get for a payload, told independently of how the queue reads it."""
    if issubclass(type(value), BaseModel):
        return value.model_dump(mode="json")
    for base, made in ((bool, bool), (int, int.__int__), (float, float.__float__), (str, str.__str__)):
        if issubclass(type(value), base):
            return made(value)
    if issubclass(type(value), dict):
        return {str.__str__(key): plain(inner) for key, inner in dict.items(value)}
    if issubclass(type(value), list):
        return [plain(inner) for inner in list.__iter__(value)]
    if issubclass(type(value), tuple):
        return [plain(inner) for inner in tuple.__iter__(value)]
    return value


def alike(arrived: Any, sent: Any) -> bool:
    """Whether a reader got what was sent. PostgreSQL keeps 1e16 as 10000000000000000, which Python reads as an int."""
    if isinstance(sent, dict):
        return arrived.keys() == sent.keys() and all(alike(arrived[key], inner) for key, inner in sent.items())
    if isinstance(sent, list):
        return len(arrived) == len(sent) and all(map(alike, arrived, sent))
    if isinstance(sent, float):
        return float(arrived) == sent
    return type(arrived) is type(sent) and bool(arrived == sent)
