"""The demo's judge: good histories pass, and every kind of broken promise is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.message import ChatKey
from mqworker.testing.history import Attempt
from mqworker.testing.verdict import Expected, Problem, gaps_of, judge, summary

CHAT = ChatKey("shop", "c1")
GAP = 0.5


def expected(name: str, seq: int, priority: int = 0, *, due_at: float | None = None, chat: ChatKey = CHAT) -> Expected:
    return Expected(name, chat, seq, priority, max_retries=3, due_at=due_at)


def attempt(name: str, start: float, status: int | None = 201, *, chat: ChatKey = CHAT, takes: float = 0.1) -> Attempt:
    return Attempt(name, chat, 1, start, None if status is None else start + takes, status)


def verdict(messages: Sequence[Expected], attempts: Sequence[Attempt], **statuses: str) -> list[Problem]:
    rows = {message.message_id: "COMPLETED" for message in messages} | statuses
    return judge(messages, rows, attempts, least_gap_seconds=GAP)


def kinds(problems: Sequence[Problem]) -> list[str]:
    return [problem.kind for problem in problems]


A, B, C = expected("a", 1), expected("b", 2), expected("c", 3)
URGENT = expected("u", 4, priority=5)
GOOD = [attempt("a", 0), attempt("b", 1), attempt("c", 2)]


class TestGood:
    def test_in_order_and_paced(self) -> None:
        assert verdict([A, B, C], GOOD) == []

    def test_priority_goes_first(self) -> None:
        assert verdict([A, B, URGENT], [attempt("u", 0), attempt("a", 1), attempt("b", 2)]) == []

    def test_a_retry_keeps_its_place(self) -> None:
        history = [attempt("a", 0, 500), attempt("a", 2, 500), attempt("a", 5), attempt("b", 6)]
        assert verdict([A, B], history) == []

    def test_a_priority_may_pass_a_backoff(self) -> None:
        # Not of these histories (all is enqueued before the first send), but of a scheduled one it is.
        urgent = expected("u", 4, priority=5, due_at=1.0)
        assert verdict([A, urgent], [attempt("a", 0, 500), attempt("u", 1.2), attempt("a", 2)]) == []

    def test_refused_for_good(self) -> None:
        assert verdict([A, B], [attempt("a", 0, 400), attempt("b", 1)], a="FAILED") == []

    def test_failed_three_times(self) -> None:
        assert verdict([A], [attempt("a", start, 500) for start in (0, 2, 4)], a="FAILED") == []

    def test_waiting_as_told_costs_no_attempt(self) -> None:
        history = [attempt("a", start, status) for start, status in ((0, 429), (2, 500), (4, 500), (6, 201))]
        assert verdict([A], history) == []

    def test_chats_do_not_wait_for_each_other(self) -> None:
        other = ChatKey("shop", "c2")
        history = [attempt("a", 0), attempt("x", 0.05, chat=other), attempt("b", 1)]
        assert verdict([A, B, expected("x", 3, chat=other)], history) == []

    def test_a_scheduled_message_stands_outside_until_it_is_due(self) -> None:
        scheduled = expected("s", 1, due_at=10.0)
        assert verdict([scheduled, B, C], [attempt("b", 0), attempt("c", 1), attempt("s", 10.1)]) == []

    def test_cancelled_before_it_was_sent(self) -> None:
        assert verdict([A, B], [attempt("b", 0)], a="CANCELLED") == []

    @given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-1, 0, 1])), min_size=1, max_size=30))
    def test_whatever_is_sent_by_the_rule_passes(self, messages: list[tuple[int, int]]) -> None:
        planned = [
            expected(str(seq), seq, priority, chat=ChatKey("shop", f"c{chat}"))
            for seq, (chat, priority) in enumerate(messages)
        ]
        line = sorted(planned, key=lambda message: message.place)
        history = [attempt(m.message_id, float(at), chat=m.chat) for at, m in enumerate(line)]
        assert verdict(planned, history) == []


class TestBad:
    @pytest.mark.parametrize(
        ("attempts", "statuses"),
        [
            ([], {}),  # says COMPLETED, nobody saw it
            ([], {"a": "PENDING"}),
            ([attempt("a", 0, None)], {"a": "PROCESSING"}),
            ([attempt("a", 0, 500)], {"a": "PENDING"}),
            ([attempt("a", 0, 500)], {"a": "COMPLETED"}),
            ([attempt("a", 0, 500)], {"a": "FAILED"}),  # two attempts are left
            ([attempt("a", 0)], {"a": "FAILED"}),
            ([attempt("a", 0)], {"a": "PENDING"}),
            ([attempt("a", 0)], {"a": "CANCELLED"}),
        ],
    )
    def test_lost(self, attempts: list[Attempt], statuses: dict[str, str]) -> None:
        assert kinds(verdict([A], attempts, **statuses)) == ["lost"]

    def test_lost_with_its_row(self) -> None:
        assert kinds(judge([A], {}, [attempt("a", 0)], least_gap_seconds=GAP)) == ["lost"]

    @pytest.mark.parametrize("status", [201, 500, None])
    def test_doubled(self, status: int | None) -> None:
        assert kinds(verdict([A], [attempt("a", 0), attempt("a", 1, status)])) == ["doubled"]

    def test_tried_too_often(self) -> None:
        history = [attempt("a", start, 500) for start in (0, 1, 2, 3)]
        assert kinds(verdict([A], history, a="FAILED")) == ["doubled"]

    @pytest.mark.parametrize(
        ("messages", "names"),
        [
            ([A, B], "ba"),
            ([A, B, C], "acb"),
            ([A, URGENT], "au"),
            ([A, expected("l", 0, priority=-1)], "la"),
        ],
    )
    def test_reordered(self, messages: list[Expected], names: str) -> None:
        history = [attempt(name, float(at)) for at, name in enumerate(names)]
        assert kinds(verdict(messages, history)) == ["reordered"]

    def test_passed_while_it_waited_for_its_retry(self) -> None:
        history = [attempt("a", 0, 500), attempt("b", 1), attempt("a", 2)]
        assert kinds(verdict([A, B], history)) == ["reordered"]

    def test_passed_after_it_was_due(self) -> None:
        scheduled = expected("s", 1, due_at=10.0)
        history = [attempt("b", 9), attempt("c", 20), attempt("s", 21)]
        assert kinds(verdict([scheduled, B, C], history)) == ["reordered"]

    def test_too_fast(self) -> None:
        problems = verdict([A, B], [attempt("a", 0, takes=0.1), attempt("b", 0.599)])
        assert kinds(problems) == ["too fast"]
        assert "b began 0.499 s after message a" in str(problems[0])

    def test_too_fast_after_a_failure(self) -> None:
        history = [attempt("a", 0, 500, takes=0.1), attempt("a", 0.3)]
        assert kinds(verdict([A], history)) == ["too fast"]

    def test_overlapping(self) -> None:
        assert kinds(verdict([A, B], [attempt("a", 0, takes=2.0), attempt("b", 1.0)])) == ["overlapping"]

    def test_overlapping_a_long_one_that_began_earlier(self) -> None:
        history = [attempt("a", 0, takes=9.0), attempt("b", 1, takes=0.1), attempt("c", 2)]
        assert kinds(verdict([A, B, C], history)) == ["overlapping", "overlapping"]

    def test_overlapping_one_that_was_not_seen_to_end(self) -> None:
        second = replace(attempt("b", 1.0), in_chat=2)
        problems = verdict([A, B], [attempt("a", 0, None), second], a="PROCESSING")
        assert kinds(problems) == ["lost", "overlapping"]

    def test_never_enqueued(self) -> None:
        assert kinds(verdict([A], [attempt("a", 0), attempt("z", 1)])) == ["unknown"]

    def test_all_at_once(self) -> None:
        history = [attempt("c", 0), attempt("b", 0.2), attempt("b", 1.5)]
        assert set(kinds(verdict([A, B, C], history))) == {"lost", "reordered", "doubled", "too fast"}

    @given(st.permutations(range(6)))
    def test_only_one_order_passes(self, order: list[int]) -> None:
        planned = [expected(str(seq), seq) for seq in range(6)]
        history = [attempt(str(seq), float(at)) for at, seq in enumerate(order)]
        assert bool(verdict(planned, history)) == (order != sorted(order))


def test_gaps() -> None:
    gaps = gaps_of([attempt("b", 1.0), attempt("a", 0.0), attempt("c", 3.1)])
    assert gaps == pytest.approx([0.9, 2.0])
    found = summary(gaps)
    assert found is not None
    assert found.count == 2
    assert [found.least, found.most, found.mean] == pytest.approx([0.9, 2.0, 1.45])
    assert summary([]) is None
