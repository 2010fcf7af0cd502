"""A tiny subset of an image folder."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imgcls.data.sets import open_folder
from imgcls.environment import CONF_DIR

SCRIPT = str(CONF_DIR.parent / "scripts/subset.py")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_a_subset_is_a_data_set_of_its_own(tiny_folder: Path, tmp_path: Path) -> None:
    for number, flags in enumerate(([], ["--link"])):
        target = tmp_path / str(number)
        done = run(tiny_folder, target, "--classes", "2", "--train", "3", "--val", "1", *flags)
        assert done.returncode == 0, done.stderr
        assert "8 images of 2 classes" in done.stdout
        images = open_folder(str(target))
        assert (images.classes, len(images.train), len(images.val)) == (["blue", "green"], 6, 2)


def test_only_what_training_takes_for_an_image_or_a_class_is_taken(tiny_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_folder, source)
    for part in ("train", "val"):
        for name in (f"{part}/blue/._00.JPEG", f"{part}/blue/.00.jpg", f"{part}/blue/0.txt", f"{part}/.a/0.jpg"):
            (source / name).parent.mkdir(exist_ok=True)
            (source / name).write_bytes(b"no image")
    (source / "train/blue/0").mkdir()
    (source / "train/blue/0/deep.jpg").write_bytes(b"of its class too")
    done = run(source, tmp_path / "new", "--classes", "1", "--train", "3", "--val", "2")
    assert done.returncode == 0, done.stderr
    taken = sorted(path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*.*"))
    assert taken == [f"train/blue/{name}" for name in ("0/deep.jpg", "00.JPEG", "01.JPEG")] + [
        f"val/blue/{name}" for name in ("00.JPEG", "01.JPEG")
    ]


@pytest.mark.e2e
def test_what_is_not_there_is_refused_with_the_number_there_is(tiny_folder: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (["--classes", "9"], "--classes 9, but"),
        (["--classes", "0"], "--classes 0; use 1 or more"),
        (["--classes", "2", "--train", "-1"], "--train -1; use 1 or more"),
        (["--classes", "2", "--val", "0"], "--val 0; use 1 or more"),
        (["--classes", "2", "--train", "99"], "has 20 images"),
        (["--classes", "2", "--val", "99"], "has 5 images"),
    ):
        done = run(tiny_folder, tmp_path / "new", "--train", "3", "--val", "1", *arguments)
        assert done.returncode == 2
        assert words in done.stderr
        assert not (tmp_path / "new").exists()
    assert "no such folder" in run(tmp_path, tmp_path / "new").stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    assert "is not empty" in run(tiny_folder, tmp_path / "full").stderr


@pytest.mark.parametrize("flags", [[], ["--link"]])
def test_a_killed_subset_goes_on_with_the_same_command_alone(
    flags: list[str], tiny_folder: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    numbers = ["--classes", "2", "--train", "3", "--val", "1", *flags]
    assert run(tiny_folder, whole, *numbers).returncode == 0
    # A kill after the third image, in the middle of the fourth.
    broken_off = (
        "import os, shutil, sys, runpy; from pathlib import Path; calls = []\n"
        "def stop(event, arguments):\n"
        "    if event in ('shutil.copyfile', 'os.symlink'):\n"
        "        calls.append(1)\n"
        "        if len(calls) == 4: os.kill(os.getpid(), 9)\n"
        f"sys.addaudithook(stop); sys.argv[:] = sys.argv[1:]; runpy.run_path({SCRIPT!r}, run_name='__main__')\n"
    )
    command = [sys.executable, "-c", broken_off, SCRIPT, str(tiny_folder), str(killed), *numbers]
    assert subprocess.run(command, timeout=60).returncode == -9
    assert len([file for file in killed.rglob("*.JPEG") if file.name[0] != "."]) == 3
    other = run(tiny_folder, killed, "--classes", "2", "--train", "2", "--val", "1", *flags)
    assert "holds an unfinished subset of other numbers" in other.stderr
    again = run(tiny_folder, killed, *numbers)
    assert again.returncode == 0, again.stderr
    names = [sorted(str(file.relative_to(folder)) for file in folder.rglob("*")) for folder in (whole, killed)]
    assert names[0] == names[1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    from imgcls.commands.subset import add_image

    (tmp_path / ".full.JPEG.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        add_image(next(tiny_folder.rglob("*.JPEG")), tmp_path / "full.JPEG", link=False)
    assert not list(tmp_path.iterdir())
