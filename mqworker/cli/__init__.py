"""The command line. Nothing heavy is imported before a command runs: `mqworker --help` answers at once."""

from mqworker.cli.app import main

__all__ = ["main"]
