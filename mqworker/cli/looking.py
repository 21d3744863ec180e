"""The commands that look, as users see them."""

from __future__ import annotations

from typing import Annotated

import typer

from mqworker.cli.options import AsJson, AsJsonLines, Instance, Status

looking = typer.Typer(rich_markup_mode=None)


@looking.command()
def stats(
    instance: Annotated[str, typer.Argument(help="The sending account.", metavar="INSTANCE")],
    client_id: Annotated[int | None, typer.Option(help="Only this client's messages.")] = None,
    as_json: AsJson = False,
) -> None:
    """Count an account's messages by state.

    \b
    Example:
      mqworker stats shop
      mqworker stats shop --client-id 7 --json
    """
    from mqworker.cli.stats import count

    count(instance, client_id, as_json=as_json)


@looking.command("list")
def list_messages(
    instance: Instance = None,
    chat: Annotated[str | None, typer.Option(help="Only this chat's; needs --instance.")] = None,
    status: Annotated[
        Status | None,
        typer.Option(
            metavar="STATE", help="PENDING, PROCESSING, COMPLETED, FAILED or CANCELLED.", case_sensitive=False
        ),
    ] = None,
    oldest: Annotated[bool, typer.Option("--oldest", help="The oldest first, not the newest.")] = False,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many.")] = 50,
    as_json: AsJsonLines = False,
) -> None:
    """List messages as they came, the newest first.

    Neither what they say nor their errors' texts are shown.

    \b
    Example:
      mqworker list --instance shop --status FAILED
      mqworker list --instance shop --chat 123@c.us --oldest
      mqworker list --status PENDING --limit 100000 --json > pending.jsonl
    """
    from mqworker.cli.messages import show_list

    show_list(instance, chat, status, limit=limit, oldest_first=oldest, as_json=as_json)


@looking.command()
def show(
    message_id: Annotated[str, typer.Argument(help="The message's id.", metavar="ID")],
    payload: Annotated[bool, typer.Option("--payload", help="Its payload and all of its error's text, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show one message, with the first line of its error.

    \b
    Example:
      mqworker show 0192f0a1-7b2c-7d3e-8f40-123456789abc
      mqworker show 0192f0a1-7b2c-7d3e-8f40-123456789abc --payload --json
    """
    from mqworker.cli.messages import show_one

    show_one(message_id, with_payload=payload, as_json=as_json)


@looking.command()
def errors(
    instance: Instance = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="At most so many errors.")] = 20,
    as_json: AsJsonLines = False,
) -> None:
    """Count errors by their first line, the most frequent first.

    Among the newest 100,000 messages of each state. Secrets and telephone numbers were masked when the errors were
    stored.

    \b
    Example:
      mqworker errors
      mqworker errors --instance shop --json
    """
    from mqworker.cli.error_counts import count_errors

    count_errors(instance, limit=limit, as_json=as_json)


@looking.command()
def top(
    instance: Annotated[str | None, typer.Option(help="This account's chats, not all accounts.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Print it once, on stdout.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON once, one object a line.")] = False,
) -> None:
    """Watch what waits and what is sent, the most due first.

    Anew every 2 seconds; q or Ctrl-C ends it. A look reads at most 100,000 of the waiting messages: with a million, a
    count takes ten looks, and the title tells how old it is. Failures are those of the last hour among the newest
    10,000. What is in flight is exact.

    \b
    Example:
      mqworker top
      mqworker top --instance shop
      mqworker top --once --json
    """
    from mqworker.cli.top import show

    show(instance, once=once, as_json=as_json)


@looking.command()
def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Repair what can be repaired safely.")] = False,
    limit: Annotated[
        int, typer.Option(min=1, metavar="N", help="Compare so many messages with Redis, each way.")
    ] = 10_000,
    as_json: AsJsonLines = False,
) -> None:
    """Look for what is wrong, and say what to do.

    Are the servers reachable and set up safely? Is the schema current? Do the sweeps run? Do PostgreSQL and Redis
    agree about what waits? Exits with 1 if something failed, with 3 if a server is away; warnings alone exit with 0.

    --fix announces what Redis lacks, drops what it has too much, fills it where it was emptied, takes back what dead
    workers left in flight and frees sweeps that nobody can take. It never migrates.

    \b
    Example:
      mqworker doctor
      mqworker doctor --fix --limit 1000000
    """
    from mqworker.cli.doctor.command import examine

    raise typer.Exit(examine(limit=limit, fix=fix, as_json=as_json))
