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
