"""Make broken files out of good ones, by a seed, and read each by the commands that read such files.

What a command may answer is its usual output or one line of error, within 20 seconds: no traceback, no hang, no crash.
"""

import contextlib
import copy
import io
import json
import os
import random
import runpy
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
MOST_SECONDS = 20
# What an edited value may become; sizes stay below what a machine has room for.
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 7, 1000, -(2**63), 0.0, -0.5, 1e300, float("nan"), float("inf")),
    *("", "x", "\x1b[31m", "../..", "/etc/passwd", "${oc.env:HOME}", "imgcls.models.ResNet", "é\n"),
    *([], [1], ["a", None], {}, {"a": 1}, {"_target_": "os.system"}),
]


class Job(NamedTuple):
    """A kind of file, the commands that read it, and the mutations that it takes.

    Args:
        file: its name in the folder of the good files.
        commands: each a script of this project and its words; {folder} is the folder with the broken file.
    """

    file: str
    commands: list[list[str]]
    mutations: "list[Callable[[Path, random.Random], str]]"


def mutate_bytes(file: Path, draws: random.Random) -> str:
    """Cut, flip, zero, repeat or replace bytes of a file, or replace it by something that is no file."""
    data = bytearray(file.read_bytes())
    kind = draws.choice(["cut", "flip", "zero", "insert", "append", "empty", "noise", "folder", "fifo", "unreadable"])
    place = draws.randrange(max(1, len(data)))
    if kind == "cut":
        del data[place:]
    elif kind == "flip":
        for _ in range(draws.choice([1, 1, 5, 50])):
            data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
    elif kind == "zero":
        data[place : place + 64] = bytes(len(data[place : place + 64]))
    elif kind == "insert":
        data[place:place] = draws.randbytes(draws.choice([1, 16, 300]))
    elif kind == "append":
        data += draws.randbytes(100)
    elif kind in ("empty", "noise"):
        data = bytearray(draws.randbytes(0 if kind == "empty" else 500))
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "fifo":
        os.mkfifo(file)
    elif kind == "unreadable":
        file.symlink_to(file)
    else:
        file.write_bytes(data)
    return kind


def mutate_json(file: Path, draws: random.Random) -> str:
    """Edit a value or a key of a JSON file."""
    tree, what = edit_tree(json.loads(file.read_text()), draws)
    file.write_text(json.dumps(tree))
    return what


def mutate_text(file: Path, draws: random.Random) -> str:
    """Replace a cell of a CSV file, or drop or repeat a line."""
    lines = file.read_text().splitlines()
    number = draws.randrange(len(lines))
    kind = draws.choice(["cell", "drop", "repeat"])
    if kind == "cell":
        cells = lines[number].split(",")
        cells[draws.randrange(len(cells))] = draws.choice(["", "x", "-1", "nan", "1e999", '"', "\x00", "9" * 30])
        lines[number] = ",".join(cells)
    elif kind == "drop":
        del lines[number]
    else:
        lines.insert(number, lines[number])
    file.write_text("\n".join(lines) + "\n")
    return f"{kind} in line {number}"


def mutate_checkpoint(file: Path, draws: random.Random) -> str:
    """Edit a value, key or tensor of a checkpoint, and give it the checksum of what it holds."""
    from imgcls.checkpoints import load_checkpoint, save_checkpoint

    tree, what = edit_tree(load_checkpoint(file), draws)
    if not isinstance(tree, dict):
        tree = {"model": tree}
    save_checkpoint(tree, file)
    return what


def mutate_pack(file: Path, draws: random.Random) -> str:
    """Edit the index at the end of a pack."""
    import numpy as np

    data = file.read_bytes()
    length = int.from_bytes(data[-16:-8], "little")
    images, index, magic = data[: -16 - length], data[-16 - length : -16], data[-8:]
    with np.load(io.BytesIO(index)) as loaded:
        arrays = dict(loaded)
    key = draws.choice(list(arrays))
    if key == "about" and draws.random() < 0.8:
        tree, what = edit_tree(json.loads(arrays["about"].tobytes()), draws)
        arrays["about"] = np.frombuffer(json.dumps(tree).encode(), np.uint8)
    else:
        arrays[key], what = _edit_array(arrays[key], draws)
    file_of_index = io.BytesIO()
    np.savez(file_of_index, **arrays)
    written = file_of_index.getvalue()
    file.write_bytes(images + written + len(written).to_bytes(8, "little") + magic)
    return f"{key}: {what}"


def _edit_array(array: Any, draws: random.Random) -> tuple[Any, str]:
    import numpy as np

    kind = draws.choice(["cut", "empty", "type", "shape", "value", "values"])
    array = array.copy()
    if kind == "cut":
        return array[: len(array) // 2], kind
    if kind == "empty":
        return array[:0], kind
    if kind == "type":
        return array.astype(draws.choice([np.float64, np.int64, np.bool_, "<U4"])), kind
    if kind == "shape":
        return draws.choice([array[None], array[:1].reshape(())]), kind
    where = slice(None) if kind == "values" else draws.randrange(len(array))
    with np.errstate(over="ignore"):
        array[where] = np.array(draws.choice([0, 1, 200, 2**31 - 1, 2**62])).astype(array.dtype)
    return array, kind


def edit_tree(tree: Any, draws: random.Random) -> tuple[Any, str]:
    """Return a copy of a tree of dicts, lists, tensors and plain values with one edit, and which."""
    tree = copy.deepcopy(tree)
    nodes = [("", None, None)]
    _nodes(tree, "", nodes)
    # Deep trees are mostly weights: the upper part is edited as often as the rest.
    shallow = [node for node in nodes if node[0].count("/") < 3]
    path, parent, key = draws.choice(shallow if draws.random() < 0.7 else nodes)
    if parent is None:
        value = draws.choice(ODD_VALUES)
        return value, f"all of it = {value!r}"
    kind = draws.choice(["value", "value", "drop", "rename", "tensor"])
    old = parent[key]
    if kind == "tensor" and hasattr(old, "shape"):
        parent[key], kind = _edit_tensor(old, draws)
    elif kind == "drop":
        del parent[key]
    elif kind == "rename" and isinstance(parent, dict):
        new = draws.choice(["", "x", 3, f"{key}.x", "a" * 300])
        parent[new] = parent.pop(key)
        kind = f"renamed to {str(new)[:20]!r}"
    else:
        parent[key] = draws.choice(ODD_VALUES)
        kind = f"= {parent[key]!r}"
    return tree, f"{path} {kind}"


def _edit_tensor(tensor: Any, draws: random.Random) -> tuple[Any, str]:
    import torch

    kind = draws.choice(["cut", "scalar", "empty", "type", "nan", "huge"])
    if kind == "cut":
        return tensor.reshape(-1)[: max(1, tensor.numel() // 2)].clone(), kind
    if kind == "scalar":
        return torch.tensor(1.0), kind
    if kind == "empty":
        return tensor.reshape(-1)[:0].clone(), kind
    if kind == "type":
        return tensor.to(draws.choice([torch.int64, torch.float16, torch.bool, torch.complex64])), kind
    return torch.full(tensor.shape, float("nan") if kind == "nan" else 1e38), kind


def _nodes(tree: Any, path: str, nodes: list[tuple[str, Any, Any]]) -> None:
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            nodes.append((f"{path}/{key}", tree, key))
            _nodes(tree[key], f"{path}/{key}", nodes)


def jobs(data: Path, run: list[str]) -> list[Job]:
    """Return the kinds of files, for a run with the words `run` on the images in `data`."""
    image = str(next((data / "val").rglob("*.JPEG")))
    train = ["train.py", *run, f"data.root={data}", "hydra.run.dir={folder}/run"]
    words = [word for word in run if word.partition("=")[0] != "data"]
    pack = ["train.py", *words, "data=pack", "data.root={folder}/data.pack", "hydra.run.dir={folder}/packed"]
    predict = ["scripts/predict.py", "checkpoint={folder}/run/best.pt", image, "device=cpu"]
    evaluate = ["scripts/evaluate.py", "checkpoint={folder}/run/best.pt", f"data.root={data}", "device=cpu"]
    export = ["scripts/export.py", "checkpoint={folder}/run/best.pt", "out={folder}/net.safetensors"]
    start = [*pack[:-1], "weights={folder}/run/best.pt", "hydra.run.dir={folder}/packed", "max_steps=1"]
    compare = ["scripts/compare.py", "{folder}/run"]
    plot = ["scripts/plot.py", "{folder}/run", "out={folder}", "device=cpu"]
    return [
        Job(
            "run/best.pt",
            [predict, evaluate, export, plot, start],
            [mutate_checkpoint, mutate_checkpoint, mutate_bytes],
        ),
        Job("run/last.pt", [train], [mutate_checkpoint, mutate_checkpoint, mutate_checkpoint, mutate_bytes]),
        Job("run/config.json", [train, compare, evaluate], [mutate_json, mutate_bytes]),
        Job(
            "finished/results.json",
            [[*train[:-1], "hydra.run.dir={folder}/finished"], compare],
            [mutate_json, mutate_bytes],
        ),
        Job("run/metrics.csv", [train, compare, plot], [mutate_text, mutate_bytes]),
        Job("data.pack", [[*pack, "max_steps=2"]], [mutate_pack, mutate_pack, mutate_bytes]),
    ]


class Broken(NamedTuple):
    """What a command answered to a broken file."""

    what: str
    command: list[str]
    code: int
    output: str
    seconds: float

    def complaint(self) -> str | None:
        """Return what is wrong with the answer, or None."""
        if self.code == -signal.SIGKILL:
            return f"hangs over {MOST_SECONDS} s"
        if "Traceback (most recent call last)" in self.output:
            return "a traceback"
        if self.code < 0:
            return f"ended by {signal.Signals(-self.code).name}"
        if "\x1b" in self.output:
            return "escape codes"
        lines = [line for line in self.output.splitlines() if "error: " in line]
        if self.code and len(lines) != 1:
            return f"exit code {self.code} with {len(lines)} lines of error"
        return None


def break_one(good: Path, folder: Path, job: Job, draws: random.Random) -> Broken:
    """Copy the good files to `folder`, break one, and run a command that reads it."""
    shutil.copytree(good, folder, symlinks=True)
    what = f"{job.file}: {draws.choice(job.mutations)(folder / job.file, draws)}"
    command = [word.replace("{folder}", str(folder)) for word in draws.choice(job.commands)]
    output = folder.with_name(f"{folder.name}.out")
    started = time.monotonic()
    code = run_command(command, output)
    text = output.read_text(errors="replace")
    output.unlink()
    shutil.rmtree(folder)
    return Broken(what, command, code, text, time.monotonic() - started)


def run_command(command: list[str], output: Path) -> int:
    """Run a script of this project in a process forked from this one; return its code, -9 after MOST_SECONDS."""
    pid = os.fork()
    if pid == 0:
        _become(command, output)
    deadline = time.monotonic() + MOST_SECONDS
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return -signal.SIGKILL
        time.sleep(0.005)


def _become(command: list[str], output: Path) -> None:
    code = 1
    try:
        out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(output.parent)
        sys.argv = [str(ROOT / command[0]), *command[1:]]
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
