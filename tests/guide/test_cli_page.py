"""docs/CLI.md against the commands as they are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from typer.core import TyperOption

from mqworker.cli.app import command
from mqworker.cli.exits import Exit

PAGE = (Path(__file__).parents[2] / "docs" / "CLI.md").read_text()


def table(name: str) -> list[list[str]]:
    """The cells of the table after this mark."""
    lines = PAGE.split(f"<!-- {name} -->\n")[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_commands_are_these_with_these_options() -> None:
    shown = {
        names.strip("`").split()[0]: (what, re.findall(r"`(--[a-z-]+)`", options))
        for names, what, options in table("commands")
    }
    actual = {
        name: (
            (one.help or "").splitlines()[0],
            [option.opts[0] for option in one.params if isinstance(option, TyperOption)],
        )
        for name, one in command().commands.items()
    }
    assert shown == actual


def test_the_exit_codes_are_these() -> None:
    assert [int(code) for code, _ in table("exit codes")] == [exit_code.value for exit_code in Exit]


def test_the_examples_are_taken() -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines():
        program, name, *arguments = shlex.split(re.split(r"[|>]", line)[0])
        assert program == "mqworker"
        one = command().commands[name]
        assert one.make_context(name, arguments).command is one


def test_the_variables_are_these() -> None:
    made = command()
    known = {
        option.envvar
        for one in (made, *made.commands.values())
        for option in one.params
        if isinstance(option, TyperOption)
    }
    section = PAGE.split("## Options from the environment")[1].split("##")[0]
    assert set(re.findall(r"MQWORKER_[A-Z_]+", section)) - {"MQWORKER_"} <= known
