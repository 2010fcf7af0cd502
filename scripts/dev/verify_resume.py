"""Prove for any run that stopping it changes nothing: N + M steps in one go against N steps, a kill, and M more.

    python scripts/dev/verify_resume.py 30 20 model=resnet18 data=imagenet data.root=DIR recipe=modern
    python scripts/dev/verify_resume.py 30 20 --stop SIGTERM --ranks 2 --folder /tmp/proof ...

The overrides are train.py's. Weights, optimizer, metrics and everything else that is saved are compared bit for bit;
the exit code is 1 if they differ. On CUDA add deterministic=true, without which not even two unbroken runs are equal.
"""

import argparse
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hooked_run import run_with_hooks

from imgcls.errors import EXIT_REQUEUE

if TYPE_CHECKING:
    from imgcls.training import Trainer

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
TORCHRUN = ["-m", "torch.distributed.run", "--nnodes=1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
MOST_STEPS_LOST = 2  # how many steps after its last checkpoint a run is killed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=int, metavar="N", help="optimizer steps before the stop")
    parser.add_argument("after", type=int, metavar="M", help="and after it")
    parser.add_argument("overrides", nargs="*", help="of train.py: model=... data=...")
    parser.add_argument("--stop", choices=("SIGKILL", "SIGTERM"), default="SIGKILL", help="how (default: SIGKILL)")
    parser.add_argument("--ranks", type=int, default=1, help="processes, as torchrun starts them; the last is stopped")
    parser.add_argument("--folder", type=Path, help="where to keep the two runs (default: nowhere)")
    options = parser.parse_intermixed_args()
    if options.before < 1 or options.after < 1:
        parser.error(f"N={options.before} and M={options.after} must be at least 1")
    if options.ranks > 1 and options.after < 2:
        parser.error("M=1 is too small with --ranks: they save one step after they are asked to; use at least 2")
    kept: Path | None = options.folder
    if kept is not None and kept.exists() and any(kept.iterdir()):
        parser.error(f"--folder {kept} is not empty; name a new one")
    folder = kept or Path(tempfile.mkdtemp(prefix="imgcls-resume-"))
    try:
        steps = (options.before, options.after)
        return prove(*steps, options.overrides, stop=options.stop, ranks=options.ranks, folder=folder)
    finally:
        if kept is None:
            shutil.rmtree(folder)


def prove(before: int, after: int, overrides: list[str], *, stop: str, ranks: int, folder: Path) -> int:
    """Run all three parts in processes of their own, print the verdicts, and return the exit code."""
    overrides = [*overrides, f"max_steps={before + after}"]
    whole, cut = folder / "whole", folder / "cut"
    lost = min(MOST_STEPS_LOST, after) if stop == "SIGKILL" else 0
    # torchrun ends with 1, whatever its processes ended with.
    stopped = 1 if ranks > 1 else -signal.SIGKILL if lost else EXIT_REQUEUE
    parts = (
        (f"{before} + {after} steps", whole, "", 0),
        (f"{before} steps, then {stop}", cut, f"{stop}:{before}:{lost}", stopped),
        (f"{after} more steps", cut, "", 0),
    )
    for text, run_dir, how, expected in parts:
        print(f"{text} ...", flush=True)
        start = [sys.executable, *(TORCHRUN if ranks > 1 else []), *([f"--nproc-per-node={ranks}"] * (ranks > 1))]
        command = [*start, __file__, "--train", how, *overrides, f"hydra.run.dir={run_dir.resolve()}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != expected:
            sys.stderr.write(done.stdout + done.stderr)
            reached = "; the run has fewer steps than that?" if done.returncode == 0 else ""
            print(f"error: it ended with {done.returncode}, not {expected}{reached}", file=sys.stderr)
            return 2
    # Imported here: `--help` needs no torch.
    from imgcls.checkpoints import compare_runs, verdict_table

    verdicts = compare_runs(whole, cut)
    print(f"\n{verdict_table(verdicts)}\n")
    same = not any(verdict.differences for verdict in verdicts)
    print("the stopped run IS the unbroken run" if same else "the stopped run is NOT the unbroken run")
    return 0 if same else 1


def train(how: str, overrides: list[str]) -> None:
    """Be train.py; if `how` is `SIGKILL:30:2`, save after step 30 and be killed two steps later."""
    sys.argv = [str(TRAIN), *overrides]
    if how and os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1):
        name, step, lost = how.split(":")
        run_with_hooks(stop_after(int(step), lost=int(lost), number=signal.Signals[name]))
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


def stop_after(step: int, *, lost: int, number: signal.Signals) -> Callable[["Trainer"], None]:
    """Return what adds this hook: request a save after optimizer step `step`, send a signal `lost` steps later."""

    from imgcls.runs import LAST

    def after_step(trainer: "Trainer") -> None:
        trainer.save_requested |= trainer.state.step == step
        if trainer.state.step == step + lost:
            while number == signal.SIGKILL and not saved(trainer.checkpoints.run_dir / LAST, step):
                time.sleep(0.01)  # it is written in the background, by rank 0
            os.kill(os.getpid(), number)

    return lambda trainer: trainer.after_step.append(after_step)


def saved(file: Path, step: int) -> bool:
    """Return True if `file` holds a checkpoint of optimizer step `step` or a later one."""
    from imgcls.checkpoints import load_checkpoint

    return file.exists() and load_checkpoint(file)["state"]["step"] >= step


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(sys.argv[2], sys.argv[3:])
    else:
        raise SystemExit(main())
