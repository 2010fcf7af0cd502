"""The log on the terminal and in its file."""

import logging
import os
import sys


class Console(logging.StreamHandler):
    """Log lines on the terminal. If their reader stops reading, as `head` does, the run continues without them."""

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            # From now on output goes nowhere, including what print and the end of the process still flush.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)
        else:
            super().handleError(record)


class LogFile(logging.FileHandler):
    """Log lines in a file. If its disk is full, one line on stderr says so, and the run continues without the file."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.failed:
            self.failed = True
            print(f"{self.baseFilename}: {error.strerror}; log lines are missing there", file=sys.stderr)
