"""The log on the terminal and in its file."""

import logging
from pathlib import Path

import pytest

from imgcls.config import LogFile


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, a disk that is always full")
def test_a_log_file_on_a_full_disk_is_one_line_and_the_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    handler = LogFile("/dev/full", delay=True)
    for _ in range(3):
        handler.handle(logging.LogRecord("imgcls", logging.INFO, __file__, 1, "epoch", (), None))
    assert capsys.readouterr().err == "/dev/full: No space left on device; log lines are missing there\n"
