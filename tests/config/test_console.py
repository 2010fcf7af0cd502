"""The log on the terminal and in its file."""

import io
import logging
import os
from pathlib import Path

import pytest

from imgcls.config import Console, LogFile
from imgcls.environment import printable


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, a disk that is always full")
def test_a_log_file_on_a_full_disk_is_one_line_and_the_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    handler = LogFile("/dev/full", delay=True)
    for _ in range(3):
        handler.handle(logging.LogRecord("imgcls", logging.INFO, __file__, 1, "epoch", (), None))
    assert capsys.readouterr().err == "/dev/full: No space left on device; log lines are missing there\n"


HOSTILE = "\x1b]0;owned\x07cat\x9b31m"


@pytest.mark.parametrize("kind", [Console, LogFile])
@pytest.mark.parametrize("pattern", [None, "%(levelname)s %(message)s"])
def test_escape_codes_reach_neither_terminal_nor_log(kind: type, pattern: str | None, tmp_path: Path) -> None:
    stream = io.StringIO()
    handler = Console(stream) if kind is Console else LogFile(tmp_path / "log", encoding="utf-8")
    if pattern:
        handler.setFormatter(logging.Formatter(pattern))
    handler.emit(logging.LogRecord("a", logging.INFO, "", 0, "class %s\n\tnext", (HOSTILE,), None))
    handler.close()
    text = stream.getvalue() or (tmp_path / "log").read_text()
    assert "class \\x1b]0;owned\\x07cat\\x9b31m\n\tnext" in text
    assert handler.formatter is not None  # what a progress bar's own handler formats with
    assert "\x1b" not in handler.formatter.format(logging.makeLogRecord({"msg": HOSTILE}))


def test_bytes_of_odd_file_names_are_printed_as_they_are_but_for_control_characters() -> None:
    name = os.fsdecode(b"caf\xe9 \x9b2J \xc3\xa9")
    assert printable(name) == "caf\udce9 \\x9b2J é"
    assert printable("a\nb\tc") == "a\nb\tc"
    assert printable("a\nb\tc", lines=False) == "a\\nb\\tc"


def test_long_lines_are_broken_between_words_on_a_terminal_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "40")
    lines = ["scale    of data=shapes: batch_size 32, epochs 6", f"run      runs/{'x' * 50}", "epoch 1/2 train loss 2"]
    written = {}
    for kind, stream in (("terminal", Terminal()), ("pipe", io.StringIO())):
        console = Console(stream)
        for line in lines:
            console.emit(logging.makeLogRecord({"msg": line}))
        written[kind] = stream.getvalue().splitlines()
    assert written["pipe"] == lines
    first, rest = "scale    of data=shapes: batch_size 32,", "         epochs 6"
    assert written["terminal"] == [first, rest, *lines[1:]]
