"""The smoke run, on a subset of any set of images: what subset.py prints can be typed as it is."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imgcls.config import compose
from imgcls.environment import CONF_DIR

ROOT = CONF_DIR.parent


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=300)


def printed_commands(source: Path, folder: Path, *numbers: str) -> list[list[str]]:
    """Make the subset `a subset` in `folder`, and return the commands that the script prints, without `python`."""
    made = run([str(ROOT / "scripts/subset.py"), str(source), "a subset", *numbers], folder)
    assert made.returncode == 0, made.stderr
    commands = [shlex.split(line)[1:] for line in made.stdout.splitlines() if line.startswith("    python ")]
    return [[str(ROOT / script), *words] for script, *words in commands]


def with_wnids(folder: Path, copy: Path) -> Path:
    """Copy an image folder, its classes renamed to WordNet ids."""
    for part in ("train", "val"):
        for number, name in enumerate(sorted(path.name for path in (folder / part).iterdir())):
            shutil.copytree(folder / part / name, copy / part / f"n{number:08}")
    return copy


@pytest.mark.e2e
@pytest.mark.parametrize("wnids", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_smoke_run_that_subset_prints_passes_on_a_tiny_set(wnids: bool, tiny_folder: Path, tmp_path: Path) -> None:
    source = with_wnids(tiny_folder, tmp_path / "whole") if wnids else tiny_folder
    smoke, training = printed_commands(source, tmp_path, "--classes", "3", "--train", "5", "--val", "2")
    kind = "imagenet" if wnids else "folder"
    assert smoke[1:] == ["experiment=smoke", f"data={kind}", "data.root=a subset"]
    smaller = ["image_size=16", "logger=none", "device=cpu"]
    done = run([*smoke, *smaller], tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "15 training and 15 validation images, the same ones (data.memorise=64)" in done.stdout
    results = json.loads((tmp_path / f"runs/resnet18-{kind}/smoke/results.json").read_text())
    assert results["val_top1"] >= 90
    if wnids:
        return  # data.num_classes=null aside, its training is that of the other folder
    trained = run([*training, *smaller, "epochs=1"], tmp_path)
    assert trained.returncode == 0, trained.stderr + trained.stdout
    assert "batch 8, 16 px; each epoch leaves out 7 other images" in trained.stdout


@pytest.mark.e2e
def test_a_network_that_learns_nothing_fails_the_smoke_run(tiny_folder: Path, tmp_path: Path) -> None:
    words = ["experiment=smoke", "data=folder", f"data.root={tiny_folder}", "optimizer.lr=0"]
    done = run([str(ROOT / "train.py"), *words, "image_size=16", "epochs=2", "device=cpu"], tmp_path)
    assert done.returncode == 1
    assert "below min_val_top1=90" in done.stderr


@pytest.mark.slow
def test_the_smoke_run_learns_64_photos_by_heart(tmp_path: Path) -> None:
    root = os.environ.get("IMGCLS_REAL_DATA")
    if root is None or not (Path(root) / "caltech10").is_dir():
        pytest.skip("IMGCLS_REAL_DATA names no folder with caltech10")
    source = with_wnids(Path(root) / "caltech10", tmp_path / "whole")
    smoke, _ = printed_commands(source, tmp_path, "--classes", "10", "--train", "8", "--val", "2")
    done = run([*smoke, "device=cpu"], tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout


def test_the_smoke_run_takes_all_shapes_and_64_images_of_any_other_set() -> None:
    shapes = compose(["experiment=smoke"])
    assert (shapes.data.memorise, shapes.epochs, shapes.min_val_top1) == (None, 1, 70)
    other = compose(["experiment=smoke", "data=imagenet", "data.root=x"])
    assert (other.data.memorise, other.epochs, other.min_val_top1) == (64, 25, 90)
    assert other.data.num_classes is None
    assert shapes.overwrite  # the results of an earlier run would prove nothing
    assert other.overwrite
