"""What a worker's log shows: of a message its context, of an exception where it was, of a flood its beginning."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars

from mqworker.digest import Digest
from mqworker.flights import Flights
from mqworker.logs import RATION_LINES, RATION_SECONDS, Ration, configure_logging
from mqworker.tally import Tally
from tests.canaries import found

CANARY = "CANARYofALocalVariable"
LOGGERS = ("", "mqworker", "arq", "bot")
FACTS = {"instance": "shop", "chat_id": "c", "message_id": "m-1", "attempt": 2}


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
    structlog.reset_defaults()
    clear_contextvars()


@pytest.fixture
def log() -> logging.Logger:
    return logging.getLogger("mqworker.test")


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def fail_with(text: str) -> None:
    payload = {"text": text}
    raise RuntimeError(len(payload))


@pytest.mark.parametrize("as_json", [False, True], ids=["for people", "json"])
@pytest.mark.parametrize("way", ["logging", "structlog"])
def test_a_traceback_shows_no_local_variable(way: str, as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(json=as_json, app="bot:registry")
    logger: Any = structlog.get_logger("bot") if way == "structlog" else logging.getLogger("bot")
    try:
        fail_with(CANARY)
    except RuntimeError:
        logger.exception("it failed")
    output = capsys.readouterr().err
    assert "fail_with" in output
    assert found([CANARY], output) == []


class TestContext:
    async def test_all_that_a_send_logs_says_of_which_message(self, capsys: pytest.CaptureFixture[str]) -> None:
        configure_logging(json=True, app="bot.senders:registry")

        async def send() -> None:
            bind_contextvars(**FACTS)
            logging.getLogger("bot").info("by logging", extra={"words": 2})
            await asyncio.to_thread(structlog.get_logger("bot.senders").info, "by structlog", words=2)

        bind_contextvars(worker="w1")
        await asyncio.gather(asyncio.create_task(send()))
        logging.getLogger("mqworker.test").info("beside it")
        *inside, outside = told(capsys)
        assert [line["event"] for line in inside] == ["by logging", "by structlog"]
        for line in inside:
            assert line.items() >= {**FACTS, "worker": "w1", "words": 2, "level": "info"}.items()
            assert line["logger"].startswith("bot")
        assert (outside["worker"], "message_id" in outside) == ("w1", False)

    def test_what_a_line_is_given_is_nearer(self, log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
        configure_logging(json=True)
        bind_contextvars(**FACTS)
        log.warning("retry", extra={"attempt": 3})
        assert told(capsys)[0].items() >= {**FACTS, "attempt": 3}.items()

    def test_people_read_it_at_the_end_of_the_line(
        self, log: logging.Logger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        configure_logging()
        bind_contextvars(worker="w1")
        log.warning("retry", extra=FACTS)
        line = capsys.readouterr().err
        assert line.endswith("retry attempt=2 chat_id=c instance=shop message_id=m-1 worker=w1\n")

    @pytest.mark.parametrize(("variable", "coloured"), [("", True), ("1", False)])
    def test_colours_are_for_terminals_and_heed_no_color(
        self, variable: str, coloured: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        monkeypatch.setenv("NO_COLOR", variable)
        configure_logging()
        logging.getLogger("mqworker.test").warning("retry")
        assert ("\x1b[" in capsys.readouterr().err) == coloured

    def test_no_control_character_reaches_a_terminal(
        self, log: logging.Logger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        configure_logging()
        try:
            raise ValueError("\x1b[2J")
        except ValueError:
            log.exception("it \x1b[31m failed", extra={"error": "\x1b]0;title\x07"})
        output = capsys.readouterr().err
        assert "it \\u001b[31m failed error=\\u001b]0;title\\u0007\n" in output
        assert "ValueError: \\u001b[2J" in output
        assert "\x1b" not in output

    def test_an_app_that_has_configured_structlog_keeps_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        structlog.configure(processors=[structlog.processors.JSONRenderer()])
        configure_logging(app="bot:registry")
        structlog.get_logger("bot").info("as it likes")
        assert capsys.readouterr().out == '{"event": "as it likes"}\n'


class TestLevels:
    def test_of_others_only_the_app_s_own_package_speaks_below_a_warning(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        configure_logging("DEBUG", json=True, app="bot.senders:registry")
        for name in ("mqworker.x", "bot.senders", "httpx", "arq"):
            logging.getLogger(name).debug("detail")
            logging.getLogger(name).warning("trouble")
        lines = Counter(line["logger"] for line in told(capsys))
        assert lines == {"mqworker.x": 2, "bot.senders": 2, "httpx": 1, "arq": 1}


class TestRation:
    def test_of_a_flood_the_first_lines_are_shown(
        self, log: logging.Logger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        configure_logging(json=True)
        for number in range(1000):
            log.warning("retry", extra={**FACTS, "number": number})
        log.error("failed", extra=FACTS)
        log.warning("Redis is away")
        lines = told(capsys)
        retries = lines[:RATION_LINES]
        assert [line["number"] for line in retries] == list(range(RATION_LINES))
        assert ["more" in line for line in retries] == [False] * (RATION_LINES - 1) + [True]
        assert [line["event"] for line in lines[RATION_LINES:]] == ["failed", "Redis is away"]

    def test_what_is_not_about_one_message_is_not_rationed_nor_what_others_say(
        self, log: logging.Logger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        configure_logging(json=True, app="bot:registry")
        for _ in range(2 * RATION_LINES):
            log.info("settled")
            logging.getLogger("bot").info("sent", extra={"message_id": "m-1"})
        assert Counter(line["event"] for line in told(capsys)) == {"settled": 40, "sent": 40}

    def test_debug_shows_all(self, log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
        configure_logging("DEBUG", json=True)
        for _ in range(2 * RATION_LINES):
            log.debug("processed", extra=FACTS)
        assert len(told(capsys)) == 2 * RATION_LINES

    def test_each_period_begins_anew(self) -> None:
        ration = Ration()

        def shown_at(second: float) -> int:
            record = logging.makeLogRecord({"name": "mqworker.x", "msg": "retry", "created": second, **FACTS})
            return sum(ration.filter(record) for _ in range(100))

        assert [shown_at(1000.0), shown_at(1009.9), shown_at(1000.0 + RATION_SECONDS)] == [20, 0, 20]


class TestDigest:
    def test_it_tells_what_came_since_the_last_and_nothing_where_nothing_did(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        tally = Tally()
        digest = Digest(tally, Flights(10))
        digest.tell()
        tally.outcomes["shop"] = Counter(sent=10, retry=2)
        tally.outcomes[""] = Counter(sent=5)
        digest.tell()
        tally.outcomes["shop"].update(sent=1)
        tally.late_settles = 3
        digest.tell()
        digest.tell()
        names = ("sent", "retry", "put_off", "failed", "cancelled", "released", "late", "in_flight")
        numbers = [tuple(vars(record)[name] for name in names) for record in caplog.records]
        assert [record.getMessage() for record in caplog.records] == ["settled", "settled"]
        assert numbers == [(15, 2, 0, 0, 0, 0, 0, 0), (1, 0, 0, 0, 0, 0, 3, 0)]
