"""The log on the terminal and in its file."""

import logging
import sys
from typing import Any

from imgcls.environment import printable
from imgcls.errors import send_nowhere


class PrintableLines(logging.Formatter):
    """Format as `inner` does, with control characters written out."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self.inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        return printable(self.inner.format(record))


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
