"""`mqworker enqueue`: one message by options, or many from JSON lines."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict, dataclass
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from mqworker.cli.lines import Batch, LineRefused, Source, opened
from mqworker.cli.running import run
from mqworker.cli.talk import put, put_json
from mqworker.errors import Conflict, EnqueueUncertain, InvalidMessage, MqWorkerError
from mqworker.message import Enqueued
from mqworker.payload import parse_json_object
from mqworker.queue import MessageQueue
from mqworker.settings import Settings, load_settings
from mqworker.validation import parse_time


class EnqueueStopped(MqWorkerError):
    """Storing a file ended before its end; the text says how far it came."""


@dataclass(frozen=True)
class Options:
    """The options of one message, as given."""

    instance: str | None = None
    client_id: int | None = None
    chat: str | None = None
    text: str | None = None
    payload: str | None = None
    message_id: str | None = None
    group: bool = False
    executor: str | None = None
    priority: int | None = None
    max_retries: int | None = None
    at: str | None = None


def enqueue_one(options: Options, *, as_json: bool) -> None:
    """Store one message and print its id."""
    enqueued = run(_enqueue(_arguments(options)))
    if as_json:
        put_json(asdict(enqueued))
    else:
        put(str(enqueued.id))


def _arguments(options: Options) -> dict[str, Any]:
    """The arguments of ``MessageQueue.enqueue``."""
    required = {"--instance": options.instance, "--client-id": options.client_id, "--chat": options.chat}
    missing = [name for name, value in required.items() if value is None]
    if missing:
        raise typer.BadParameter("is needed (or a file of JSON lines)", param_hint=", ".join(missing))
    if (options.text is None) == (options.payload is None):
        raise typer.BadParameter("give the one or the other", param_hint="--text, --payload")
    chat = options.chat or ""
    arguments: dict[str, Any] = {
        "instance": options.instance,
        "client_id": options.client_id,
        "chat_id": chat,
        "payload": _payload(options.payload) if options.payload is not None else {"to": chat, "text": options.text},
        "message_id": options.message_id,
        "is_group": options.group or chat.endswith("@g.us"),
        "max_retries": options.max_retries,
        "scheduled_at": None if options.at is None else parse_time(options.at, "--at"),
    }
    given = {"executor": options.executor, "priority": options.priority}
    return arguments | {name: value for name, value in given.items() if value is not None}


def _payload(text: str) -> dict[str, object]:
    try:
        return parse_json_object(text)
    except InvalidMessage as refusal:
        raise InvalidMessage("--payload", refusal.reason) from None


async def _enqueue(arguments: dict[str, Any]) -> Enqueued:
    async with MessageQueue() as queue:
        return await queue.enqueue(**arguments)


def enqueue_lines(path: str, *, as_json: bool) -> None:
    """Store the messages of a file, or of standard input, and print how many."""
    settings = load_settings().require_servers()
    with opened(path) as source:
        tally = run(_store(source, settings))
    if as_json:
        put_json({"stored": tally.stored, "repeats": tally.repeats})
    else:
        put(str(tally))


@dataclass
class Tally:
    """How far the storing came; ``line`` is the last line that is stored for sure."""

    stored: int = 0
    repeats: int = 0
    line: int = 0

    def add(self, batch: Batch, answers: list[Enqueued]) -> None:
        repeats = sum(answer.deduplicated for answer in answers)
        self.repeats += repeats
        self.stored += len(answers) - repeats
        self.line = batch.numbers[-1]

    def __str__(self) -> str:
        text = f"{self.stored} message{'' if self.stored == 1 else 's'} stored"
        return f"{text}, {self.repeats} there already" if self.repeats else text

    def so_far(self) -> str:
        """For an error: what is stored although the whole failed."""
        return f"{self} before it (lines 1 to {self.line})" if self.line else "nothing was stored"


async def _store(source: Source, settings: Settings) -> Tally:
    tally = Tally()
    with _progress() as progress:
        try:
            if source.size is not None:
                checking = progress.add_task("checking", total=source.size, note="")
                await source.check(settings.max_retries, lambda size: progress.advance(checking, size))
                progress.remove_task(checking)
            storing = progress.add_task("storing", total=source.size, note="")
            async with MessageQueue(settings) as queue:
                async for batch in source.batches(lambda size: progress.advance(storing, size)):
                    await _store_batch(queue, batch, tally)
                    progress.update(storing, note=str(tally))
        except LineRefused as refusal:
            raise LineRefused(f"{refusal}; {tally.so_far()}") from None
    return tally


async def _store_batch(queue: MessageQueue, batch: Batch, tally: Tally) -> None:
    try:
        tally.add(batch, await queue.enqueue_many(batch.messages))
    except InvalidMessage as refusal:
        batch.refuse(refusal)
    except EnqueueUncertain as error:
        lines = f"lines {batch.numbers[0]} to {batch.numbers[-1]} may or may not be stored"
        raise EnqueueStopped(f"the connection to PostgreSQL broke: {lines}; {tally.so_far()}") from error
    except Conflict as error:
        raise EnqueueStopped(f"{_by_line(str(error), batch)}; {tally.so_far()}") from error
    except MqWorkerError as error:
        raise EnqueueStopped(f"{error}; {tally.so_far()}") from error


def _by_line(text: str, batch: Batch) -> str:
    """``message 3: ...`` counts within the batch; people have line numbers."""
    found = re.match(r"message (\d+): ", text)
    if found is None:
        return f"line {batch.numbers[0]}: {text}"
    return f"line {batch.numbers[int(found[1])]}: {text[found.end() :]}"


def _progress() -> Progress:
    """A bar on stderr, where that is a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description:<8}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not (console.is_terminal and sys.stderr.isatty()),
    )
