"""The commands of `imgcls`, one file each; train.py and scripts/ are doors to them in a checkout. Imports no torch."""

from imgcls.commands.dispatch import COMMANDS, main

__all__ = ["COMMANDS", "main"]
