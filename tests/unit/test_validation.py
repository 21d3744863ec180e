"""What may enter the queue: every refusal names its field and reason, and nothing else is ever raised."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from mqworker.errors import InvalidMessage
from mqworker.message import NewMessage
from mqworker.models import Status
from mqworker.validation import (
    check_age,
    check_days,
    check_limit,
    check_message_id,
    check_statuses,
    new_message,
    new_messages,
    parse_time,
)

NOW = datetime(2030, 1, 31, 9, tzinfo=UTC)
SECRET = "the text of a private message"


class Word(enum.StrEnum):
    """A plain word, as some users keep their names."""

    ACCOUNT = "account-1"


class Level(enum.IntEnum):
    HIGH = 7


def item(**changes: object) -> dict[str, object]:
    return {"instance": "account-1", "client_id": 7, "chat_id": "chat", "payload": {"text": SECRET}} | changes


def make(**changes: Any) -> NewMessage:
    fields: dict[str, Any] = item(**changes)
    return new_message(**fields, default_max_retries=3, now=NOW)


def refusal(**changes: object) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        make(**changes)
    assert SECRET not in str(caught.value)
    return caught.value


class TestAccepted:
    def test_defaults(self) -> None:
        message = make()
        assert message == NewMessage(
            id=message.id,
            id_is_callers=False,
            instance="account-1",
            client_id=7,
            chat_id="chat",
            payload_json=json.dumps({"text": SECRET}, separators=(",", ":")),
            is_group=False,
            executor="default",
            priority=0,
            max_retries=3,
            scheduled_at=None,
        )

    def test_everything_given(self) -> None:
        given_id = uuid4()
        when = NOW.astimezone(timezone(timedelta(hours=-3))) + timedelta(hours=1)
        message = make(
            message_id=str(given_id),
            is_group=True,
            executor="whats.app_2-x",
            priority=-100,
            max_retries=100,
            scheduled_at=when,
        )
        assert (message.id, message.id_is_callers) == (given_id, True)
        assert (message.is_group, message.executor) == (True, "whats.app_2-x")
        assert (message.priority, message.max_retries) == (-100, 100)
        assert (message.scheduled_at, getattr(message.scheduled_at, "tzinfo", None)) == (when, UTC)

    @pytest.mark.parametrize(
        "name",
        [
            "a}b",
            "{x}",
            "}z",
            "a:b",
            "* ? [x] \\ 100%",
            "'; DROP TABLE x; --",
            "caf\u00e9",
            "cafe\u0301",
            "x\u200dy",
            "a b",
        ],
    )
    def test_ids_are_opaque(self, name: str) -> None:
        assert make(chat_id=name).chat_id == name
        assert make(instance=name).instance == name

    def test_longest_ids(self) -> None:
        assert make(chat_id="x" * 255).chat_id == "x" * 255
        assert make(chat_id="é" * 255).chat_id == "é" * 255
        assert make(chat_id="😀" * 128).chat_id == "😀" * 128

    def test_members_of_enums_become_plain(self) -> None:
        message = make(instance=Word.ACCOUNT, executor=Word.ACCOUNT, priority=Level.HIGH, client_id=Level.HIGH)
        assert [type(v) for v in (message.instance, message.executor)] == [str, str]
        assert [type(v) for v in (message.priority, message.client_id)] == [int, int]

    @pytest.mark.parametrize("client_id", [-(2**31), 0, 2**31 - 1])
    def test_client_id_is_an_int32(self, client_id: int) -> None:
        assert make(client_id=client_id).client_id == client_id

    @pytest.mark.parametrize("text", ["{}", "upper", "hex"])
    def test_spellings_of_a_uuid(self, text: str) -> None:
        given_id = uuid4()
        spelt = {"{}": str(given_id), "upper": str(given_id).upper(), "hex": given_id.hex}[text]
        assert make(message_id=spelt).id == given_id

    def test_generated_ids_are_time_ordered_uuids(self) -> None:
        ids = [make().id for _ in range(100)]
        later = new_message(**item(), default_max_retries=3, now=NOW + timedelta(milliseconds=1)).id  # type: ignore[arg-type]
        assert len(set(ids)) == 100
        assert {(i.version, i.variant) for i in ids} == {(7, "specified in RFC 4122")}
        assert max(ids) < later
        assert later.int >> 80 == int(NOW.timestamp() * 1000) + 1

    @pytest.mark.parametrize("when", [datetime(2000, 1, 1, tzinfo=UTC), NOW, NOW + timedelta(days=366)])
    def test_due_from_long_ago_to_a_year_ahead(self, when: datetime) -> None:
        assert make(scheduled_at=when).scheduled_at == when

    def test_payload_is_serialised_once(self) -> None:
        payload = {"text": "before"}
        message = make(payload=payload)
        payload["text"] = "after"
        assert message.payload_json == '{"text":"before"}'
        assert "before" not in repr(message)


NO_STR = [None, 5, b"chat", True, ["chat"], 1.5]
BAD_TEXTS = [
    ("", "must be 1 to 255 characters, got 0"),
    ("x" * 256, "must be 1 to 255 characters, got 256"),
    ("😀" * 129, "must be at most 512 bytes of UTF-8, got 516"),
    ("   ", "must not begin or end with white space"),
    (" chat", "must not begin or end with white space"),
    ("chat ", "must not begin or end with white space"),
    ("chat\u3000", "must not begin or end with white space"),
    ("a\0b", "contains NUL (U+0000) at index 1"),
    ("a\ud800", "is not valid Unicode (lone surrogate at index 1)"),
    ("a\r\nb", "contains a control character (U+000D) at index 1"),
    ("a\tb", "contains a control character (U+0009) at index 1"),
    ("a\x1b[2J", "contains a control character (U+001B) at index 1"),
    ("ab\x7f", "contains a control character (U+007F) at index 2"),
    ("a\x85b", "contains a control character (U+0085) at index 1"),
    ("a\u2028b", "contains a line separator (U+2028) at index 1"),
    ("a\u2029b", "contains a paragraph separator (U+2029) at index 1"),
]


@pytest.mark.parametrize("field", ["chat_id", "instance"])
class TestNamesRefused:
    @pytest.mark.parametrize("value", NO_STR, ids=repr)
    def test_what_is_no_str(self, field: str, value: object) -> None:
        error = refusal(**{field: value})
        assert (error.field, error.reason) == (field, f"must be str, got {type(value).__name__}")

    @pytest.mark.parametrize(("value", "reason"), BAD_TEXTS, ids=[ascii(text[:12]) for text, _ in BAD_TEXTS])
    def test_unfit_text(self, field: str, value: str, reason: str) -> None:
        error = refusal(**{field: value})
        assert (error.field, error.reason) == (field, reason)


class TestFieldsRefused:
    @pytest.mark.parametrize("value", [True, 1.5, "3", b"1", Decimal(1)], ids=repr)
    @pytest.mark.parametrize("field", ["priority", "max_retries", "client_id"])
    def test_what_is_no_int(self, field: str, value: object) -> None:
        error = refusal(**{field: value})
        assert (error.field, error.reason) == (field, f"must be int, got {type(value).__name__}")

    @pytest.mark.parametrize(
        ("field", "value", "bounds"),
        [
            ("priority", 101, "-100 to 100"),
            ("priority", -101, "-100 to 100"),
            ("priority", 2**31, "-100 to 100"),
            ("max_retries", 0, "1 to 100"),
            ("max_retries", -1, "1 to 100"),
            ("max_retries", 10**9, "1 to 100"),
            ("client_id", 2**31, "-2147483648 to 2147483647"),
            ("client_id", -(2**31) - 1, "-2147483648 to 2147483647"),
        ],
    )
    def test_out_of_range(self, field: str, value: int, bounds: str) -> None:
        error = refusal(**{field: value})
        assert (error.field, error.reason) == (field, f"must be from {bounds}, got {value}")

    def test_a_number_too_long_to_print(self) -> None:
        assert refusal(priority=10**5000).reason == "must be from -100 to 100, got (int)"
        assert len(refusal(priority=10**4000).reason) < 120

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "42",
            "12345678-1234-5678-1234-56781234567",
            "12345678-1234-5678-1234-567812345678 ",
            "{12345678-1234-5678-1234-567812345678}",
            "urn:uuid:12345678-1234-5678-1234-567812345678",
            "1234_678123456781234567812345678",
            "+2345678123456781234567812345678",
            "1234567812345678-1234-567812345678",
            "１2345678-1234-5678-1234-567812345678",
            "x" * 10_000,
        ],
    )
    def test_no_uuid(self, value: str) -> None:
        error = refusal(message_id=value)
        assert error.field == "message_id"
        assert error.reason.startswith("must be a UUID, got '")
        assert len(error.reason) <= 120

    @pytest.mark.parametrize("value", [5, b"x" * 16, True, 1.5], ids=repr)
    def test_id_of_another_type(self, value: object) -> None:
        assert refusal(message_id=value).reason == f"must be a UUID or its text, got {type(value).__name__}"

    @pytest.mark.parametrize("value", [UUID(int=0), str(UUID(int=0))], ids=["uuid", "text"])
    def test_nil_uuid(self, value: object) -> None:
        assert refusal(message_id=value).reason == "must not be the nil UUID"

    @pytest.mark.parametrize("value", [None, 0, 1, "false", "true"], ids=repr)
    def test_is_group_is_a_bool(self, value: object) -> None:
        error = refusal(is_group=value)
        assert (error.field, error.reason) == ("is_group", f"must be bool, got {type(value).__name__}")

    @pytest.mark.parametrize("value", ["", "a b", "a/b", "é", "x" * 65, "default\n", "a:b", "a\0"], ids=ascii)
    def test_malformed_executor(self, value: str) -> None:
        error = refusal(executor=value)
        assert error.field == "executor"
        assert error.reason.startswith("must be 1 to 64 of A-Z a-z 0-9 _ . -, got ")

    @pytest.mark.parametrize("value", [None, 5, print], ids=repr)
    def test_executor_is_a_name(self, value: object) -> None:
        assert refusal(executor=value).reason.startswith("must be the name of an executor, got ")

    def test_naive_time(self) -> None:
        assert refusal(scheduled_at=datetime(2030, 2, 1)).reason.startswith("must have a time zone")  # noqa: DTZ001

    @pytest.mark.parametrize("value", ["2030-02-01T00:00:00Z", 5, 1.5, True, date(2030, 2, 1), timedelta(1)], ids=repr)
    def test_what_is_no_time(self, value: object) -> None:
        assert refusal(scheduled_at=value).reason == f"must be a datetime, got {type(value).__name__}"

    @pytest.mark.parametrize(
        "value",
        [
            datetime.min.replace(tzinfo=UTC),
            datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
            datetime(1970, 1, 1, tzinfo=UTC),
            NOW + timedelta(days=366, seconds=1),
            datetime.max.replace(tzinfo=UTC),
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
        ],
        ids=str,
    )
    def test_time_out_of_bounds(self, value: datetime) -> None:
        reason = refusal(scheduled_at=value).reason
        assert reason.startswith("must lie between the year 2000 and 366 days from now, got ")


def batch(items: Any) -> list[NewMessage]:
    return new_messages(items, default_max_retries=3, now=NOW)


def batch_refusal(items: Any) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        batch(items)
    return caught.value


class TestBatch:
    def test_order_is_kept(self) -> None:
        assert [m.chat_id for m in batch(item(chat_id=str(n)) for n in range(100))] == [str(n) for n in range(100)]

    def test_empty(self) -> None:
        assert batch([]) == []

    def test_names_the_index(self) -> None:
        error = batch_refusal([item(), item(), item(priority=True), item(chat_id="")])
        assert (error.index, str(error)) == (2, "message 2: priority: must be int, got bool")

    def test_unknown_field(self) -> None:
        error = batch_refusal([item(), item(chatId="x")])
        assert (error.index, error.field) == (1, "chatId")
        assert error.reason.startswith("is no field of a message (known: chat_id, client_id, ")

    @pytest.mark.parametrize("name", ["now", "default_max_retries", "max_payload_bytes", "id"])
    def test_our_own_parameters_are_no_fields(self, name: str) -> None:
        assert batch_refusal([item(**{name: 5})]).field == name

    def test_key_of_another_type(self) -> None:
        assert batch_refusal([{**item(), 5: 1}]).field == "5"

    @pytest.mark.parametrize("name", ["instance", "client_id", "chat_id", "payload"])
    def test_missing_field(self, name: str) -> None:
        error = batch_refusal([{key: value for key, value in item().items() if key != name}])
        assert (error.index, error.field, error.reason) == (0, name, "is required")

    @pytest.mark.parametrize("value", [None, "text", 5, [1], make()], ids=lambda v: type(v).__name__)
    def test_what_is_no_mapping(self, value: object) -> None:
        error = batch_refusal([item(), value])
        assert (error.index, error.reason) == (1, f"must be a mapping, got {type(value).__name__}")

    @pytest.mark.parametrize("value", [None, 5, "text", b"", item()], ids=lambda v: type(v).__name__)
    def test_what_is_no_batch(self, value: object) -> None:
        error = batch_refusal(value)
        assert (error.field, error.index) == ("messages", None)

    def test_repeated_id_names_both_places(self) -> None:
        twice = uuid4()
        error = batch_refusal([item(), item(message_id=twice), item(), item(message_id=str(twice).upper())])
        assert str(error) == "message 3: message_id: the same as message 1's"

    def test_too_many(self) -> None:
        drawn = 0

        def endless() -> Iterator[Mapping[str, object]]:
            nonlocal drawn
            while True:
                drawn += 1
                yield item()

        assert str(batch_refusal(endless())) == "messages: more than 10000 in one batch"
        assert drawn == 10_001

    def test_too_much(self) -> None:
        heavy = {"text": "x" * 262_000}
        assert len(batch(item(payload=heavy) for _ in range(64))) == 64
        error = batch_refusal(item(payload=heavy) for _ in range(65))
        assert str(error) == "messages: more than 16777216 bytes of payload in one batch"


class TestOtherArguments:
    def test_limit(self) -> None:
        assert [check_limit(1), check_limit(1000), check_limit(5, most=5)] == [1, 1000, 5]

    @pytest.mark.parametrize("value", [0, -1, 1001, True, "5", None, 1.0], ids=repr)
    def test_limit_refused(self, value: object) -> None:
        with pytest.raises(InvalidMessage, match=r"^limit: must be"):
            check_limit(value)

    def test_days(self) -> None:
        assert [check_days(7), check_days(0.5)] == [7.0, 0.5]

    @pytest.mark.parametrize(
        "value", [0, -1, math.nan, math.inf, 1e308, True, "7", None, 10**400], ids=lambda v: str(v)[:9]
    )
    def test_days_refused(self, value: object) -> None:
        with pytest.raises(InvalidMessage, match=r"^days: must be"):
            check_days(value)

    def test_age(self) -> None:
        assert check_age(timedelta(hours=1)) == check_age(3600) == check_age(3600.0) == timedelta(hours=1)

    @pytest.mark.parametrize(
        "value", [0, timedelta(0), timedelta(-1), timedelta.max, math.nan, True, "1 h", None], ids=repr
    )
    def test_age_refused(self, value: object) -> None:
        with pytest.raises(InvalidMessage, match=r"^older_than: must be"):
            check_age(value)

    def test_statuses(self) -> None:
        assert check_statuses("FAILED") == check_statuses(Status.FAILED) == check_statuses(["FAILED"]) == ["FAILED"]
        assert check_statuses((Status.FAILED, "PENDING", "FAILED")) == ["FAILED", "PENDING"]
        assert all(type(word) is str for word in check_statuses(Status))

    @pytest.mark.parametrize("value", [None, 5, "", "failed", [], [5], ["PENDING", "x"], [[]]], ids=repr)
    def test_statuses_refused(self, value: object) -> None:
        with pytest.raises(InvalidMessage, match=r"^statuses: must "):
            check_statuses(value)

    def test_message_id(self) -> None:
        assert check_message_id(str(UUID(int=1))) == UUID(int=1)

    def test_time_from_text(self) -> None:
        assert parse_time("2030-01-31T06:00:00-03:00") == parse_time("2030-01-31T09:00:00Z") == NOW

    @pytest.mark.parametrize("value", ["", "tomorrow", "2030-13-01", 5, None, "9" * 5000], ids=lambda v: repr(v)[:20])
    def test_time_from_other_text(self, value: object) -> None:
        with pytest.raises(InvalidMessage, match=r"^scheduled_at: must be a time such as") as caught:
            parse_time(value)
        assert len(str(caught.value)) < 180
