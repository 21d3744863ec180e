"""Whatever comes in: what is accepted is sound, and a refusal is InvalidMessage and nothing else."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mqworker.errors import InvalidMessage
from mqworker.message import NewMessage
from mqworker.payload import check_payload, parse_json_object
from mqworker.validation import new_messages

NOW = datetime(2030, 1, 31, 9, tzinfo=UTC)


def item(**changes: object) -> dict[str, object]:
    return {
        "instance": "account-1",
        "client_id": 7,
        "chat_id": "chat",
        "payload": {"text": "hello"},
    } | changes


def batch(items: Any) -> list[NewMessage]:
    return new_messages(items, default_max_retries=3, now=NOW)


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.binary(max_size=2)
    | st.decimals()
    | st.datetimes()
)
KEYS = st.text(st.characters(codec=None), max_size=4) | st.integers() | st.none()
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


NAMES = [*sorted(item()), "priority", "executor", "message_id", "scheduled_at", "other"]
OBJECT = r"\{(\"[ab]\": ?(-?\d{1,30}|\[\d+e\d{1,4}\]|NaN|\{\}),? ?){0,3}\}"


def scalars(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from scalars(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from scalars(inner)
    else:
        yield value


class TestFuzz:
    @given(st.dictionaries(KEYS, VALUES, max_size=4) | VALUES)
    @settings(max_examples=50, deadline=None)
    def test_what_is_accepted_is_sound_json(self, payload: object) -> None:
        try:
            text = check_payload(payload)
        except InvalidMessage:
            return
        text.encode()
        assert json.loads(text) == payload
        for scalar in scalars(json.loads(text)):
            assert not isinstance(scalar, str) or "\0" not in scalar
            assert not isinstance(scalar, float) or math.isfinite(scalar)
            assert not isinstance(scalar, int) or abs(scalar) <= 2**63

    @given(st.dictionaries(st.sampled_from(NAMES), LEAVES))
    @settings(max_examples=40, deadline=None)
    def test_fields_raise_nothing_else(self, changes: dict[str, object]) -> None:
        try:
            [message] = batch([item(**changes)])
        except InvalidMessage as refused:
            str(refused).encode()
            shown = (refused.index, len(str(refused)) < 400)
            assert shown == (0, True)
        else:
            assert message.chat_id.isprintable() or message.chat_id.strip()
            assert -100 <= message.priority <= 100

    @given(st.text(max_size=60) | st.from_regex(OBJECT, fullmatch=True))
    @example("9" * 4301)
    @settings(max_examples=50, deadline=None)
    def test_lines_raise_nothing_else(self, line: str) -> None:
        try:
            value = parse_json_object(line)
        except InvalidMessage:
            return
        assert all(not isinstance(v, float) or math.isfinite(v) for v in scalars(value))

    def test_bytes_flipped_in_good_lines(self) -> None:
        good = json.dumps(item() | {"n": [1, 2.5, None, {"x": "\u00e9\ud83d"}]})
        dice = random.Random(5)
        for _ in range(500):
            at = dice.randrange(len(good))
            line = good[:at] + chr(dice.randrange(0x250)) + good[at + dice.randrange(3) :]
            try:
                batch([parse_json_object(line)])
            except InvalidMessage:
                continue
