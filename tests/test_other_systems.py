"""Windows and macOS, as far as they can be simulated: what only Unix or Linux has is taken away in a new process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imgcls.data.sets.containers import _pread
from imgcls.runs import disk

WITHOUT_UNIX = """
import importlib, os, pkgutil, signal, sys
import torch, torchvision, hydra, tensorboard.summary.writer.event_file_writer  # which have their own ways on Windows
import filelock, matplotlib, multiprocessing.util, scipy.stats, subprocess, tempfile, tqdm

for name in ("fcntl", "grp", "posix", "pwd", "resource", "termios"):
    sys.modules[name] = None
for name in ("O_CLOEXEC", "fork", "geteuid", "getuid", "killpg", "mkfifo", "pread", "pwrite", "sched_getaffinity",
             "statvfs", "uname"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2"):
    delattr(signal, name)
"""

IMPORT_ALL = """
import imgcls
names = [each.name for each in pkgutil.walk_packages(imgcls.__path__, "imgcls.") if "project" not in each.name]
for name in names:
    if name not in ("imgcls.__main__", "imgcls.data.decoding._native"):  # a program, and a library of C
        importlib.import_module(name)
print(len(names), "modules")
"""

TRAIN = """
sys.argv = ["train.py", "model=lenet5", "data=folder", f"data.root={sys.argv[1]}", "image_size=32", "epochs=1",
            "max_steps=2", "batch_size=2", "hydra.run.dir=run", "logger=none"]
from imgcls.commands.train import main
main()
"""


@pytest.mark.e2e
def test_all_is_imported_and_a_run_trained_without_what_only_unix_has(tiny_folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_UNIX + IMPORT_ALL + TRAIN, str(tiny_folder)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[0]) > 150
    assert (tmp_path / "run" / "last.pt").is_file()


def test_parts_of_a_file_are_read_without_pread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shard").write_bytes(b"0123456789")
    descriptor = os.open(tmp_path / "shard", os.O_RDONLY)
    monkeypatch.delattr(os, "pread", raising=False)
    assert [_pread(descriptor, 3, start) for start in (5, 0, 9)] == [b"567", b"012", b"9"]
    os.close(descriptor)


def test_a_file_that_is_open_elsewhere_is_replaced_a_little_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = [PermissionError("it is open")] * 2
    replace = Path.replace

    def refuse_twice(source: Path, target: Path) -> Path:
        if refusals:
            raise refusals.pop()
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", refuse_twice)
    (tmp_path / "new").write_text("new")
    with pytest.raises(PermissionError):  # elsewhere it is a folder that one may not write to
        disk._move(tmp_path / "new", tmp_path / "old")
    monkeypatch.setattr(disk, "ON_WINDOWS", True)
    disk._move(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_text() == "new"
    disk.sync_to_disk(tmp_path)  # a folder: nothing that Windows could refuse
