"""docs/CLI.md against the commands as they are."""

from __future__ import annotations

import re
import shlex

from typer.core import TyperOption

from mqworker.cli.app import command
from mqworker.cli.exits import Exit
from tests.guide.pages import CLI, blocks, table


def test_the_commands_are_these_with_these_options() -> None:
    shown = {
        names.strip("`").split()[0]: (what, re.findall(r"`(--[a-z-]+)`", options))
        for names, what, options in table(CLI, "commands")
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
    assert [int(code) for code, _ in table(CLI, "exit codes")] == [exit_code.value for exit_code in Exit]


def test_the_examples_are_taken() -> None:
    (block,) = blocks(CLI)
    for line in block.lines:
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
    section = CLI.read_text().split("## Options from the environment")[1].split("##")[0]
    assert set(re.findall(r"MQWORKER_[A-Z_]+", section)) - {"MQWORKER_"} <= known
