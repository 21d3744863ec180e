"""JSON lines: batches, line numbers, refusals; files and pipes."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from mqworker.cli.demo.plan import SAMPLE, load
from mqworker.cli.lines import BATCH_MESSAGES, InputUnreadable, LineRefused, Source, opened

MESSAGE = {"instance": "shop", "client_id": 7, "chat_id": "c", "payload": {"text": "Olá"}}
ID = "0192f0a1-7b2c-7d3e-8f40-123456789abc"


def line(**changes: object) -> str:
    return json.dumps(MESSAGE | changes, ensure_ascii=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "messages.jsonl"


async def numbers(file: Path) -> list[list[int]]:
    """The line numbers of each batch."""
    with opened(str(file)) as source:
        return [batch.numbers async for batch in source.batches()]


async def refusal(file: Path) -> str:
    with opened(str(file)) as source, pytest.raises(LineRefused) as refused:
        await source.check(3)
    return str(refused.value)


class TestReading:
    async def test_batches(self, file: Path) -> None:
        file.write_text("\n".join([line()] * (2 * BATCH_MESSAGES + 5)))
        assert [len(batch) for batch in await numbers(file)] == [BATCH_MESSAGES, BATCH_MESSAGES, 5]

    async def test_what_editors_leave(self, file: Path) -> None:
        file.write_bytes(b"\xef\xbb\xbf" + line().encode() + b"\r\n\r\n   \n" + line().encode())
        assert await numbers(file) == [[1, 4]]

    async def test_an_empty_file(self, file: Path) -> None:
        file.write_text("")
        assert await numbers(file) == []

    async def test_a_repeated_id_begins_a_new_batch(self, file: Path) -> None:
        file.write_text("\n".join([line(message_id=ID), line(), line(message_id=ID.upper().replace("-", "")), line()]))
        assert await numbers(file) == [[1, 2], [3, 4]]

    async def test_big_messages_make_small_batches(self, file: Path) -> None:
        file.write_text("\n".join([line(payload={"text": "x" * 250_000})] * 70))
        assert max(len(batch) for batch in await numbers(file)) < 35

    async def test_a_checked_file_is_read_from_its_start(self, file: Path) -> None:
        file.write_text(f"{line()}\n{line()}\n")
        with opened(str(file)) as source:
            read: list[int] = []
            assert await source.check(3, read.append) == 2
            assert sum(read) == source.size == file.stat().st_size
            assert [batch.numbers async for batch in source.batches()] == [[1, 2]]

    async def test_a_pipe_hands_on_what_has_come(self) -> None:
        reader, writer = os.pipe()
        source = Source(reader, "the pipe")
        batches = source.batches()
        assert source.size is None
        os.write(writer, f"{line()}\n{line()}\n{line()[:10]}".encode())
        first = await asyncio.wait_for(anext(batches), 5)
        assert first.numbers == [1, 2]
        os.write(writer, line()[10:].encode())
        os.close(writer)
        assert [batch.numbers async for batch in batches] == [[3]]
        os.close(reader)

    async def test_nothing_to_wait_for(self) -> None:
        assert await numbers(Path(os.devnull)) == []

    @pytest.mark.parametrize(("name", "reason"), [("nothing", "No such file"), (".", "Is a directory")])
    async def test_what_cannot_be_read(self, tmp_path: Path, name: str, reason: str) -> None:
        with pytest.raises(InputUnreadable, match=reason):
            await numbers(tmp_path / name)


class TestRefusals:
    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            (line(client_id="7"), "line 3: client_id: must be int, got str"),
            (line(priority=101), "line 3: priority: must be from -100 to 100, got 101"),
            (line(colour="red"), "line 3: colour: is no field of a message"),
            (line(scheduled_at="soon"), "line 3: scheduled_at: must be a time such as"),
            (line(scheduled_at="2030-01-01T00:00:00"), "line 3: scheduled_at: must have a time zone"),
            (line(payload={"items": [1, "\0"]}), "line 3: payload.items[1]: contains NUL"),
            (line(payload="text"), "line 3: payload: must be an object"),
            ('{"instance": "shop"}', "line 3: chat_id: is required"),
            ('{"instance": ', "line 3: is not JSON"),
            ("[1]", "line 3: must be a JSON object, got list"),
            ('{"a": 1, "a": 2}', "line 3: has the key 'a' twice"),
        ],
    )
    async def test_line_and_field_are_named(self, file: Path, bad: str, reason: str) -> None:
        file.write_text(f"{line()}\n\n{bad}\n{line()}\n")
        assert (await refusal(file)).startswith(reason)

    async def test_in_a_later_batch(self, file: Path) -> None:
        lines = [line()] * (BATCH_MESSAGES + 7)
        lines[BATCH_MESSAGES + 3] = line(instance="")
        file.write_text("\n".join(lines))
        assert (await refusal(file)).startswith(f"line {BATCH_MESSAGES + 4}: instance: ")

    async def test_not_utf8(self, file: Path) -> None:
        file.write_bytes(line().encode() + b"\nol\xe1\n")
        assert await refusal(file) == "line 2: is not UTF-8 (byte 3)"


class TestDemoFile:
    async def test_the_sample_is_what_the_demo_promises(self) -> None:
        plan = await load(None, default_max_retries=3)
        chats = {planned.chat for planned in plan}
        scripts = [planned.message["payload"] for planned in plan]
        assert len(plan) == 40
        assert len(chats) == 6
        assert sum(chat.chat_id.endswith("@g.us") for chat in chats) == 2
        assert len({planned.priority for planned in plan}) > 2
        assert sum(script.get("fail_times") == 2 for script in scripts) == 1
        assert sum("fail_always" in script for script in scripts) == 1
        assert all(planned.message.get("is_group", False) == planned.chat.chat_id.endswith("@g.us") for planned in plan)

    def test_the_sample_is_in_the_package(self) -> None:
        assert SAMPLE.is_file()

    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            (line(executor="other"), "line 1: executor: the demo's workers have 'default' only"),
            (line(chat_id=""), "line 1: chat_id: "),
        ],
    )
    async def test_what_the_demo_cannot_send(self, file: Path, bad: str, reason: str) -> None:
        file.write_text(bad)
        with pytest.raises(LineRefused, match=reason):
            await load(file, default_max_retries=3)

    async def test_nothing_to_send(self, file: Path) -> None:
        file.write_text("\n")
        with pytest.raises(InputUnreadable, match="holds no message"):
            await load(file, default_max_retries=3)
