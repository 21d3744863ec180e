"""`list`, `show`, `errors` and `top --once`: what they print, and what they keep to themselves."""

from __future__ import annotations

import re
from uuid import uuid4

import pytest

from mqworker import MessageQueue
from mqworker.cli import messages
from mqworker.cli.exits import Exit
from mqworker.lifecycle import Settlement
from mqworker.store import Store
from tests.integration.commands import Mqworker
from tests.integration.rows import change, claim, put, row, settle

SECRET = "what nobody else may read"


async def failed(store: Store, chat_id: str, error: str) -> str:
    """A message that failed; its id."""
    message = await put(store, chat_id, payload={"text": SECRET})
    await settle(store, await claim(store, chat_id), Settlement.failed(0.0, error))
    return str(message)


def ages_cut(text: str) -> str:
    """Without what depends on how long the test took."""
    return re.sub(r" +\d+s\b", " AGE", text)


class TestList:
    async def test_filters_and_order(self, mqworker: Mqworker, store: Store) -> None:
        first, second = [str(await put(store, name)) for name in "ab"]
        other = str(await put(store, instance="other"))
        ended = await failed(store, "c", "no")

        async def listed(*options: str) -> list[str]:
            return [one["id"] for one in (await mqworker("list", "--json", *options)).data]

        assert await listed() == [ended, other, second, first]
        assert await listed("--oldest", "--limit", "2") == [first, second]
        assert await listed("--instance", "shop", "--status", "pending") == [second, first]
        assert await listed("--instance", "shop", "--chat", "a") == [first]
        assert await listed("--instance", "nobody") == []

    async def test_the_table(self, mqworker: Mqworker, store: Store) -> None:
        message = await put(store, "a long chat id that no terminal of eighty columns has the room for")
        ran = await mqworker("list")
        name = "shop/a long chat id that no terminal of eighty columns has the room for"
        assert ages_cut(ran.out).splitlines() == [
            "id                                    status       age  tries  instance/chat",
            f"{message}  PENDING AGE    0/3  {name}",
        ]
        assert (await mqworker("list", "--instance", "shop")).out.split()[4] == "chat"

    async def test_long_lists_come_in_pages_under_one_head(
        self, mqworker: Mqworker, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(messages, "PAGE", 2)
        wanted = [str(await put(store, f"c{number}")) for number in range(8)][::-1]
        ran = await mqworker("list", "--limit", "5")
        assert [line.split()[0] for line in ran.out.splitlines()] == ["id", *wanted[:5]]
        assert (await mqworker("list")).out.count("\n") == 9, "also where the last page is full"
        assert len((await mqworker("list", "--json", "--limit", "100")).data) == 8

    async def test_nothing_private_is_shown(self, mqworker: Mqworker, store: Store) -> None:
        await failed(store, "a", f"refused: {SECRET}")
        for options in ([], ["--json"]):
            assert SECRET not in (await mqworker("list", *options)).out

    async def test_what_a_row_holds_does_not_move_the_cursor(self, mqworker: Mqworker, store: Store) -> None:
        await change(store, await put(store), "chat_id = E'\\x1b[2Jtwo\\nlines'")
        ran = await mqworker("list")
        assert "\\u001b[2Jtwo\\u000alines" in ran.out
        assert "\x1b" not in ran.out

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (["--chat", "a"], "chat_id: needs its instance"),
            (["--instance", ""], "instance: must be 1 to 255 characters"),
            (["--limit", "0"], "greater than or equal to 1"),
            (["--status", "sent"], "sent"),
        ],
    )
    async def test_wrong_usage(self, mqworker: Mqworker, options: list[str], reason: str) -> None:
        ran = await mqworker("list", *options, code=Exit.USAGE)
        assert (ran.out, reason in ran.err) == ("", True)


class TestShow:
    async def test_a_message_without_what_is_private(self, mqworker: Mqworker, store: Store) -> None:
        message = await failed(store, "a", "HTTP 400\nthe gateway says why")
        shown = dict(line.split(maxsplit=1) for line in (await mqworker("show", message)).out.splitlines())
        assert (shown["id"], shown["status"], shown["is_group"], shown["retry_count"]) == (message, "FAILED", "no", "1")
        assert shown["error"] == "HTTP 400"
        assert "provider_id" not in shown, "nothing stands where there is nothing"
        told = (await mqworker("show", message, "--json")).one
        assert (told["error"], told["provider_id"], "payload" in told) == ("HTTP 400", None, False)
        assert told["created_at"] == (await row(store, told["id"])).created_at.isoformat()

    async def test_all_of_it_where_asked_for(self, mqworker: Mqworker, store: Store) -> None:
        message = await failed(store, "a", "HTTP 400\nthe gateway says why")
        ran = await mqworker("show", message, "--payload")
        assert f'payload                {{"text": "{SECRET}"}}' in ran.out
        assert "HTTP 400\\u000athe gateway says why" in ran.out
        told = (await mqworker("show", message, "--payload", "--json")).one
        assert (told["payload"], told["error"]) == ({"text": SECRET}, "HTTP 400\nthe gateway says why")

    async def test_an_unknown_one(self, mqworker: Mqworker) -> None:
        unknown = str(uuid4())
        assert (await mqworker("show", unknown, code=Exit.FAILED)).err == f"error: there is no message {unknown}\n"
        assert "must be a UUID" in (await mqworker("show", "17", code=Exit.USAGE)).err


class TestErrors:
    async def test_counted_by_first_line(self, mqworker: Mqworker, store: Store) -> None:
        for name, error in (("a", "Busy\nat 1"), ("b", "Busy\nat 2"), ("c", "Broken \x1b[2J")):
            await failed(store, name, error)
        lines = ages_cut((await mqworker("errors")).out).splitlines()
        assert [line.split() for line in lines] == [
            ["count", "last", "error"],
            ["2", "AGE", "Busy"],
            ["1", "AGE", "Broken", "\\u001b[2J"],
        ]
        told = (await mqworker("errors", "--json", "--limit", "1")).one
        assert (told["error"], told["count"]) == ("Busy", 2)

    async def test_none(self, mqworker: Mqworker) -> None:
        ran = await mqworker("errors", "--instance", "shop")
        assert (ran.out, ran.err) == ("", "no errors\n")
        assert (await mqworker("errors", "--json")).out == ""


class TestTopOnce:
    async def test_accounts(self, mqworker: Mqworker, queue: MessageQueue, store: Store) -> None:
        for instance in ("one", "two", "two"):
            await queue.enqueue(instance, 7, "a", {})
        await failed(store, "a", "no")
        lines = ages_cut((await mqworker("top", "--once")).out).splitlines()
        assert [line.split() for line in lines] == [
            ["account", "pending", "due", "now", "oldest", "in", "flight", "failed"],
            ["two", "2", "2", "AGE", "0", "0"],
            ["one", "1", "1", "AGE", "0", "0"],
            ["shop", "0", "0", "0", "1"],
        ]
        first, *_ = (await mqworker("top", "--json")).data
        assert first.pop("oldest_due_seconds") < 60
        assert first == {"instance": "two", "pending": 2, "due": 2, "in_flight": 0, "failed_last_hour": 0}

    async def test_the_chats_of_one_account(self, mqworker: Mqworker, store: Store) -> None:
        for name in "aab":
            await put(store, name)
        await claim(store, "b")
        data = (await mqworker("top", "--instance", "shop", "--json")).data
        assert [(one["instance"], one["chat_id"], one["pending"], one["in_flight"]) for one in data] == [
            ("shop", "a", 2, 0),
            ("shop", "b", 0, 1),
        ]

    async def test_without_a_terminal_it_wants_to_be_told(self, mqworker: Mqworker) -> None:
        assert "--once" in (await mqworker("top", code=Exit.USAGE)).err


async def test_options_come_from_the_environment_too(
    mqworker: Mqworker, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        await put(store, name)
    monkeypatch.setenv("MQWORKER_LIST_LIMIT", "2")
    monkeypatch.setenv("MQWORKER_LIST_JSON", "1")
    assert len((await mqworker("list")).data) == 2
    assert len((await mqworker("list", "--limit", "1")).data) == 1, "the command line wins"


async def test_looking_needs_no_redis(mqworker: Mqworker, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    message = str(await put(store))
    monkeypatch.setenv("MQWORKER_REDIS_URL", "redis://127.0.0.1:1/0")
    assert [one["id"] for one in (await mqworker("list", "--json")).data] == [message]
    assert (await mqworker("show", message, "--json")).one["status"] == "PENDING"
    assert len((await mqworker("top", "--json")).data) == 1


async def test_a_database_that_is_away(mqworker: Mqworker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQWORKER_DATABASE_URL", "postgresql://postgres@127.0.0.1:1/away")
    for command in (
        ["list"],
        ["errors"],
        ["top", "--once"],
        ["stats", "shop"],
        ["cancel-pending", "--instance", "a", "--yes"],
    ):
        ran = await mqworker(*command, code=Exit.AWAY)
        assert (ran.out, ran.err.count("\n")) == ("", 1)
        assert ran.err.startswith("error: PostgreSQL cannot be reached")
