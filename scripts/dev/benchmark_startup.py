"""`benchmark.py startup`: CPU seconds from a command to its first optimizer step, or its end, part by part.

Imports no torch: each command is measured in its own process, where every import counts to the library that asked for
it, and what is not an import to "build and work".
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from imgcls.environment import CONF_DIR

ROOT = CONF_DIR.parent
PARTS = ("python", "hydra", "imgcls", "torch", "torchvision", "build and work")
# What a child process runs: argv is the file for the seconds, "train" or a script, and the command's own words.
CHILD = """
import time
seconds = {"python": time.process_time()}
import builtins, atexit, os, sys
ROOTS = {"hydra": "hydra", "omegaconf": "hydra", "imgcls": "imgcls", "torch": "torch", "torchvision": "torchvision"}
plain_import, stack, since = builtins.__import__, ["build and work"], time.process_time()

def count():
    global since
    now = time.process_time()
    seconds[stack[-1]] = seconds.get(stack[-1], 0) + now - since
    since = now

def timed_import(name, globals=None, locals=None, fromlist=(), level=0):
    part = ROOTS.get((globals or {}).get("__name__", "") if level else name.partition(".")[0])
    if part is None or part == stack[-1]:
        return plain_import(name, globals, locals, fromlist, level)
    count()
    stack.append(part)
    try:
        return plain_import(name, globals, locals, fromlist, level)
    finally:
        count()
        stack.pop()

def report():
    import json
    count()
    with open(file, "w") as out:
        json.dump(seconds, out)

builtins.__import__ = timed_import
file, command, *sys.argv = sys.argv[1:]
if command == "train":
    from hooked_run import run_with_hooks
    def stop(trainer):
        report()
        os._exit(0)
    run_with_hooks(lambda trainer: trainer.after_step.append(stop))
else:
    import runpy
    atexit.register(report)
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def measure_startup(asked: argparse.Namespace) -> None:
    """Print a table of CPU seconds for train, evaluate, predict and export, with bytecode cached and not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands = _commands(folder)
        print(f"{'CPU seconds':<26}" + "".join(f"{part:>16}" for part in (*PARTS, "all")))
        for command, words in commands.items():
            _seconds(command, words, folder)  # writes the bytecode of what is not cached yet
            cached = [_seconds(command, words, folder) for _ in range(asked.rounds)]
            _print_row(f"{command}, cached", cached)
            with tempfile.TemporaryDirectory() as bytecode:
                _print_row(f"{command}, not cached", [_seconds(command, words, folder, bytecode=bytecode)])


def _commands(folder: Path) -> dict[str, list[str]]:
    # The words of each command; the last three read the checkpoint of a run of one step.
    data = ["model=lenet5", f"data.root={folder / 'data'}", "data=folder", "image_size=32", "batch_size=4"]
    _draw_images(folder / "data")
    run = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *data, "epochs=1", f"hydra.run.dir={folder / 'run'}"],
        capture_output=True,
        text=True,
    )
    if run.returncode:
        raise ValueError(f"train.py fails:\n{run.stderr}")
    checkpoint = f"checkpoint={folder / 'run' / 'best.pt'}"
    photo = next((folder / "data" / "val").rglob("*.JPEG"))
    scripts = ROOT / "scripts"
    return {
        "train": ["train.py", *data, "overwrite=true", f"hydra.run.dir={folder / 'timed'}"],
        "evaluate": [
            str(scripts / "evaluate.py"),
            checkpoint,
            f"data.root={folder / 'data'}",
            f"hydra.run.dir={folder / 'evaluation'}",
        ],
        "predict": [str(scripts / "predict.py"), checkpoint, str(photo)],
        "export": [str(scripts / "export.py"), checkpoint, f"out={folder / 'network.pt2'}"],
    }


def _draw_images(root: Path) -> None:
    import numpy as np
    from PIL import Image

    draws = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("dark", "light"):
            (root / part / name).mkdir(parents=True)
            for number in range(4):
                pixels = draws.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.JPEG")


def _seconds(command: str, words: list[str], folder: Path, *, bytecode: str | None = None) -> dict[str, float]:
    file = folder / "seconds.json"
    file.unlink(missing_ok=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    if bytecode is not None:
        environment["PYTHONPYCACHEPREFIX"] = bytecode
    child = [sys.executable, "-c", CHILD, str(file), "train" if command == "train" else "script", *words]
    done = subprocess.run(child, capture_output=True, text=True, env=environment, cwd=folder)
    if done.returncode or not file.exists():
        raise ValueError(f"{command} fails:\n{done.stdout}{done.stderr}")
    return json.loads(file.read_text())


def _print_row(name: str, rounds: list[dict[str, float]]) -> None:
    medians = [statistics.median(seconds.get(part, 0) for seconds in rounds) for part in PARTS]
    total = statistics.median(sum(seconds.values()) for seconds in rounds)
    print(f"{name:<26}" + "".join(f"{seconds:>16.2f}" for seconds in (*medians, total)), flush=True)
