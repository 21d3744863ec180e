"""What may enter the queue, checked before any I/O.

Every refusal is an :class:`InvalidMessage` that names the field and the reason, without a payload's text.
SQLModel tables validate nothing, and PostgreSQL refuses late and in words of its own. Plain functions rather
than a pydantic model: they say which field and why in our words, and cost a few microseconds a message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from mqworker.errors import InvalidMessage
from mqworker.message import NewMessage
from mqworker.models import Status
from mqworker.payload import MAX_PAYLOAD_BYTES, check_payload, kind_of, plain_text, utf8_length

MAX_BATCH_MESSAGES = 10_000
MAX_BATCH_BYTES = 16 * 1024 * 1024
MAX_AHEAD = timedelta(days=366)
# What is past is due at once; what lies before this is an empty clock or a wrong unit.
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)

_REQUIRED = frozenset({"instance", "client_id", "chat_id", "payload"})
_OPTIONAL = frozenset({"message_id", "is_group", "executor", "priority", "max_retries", "scheduled_at"})
_FIELDS = _REQUIRED | _OPTIONAL


def new_message(
    *,
    instance: object,
    client_id: object,
    chat_id: object,
    payload: object,
    message_id: object = None,
    is_group: object = False,
    executor: object = "default",
    priority: object = 0,
    max_retries: object = None,
    scheduled_at: object = None,
    default_max_retries: int,
    now: datetime,
    max_payload_bytes: int = MAX_PAYLOAD_BYTES,
) -> NewMessage:
    """One checked message. The payload is serialised here, once: changing it afterwards changes nothing."""
    attempts = default_max_retries if max_retries is None else max_retries
    return NewMessage(
        id=_new_id(now) if message_id is None else check_message_id(message_id),
        id_is_callers=message_id is not None,
        instance=check_instance(instance),
        client_id=check_client_id(client_id),
        chat_id=check_chat_id(chat_id),
        payload_json=check_payload(payload, max_payload_bytes),
        is_group=_check_bool(is_group, "is_group"),
        executor=check_executor(executor),
        priority=check_int(priority, "priority", -100, 100),
        max_retries=check_int(attempts, "max_retries", 1, 100),
        scheduled_at=None if scheduled_at is None else check_scheduled_at(scheduled_at, now),
    )


def new_messages(items: Iterable[Mapping[str, object]], *, default_max_retries: int, now: datetime) -> list[NewMessage]:
    """A batch, all or nothing: the first refusal names its place, and a repeated id both of its places."""
    messages: list[NewMessage] = []
    places: dict[UUID, int] = {}
    size = 0
    for index, item in enumerate(_iterable(items)):
        if index >= MAX_BATCH_MESSAGES:
            raise InvalidMessage("messages", f"more than {MAX_BATCH_MESSAGES} in one batch")
        try:
            message = new_message(**_fields(item), default_max_retries=default_max_retries, now=now)
        except InvalidMessage as refusal:
            raise refusal.at(index) from None
        if message.id_is_callers and (first := places.setdefault(message.id, index)) != index:
            raise InvalidMessage("message_id", f"the same as message {first}'s", index=index)
        size += utf8_length(message.payload_json)
        if size > MAX_BATCH_BYTES:
            raise InvalidMessage("messages", f"more than {MAX_BATCH_BYTES} bytes of payload in one batch")
        messages.append(message)
    return messages


def _iterable(items: object) -> Iterable[object]:
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
        raise InvalidMessage("messages", f"must be an iterable of mappings, got {kind_of(items)}")
    return items


def _fields(item: object) -> Mapping[str, Any]:
    if not isinstance(item, Mapping):
        raise InvalidMessage("message", f"must be a mapping, got {kind_of(item)}")
    keys = item.keys()
    if not keys <= _FIELDS:
        name = next(iter(keys - _FIELDS))
        known = ", ".join(sorted(_FIELDS))
        raise InvalidMessage(_shown(name).strip("'"), f"is no field of a message (known: {known})")
    if not keys >= _REQUIRED:
        raise InvalidMessage(min(_REQUIRED - keys), "is required")
    return item


# What would break a log line, a CSV file or a terminal, and what UTF-8 cannot hold. All else is opaque.
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def check_instance(value: object, field: str = "instance") -> str:
    """1 to 255 characters, at most 512 bytes of UTF-8, no control characters, no white space around."""
    text = _text(value, field, "str")
    if not 1 <= len(text) <= 255:
        raise InvalidMessage(field, f"must be 1 to 255 characters, got {len(text)}")
    if unfit := _UNFIT.search(text):
        raise InvalidMessage(field, _unfit_reason(text, unfit.start()))
    if text != text.strip():
        raise InvalidMessage(field, "must not begin or end with white space")
    if (size := utf8_length(text)) > 512:
        raise InvalidMessage(field, f"must be at most 512 bytes of UTF-8, got {size}")
    return text


def _text(value: object, field: str, wanted: str) -> str:
    # An enum's member becomes its plain text: drivers send an enum by its name. And no other subclass' methods are
    # asked what it holds.
    if type(value) is str:
        return value
    if not issubclass(type(value), str):
        raise InvalidMessage(field, f"must be {wanted}, got {kind_of(value)}")
    return plain_text(value)


def check_chat_id(value: object, field: str = "chat_id") -> str:
    """As :func:`check_instance`; two spellings that only look alike are two chats."""
    return check_instance(value, field)


def check_client_id(value: object, field: str = "client_id") -> int:
    return check_int(value, field, -(2**31), 2**31 - 1)


_UUID = re.compile(r"[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{12}")


def check_message_id(value: object, field: str = "message_id") -> UUID:
    """A UUID or its text, with or without hyphens; not the nil UUID."""
    if issubclass(type(value), str):
        # uuid.UUID alone takes underscores, signs and white space among the digits.
        text = plain_text(value)
        if not _UUID.fullmatch(text):
            raise InvalidMessage(field, f"must be a UUID, got {_shown(text)}")
        found = UUID(text)
    elif issubclass(type(value), UUID):
        found = _plain_uuid(value, field)
    else:
        raise InvalidMessage(field, f"must be a UUID or its text, got {kind_of(value)}")
    if not found.int:
        raise InvalidMessage(field, "must not be the nil UUID")
    return found


def _plain_uuid(value: Any, field: str) -> UUID:
    """A driver's own subclass of UUID as a plain one."""
    try:
        return value if type(value) is UUID and value.int >= 0 else UUID(str(value))
    except Exception as error:
        raise InvalidMessage(field, f"is a {kind_of(value)} that cannot be read: {kind_of(error)}") from None


EXECUTOR_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def check_executor(value: object, field: str = "executor") -> str:
    """The name of an executor. One that no worker knows is taken: such a message waits for its worker."""
    text = _text(value, field, "the name of an executor")
    if not EXECUTOR_NAME.fullmatch(text):
        raise InvalidMessage(field, f"must be 1 to 64 of A-Z a-z 0-9 _ . -, got {_shown(text)}")
    return text


def check_int(value: object, field: str, least: int, most: int) -> int:
    if not issubclass(type(value), int) or type(value) is bool:
        raise InvalidMessage(field, f"must be int, got {kind_of(value)}")
    number = int.__int__(value)  # type: ignore[arg-type]
    if not least <= number <= most:
        raise InvalidMessage(field, f"must be from {least} to {most}, got {_shown(number)}")
    return number


def _check_bool(value: object, field: str) -> bool:
    if type(value) is not bool:
        raise InvalidMessage(field, f"must be bool, got {kind_of(value)}")
    return value


def check_scheduled_at(value: object, now: datetime, field: str = "scheduled_at") -> datetime:
    """An aware time as UTC, at most 366 days ahead; what is past is due at once."""
    if not issubclass(type(value), datetime):
        raise InvalidMessage(field, f"must be a datetime, got {kind_of(value)}")
    try:
        time = _as_utc(value)
    except Exception as error:
        # A time zone is code of others.
        raise InvalidMessage(field, f"has a time zone that cannot be used: {kind_of(error)}") from None
    if time is None:
        raise InvalidMessage(field, "must have a time zone: datetime.now(UTC), not datetime.now()")
    if not EARLIEST <= time <= now + MAX_AHEAD:
        bounds = f"between the year {EARLIEST.year} and {MAX_AHEAD.days} days from now"
        raise InvalidMessage(field, f"must lie {bounds}, got {time}")
    return time


def _as_utc(value: Any) -> datetime | None:
    """A plain datetime in UTC; ``None`` where it has no zone."""
    if datetime.utcoffset(value) is None:
        return None
    # By its text: a subclass' arithmetic gives its own kind again.
    time = datetime.fromisoformat(datetime.isoformat(value))
    try:
        return time.astimezone(UTC)
    except OverflowError:
        return time  # at one of the ends of time, and refused for that


def check_limit(value: object, field: str = "limit", most: int = 1000) -> int:
    return check_int(value, field, 1, most)


def check_positive(value: object, field: str, most: float) -> float:
    """A number above 0 and up to ``most``: days, hours, seconds."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidMessage(field, f"must be a number, got {kind_of(value)}")
    if not 0 < value <= most:
        raise InvalidMessage(field, f"must be above 0 and at most {most:g}, got {_shown(value)}")
    return float(value)


def check_days(value: object, field: str = "days") -> float:
    return check_positive(value, field, 36_500)


def check_age(value: object, field: str = "older_than") -> timedelta:
    """A positive timedelta, or that many seconds."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    return timedelta(seconds=check_positive(seconds, field, 36_500 * 86_400))


def check_statuses(value: object, field: str = "statuses") -> list[str]:
    """One status or several, each once, in the order given."""
    words = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else []
    if not words:
        raise InvalidMessage(field, f"must name at least one of {', '.join(Status)}")
    for word in words:
        if not isinstance(word, str) or word not in Status.__members__:
            raise InvalidMessage(field, f"must be of {', '.join(Status)}, got {_shown(word)}")
    return list(dict.fromkeys(str(word) for word in words))


def parse_time(text: object, field: str = "scheduled_at") -> datetime:
    """A time as JSON carries it (ISO 8601); its zone and bounds are :func:`check_scheduled_at`'s."""
    try:
        return datetime.fromisoformat(text if isinstance(text, str) else "")
    except ValueError:
        reason = f"must be a time such as 2030-01-31T09:00:00Z, got {_shown(text)}"
        raise InvalidMessage(field, reason) from None


def _new_id(now: datetime) -> UUID:
    """A version 7 UUID: ids of one time lie side by side in the primary key's index, whatever its size."""
    milliseconds = int(now.timestamp() * 1000) & 0xFFFF_FFFF_FFFF
    noise = int.from_bytes(os.urandom(10))
    high = milliseconds << 16 | 0x7000 | (noise & 0xFFF)
    return UUID(int=high << 64 | 1 << 63 | (noise >> 12) & 0x3FFF_FFFF_FFFF_FFFF)


def _shown(value: object) -> str:
    """A short look at an id or a number; never used on what a payload holds."""
    try:
        text = repr(value)
    except Exception:
        # An int of more than 4300 digits has no repr.
        return f"({kind_of(value)})"
    text = plain_text(text)
    return text if len(text) <= 80 else text[:79] + "…"


def _unfit_reason(value: str, index: int) -> str:
    code = ord(value[index])
    if 0xD800 <= code <= 0xDFFF:
        return f"is not valid Unicode (lone surrogate at index {index})"
    name = {0: "NUL", 0x2028: "a line separator", 0x2029: "a paragraph separator"}
    return f"contains {name.get(code, 'a control character')} (U+{code:04X}) at index {index}"
