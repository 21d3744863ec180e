"""The error tree."""

from __future__ import annotations

import inspect
import re
from uuid import UUID

import pytest

from mqworker import errors
from mqworker.errors import EnqueueUncertain, InvalidMessage, MqWorkerError, RetryAfter

LINE = re.compile(r"^    (?P<branch>(?:[│ ]   )*(?:[├└]── )?)(?P<name>\w+)(?: \((?P<beside>\w+)\))?")


def drawn() -> dict[str, tuple[str, ...]]:
    """Each class of the docstring's tree with its bases."""
    bases: dict[str, tuple[str, ...]] = {}
    above: dict[int, str] = {-1: "Exception"}
    for line in filter(None, map(LINE.match, (errors.__doc__ or "").splitlines())):
        depth = len(line["branch"]) // 4
        above[depth] = line["name"]
        bases[line["name"]] = tuple(filter(None, (above[depth - 1], line["beside"])))
    return bases


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    classes = {
        name: tuple(base.__name__ for base in kind.__bases__)
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if kind.__module__ == errors.__name__
    }
    assert drawn() == classes
    assert len(classes) > 10


def test_every_class_says_what_it_is() -> None:
    for kind in (MqWorkerError, *MqWorkerError.__subclasses__()):
        assert kind.__doc__


def test_invalid_message_names_field_reason_and_place() -> None:
    error = InvalidMessage("payload.a[3]", "contains NUL")
    assert (error.field, error.reason, error.index) == ("payload.a[3]", "contains NUL", None)
    assert str(error) == "payload.a[3]: contains NUL"
    assert str(error.at(7)) == "message 7: payload.a[3]: contains NUL"
    assert isinstance(error, ValueError)


def test_enqueue_uncertain_shows_a_few_ids() -> None:
    ids = [UUID(int=n) for n in range(1, 6)]
    error = EnqueueUncertain(ids)
    assert error.message_ids == ids
    assert "5 message(s)" in str(error)
    assert str(ids[2]) in str(error)
    assert str(ids[3]) not in str(error)


def test_retry_after() -> None:
    wait = RetryAfter(3)
    assert (wait.seconds, wait.scope, str(wait)) == (3.0, "chat", "the provider asks to wait 3 s (chat)")
    assert str(RetryAfter(3, "instance", "slow down")) == "slow down"


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), -0.001])
def test_retry_after_refuses_what_is_no_wait(seconds: float) -> None:
    with pytest.raises(ValueError, match="finite number >= 0"):
        RetryAfter(seconds)


def test_retry_after_refuses_another_scope() -> None:
    with pytest.raises(ValueError, match="'chat' or 'instance'"):
        RetryAfter(1, "world")  # type: ignore[arg-type]
