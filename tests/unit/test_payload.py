"""What may be in a payload, and what a JSON line of the command line may be."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from pydantic import BaseModel, RootModel, model_serializer

from mqworker.errors import InvalidMessage
from mqworker.payload import MAX_DEPTH, check_payload, parse_json_object

NOW = datetime(2030, 1, 31, 9, tzinfo=UTC)
SECRET = "the text of a private message"


def refusal(payload: object) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        check_payload(payload)
    assert SECRET not in str(caught.value)
    return caught.value


def nested(levels: int) -> dict[str, object]:
    """An object of ``levels`` levels."""
    value: dict[str, object] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


class TestAccepted:
    @pytest.mark.parametrize(
        "payload",
        [
            {},
            {"a": [None, True, 1, 1.5, "é\n\u2028😀", {"": []}]},
            {"n": [2**63 - 1, -(2**63), 1e308, 5e-324]},
            {"text": "\\u0000 is no NUL", "path": "C:\\new\\table"},
            nested(MAX_DEPTH),
        ],
    )
    def test_payload_round_trips(self, payload: dict[str, object]) -> None:
        assert json.loads(check_payload(payload)) == payload

    def test_shared_values_are_not_circular(self) -> None:
        shared = {"a": 1}
        assert check_payload({"x": shared, "y": [shared, shared]}) == '{"x":{"a":1},"y":[{"a":1},{"a":1}]}'

    def test_tuples_are_arrays(self) -> None:
        assert check_payload({"a": (1, 2)}) == '{"a":[1,2]}'

    def test_pydantic_models_are_dumped(self) -> None:
        class Note(BaseModel):
            at: datetime
            amount: Decimal

        assert check_payload(Note(at=NOW, amount=Decimal("1.50"))) == '{"at":"2030-01-31T09:00:00Z","amount":"1.50"}'

    def test_payload_at_the_limit(self) -> None:
        frame = len('{"t":""}')
        assert len(check_payload({"t": "x" * (100 - frame)}, 100)) == 100
        assert len(check_payload({"t": "é" * ((100 - frame) // 2)}, 100).encode()) == 100


def circular_dict() -> dict[str, object]:
    value: dict[str, object] = {"text": SECRET}
    value["a"] = {"b": value}
    return value


def circular_list() -> dict[str, object]:
    value: list[object] = [1]
    value.append(value)
    return {"a": value}


def unfolding() -> dict[str, object]:
    """Sixty lists, two to the sixtieth values."""
    value: list[object] = ["x"]
    for _ in range(60):
        value = [value, value]
    return {"a": value}


@dataclasses.dataclass
class Plain:
    text: str = SECRET


BAD_PAYLOADS: list[tuple[str, object, str, str]] = [
    ("none", None, "payload", "must be an object (dict), got NoneType"),
    ("list", [1], "payload", "must be an object (dict), got list"),
    ("str", SECRET, "payload", "must be an object (dict), got str"),
    ("json text", '{"a":1}', "payload", "must be an object (dict), got str"),
    ("int", 5, "payload", "must be an object (dict), got int"),
    ("nul", {"a": {"b": [0, 1, 2, f"{SECRET}\0"]}}, "payload.a.b[3]", "contains NUL (U+0000) at index 29"),
    ("nul key", {"a": {"b\0": 1}}, "payload.a", "has a key that contains NUL (U+0000) at index 1"),
    ("surrogate", {"a": ["é\ud800"]}, "payload.a[0]", "is not valid Unicode (lone surrogate at index 1)"),
    (
        "surrogate key",
        {"\udc00": 1},
        "payload",
        "has a key that is not valid Unicode (lone surrogate at index 0)",
    ),
    ("nan", {"a": math.nan}, "payload.a", "must be finite: JSON has no NaN and no infinity"),
    ("inf", {"a": [math.inf]}, "payload.a[0]", "must be finite: JSON has no NaN and no infinity"),
    ("-inf", {"a": -math.inf}, "payload.a", "must be finite: JSON has no NaN and no infinity"),
    ("bigint", {"a": 2**63}, "payload.a", "must fit 64 bits: pass a larger integer as str"),
    ("-bigint", {"a": -(2**63) - 1}, "payload.a", "must fit 64 bits: pass a larger integer as str"),
    ("huge int", {"a": 10**5000}, "payload.a", "must fit 64 bits: pass a larger integer as str"),
    ("int key", {1: "a", "1": "b"}, "payload", "has a key of type int: keys must be str"),
    ("bool key", {"a": {True: 1}}, "payload.a", "has a key of type bool: keys must be str"),
    ("none key", {"a": [{None: 1}]}, "payload.a[0]", "has a key of type NoneType: keys must be str"),
    ("deep", nested(MAX_DEPTH + 1), "payload" + ".a" * MAX_DEPTH, "is nested deeper than 64 levels"),
    ("circular dict", circular_dict(), "payload.a.b", "is circular: it holds itself"),
    ("circular list", circular_list(), "payload.a[1]", "is circular: it holds itself"),
    ("bytes", {"a": b"x"}, "payload.a", "cannot be JSON: pass base64 text, not bytes"),
    ("set", {"a": {1}}, "payload.a", "cannot be JSON: pass a list, not set"),
    ("datetime", {"a": NOW}, "payload.a", "cannot be JSON: pass value.isoformat(), not datetime"),
    ("Decimal", {"a": Decimal(1)}, "payload.a", "cannot be JSON: pass str(value), not Decimal"),
    ("UUID", {"a": UUID(int=1)}, "payload.a", "cannot be JSON: pass str(value), not UUID"),
    (
        "object",
        {"a": object()},
        "payload.a",
        "cannot be JSON: pass str, int, float, bool, None, dict or list, not object",
    ),
    (
        "dataclass",
        {"a": Plain()},
        "payload.a",
        "cannot be JSON: pass str, int, float, bool, None, dict or list, not Plain",
    ),
    (
        "odd key",
        {"two words": {"é": b"x"}},
        "payload['two words']['\\xe9']",
        "cannot be JSON: pass base64 text, not bytes",
    ),
    ("large", {"a": "x" * 262_137}, "payload", "must be at most 262144 bytes as JSON, got 262145"),
    ("large utf-8", {"a": "é" * 131_069}, "payload", "must be at most 262144 bytes as JSON, got 262146"),
    ("huge text", {"a": ["x" * 100_000] * 1000}, "payload", "must be at most 262144 bytes as JSON"),
    ("huge list", {"a": [None] * 1_000_000}, "payload", "must be at most 262144 bytes as JSON"),
    ("huge keys", {"a": [{"x" * 100_000: 1}] * 1000}, "payload", "must be at most 262144 bytes as JSON"),
]


class TestPayloadsRefused:
    @pytest.mark.parametrize(
        ("payload", "field", "reason"),
        [row[1:] for row in BAD_PAYLOADS],
        ids=[row[0] for row in BAD_PAYLOADS],
    )
    def test_by_path(self, payload: object, field: str, reason: str) -> None:
        error = refusal(payload)
        assert (error.field, error.reason) == (field, reason)

    def test_shared_lists_that_would_unfold(self) -> None:
        with pytest.raises(InvalidMessage, match="must be at most 5000 bytes"):
            check_payload(unfolding(), 5000)

    def test_a_long_path_is_cut(self) -> None:
        value: dict[str, object] = {"x": b""}
        for _ in range(30):
            value = {"a rather long key with spaces in it" * 3: value}
        field = refusal(value).field
        assert len(field) == 200
        assert field.startswith("payload['a rather long key")
        assert field.endswith("…].x")

    def test_a_model_that_is_no_object(self) -> None:
        assert refusal(RootModel[list[int]]([1])).reason == "must be an object (dict), got list"

    def test_a_model_that_cannot_be_dumped(self) -> None:
        class Broken(BaseModel):
            @model_serializer
            def dump(self) -> dict[str, object]:
                raise RuntimeError(SECRET)

        assert refusal(Broken()).reason == "Broken cannot be dumped: PydanticSerializationError"


class TestJsonLine:
    def test_object(self) -> None:
        assert parse_json_object(' {"a": [1, -2.5e3, true, null, "\\u00e9"]} \n') == {
            "a": [1, -2500.0, True, None, "é"]
        }

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("", "is not JSON: Expecting value (column 1)"),
            ('{"a": 1,}', "is not JSON"),
            ('{"a": 1} {"b": 2}', "is not JSON: Extra data (column 10)"),
            ("{'a': 1}", "is not JSON"),
            ("[1]", "must be a JSON object, got list"),
            ('"text"', "must be a JSON object, got str"),
            ("null", "must be a JSON object, got NoneType"),
            ('{"a": 1, "b": 2, "a": 3}', "has the key 'a' twice in one object"),
            ('{"x": [{"k\\u00e9": 1, "k\\u00e9": 1}]}', "has the key 'k\\xe9' twice in one object"),
            ('{"a": NaN}', "contains NaN, which is not JSON"),
            ('{"a": -Infinity}', "contains -Infinity, which is not JSON"),
            ('{"a": 1e400}', "contains a number beyond 1.8e308"),
            ('{"a": -1e400}', "contains a number beyond 1.8e308"),
            ('{"a": ' + "9" * 5000 + "}", "contains an integer of 5000 digits: at most 64 bits fit"),
            ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "is nested deeper than 64 levels"),
            ("[" * 100_000, "is nested deeper than 64 levels"),
            ('{"a": "' + SECRET + '\n"}', "is not JSON"),
            ("\ufeff{}", "is not JSON"),
        ],
        ids=lambda text: text[:16],
    )
    def test_refused(self, line: str, reason: str) -> None:
        with pytest.raises(InvalidMessage) as caught:
            parse_json_object(line)
        assert caught.value.field == "line"
        assert caught.value.reason.startswith(reason)
        assert SECRET not in str(caught.value)
