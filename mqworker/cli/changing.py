"""The commands that take back and tidy up, as users see them."""

from __future__ import annotations

from typing import Annotated

import typer

from mqworker.cli.options import AsJson, AsJsonLines, OneInstance, Yes

changing = typer.Typer(rich_markup_mode=None)


@changing.command()
def cancel(
    message_ids: Annotated[list[str], typer.Argument(help="The messages' ids.", metavar="ID...")],
    as_json: AsJsonLines = False,
) -> None:
    """Cancel messages, and say what became of each.

    One that is being sent is not stopped, but not retried either. Exits with 1 unless all were cancelled.

    \b
    Example:
      mqworker cancel 0192f0a1-7b2c-7d3e-8f40-123456789abc
    """
    from mqworker.cli.taking_back import cancel

    raise typer.Exit(cancel(message_ids, as_json=as_json))


@changing.command("cancel-pending")
def cancel_pending(
    instance: OneInstance,
    chat: Annotated[str | None, typer.Option(help="Only this chat's.")] = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only what waits for longer: 30s, 15m, 2h, 7d.")
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Cancel what waits for an account, or for one of its chats.

    Scheduled messages too; what is in flight is left alone. Asks first; without a terminal it wants --yes.

    \b
    Example:
      mqworker cancel-pending --instance shop --older-than 2h
      mqworker cancel-pending --instance shop --chat 123@c.us --yes
    """
    from mqworker.cli.ages import parse_age
    from mqworker.cli.taking_back import cancel_pending

    age = None if older_than is None else parse_age(older_than, "--older-than")
    cancel_pending(instance, chat, age, yes=yes, as_json=as_json)


@changing.command()
def clear(
    instance: OneInstance,
    chat: Annotated[str, typer.Option(help="The chat.")],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Cancel all of a chat; what is in flight is not retried.

    Asks first; without a terminal it wants --yes.

    \b
    Example:
      mqworker clear --instance shop --chat 123@c.us
    """
    from mqworker.cli.taking_back import clear

    clear(instance, chat, yes=yes, as_json=as_json)


@changing.command()
def clean(
    instance: Annotated[
        str | None, typer.Option(help="This account's (default: all without a retention of their own).")
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Ended longer ago than that (default: MQWORKER_RETENTION_DAYS).")
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete messages that ended long ago.

    Workers do it by themselves every few hours. Asks first; without a terminal it wants --yes.

    \b
    Example:
      mqworker clean --older-than 7d
      mqworker clean --instance shop --older-than 12h --yes
    """
    from mqworker.cli.ages import parse_age
    from mqworker.cli.taking_back import clean

    clean(instance, None if older_than is None else parse_age(older_than, "--older-than"), yes=yes, as_json=as_json)


@changing.command()
def rebuild(
    instance: Annotated[str | None, typer.Option(help="Only this account's messages.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell Redis again of all that waits in PostgreSQL, now.

    It only adds, so it may be done at any time. Workers do it by themselves where Redis has lost its memory.

    \b
    Example:
      mqworker rebuild
      mqworker rebuild --instance shop
    """
    from mqworker.cli.rebuild import rebuild

    rebuild(instance, as_json=as_json)
