"""The command `torchrun`: the exit code of the processes comes through."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imgcls.commands.torchrun import main, shell_code

# Rank 1 fails first; rank 0 ends well when it is stopped.
ENDS = "import os, signal, time\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(0))\n"
ENDS += "os._exit({code}) if os.environ['RANK'] == '1' else time.sleep(60)\n"


def test_a_code_is_what_a_shell_would_show() -> None:
    assert [shell_code(code) for code in (75, 2, -9, 0)] == [75, 2, 137, 1]


def test_help_comes_without_torch(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert "imgcls torchrun --nproc-per-node=8 -m imgcls train" in capsys.readouterr().out


@pytest.mark.e2e
def test_the_code_of_the_process_that_failed_first_comes_through(tmp_path: Path) -> None:
    script = tmp_path / "ends.py"
    script.write_text(ENDS.format(code=75))
    with pytest.raises(SystemExit) as ended:
        main(["--standalone", "--nproc-per-node=2", str(script)])
    assert ended.value.code == 75


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_goes_on_to_the_processes(number: signal.Signals, code: int, tmp_path: Path) -> None:
    script = tmp_path / "waits.py"
    told = tmp_path / "told"
    script.write_text(
        "import os, signal, sys, time\n"
        f"for each in (signal.SIGUSR1, signal.SIGINT): signal.signal(each, lambda n, _: (open({str(told)!r}, 'a')"
        ".write(f'{n}\\n'), os._exit(75)))\n"
        "os.write(1, b'ready\\n')\ntime.sleep(60)\n"
    )
    command = [sys.executable, "-m", "imgcls", "torchrun", "--standalone", "--nproc-per-node=2", str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for _ in range(2):
            assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, number)
        assert process.wait(timeout=60) == code
    assert told.read_text() == f"{int(number)}\n" * 2
