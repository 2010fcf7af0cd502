"""Break runs in many ways, resume each, and compare it with a run that was never broken.

    python scripts/dev/faults.py                        at least 200 kills, and everything else; some twenty minutes
    python scripts/dev/faults.py --kills 10 --signals 4 --torn 6 --full 3 --images 2 --reads 1 --files 20

Each run is that of `train.py` in its own process, forked from one that has imported everything: LeNet-5 on a small
folder, with every part that has a state or draws at random, saved after every step. The mutated files are read by the
scripts that read such files (mutated_files.py). The last lines are the counts; the exit code is 1 if any run differs,
or ended with the wrong code or message.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from hooked_run import run_with_hooks
from mutated_files import break_one, jobs

from imgcls.errors import EXIT_INTERRUPTED, EXIT_REQUEUE

if TYPE_CHECKING:
    from imgcls.data.sets import ImageSet, Split
    from imgcls.training import Trainer

    Hook = Callable[[Trainer], None]


NUM_STEPS = 15
RUN = [
    "model=lenet5",
    "model.activation=relu",
    "model.pool=max",
    "optimizer.lr=0.02",
    "schedule=plateau",
    "schedule.patience_epochs=1",
    "augment=modern",
    "augment.policy=null",
    "label_smoothing=0.1",
    "ema_decay=0.9",
    "microbatch=5",
    "data=folder",
    "image_size=32",
    "batch_size=12",
    "epochs=3",
    "log_every_steps=2",
    "data.num_threads=2",
    "checkpoint.every_minutes=0",
]


@dataclass
class Tally:
    """The counts of one kind of fault."""

    runs: int = 0
    faults: int = 0
    lost_steps: int = 0
    differences: int = 0
    notes: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def note(self, what: str) -> None:
        self.notes[what] = self.notes.get(what, 0) + 1


class Ending(NamedTuple):
    """How a process ended: its exit code (negative: the signal that killed it), and what it printed."""

    code: int
    output: str


def notes_on(run_dir: Path) -> tuple[Path, Path]:
    """Return the files with the output and the count of steps of a run, never on the disk that is to run full."""
    folder = Path(os.environ["IMGCLS_CACHE"])
    folder.mkdir(exist_ok=True)
    return folder / f"{run_dir.name}.out", folder / f"{run_dir.name}.steps"


class Child:
    """`train.py` in a forked process, which notes every optimizer step that it takes."""

    def __init__(
        self,
        run_dir: Path,
        overrides: list[str],
        *,
        hook: "Hook | None" = None,
        change_images: "Callable[[ImageSet], ImageSet] | None" = None,
    ) -> None:
        self.run_dir = run_dir
        self.output, self.steps = notes_on(run_dir)
        self.output.touch()  # the process may be killed before it opens it
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            self._train(overrides, hook, change_images)
        self._status: int | None = None

    def _train(
        self,
        overrides: list[str],
        hook: "Hook | None",
        change_images: "Callable[[ImageSet], ImageSet] | None",
    ) -> None:
        code = 1
        try:
            out = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            # A byte for each step: what is written outlives a kill.
            counter = os.open(self.steps, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

            def count_step(trainer: "Trainer") -> None:
                os.write(counter, b".")

            def add_hooks(trainer: "Trainer") -> None:
                trainer.after_step.append(count_step)
                if hook is not None:
                    trainer.after_step.append(hook)

            sys.argv = ["train.py", *overrides, f"hydra.run.dir={self.run_dir}"]
            run_with_hooks(add_hooks, change_images)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except KeyboardInterrupt:  # before train.py handles it: Python itself ends with this code
            code = EXIT_INTERRUPTED
        except BaseException:
            traceback.print_exc()
        finally:
            # Not sys.exit: what waits to run at the exit belongs to the process that was forked.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    @property
    def running(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
        return self._status is None

    def send(self, number: int) -> bool:
        """Send a signal; return True if the process was still running."""
        alive = self.running
        if alive:
            os.kill(self.pid, number)
        return alive

    def end(self, *, within_seconds: float = 240) -> Ending:
        deadline = time.monotonic() + within_seconds
        while self.running:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                return Ending(-1000, f"it hung; {self.output.read_text()[-2000:]}")
            time.sleep(0.002)
        assert self._status is not None
        return Ending(os.waitstatus_to_exitcode(self._status), self.output.read_text())


class Lab:
    """Where runs are broken: the data, the unbroken run, and how long that takes."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        self.folder = folder
        self.draws = random.Random(seed)
        self.data = folder / "data"
        draw_images(self.data)
        self.whole = folder / "whole"
        # Twice: the second time nothing is read or listed for the first time.
        for run_dir in (folder / "first", self.whole):
            child = Child(run_dir, self.overrides())
            ended = child.end()
            self.seconds = time.monotonic() - child.started
            if ended.code:
                raise SystemExit(f"the unbroken run fails:\n{ended.output}")
        self.num = 0

    def overrides(self, *more: str) -> list[str]:
        return [*RUN, f"data.root={self.data}", *more]

    def new_dir(self, name: str) -> Path:
        self.num += 1
        return self.folder / f"{name}_{self.num:04}"

    def wait_for_a_moment(self, child: Child, steps_before: int) -> None:
        """Wait until a process has taken a random number of steps, and a little longer.

        Not for a random time: half of a run this short is its beginning, where a fault is the easy case.
        """
        steps = steps_before + self.draws.randrange(max(1, NUM_STEPS - steps_before))
        while child.running and steps_taken(child.run_dir) < steps:
            time.sleep(0.001)
        time.sleep(self.draws.uniform(0, 0.1) * self.seconds)

    def finish(self, tally: Tally, run_dir: Path, *more: str, whole: Path | None = None) -> Ending:
        """Resume a run to its end, compare it, and count."""
        from imgcls.checkpoints import compare_runs, verdict_table

        ended = Child(run_dir, self.overrides(*more)).end()
        tally.runs += 1
        if ended.code:
            tally.wrong.append(f"{run_dir.name}: resumed, it ends with {ended.code}: {ended.output[-1500:]}")
            return ended
        verdicts = compare_runs(whole or self.whole, run_dir)
        if different := [verdict for verdict in verdicts if verdict.differences]:
            tally.differences += 1
            tally.wrong.append(f"{run_dir.name}: is not the unbroken run:\n{verdict_table(different)}")
        tally.lost_steps += steps_taken(run_dir) - NUM_STEPS
        if not tally.wrong or run_dir.name not in tally.wrong[-1]:
            self.throw_away(run_dir)
        return ended

    def throw_away(self, run_dir: Path) -> None:
        shutil.rmtree(run_dir)
        for file in notes_on(run_dir):
            file.unlink(missing_ok=True)


def steps_taken(run_dir: Path) -> int:
    file = notes_on(run_dir)[1]
    return file.stat().st_size if file.exists() else 0


def draw_images(root: Path) -> None:
    """Three classes of 20 training and 5 validation JPEGs of 40 px or so, of different colours."""
    import numpy as np
    from PIL import Image

    draws = np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 5)):
        for label, name in enumerate(("blue", "green", "red")):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(0, 128, (40 + number % 3, 44, 3), dtype=np.uint8)
                pixels[..., 2 - label] += 60
                Image.fromarray(pixels).save(root / part / name / f"{number:02}.JPEG", quality=90)


def kills(lab: Lab, num: int) -> Tally:
    """Kill runs with SIGKILL at random moments, half of them while they write a checkpoint, up to three times each."""
    tally = Tally()
    while tally.runs < num:
        run_dir, killed = lab.new_dir("killed"), 0
        for _ in range(lab.draws.choice((1, 1, 2, 3))):
            killed += kill_once(lab, run_dir, tally)
        if killed:
            lab.finish(tally, run_dir)
        else:
            tally.note("over before the kill")
            lab.throw_away(run_dir)
    return tally


def kill_once(lab: Lab, run_dir: Path, tally: Tally) -> bool:
    before, taken = partials(run_dir), steps_taken(run_dir)
    child = Child(run_dir, lab.overrides())
    lab.wait_for_a_moment(child, taken)
    if lab.draws.random() < 0.5:
        while child.running and not partials(run_dir) - before:
            pass
    hit = child.send(signal.SIGKILL)
    child.end()
    if hit:
        tally.faults += 1
        if partials(run_dir) - before:
            tally.note("in a checkpoint write")
        elif steps_taken(run_dir) == taken:
            tally.note("before a step")
        else:
            tally.note("elsewhere")
    return hit


def partials(run_dir: Path) -> set[tuple[str, int]]:
    """Return which files are half written, and since when."""
    files = set()
    for file in run_dir.glob("*.partial"):
        with contextlib.suppress(FileNotFoundError):  # it is whole by now, and renamed
            files.add((file.name, file.stat().st_mtime_ns))
    return files


def signals(lab: Lab, num: int) -> Tally:
    """Ask runs to stop at random moments: no step is lost, and the exit code says how it ended."""
    tally = Tally()
    codes = {signal.SIGTERM: EXIT_REQUEUE, signal.SIGUSR1: EXIT_REQUEUE, signal.SIGINT: EXIT_INTERRUPTED}
    for _ in range(num):
        run_dir = lab.new_dir("asked")
        number = lab.draws.choice(list(codes))
        child = Child(run_dir, lab.overrides())
        lab.wait_for_a_moment(child, 0)
        hit = child.send(number)
        ended = child.end()
        tally.faults += hit
        if "stopped by" in ended.output:
            tally.note("saved and stopped")
            if ended.code != codes[number]:
                tally.wrong.append(f"{run_dir.name}: {number.name} ends with {ended.code}: {ended.output[-500:]}")
        elif ended.code == 0:
            tally.note("over before the signal")
        elif ended.code in (-number, EXIT_INTERRUPTED):
            tally.note("ended before the first step")
        else:
            tally.wrong.append(f"{run_dir.name}: {number.name} ends with {ended.code}: {ended.output[-1500:]}")
        lab.finish(tally, run_dir)
    return tally


def torn(lab: Lab, num: int) -> Tally:
    """Cut last.pt off, or change a byte of it, at every kind of place: the one before is used, with a warning."""
    import zipfile

    tally = Tally()
    half = lab.new_dir("half")
    child = Child(half, lab.overrides(), hook=die_at_step(10))
    child.end()
    with zipfile.ZipFile(half / "last.pt") as archive:
        borders = sorted({0, 1, *(member.header_offset for member in archive.infolist()), archive.start_dir})
    size = (half / "last.pt").stat().st_size
    places = [*borders, *(border + 40 for border in borders), size - 1, size - 22, size // 2]
    for turn in range(num):
        run_dir = lab.new_dir("torn")
        shutil.copytree(half, run_dir)
        shutil.copy(notes_on(half)[1], notes_on(run_dir)[1])
        place = min(lab.draws.choice(places), size - 1)
        with (run_dir / "last.pt").open("r+b") as file:
            if turn % 3 == 2:
                flip_byte(file, place)
                tally.note("a byte changed")
            else:
                file.truncate(place)
                tally.note("cut off")
        tally.faults += 1
        ended = lab.finish(tally, run_dir)
        if "is damaged" not in ended.output:
            # A byte of the archive's padding or time stamps changes nothing that is read.
            tally.note("unnoticed, and nothing changed")
            if turn % 3 != 2:
                tally.wrong.append(f"{run_dir.name}: last.pt cut off at byte {place} goes unnoticed")
    return tally


def flip_byte(file: BinaryIO, place: int) -> None:
    file.seek(place)
    byte = file.read(1)
    file.seek(place)
    file.write(bytes([byte[0] ^ 0x55]))


def die_at_step(step: int) -> "Hook":
    """Return a hook that saves after every step, and kills this process in `step`, once that is on disk."""

    def after_step(trainer: "Trainer") -> None:
        trainer.save_requested = True
        if trainer.state.step == step:
            trainer.checkpoints.settle()
            os.kill(os.getpid(), signal.SIGKILL)

    return after_step


def full_disk(lab: Lab, num: int) -> Tally:
    """Let a small disk run full at a random moment: a clear error, and the old checkpoint whole."""
    from imgcls.checkpoints import load_checkpoint

    tally = Tally()
    mount = lab.folder / "small"
    mount.mkdir()
    size = 16 * 2**20
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mount)]
    if subprocess.run(command, capture_output=True).returncode:
        tally.note("SKIPPED: mounting a tmpfs needs root")
        print("  skipped: mounting a tmpfs needs root", flush=True)
        return tally
    try:
        for _ in range(num):
            run_dir = mount / lab.new_dir("full").name
            child = Child(run_dir, lab.overrides())
            step = lab.draws.randrange(NUM_STEPS - 2)
            while child.running and steps_taken(run_dir) < step:
                time.sleep(0.001)
            fill(mount / "filler", leave=lab.draws.choice((0, 20_000, 200_000, 600_000, 900_000)))
            ended = child.end()
            if ended.code == 0:
                tally.note("over before it was full")
            else:
                tally.faults += 1
                if ended.code != 1 or "No space left" not in ended.output or "Traceback" in ended.output:
                    tally.wrong.append(f"the error of a full disk ({ended.code}) is unclear: {ended.output[-1500:]}")
            (mount / "filler").unlink()
            if (run_dir / "last.pt").exists():
                load_checkpoint(run_dir / "last.pt")
                tally.note("old checkpoint whole")
            lab.finish(tally, run_dir)
            for file in mount.iterdir():
                shutil.rmtree(file) if file.is_dir() else file.unlink()
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    return tally


def fill(file: Path, *, leave: int) -> None:
    """Write until the disk is full but for `leave` bytes."""
    disk = os.statvfs(file.parent)
    left = disk.f_bavail * disk.f_frsize
    # Closing the file writes too, and fails if the run has filled the disk meanwhile.
    with contextlib.suppress(OSError), file.open("wb") as stream:
        stream.write(bytes(max(0, left - leave)))


def broken_files(lab: Lab, num: int) -> Tally:
    """Delete or truncate an image in the middle of an epoch: it is named, and its return makes the run go on."""
    tally = Tally()
    files = sorted(lab.data.rglob("*.JPEG"))
    for turn in range(num):
        run_dir = lab.new_dir("broken")
        file = lab.draws.choice(files)
        content = file.read_bytes()
        child = Child(run_dir, lab.overrides())
        while child.running and steps_taken(run_dir) < 1 + turn % 5:
            time.sleep(0.001)
        if turn % 2:
            file.write_bytes(content[: len(content) // 3])
        else:
            file.unlink()
        ended = child.end()
        file.write_bytes(content)
        if ended.code == 0:
            tally.note("over before it was read")
        else:
            tally.faults += 1
            tally.note("truncated" if turn % 2 else "deleted")
            if ended.code != 2 or str(file) not in ended.output or "Traceback" in ended.output:
                tally.wrong.append(f"the error of a broken file ({ended.code}) is unclear: {ended.output[-1500:]}")
        lab.finish(tally, run_dir)
    return tally


def failing_reads(lab: Lab, num: int) -> Tally:
    """Let reads fail once, which nobody notices, and for good, which is an error that names the file."""
    tally = Tally()
    whole = lab.folder / "whole_with_pillow"
    with without_native_decoder():
        with_pillow = Child(whole, lab.overrides()).end()
        if with_pillow.code:
            tally.wrong.append(with_pillow.output[-1500:])
        for turn in range(num):
            once = lab.new_dir("once")
            ended = Child(once, lab.overrides(), change_images=fail_reads(every=3 + turn % 5, times=1)).end()
            tally.faults += 1
            tally.note("failed once")
            if ended.code:
                tally.wrong.append(f"a read that fails once ends the run ({ended.code}): {ended.output[-1500:]}")
            lab.finish(tally, once, whole=whole)

            always = lab.new_dir("always")
            ended = Child(always, lab.overrides(), change_images=fail_reads(every=60 + 9 * turn, times=2)).end()
            tally.faults += 1
            tally.note("failed for good")
            if ended.code != 2 or ".JPEG: cannot be read: Input/output error" not in ended.output:
                tally.wrong.append(f"the error of a failing read ({ended.code}) is unclear: {ended.output[-1500:]}")
            lab.finish(tally, always, whole=whole)
    return tally


def mutated_files(lab: Lab, num: int) -> Tally:
    """Read broken copies of every kind of file that a run leaves: the answer is one line, and comes at once."""
    from imgcls.data.decoding import native
    from imgcls.data.sets import make_pack, open_folder

    tally = Tally()
    good = lab.folder / "good"
    half = lab.new_dir("half")
    Child(half, lab.overrides(), hook=die_at_step(NUM_STEPS - 3)).end()
    shutil.copytree(half, good / "run")
    shutil.copytree(lab.whole, good / "finished")
    make_pack(open_folder(str(lab.data)), good / "data.pack", lossless=native.available())
    kinds = jobs(lab.data, RUN)
    for number in range(num):
        job = kinds[number % len(kinds)]
        answer = break_one(good, lab.new_dir("mutated"), job, lab.draws)
        tally.faults += 1
        tally.note("refused" if answer.code else "passed")
        if complaint := answer.complaint():
            command = " ".join(answer.command)
            tally.wrong.append(f"file {number}: {answer.what}: {complaint}\n  {command}\n{answer.output[-1500:]}")
    return tally


def fail_reads(*, every: int, times: int) -> "Callable[[ImageSet], ImageSet]":
    """Return what makes every `every`-th first read of a training image fail `times` times, by an error of the disk."""
    import dataclasses
    import errno
    import itertools
    import threading

    from imgcls.data.sets import FolderSplit

    lock, turns, failing = threading.Lock(), itertools.count(1), {}

    class FailingSplit(FolderSplit):
        def read_file(self, path: bytes) -> bytes:
            with lock:
                if path not in failing and next(turns) % every == 0:
                    failing[path] = times
                if failing.get(path, 0) > 0:
                    failing[path] -= 1
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read_file(path)

    def change_images(images: "ImageSet") -> "ImageSet":
        def failing_split(split: "Split") -> FailingSplit:
            assert isinstance(split, FolderSplit)
            return FailingSplit(os.fsdecode(split.root), split.names, split.offsets, split.labels)

        return dataclasses.replace(images, train=failing_split(images.train), val=failing_split(images.val))

    return change_images


@contextlib.contextmanager
def without_native_decoder() -> Iterator[None]:
    """Have processes forked in this context read with Python, whose reads can be made to fail, and not in C."""
    before = os.environ.get("IMGCLS_NATIVE")
    os.environ["IMGCLS_NATIVE"] = "0"
    try:
        yield
    finally:
        del os.environ["IMGCLS_NATIVE"]
        if before is not None:
            os.environ["IMGCLS_NATIVE"] = before


KINDS = {
    "kills": (kills, 200, "killed with SIGKILL"),
    "signals": (signals, 40, "asked to stop by a signal"),
    "torn": (torn, 60, "last.pt torn or changed"),
    "full": (full_disk, 20, "disk full"),
    "images": (broken_files, 12, "an image deleted or truncated"),
    "reads": (failing_reads, 5, "reads that fail"),
    "files": (mutated_files, 500, "a file of a run mutated"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind, (_, default, what) in KINDS.items():
        parser.add_argument(f"--{kind}", type=int, default=default, metavar="N", help=f"{what} (default: {default})")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places")
    parser.add_argument("--json", type=Path, help="where to write the counts")
    options = parser.parse_args()
    import_everything()
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory(prefix="imgcls-faults-") as folder:
        os.environ["IMGCLS_CACHE"] = f"{folder}/cache"
        lab = Lab(Path(folder), seed=options.seed)
        print(f"the unbroken run takes {lab.seconds:.1f} s for {NUM_STEPS} steps\n")
        print(f"{'fault':<30}  runs  faults  lost steps  differences", flush=True)
        for kind, (function, _, what) in KINDS.items():
            if num := getattr(options, kind):
                tallies[what] = tally = function(lab, num)
                counts = f"{tally.runs:>4}  {tally.faults:>6}  {tally.lost_steps:>10}  {tally.differences:>11}"
                print(f"{what:<30}  {counts}   {tally.notes}", flush=True)
                for text in tally.wrong:
                    print(text)
    runs, faults, lost, different, wrong = (
        sum(tally.runs for tally in tallies.values()),
        sum(tally.faults for tally in tallies.values()),
        sum(tally.lost_steps for tally in tallies.values()),
        sum(tally.differences for tally in tallies.values()),
        sum(len(tally.wrong) for tally in tallies.values()),
    )
    print(f"{'all':<30}  {runs:>4}  {faults:>6}  {lost:>10}  {different:>11}   {wrong} endings not as they should be")
    if options.json:
        options.json.write_text(json.dumps({what: asdict(tally) for what, tally in tallies.items()}, indent=2))
    return int(wrong > 0)


def import_everything() -> None:
    """Import what a run imports, without starting a thread, so that forked runs begin at once."""
    import torch

    torch.set_num_threads(1)
    import tensorboard.backend.event_processing.event_accumulator  # noqa: F401
    import torch._dynamo  # by an optimizer's first step
    import torch.utils.tensorboard
    import torch.utils.tensorboard.summary

    import imgcls.checkpoints
    import imgcls.evaluation
    import imgcls.inference
    import imgcls.training  # noqa: F401


if __name__ == "__main__":
    raise SystemExit(main())
