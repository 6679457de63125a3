"""The command line: one file per verb, found by its name in command_line.py."""

from pennyweight.cli.command_line import main

__all__ = ["main"]
