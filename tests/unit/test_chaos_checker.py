"""The checker on histories made by hand: a clean one breaks nothing, and each forged breach is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.checker import check
from tests.chaos.fleet import ROOT
from tests.chaos.history import Cancel, Change, Claim, Fault, Life, Row, Run, Send, Told
from tests.chaos.mutants import MUTANTS
from tests.chaos.recovery import felt

CHAT = "account/chat"
FACTS: dict[str, Any] = {
    "delay_min_seconds": 0.05,
    "delay_max_seconds": 0.15,
    "backoff_cap_seconds": 1.0,
    "lease_seconds": 2.0,
    "reclaim_every_seconds": 0.5,
    "drain_seconds": 10.0,
    "wake_seconds": 3.0,
    "steady": True,
    "workers": 1,
    "redis_left": [],
    "canaries": [],
}


def change(at: float, key: str, was: str | None, now: str, **more: Any) -> Change:
    facts: dict[str, Any] = {
        "seen": at,
        "seq": int(key),
        "chat": CHAT,
        "priority": 0,
        "claim_id": "c",
        "pid": 1,
        "retry_count": 0,
        "max_retries": 3,
        "lease_was": None,
        "due": None,
        "error": None,
    }
    return Change(at=at, key=key, was=was, now=now, **{**facts, **more})


def clean_run() -> Run:
    """Two messages of a chat, sent one after the other."""
    changes, claims, sends, rows, told = [], [], [], {}, {}
    for place, key in enumerate(("1", "2")):
        begin = 10.0 + place
        changes.append(change(1.0 + place / 10, key, None, "PENDING"))
        changes.append(change(begin, key, "PENDING", "PROCESSING"))
        changes.append(change(begin + 0.3, key, "PROCESSING", "COMPLETED"))
        claim = Claim(key, CHAT, 1, 1, begin, begin, begin + 0.3, begin + 0.3, "sent")
        send = Send(f"id-{key}", CHAT, 1, 1, begin + 0.1, begin + 0.2, 201, claim)
        claim.sends.append(send)
        claims.append(claim)
        sends.append(send)
        rows[key] = Row(f"id-{key}", key, CHAT, "COMPLETED", 0, 3, None)
        told[key] = Told(key, CHAT, 0, "ok", 9.8 + place)
    changes.sort(key=lambda one: one.at)
    faults = [Fault("SIGTERM", 98.0, 99.0, pid=1, slot="worker-1", code=0)]
    lives = [Life("worker-1", 1, 1.0, 99.0, 0)]
    return Run(
        FACTS,
        told,
        [],
        rows,
        [],
        changes,
        claims,
        sends,
        faults,
        lives,
        {},
        {"tracebacks": 0, "cron jobs that arq ran twice": 0},
    )


def broken(run: Run) -> set[str]:
    return {name for name, breaches in check(run).items() if breaches}


def test_a_clean_run_breaks_nothing() -> None:
    assert broken(clean_run()) == set()


def lose_the_row(run: Run) -> None:
    del run.rows["2"]
    del run.sends[1], run.claims[1], run.changes[-3:]


def leave_it_waiting(run: Run) -> None:
    run.rows["2"] = Row("id-2", "2", CHAT, "PENDING", 0, 3, None)


def send_nothing(run: Run) -> None:
    run.sends[1].status = 500


def give_up_early(run: Run) -> None:
    run.rows["2"] = Row("id-2", "2", CHAT, "FAILED", 1, 3, "ExecutorError: no")


def store_what_was_refused(run: Run) -> None:
    run.told["2"].result = "no"


def send_a_stranger(run: Run) -> None:
    run.sends.append(Send("id-9", CHAT, 1, 1, 20.0, 20.1, 201))


def send_another_s_payload(run: Run) -> None:
    run.sends[1].digest = "another"


def send_to_another_chat(run: Run) -> None:
    run.sends[1].chat = "account/another"


def store_it_in_another_chat(run: Run) -> None:
    run.rows["2"] = Row("id-2", "2", "account/another", "COMPLETED", 0, 3, None)


def send_twice_in_one_claim(run: Run) -> None:
    again = Send("id-1", CHAT, 1, 1, 10.21, 10.22, 201, run.claims[0])
    run.claims[0].sends.append(again)
    run.sends.insert(1, again)


def send_again_after_success(run: Run) -> None:
    claim = Claim("1", CHAT, 1, 1, 12.0, 12.0, 12.3, 12.3, "sent")
    claim.sends.append(Send("id-1", CHAT, 1, 1, 12.1, 12.2, 201, claim))
    run.claims.append(claim)
    run.sends.append(claim.sends[0])


def settle_before_the_answer(run: Run) -> None:
    run.sends[1].end = run.claims[1].end + 0.2


def claim_two_at_once(run: Run) -> None:
    run.claims[1].start = run.claims[0].end - 0.1


def claim_the_second_first(run: Run) -> None:
    run.told["1"].known_at = 0.5
    run.changes.insert(2, change(5.0, "2", "PENDING", "PROCESSING"))


def pass_a_higher_priority(run: Run) -> None:
    run.changes.insert(2, change(2.0, "3", None, "PENDING", priority=5))
    run.told["3"] = Told("3", CHAT, 5, "ok", 2.0)
    run.rows["3"] = Row("id-3", "3", CHAT, "CANCELLED", 0, 3, None)
    run.cancels.append(Cancel("3", 2.1, "cancelled"))


def hurry_in_the_rows(run: Run) -> None:
    run.claims[1].seen = run.claims[0].end_seen + 0.01


def hurry_at_the_gateway(run: Run) -> None:
    run.sends[0].end = run.sends[1].start - 0.01
    run.claims[0].end = run.sends[1].start


def take_back_early(run: Run) -> None:
    run.claims[0].how, run.claims[0].lease_was = "reclaimed", run.claims[0].end + 1


def count_nothing_for_a_lost_claim(run: Run) -> None:
    run.changes.append(change(13.0, "2", "PROCESSING", "PENDING", claim_id=None))


def count_beyond_the_limit(run: Run) -> None:
    for number in range(1, 5):
        run.changes.append(change(13.0 + number, "3", "PENDING", "PENDING", retry_count=number))


def go_on_after_the_end(run: Run) -> None:
    run.changes.append(change(13.0, "2", "COMPLETED", "PENDING"))


def claim_after_its_cancel(run: Run) -> None:
    run.cancels.append(Cancel("2", 10.5, "cancelled"))


def end_badly_on_sigterm(run: Run) -> None:
    run.faults.append(Fault("SIGTERM", 20.0, 21.0, pid=1, slot="worker-1", code=1))


def drop_a_claim_on_sigterm(run: Run) -> None:
    run.faults.append(Fault("SIGTERM", 10.1, 10.2, pid=1, slot="worker-1", code=0))
    run.claims[0].how = "reclaimed"


def forget_an_announce(run: Run) -> None:
    run.told["2"].known_at = 1.0
    run.claims[0].end, run.claims[1].start = 5.0, 11.0


def cancel_unasked(run: Run) -> None:
    run.rows["2"] = Row("id-2", "2", CHAT, "CANCELLED", 0, 3, None)


def claim_before_it_is_due(run: Run) -> None:
    run.changes.append(change(13.0, "3", "PENDING", "PROCESSING", due=14.0))


def fail_what_was_taken(run: Run) -> None:
    run.claims[0].how = "failed attempt"


def retry_for_nothing(run: Run) -> None:
    run.sends[0].status = 500
    run.claims[0].how = "deferred"


def fail_without_a_send(run: Run) -> None:
    run.claims.append(Claim("1", CHAT, 1, 2, 12.0, 12.0, 12.3, 12.3, "failed attempt", "ValueError: no"))


def crash(run: Run) -> None:
    run.lives.append(Life("worker-2", 9, 1.0, 50.0, 1))


def trace(run: Run) -> None:
    run.log_lines = {"tracebacks": 1, "cron jobs that arq ran twice": 0}


FORGED: list[tuple[Callable[[Run], None], str]] = [
    (lose_the_row, "lost"),
    (leave_it_waiting, "lost"),
    (send_nothing, "lost"),
    (give_up_early, "lost"),
    (store_what_was_refused, "invented"),
    (send_a_stranger, "invented"),
    (send_another_s_payload, "mixed up"),
    (send_to_another_chat, "mixed up"),
    (store_it_in_another_chat, "mixed up"),
    (send_twice_in_one_claim, "unexplained sends"),
    (send_again_after_success, "unexplained sends"),
    (settle_before_the_answer, "overlapping"),
    (claim_two_at_once, "overlapping"),
    (claim_the_second_first, "reordered"),
    (pass_a_higher_priority, "reordered"),
    (hurry_in_the_rows, "too fast"),
    (hurry_at_the_gateway, "too fast"),
    (take_back_early, "reclaimed early"),
    (take_back_early, "taken from the living"),
    (count_nothing_for_a_lost_claim, "wrongly counted"),
    (count_beyond_the_limit, "wrongly counted"),
    (go_on_after_the_end, "wrongly counted"),
    (claim_after_its_cancel, "claimed after cancel"),
    (end_badly_on_sigterm, "drained badly"),
    (drop_a_claim_on_sigterm, "drained badly"),
    (forget_an_announce, "woken late"),
    (cancel_unasked, "lost"),
    (claim_before_it_is_due, "too fast"),
    (fail_what_was_taken, "settled otherwise"),
    (retry_for_nothing, "settled otherwise"),
    (fail_without_a_send, "settled otherwise"),
    (crash, "ended by itself"),
    (trace, "ended by itself"),
]


@pytest.mark.parametrize(("forge", "name"), FORGED)
def test_a_forged_breach_is_named(forge: Callable[[Run], None], name: str) -> None:
    run = clean_run()
    forge(run)
    assert name in broken(run)


def test_what_a_lost_claim_sends_is_explained() -> None:
    run = clean_run()
    run.facts = {**FACTS, "steady": False}
    zombie = Claim("1", CHAT, 2, 1, 8.0, 8.0, 9.9, 9.9, "reclaimed", lease_was=9.8)
    late = Send("id-1", CHAT, 2, 1, 10.15, 10.9, 201, zombie)
    zombie.sends.append(late)
    run.claims.insert(0, zombie)
    run.sends.insert(1, late)
    run.changes = [c for c in run.changes if c.key != "1"]
    assert broken(run) == set()


def test_a_killed_worker_is_measured_until_its_claims_are_taken_back() -> None:
    run = clean_run()
    run.claims[0].how, run.claims[0].end = "reclaimed", 12.4
    run.faults.append(Fault("worker kill -9", 10.1, 10.1, pid=1, slot="worker-1"))
    one = felt(run)[-1]
    assert (one.times, [round(s, 3) for s in one.seconds], one.over) == (1, [2.3], False)


def test_a_server_that_was_away_is_measured_until_the_chats_that_waited_have_moved() -> None:
    run = clean_run()
    run.changes = []
    for number in range(10):
        chat = f"account/{number}"
        run.changes.append(change(5.0, str(number), None, "PENDING", chat=chat))
        run.changes.append(change(7.0 + number, str(number), "PENDING", "PROCESSING", chat=chat))
    run.faults.append(Fault("PostgreSQL kill -9", 4.0, 6.0))
    one = felt(run)[0]
    assert one.seconds == [9.0], "the ninth of ten chats"
    assert one.over


@pytest.mark.parametrize(
    ("canaries", "left"), [(["text in worker.log"], []), ([], ["mq:{a}:chat:b:lock"])], ids=["canary", "key"]
)
def test_what_is_left_behind_is_named(canaries: list[str], left: list[str]) -> None:
    run = clean_run()
    run.facts = {**FACTS, "canaries": canaries, "redis_left": left}
    assert broken(run) == {"left behind"}


def test_every_mutant_still_finds_the_lines_that_it_changes() -> None:
    put_in = "import sys; from tests.chaos.mutants import mutate; mutate(sys.argv[1])"
    running = {
        name: subprocess.Popen([sys.executable, "-c", put_in, name], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for name in MUTANTS
    }
    said = {name: process.communicate(timeout=60)[1] for name, process in running.items()}
    assert {name: text for name, text in said.items() if running[name].returncode} == {}
