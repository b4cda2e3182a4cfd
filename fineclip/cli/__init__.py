"""The command line: one verb per stage, paths and one configuration section in, one function call."""

from fineclip.cli.main import main

__all__ = ["main"]
