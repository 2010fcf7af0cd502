"""Say before a run whether it will work, and how long it takes."""

import time

from imgcls.config import ScriptParser, parse_run_words, run_script
from imgcls.doctor import Status, as_line, diagnose
from imgcls.environment import command, launch, printable
from imgcls.errors import EXIT_RUN_FAILED, ConfigError


def doctor() -> int:
    """Look at the run that the command line describes; 1 if it would fail."""
    parser = ScriptParser(
        "doctor",
        "Say within a minute whether a run will work, and how long it will take. Nothing is trained or changed.\n\n"
        f"    {command('doctor')} model=resnet50 data=imagenet data.root=DIR\n\n"
        "The words are train.py's. A line says ok, note (the run works; read it) or FAIL, with the remedy. The exit\n"
        "code is 1 where the run would fail.",
    )
    _, config, path = parse_run_words(parser)
    if launch() is not None:
        raise ConfigError("this looks at one process; start it without torchrun or srun")
    started, failed, noted = time.monotonic(), 0, 0
    for finding in diagnose(config, path):
        print(printable(as_line(finding), lines=False), flush=True)
        failed += finding.status is Status.FAIL
        noted += finding.status is Status.NOTE
    seconds = f"looked at in {time.monotonic() - started:.0f} s"
    if failed:
        print(f"this run would fail: {failed} line{'s' * (failed > 1)} above say{'s' * (failed == 1)} why ({seconds})")
        return EXIT_RUN_FAILED
    notes = f"; {noted} note{'s' * (noted > 1)} above" if noted else ""
    print(f"this run will work{notes} ({seconds})")
    return 0


def main() -> None:
    """Run the command line."""
    run_script(doctor)
