"""Signals: the first is remembered, the second is not waited with."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgcls.errors import EXIT_REQUEUE
from imgcls.runs import SIGNALS, Interrupted, StopSignals


@pytest.fixture(autouse=True)
def _ctrl_c_interrupts() -> Iterator[None]:
    """Let Ctrl-C interrupt: a shell starts what runs in the background with it ignored, and Python leaves it so."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_remembered_and_the_second_ends_at_once(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in SIGNALS}
    with StopSignals() as signals:
        assert signals.received == 0
        os.kill(os.getpid(), number)
        assert signals.received == number
        # What Python does by itself, which for Ctrl-C is this and for the others the end of the process.
        assert {each: signal.getsignal(each) for each in SIGNALS} == before
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert {each: signal.getsignal(each) for each in SIGNALS} == before


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminal to open here")
@pytest.mark.parametrize("number, shown", [(signal.SIGINT, "\r\nit stops soon\r\n"), (signal.SIGTERM, "")])
def test_ctrl_c_at_a_terminal_is_answered_at_once(number: int, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, end = os.openpty()
    with os.fdopen(end, "w") as stderr, StopSignals(notice="it stops soon"):
        monkeypatch.setattr("sys.stderr", stderr)
        os.kill(os.getpid(), number)
        os.write(end, b".")
        assert os.read(terminal, 1000).decode() == f"{shown}."
    os.close(terminal)


def test_ctrl_c_shows_nothing_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w") as stderr, StopSignals(notice="it stops soon") as signals:
        monkeypatch.setattr("sys.stderr", stderr)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
    assert (tmp_path / "log").read_text() == ""


def test_schedulers_get_a_code_to_requeue_on_and_a_shell_that_of_ctrl_c() -> None:
    assert Interrupted(signal.SIGTERM, "saved").exit_code == EXIT_REQUEUE == os.EX_TEMPFAIL
    assert Interrupted(signal.SIGUSR1, "saved").exit_code == EXIT_REQUEUE
    assert Interrupted(signal.SIGINT, "saved").exit_code == 130
    assert str(Interrupted(signal.SIGUSR1, "saved after step 3")) == "stopped by SIGUSR1: saved after step 3"
