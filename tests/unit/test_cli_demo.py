"""What the demo shows and says: its board, its table at 80 columns, its report and exit code."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from mqworker.cli.demo import command
from mqworker.cli.demo.board import Board
from mqworker.cli.demo.plan import Planned
from mqworker.cli.demo.play import clean_environment
from mqworker.cli.demo.report import Outcome, report
from mqworker.cli.demo.view import View
from mqworker.message import ChatKey, QueueStats
from mqworker.testing.history import Attempt
from mqworker.testing.verdict import Problem

CHAT = ChatKey("shop", "5511900000001@c.us")
ESCAPES = re.compile(r"\x1b\[[?\d;]*[A-Za-z]")


def planned(text: str, chat_id: str = CHAT.chat_id, priority: int = 0, instance: str = "shop") -> Planned:
    message = {"instance": instance, "client_id": 7, "chat_id": chat_id, "payload": {"text": text}}
    return Planned(message | {"priority": priority}, text, max_retries=3)


def attempt(name: str, start: float, end: float | None = None, status: int | None = None) -> Attempt:
    return Attempt(name, CHAT, 1, start, end, status)


PLAN = {"a": planned("Oi Ana 😊"), "b": planned("b" * 200, priority=5)}


class TestBoard:
    def test_a_message_s_way(self) -> None:
        board = Board(PLAN)
        row = board.rows[0]
        assert (row.waiting, row.in_flight, row.sent, row.done) == (2, 0, 0, False)
        assert board.apply([attempt("b", 0)])
        assert (row.waiting, row.in_flight, row.last_gap) == (1, 1, None)
        board.apply([attempt("b", 0, 0.5, 201), attempt("a", 1.5)])
        assert (row.waiting, row.in_flight, row.sent, row.last_gap) == (0, 1, 1, 1.0)
        assert row.last_text == "Oi Ana 😊"
        board.apply([attempt("a", 1.5, 2, 400)])
        assert (row.waiting, row.in_flight, row.sent, row.failed, row.done) == (0, 0, 1, 1, True)
        assert not board.apply([])

    def test_failed_is_failed_for_good(self) -> None:
        board = Board(PLAN)
        for tries, failed in ((1, 0), (2, 0), (3, 1)):
            board.apply([attempt("a", tries), attempt("a", tries, tries + 0.1, 500)])
            assert board.sum().failed == failed

    def test_accounts_are_named_where_there_are_several(self) -> None:
        assert Board(PLAN).name(CHAT) == CHAT.chat_id
        both = Board(PLAN | {"c": planned("x", instance="other")})
        assert both.name(CHAT) == "shop 5511900000001@c.us"


class TestView:
    def shown(self, board: Board, *, terminal: bool, height: int = 24) -> str:
        console = Console(file=StringIO(), width=80, height=height, force_terminal=terminal, color_system=None)
        with View(board, console) as view:
            view.update(last=True)
        output = console.file
        assert isinstance(output, StringIO)
        return output.getvalue()

    def test_table_fits_80_columns(self) -> None:
        board = Board(PLAN | {"c": planned("\x1b[31mred\n[bold]", "120363000000000005@g.us")})
        board.apply([attempt("b", 0), Attempt("c", ChatKey("shop", "120363000000000005@g.us"), 1, 0)])
        text = self.shown(board, terminal=True)
        assert "5511900000001@c.us " in text
        assert "120363000000000005@g.us" in text
        assert "\x1b[31m" not in text
        assert max(cell_len(line) for line in ESCAPES.sub("", text).splitlines()) <= 80

    def test_more_chats_than_lines(self) -> None:
        board = Board({str(number): planned("x", f"chat-{number}") for number in range(100)})
        text = self.shown(board, terminal=True, height=20)
        assert "chats more" in text
        assert "chat-99" not in text

    def test_elsewhere_a_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.shown(Board(PLAN), terminal=False) == ""
        assert "0 of 2 sent, 0 in flight, 2 waiting, 0 failed" in capsys.readouterr().err


ATTEMPTS = [
    Attempt("b", CHAT, 1, 0.0, 0.1, 201),
    Attempt("a", CHAT, 1, 1.1, 1.2, 500),
    Attempt("a", CHAT, 2, 3.2, 3.3, 201),
]


def told(outcome: Outcome) -> str:
    console = Console(file=StringIO(), width=80)
    report(outcome, console)
    output = console.file
    assert isinstance(output, StringIO)
    return output.getvalue()


class TestReport:
    def test_all_is_well(self) -> None:
        text = told(Outcome(PLAN, ATTEMPTS, QueueStats(completed=2), [], 9.0))
        assert "5511900000001@c.us  2 sent, gaps from 1.00 to 2.00 s" in text
        assert text.index("bbb") < text.index("Oi Ana")
        assert "sent at attempt 2" in text
        assert "pending 0  processing 0  completed 2  failed 0  cancelled 0" in text
        assert "Nothing was lost, reordered, doubled or too fast." in text
        assert max(map(len, text.splitlines())) <= 80

    def test_problems(self) -> None:
        problems = [Problem("lost", CHAT, "message a is still PENDING")] * 30
        text = told(Outcome(PLAN, [ATTEMPTS[0]], QueueStats(pending=1, completed=1), problems, 9.0))
        assert "lost: 5511900000001@c.us: message a is still PENDING" in text
        assert "... and 10 more" in text
        assert "BROKEN PROMISES: 30 (lost)" in text
        assert "Nothing was" not in text

    def test_nothing_was_sent(self) -> None:
        text = told(Outcome(PLAN, [], QueueStats(pending=2), [Problem("lost", CHAT, "message a")], 60.0))
        assert "5511900000001@c.us  0 sent, no gap" in text

    def test_many_messages_are_told_by_chat(self) -> None:
        plan = {str(number): planned("secret text") for number in range(500)}
        attempts = [Attempt(str(number), CHAT, 1, number, number + 0.1, 201) for number in range(500)]
        text = told(Outcome(plan, attempts, QueueStats(completed=500), [], 9.0))
        assert "500 sent" in text
        assert "secret text" not in text


class TestCommand:
    @pytest.mark.parametrize(("problems", "code"), [([], 0), ([Problem("lost", CHAT, "message a")], 1)])
    def test_exit_code(
        self, problems: list[Problem], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(command, "_forget_settings", lambda: None)
        monkeypatch.setattr(command, "_play", lambda _: Outcome(PLAN, ATTEMPTS, QueueStats(), problems, 9.0))
        assert command.show(None, as_json=False) == code
        assert bool(problems) == ("BROKEN" in capsys.readouterr().out)
        assert command.show(None, as_json=True) == code
        told = json.loads(capsys.readouterr().out)
        assert (told["problems"], told["completed"], told["seconds"]) == (len(problems), 0, 9.0)
        assert [one["kind"] for one in told["first_problems"]] == ["lost"] * code

    def test_a_bad_file_starts_nothing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def start(_: Any) -> Outcome:
            raise AssertionError("servers were started")

        monkeypatch.setattr(command, "_forget_settings", lambda: None)
        monkeypatch.setattr(command, "_play", start)
        (tmp_path / "bad.jsonl").write_text("{}")
        with pytest.raises(Exception, match=r"line 1: \w+: is required"):
            command.show(tmp_path / "bad.jsonl", as_json=False)

    def test_the_users_settings_stay_out(self) -> None:
        dirty = {
            "MQWORKER_DATABASE_URL": "postgresql://db/production",
            "HTTPS_PROXY": "http://proxy",
            "HOME": "/home/me",
        }
        assert clean_environment(dirty) == {"HOME": "/home/me"}
