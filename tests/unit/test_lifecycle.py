"""What becomes of a message after an attempt, and that no error, however odd, can stop its settle."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqworker.errors import PermanentError, RetryAfter
from mqworker.lifecycle import (
    ERROR_LIMIT_BYTES,
    PROVIDER_ID_LIMIT,
    WAIT_LIMIT_SECONDS,
    Failed,
    Outcome,
    Policy,
    Sent,
    Settlement,
    TimedOut,
    Undecodable,
    clean_text,
    describe_error,
    provider_id_of,
    settle,
)
from mqworker.message import Message
from mqworker.pacing import PacingPolicy
from mqworker.retry import RetryPolicy
from tests.unit.samples import MESSAGE

POLICY = Policy(RetryPolicy(base_seconds=2, cap_seconds=300), PacingPolicy(0.5, 2.0))


def message(retry_count: int = 0, max_retries: int = 3) -> Message:
    return replace(MESSAGE, retry_count=retry_count, max_retries=max_retries)


def settled(outcome: Outcome, retry_count: int = 0) -> Settlement:
    """With a gap of 1.25 s and half of the largest backoff."""
    return settle(outcome, message(retry_count), POLICY, gap_draw=0.5, backoff_draw=0.5)


class TestSettle:
    def test_sent_completes(self) -> None:
        assert settled(Sent("wamid.1")) == Settlement("COMPLETED", gap_seconds=1.25, provider_id="wamid.1")

    @pytest.mark.parametrize(("retry_count", "backoff"), [(0, 1.0), (1, 2.0)])
    def test_a_failure_is_tried_again(self, retry_count: int, backoff: float) -> None:
        assert settled(Failed(ValueError("no")), retry_count) == Settlement(
            "PENDING", counts_attempt=True, backoff_seconds=backoff, gap_seconds=1.25, error="ValueError: no"
        )

    @pytest.mark.parametrize("outcome", [Failed(ValueError("no")), TimedOut(60)], ids=["raised", "timed out"])
    def test_the_last_failure_is_final(self, outcome: Outcome) -> None:
        last = settled(outcome, retry_count=2)
        assert (last.status, last.counts_attempt, last.backoff_seconds) == ("FAILED", True, 0.0)

    def test_a_timeout_is_a_failure(self) -> None:
        late = settled(TimedOut(60))
        assert (late.status, late.counts_attempt) == ("PENDING", True)
        assert late.error == "TimeoutError: no answer within 60 s"

    def test_a_permanent_error_fails_at_once(self) -> None:
        assert settled(Failed(PermanentError("bad number"))) == Settlement(
            "FAILED", counts_attempt=True, gap_seconds=1.25, error="PermanentError: bad number"
        )

    def test_an_undecodable_payload_fails_at_once(self) -> None:
        broken = settled(Undecodable("payload is no object"))
        assert (broken.status, broken.error) == ("FAILED", "UNDECODABLE: payload is no object")

    @pytest.mark.parametrize(("seconds", "gap"), [(0.0, 1.25), (1.0, 1.25), (30.0, 30.0)])
    def test_a_wait_of_the_chat(self, seconds: float, gap: float) -> None:
        held = settled(Failed(RetryAfter(seconds)), retry_count=2)
        assert (held.status, held.counts_attempt, held.gap_seconds) == ("PENDING", False, gap)
        assert (held.instance_wait_seconds, held.backoff_seconds) == (0.0, 0.0)

    def test_a_wait_of_the_account(self) -> None:
        held = settled(Failed(RetryAfter(30, scope="instance")))
        assert (held.status, held.counts_attempt) == ("PENDING", False)
        assert (held.gap_seconds, held.instance_wait_seconds) == (1.25, 30.0)

    def test_a_wait_is_bounded(self) -> None:
        assert settled(Failed(RetryAfter(1e308))).gap_seconds == WAIT_LIMIT_SECONDS
        assert settled(Failed(RetryAfter(1e308, "instance"))).instance_wait_seconds == WAIT_LIMIT_SECONDS

    def test_a_release_counts_nothing(self) -> None:
        assert Settlement.released() == Settlement("PENDING", counts_attempt=False, gap_seconds=None, error=None)

    @pytest.mark.parametrize(
        "error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), BaseException("x")], ids=repr
    )
    def test_what_is_no_exception_is_a_failure_too(self, error: BaseException) -> None:
        assert settled(Failed(error)).status == "PENDING"

    @given(
        st.integers(0, 200),
        st.integers(1, 100),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 1, exclude_max=True),
    )
    @settings(max_examples=50)
    def test_attempts_end(self, retry_count: int, max_retries: int, gap: float, backoff: float) -> None:
        one = settle(Failed(OSError()), message(retry_count, max_retries), POLICY, gap, backoff)
        assert one.status == ("FAILED" if retry_count + 1 >= max_retries else "PENDING")
        assert 0.5 <= (one.gap_seconds or 0) <= 2.0
        assert 0 <= one.backoff_seconds <= 300


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class NoText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class TestErrorText:
    def test_class_and_text(self) -> None:
        assert describe_error(ValueError("no such chat")) == "ValueError: no such chat"
        assert describe_error(ValueError()) == "ValueError"

    def test_an_error_that_cannot_be_read(self) -> None:
        assert describe_error(Unreadable()) == "Unreadable: (its text cannot be read: RuntimeError)"
        assert describe_error(NoText()) == "NoText: (its text cannot be read: TypeError)"

    def test_what_cannot_be_stored_is_taken_out(self) -> None:
        assert clean_text("a\0b\ud800c") == "ab?c"

    @pytest.mark.parametrize("letter", ["x", "é", "😀"])
    def test_at_most_8_kb(self, letter: str) -> None:
        kept = clean_text(letter * 50_000)
        assert ERROR_LIMIT_BYTES - 3 <= len(kept.encode()) <= ERROR_LIMIT_BYTES

    @pytest.mark.parametrize(
        ("text", "cleaned"),
        [
            ("postgresql://bot:pa55word@db:5432/x failed", "postgresql://***@db:5432/x failed"),
            ("redis://:pa55word@cache/0", "redis://***@cache/0"),
            ("https://pa55word@gateway/send", "https://***@gateway/send"),
            ("https://bot:pa55@word@gateway/send", "https://***@gateway/send"),
            ("https://gateway/send?to=a@b", "https://gateway/send?to=a@b"),
            ("Authorization: Bearer pa55word.x-y", "Authorization: Bearer ***"),
            ("Authorization: Basic cGE1NXdvcmQ=", "Authorization: Basic ***"),
            ('{"access_token": "pa55word", "code": 190}', '{"access_token": "***", "code": 190}'),
            ("apikey=pa55word&to=1", "apikey=***&to=1"),
            ("X-Api-Key: pa55word", "X-Api-Key: ***"),
            ("pass\0word=pa55word", "password=***"),
            ("token EAAGm0PX4ZCpsBAKZBZpa55word", "token EAA***"),
            (
                "https://api.telegram.org/bot123456:pa55-word/sendMessage",
                "https://api.telegram.org/bot***/sendMessage",
            ),
            ("5511999998888@s.whatsapp.net is not on WhatsApp", "<number>@s.whatsapp.net is not on WhatsApp"),
            ("no account for +5511999998888", "no account for <number>"),
            ("HTTP 500 after 1200 ms", "HTTP 500 after 1200 ms"),
            (
                "message 0192f0a1-7b2c-7d3e-8f40-123456789012 was refused",
                "message 0192f0a1-7b2c-7d3e-8f40-123456789012 was refused",
            ),
        ],
    )
    def test_secrets_and_numbers_are_masked(self, text: str, cleaned: str) -> None:
        assert clean_text(text) == cleaned
        assert "pa55" not in clean_text(text)

    @pytest.mark.parametrize(
        "text", ["a", "1", "Ab3+/", "a.", "token ", "bearer ", "a://", "EAA", "/bot1", 'password="']
    )
    def test_a_huge_error_does_not_hold_up_the_loop(self, text: str) -> None:
        start = time.process_time()
        clean_text(text * 1_000_000)
        assert time.process_time() - start < 0.25

    @given(st.text(st.characters(codec=None)))
    @settings(max_examples=50)
    def test_whatever_it_is_it_can_be_stored(self, text: str) -> None:
        kept = clean_text(text)
        assert "\0" not in kept
        assert len(kept.encode()) <= ERROR_LIMIT_BYTES


class TestProviderId:
    @pytest.mark.parametrize(
        ("value", "kept"),
        [
            (None, None),
            ("", None),
            ("wamid.1", "wamid.1"),
            (42, "42"),
            ("a\0b", "ab"),
            ("\0", None),
            ("a\ud800", "a?"),
        ],
        ids=ascii,
    )
    def test_as_text(self, value: object, kept: str | None) -> None:
        assert provider_id_of(value) == kept

    def test_bounded(self) -> None:
        assert provider_id_of("x" * 10_000_000) == "x" * PROVIDER_ID_LIMIT

    def test_what_has_no_text(self) -> None:
        assert provider_id_of(Unreadable()) == "(Unreadable: RuntimeError)"
