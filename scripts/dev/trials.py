"""The trials of a script that tries the program on a real system: run one after another, each with its time."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

System = TypeVar("System")


def run_trials(trials: Mapping[str, Callable[[System], str]], names: Iterable[str], system: System) -> int:
    """Run the trials of these names on `system`, print what each says, and return how many failed."""
    failed = 0
    for name in names:
        started = time.monotonic()
        try:
            print(f"{name}: {trials[name](system)} ({time.monotonic() - started:.0f} s)", flush=True)
        except (AssertionError, RuntimeError) as error:
            failed += 1
            print(f"{name}: FAILED: {error}", flush=True)
    return failed
