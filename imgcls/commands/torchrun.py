"""Start the processes of a run as torchrun does, and end with their exit code instead of 1.

    imgcls torchrun --nproc-per-node=8 -m imgcls train model=resnet50 data=imagenet data.root=/data/imagenet
    python scripts/torchrun.py --nproc-per-node=8 train.py model=resnet50 data=imagenet data.root=/data/imagenet

The options are torchrun's (`torchrun --help`). The exit code is that of the first process that failed, 128 and the
signal's number if a signal killed it. SIGUSR1 goes on to the processes, as SIGTERM does: they save, and all ends with
75.
"""

import os
import signal
import sys
from collections.abc import Sequence

from imgcls.errors import EXIT_INTERRUPTED, EXIT_REQUEUE, EXIT_RUN_FAILED

# Those that torchrun passes on by itself, and what Slurm's --signal=USR1@120 sends.
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
SECONDS_TO_SAVE = "100"  # after a signal; torchrun's own 30 are few for a large network on a slow disk
SAVING = {"SIGTERM": EXIT_REQUEUE, "SIGUSR1": EXIT_REQUEUE, "SIGINT": EXIT_INTERRUPTED}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run torchrun on a command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return
    # After what needs no torch.
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    os.environ.setdefault("PET_SIGNALS_TO_HANDLE", SIGNALS)  # as --signals-to-handle
    os.environ.setdefault("PET_SHUTDOWN_TIMEOUT", SECONDS_TO_SAVE)  # as --shutdown-timeout
    try:
        torchrun(words)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        raise SystemExit(shell_code(failure.exitcode)) from None
    except SignalException as stop:
        number = signal.Signals(stop.sigval)
        raise SystemExit(SAVING.get(number.name, shell_code(-number))) from None


def shell_code(code: int) -> int:
    """Return the exit code by which a shell would know how a process ended: -9 is killed by signal 9, so 137."""
    return 128 - code if code < 0 else code or EXIT_RUN_FAILED
