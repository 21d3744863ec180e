"""What becomes of a message after an attempt: outcome + message + policy -> settlement. Pure, no clock, no I/O.

One constructor a transition; nobody fills a :class:`Settlement`'s fields by hand. The store writes it under the
claim; a cancel that arrived meanwhile wins over a retry there, since only the row knows of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self

from mqworker.errors import PermanentError, RetryAfter
from mqworker.message import Message
from mqworker.pacing import PacingPolicy
from mqworker.retry import RetryPolicy

ERROR_LIMIT_BYTES = 8192
PROVIDER_ID_LIMIT = 255
# A provider that names a longer wait is asked again after this one, and PostgreSQL's interval cannot overflow:
# a settle that raises leaves its message stuck.
WAIT_LIMIT_SECONDS = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Sent:
    """The executor returned. ``provider_id`` is what the provider calls the message, if it said."""

    provider_id: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The executor raised."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The executor did not end within its time; the provider may have the message."""

    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Undecodable:
    """The stored payload cannot become a message (written by hand); no executor saw it."""

    reason: str


Outcome = Sent | Failed | TimedOut | Undecodable


@dataclass(frozen=True, slots=True)
class Policy:
    """All that decides a settlement beside the outcome and the message."""

    retry: RetryPolicy
    pacing: PacingPolicy


@dataclass(frozen=True, slots=True)
class Settlement:
    """What to write under the claim.

    ``counts_attempt`` adds one to ``retry_count``; ``backoff_seconds`` holds the message itself (it keeps its place);
    ``gap_seconds`` holds its chat, ``None`` where no attempt was made; ``instance_wait_seconds`` its whole account.
    """

    status: Literal["PENDING", "COMPLETED", "FAILED"]
    counts_attempt: bool = False
    backoff_seconds: float = 0.0
    gap_seconds: float | None = None
    instance_wait_seconds: float = 0.0
    error: str | None = None
    provider_id: str | None = None

    @classmethod
    def completed(cls, gap_seconds: float, provider_id: str | None) -> Self:
        return cls("COMPLETED", gap_seconds=gap_seconds, provider_id=provider_id)

    @classmethod
    def failed(cls, gap_seconds: float, error: str) -> Self:
        return cls("FAILED", counts_attempt=True, gap_seconds=gap_seconds, error=error)

    @classmethod
    def retry(cls, gap_seconds: float, backoff_seconds: float, error: str) -> Self:
        return cls(
            "PENDING", counts_attempt=True, gap_seconds=gap_seconds, backoff_seconds=backoff_seconds, error=error
        )

    @classmethod
    def deferred(cls, gap_seconds: float, instance_wait_seconds: float, error: str) -> Self:
        return cls("PENDING", gap_seconds=gap_seconds, instance_wait_seconds=instance_wait_seconds, error=error)

    @classmethod
    def released(cls) -> Self:
        """Give the claim back as if it had never been taken: nothing was tried, so nothing is counted or paced."""
        return cls("PENDING")


def settle(outcome: Outcome, message: Message, policy: Policy, gap_draw: float, backoff_draw: float) -> Settlement:
    """Decide what becomes of ``message``; the draws are even random numbers from [0, 1)."""
    gap = policy.pacing.gap_seconds(gap_draw)
    match outcome:
        case Sent(provider_id):
            return Settlement.completed(gap, provider_id)
        case Failed(RetryAfter() as wait):
            return _deferred(wait, gap)
        case Failed(PermanentError() as error):
            return Settlement.failed(gap, describe_error(error))
        case Undecodable(reason):
            return Settlement.failed(gap, clean_text(f"UNDECODABLE: {reason}"))
        case TimedOut(seconds):
            return _retry_or_fail(message, policy, gap, backoff_draw, f"TimeoutError: no answer within {seconds:g} s")
        case Failed(error):
            return _retry_or_fail(message, policy, gap, backoff_draw, describe_error(error))


def _deferred(wait: RetryAfter, gap: float) -> Settlement:
    if not wait.seconds >= 0:
        raise ValueError(f"RetryAfter.seconds is no longer a number >= 0 but {wait.seconds!r}")
    seconds = min(wait.seconds, WAIT_LIMIT_SECONDS)
    if wait.scope == "instance":
        return Settlement.deferred(gap, seconds, describe_error(wait))
    return Settlement.deferred(max(gap, seconds), 0.0, describe_error(wait))


def _retry_or_fail(message: Message, policy: Policy, gap: float, draw: float, error: str) -> Settlement:
    if message.last_attempt:
        return Settlement.failed(gap, error)
    return Settlement.retry(gap, policy.retry.backoff_seconds(message.attempt, draw), error)


def describe_error(error: BaseException) -> str:
    """An exception as text for the row's ``error``: class and message, redacted, without NUL, at most 8 KB."""
    try:
        text = _plain(error)
    except BaseException as broken:
        # An exception whose __str__ raises must not stop its own settle: the message would be stuck. Nor may a
        # SystemExit from there end the worker.
        text = f"(its text cannot be read: {type(broken).__name__})"
    name = type(error).__name__
    return clean_text(f"{name}: {text}" if text else name)


_SECRETS = (
    # Bounded: a scheme of any length costs a second on a long word, with the event loop standing.
    (re.compile(r"(?i)(\b[a-z][a-z\d+.-]{0,30}://)[^\s/?#]+@"), r"\1***@"),
    # The header's whole value: schemes other than the two of the next pattern have parts of any shape.
    (
        re.compile(r"(?i)((?:authorization|cookie)\\*[\"']?\s*[=:]\s*\\*[\"']?)(?!\s*(?:bearer|basic) )[^\"'\r\n\\]+"),
        r"\1***",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}"), r"\1 ***"),
    (re.compile(r"\bEAA[A-Za-z0-9]{12,}"), "EAA***"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"), "eyJ***"),
    (
        # The backslashes are those of JSON within JSON, or within a repr.
        re.compile(
            r"(?i)((?:x-)?api[-_]?key|apikey|access[-_]?token|token|secret|password|passwd|hmac)"
            r"(\\*[\"']?\s*[=:]\s*\\*[\"']?)(?!bearer |basic )[^\s\"'&,;}\\]+"
        ),
        r"\1\2***",
    ),
    (re.compile(r"(?i)([?&](?:key|auth|sig|signature)=)[^\s\"'&,;}\\]+"), r"\1***"),
    (re.compile(r"/bot\d+:[\w-]+"), "/bot***"),
    # Chat ids are telephone numbers; the old kind of group id begins with its founder's.
    (re.compile(r"(?<![\w-])\d{10,15}-\d{10}(?=@)"), "<number>"),
    (re.compile(r"(?<![\w-])\+?\d{10,15}(?=@|\b)(?!-)"), "<number>"),
)


def clean_text(text: str) -> str:
    """``text`` made fit to store: secrets and telephone numbers masked, NUL and lone surrogates gone, at most 8 KB."""
    # Cut first, generously: a 50 MB error must not be scanned whole by every pattern.
    # NUL goes before the patterns: taken out afterwards it would join the halves of a word that they look for.
    cut = text[: 2 * ERROR_LIMIT_BYTES].replace("\x00", "")
    for pattern, replacement in _SECRETS:
        cut = pattern.sub(replacement, cut)
    data = cut.encode("utf-8", "replace")
    return data[:ERROR_LIMIT_BYTES].decode("utf-8", "ignore")


def provider_id_of(value: object) -> str | None:
    """What an executor returned, as a provider id: text without NUL, at most 255 characters; ``None`` for nothing."""
    if value is None:
        return None
    # Cut first: not every sign of a 50 MB answer needs to be looked at.
    text = _text_of(value)[: 16 * PROVIDER_ID_LIMIT]
    return text.replace("\x00", "").encode("utf-8", "replace").decode()[:PROVIDER_ID_LIMIT] or None


def _text_of(value: object) -> str:
    try:
        return _plain(value)
    except BaseException as broken:
        # The message was sent: what its answer looks like must not send it again.
        return f"({type(value).__name__}: {type(broken).__name__})"


def _plain(value: object) -> str:
    """``str(value)`` without a subclass of str, whose methods could do anything."""
    return str.__str__(value if isinstance(value, str) else str(value))
