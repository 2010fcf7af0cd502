"""The log on the terminal and in its file."""

import logging
import re
import shutil
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from imgcls.environment import printable
from imgcls.errors import send_nowhere

NOT_ON_CONSOLE = {"on_console": False}  # the `extra` of a record that only the log file takes, such as a traceback


class PrintableLines(logging.Formatter):
    """Format as `inner` does, with control characters written out.

    Args:
        columns: of the terminal; longer lines are broken between words, and the rest is indented.
    """

    def __init__(self, inner: logging.Formatter | None, *, columns: Callable[[], int | None] = lambda: None) -> None:
        super().__init__()
        self.inner = inner or logging.Formatter()
        self.columns = columns

    def format(self, record: logging.LogRecord) -> str:
        text = printable(self.inner.format(record))
        columns = self.columns()
        return text if columns is None else "\n".join(_broken(line, columns) for line in text.split("\n"))


def _broken(line: str, columns: int) -> str:
    """Break a line between words, the rest below its second column: `data     shapes: 10 classes, ...`."""
    first = re.match(r"\w+ {2,}", line)
    indent = len(first[0]) if first else 4
    if len(line) <= columns or indent + max(map(len, line.split())) > columns:  # a path is not to be broken
        return line
    return textwrap.fill(line, columns, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


class _Printable(logging.Handler):
    """A handler whose formatter writes control characters out, whichever it is given.

    Not in format(): a progress bar writes the lines through its handler, with this one's formatter.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.setFormatter(None)

    def setFormatter(self, fmt: logging.Formatter | None) -> None:
        super().setFormatter(PrintableLines(fmt))


class Console(_Printable, logging.StreamHandler):
    """Log lines on the terminal. If their reader stops reading, as `head` does, the run continues without them."""

    def setFormatter(self, fmt: logging.Formatter | None) -> None:
        logging.Handler.setFormatter(self, PrintableLines(fmt, columns=self._columns))

    def filter(self, record: logging.LogRecord) -> bool | logging.LogRecord:
        return getattr(record, "on_console", True) and super().filter(record)

    def _columns(self) -> int | None:
        return shutil.get_terminal_size().columns if self.stream.isatty() else None

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            # Including what print and the end of the process still flush.
            send_nowhere(self.stream)
        else:
            super().handleError(record)


class LogFile(_Printable, logging.FileHandler):
    """Log lines in a file. If its disk is full, one line on stderr says so, and the run continues without the file."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.failed:
            self.failed = True
            print(f"{self.baseFilename}: {error.strerror}; log lines are missing there", file=sys.stderr)
