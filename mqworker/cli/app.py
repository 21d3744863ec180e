"""The commands as users see them: names, options, help. What they do is in the modules that they import."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from typer.core import TyperGroup, TyperOption

from mqworker.cli.changing import changing
from mqworker.cli.exits import Exit, exit_code
from mqworker.cli.health import health
from mqworker.cli.looking import looking
from mqworker.cli.options import AsJson
from mqworker.cli.talk import say
from mqworker.errors import MqWorkerError

app = typer.Typer(
    name="mqworker",
    help="A durable message queue for chat gateways: one message at a time per chat, in order, at a human pace.",
    epilog="Settings come from the environment (MQWORKER_DATABASE_URL, MQWORKER_REDIS_URL, ...) and .env; options, "
    "too: MQWORKER_LIST_LIMIT is the --limit of list. First time here? Try: mqworker demo",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
ReadyMade = Literal["console", "webhook"]

_debug = False


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit, with one of the codes of :class:`Exit`; an error is one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 must not stop a command
    global _debug
    _debug = False
    try:
        command()(args=arguments, prog_name="mqworker")
    except MqWorkerError as error:
        if _debug:
            raise
        say(f"error: {error}")
        sys.exit(exit_code(error))
    except Exception as error:
        if _debug:
            raise
        say(f"error: unexpected {type(error).__name__}: {error} (`mqworker --debug COMMAND` shows where)")
    sys.exit(Exit.FAILED)


def command() -> TyperGroup:
    """All commands, as Typer runs them."""
    made = typer.main.get_command(app)
    assert isinstance(made, TyperGroup)
    for flag in made.get_params(typer.Context(made, **made.context_settings)):
        # A flag without a default, as Typer's own are, makes it import pydantic: every --help took twice as long.
        if flag.default is None:
            flag.default = False
    _name_variables(made.params, "MQWORKER")
    for name, one in made.commands.items():
        _name_variables(one.params, f"MQWORKER_{name}")
    return made


def _name_variables(parameters: Sequence[object], prefix: str) -> None:
    """Give each option its environment variable: `list --limit` has MQWORKER_LIST_LIMIT.

    Not those that end in one answer: who sets MQWORKER_VERSION means something else.
    """
    for option in parameters:
        if isinstance(option, TyperOption) and option.expose_value and not option.is_eager:
            option.envvar = option.envvar or f"{prefix}_{option.opts[0].strip('-')}".replace("-", "_").upper()
            option.show_envvar = False  # the rule is told once


def _print_version(wanted: bool) -> None:
    if wanted:
        from mqworker import __version__

        typer.echo(f"mqworker {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    global _debug
    _debug = debug


@app.command()
def demo(
    file: Annotated[
        Path | None,
        typer.Argument(help="Messages as JSON lines (default: a sample of 6 chats).", metavar="FILE.jsonl"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the queue at work and check what it promises.

    Starts PostgreSQL and Redis in a folder that is thrown away, a gateway and two workers; enqueues the messages,
    shows every chat while it runs, then says what was delivered in which order. Exits with 1 if anything was lost,
    reordered, doubled or too fast. A payload may script the gateway: "fail_times": 2, "fail_always": "permanent".

    \b
    Example:
      mqworker demo
      mqworker demo my-messages.jsonl
    """
    from mqworker.cli.demo.command import show

    raise typer.Exit(show(file, as_json=as_json))


@app.command()
def dev(
    state_folder: Annotated[
        Path | None, typer.Option(help="Where the data lives (default: a folder of your user's).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start PostgreSQL and Redis for development, until Ctrl-C.

    Prints both addresses as lines for your shell. The data is kept for the next time.

    \b
    Example:
      mqworker dev
      mqworker dev --state-folder ./state
    """
    from mqworker.cli.dev import serve

    serve(state_folder, as_json=as_json)


@app.command()
def worker(
    app: Annotated[
        str | None,
        typer.Option(envvar="MQWORKER_APP", help="Your ExecutorRegistry as module:attribute (default: MQWORKER_APP)."),
    ] = None,
    executor: Annotated[
        ReadyMade | None, typer.Option(help="A ready-made executor as the default one.", show_default=False)
    ] = None,
    log_level: Annotated[
        Level | None,
        typer.Option(
            metavar="LEVEL",
            envvar="MQWORKER_LOG_LEVEL",
            help="DEBUG, INFO, WARNING or ERROR (default: MQWORKER_LOG_LEVEL, INFO).",
            case_sensitive=False,
            show_default=False,
        ),
    ] = None,
    log_json: Annotated[
        bool, typer.Option("--log-json", envvar="MQWORKER_LOG_JSON", help="Log JSON lines (or MQWORKER_LOG_JSON=1).")
    ] = False,
    migrate: Annotated[bool, typer.Option("--migrate", help="Bring the database's schema up first.")] = False,
) -> None:
    """Send messages: run one worker, until SIGTERM or Ctrl-C.

    Start as many as you like, on as many machines. When told to stop, it lets the sends in flight finish.

    \b
    Example:
      mqworker worker --app bot:registry
      mqworker worker --executor console --migrate
    """
    # Before the imports, which take a second: until the worker has the signals, there is nothing to drain.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from mqworker.cli.worker import work

    work(app, executor, level=log_level, log_json=log_json, migrate=migrate)


@app.command()
def migrate(
    to: Annotated[str, typer.Option(metavar="REVISION", help="The revision to go to: an id, head or base.")] = "head",
    yes: Annotated[bool, typer.Option("--yes", help="Go down, too, although that deletes data.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the database's schema up to date.

    Prints the revision before and after. With --to it goes to another one, down only with --yes.

    \b
    Example:
      mqworker migrate
    """
    from mqworker.cli.migrate import go_to

    go_to(to, may_delete=yes, as_json=as_json)


@app.command()
def enqueue(
    context: typer.Context,
    file: Annotated[
        str | None, typer.Argument(help="Messages as JSON lines; - reads standard input.", metavar="FILE|-")
    ] = None,
    instance: Annotated[str | None, typer.Option(help="The sending account.")] = None,
    client_id: Annotated[int | None, typer.Option(help="The tenant that the account belongs to.")] = None,
    chat: Annotated[str | None, typer.Option(help="Whom it goes to; ...@g.us is a group.")] = None,
    text: Annotated[str | None, typer.Option(help='The text: payload {"to": CHAT, "text": TEXT}.')] = None,
    payload: Annotated[str | None, typer.Option(metavar="JSON", help="Or the whole payload, a JSON object.")] = None,
    message_id: Annotated[str | None, typer.Option(help="Your own id (a UUID): the same id is not sent twice.")] = None,
    group: Annotated[bool, typer.Option("--group", help="The chat is a group, whatever its id.")] = False,
    executor: Annotated[str | None, typer.Option(help="The name of the executor that sends it.")] = None,
    priority: Annotated[
        int | None, typer.Option(help="-100 to 100 (default 0); higher goes first in its chat.")
    ] = None,
    max_retries: Annotated[int | None, typer.Option(help="Attempts in all, 1 to 100 (default: the setting).")] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="Not before, such as 2030-01-31T09:00Z.")] = None,
    as_json: AsJson = False,
) -> None:
    """Store one message by its options, or many from JSON lines.

    A line has the fields instance, client_id, chat_id, payload, and optionally message_id, is_group, executor,
    priority, max_retries, scheduled_at. Prints the id of one message, the count of many. A file is checked whole
    before anything of it is stored.

    \b
    Example:
      mqworker enqueue --instance shop --client-id 7 --chat 123@c.us --text Hello
      mqworker enqueue messages.jsonl
      generate-messages | mqworker enqueue -
    """
    from mqworker.cli.enqueue import Options, enqueue_lines, enqueue_one

    options = Options(instance, client_id, chat, text, payload, message_id, group, executor, priority, max_retries, at)
    if file is None:
        enqueue_one(options, as_json=as_json)
        return
    # The environment's are for single messages: they stand in nobody's way.
    if any(_is_typed(context, name) for name in context.params.keys() - {"file", "as_json"}):
        raise typer.BadParameter("give a file or the options of one message, not both", param_hint="FILE")
    enqueue_lines(file, as_json=as_json)


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


app.add_typer(looking)
app.add_typer(changing)
app.command()(health)
