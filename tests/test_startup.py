"""What train.py says before torch is imported: finished runs, other runs, and data that is not there."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imgcls.config import Config
from imgcls.environment import CONF_DIR
from imgcls.startup import look_up_run

ROOT = CONF_DIR.parent
# Runs train.py in this process and says at its end whether torch was imported.
WITHOUT_TORCH = f"""
import atexit, runpy, sys
atexit.register(lambda: print("torch was imported" if "torch" in sys.modules else "no torch"))
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
"""


def start(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *words], cwd=cwd, capture_output=True, text=True)


@pytest.mark.e2e
@pytest.mark.parametrize(
    "words, message",
    [
        (["data=imagenet"], "data.root is not set"),
        (["data=imagenet", "data.root=nowhere"], "data.root=nowhere is not a folder"),
        (["data=folder", "data.root=."], "has no train/"),
        (["data=pack", "data.root=a.pack"], "a.pack"),
    ],
)
def test_a_mistake_about_the_data_is_one_line_before_torch_is_imported(
    words: list[str], message: str, tmp_path: Path
) -> None:
    done = start(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "no torch" in done.stdout


@pytest.mark.e2e
def test_a_finished_run_is_shown_without_torch(
    tiny_config: Callable[..., Config], train: Callable[..., dict[str, Any]], tiny_folder: Path, tmp_path: Path
) -> None:
    words = ["model=lenet5", "data=folder", f"data.root={tiny_folder}", "image_size=32", "batch_size=12", "epochs=1"]
    words += ["model.activation=relu", "model.pool=max", "optimizer.lr=0.02", "log_every_steps=2"]
    train(tiny_config("epochs=1"))
    done = start(*words, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "this run has finished" in done.stdout
    assert "best validation top-1" in done.stdout
    assert "no torch" in done.stdout


def test_a_finished_run_is_not_shown_for_other_images(
    tiny_config: Callable[..., Config], train: Callable[..., dict[str, Any]], tiny_folder: Path, tmp_path: Path
) -> None:
    train(tiny_config("epochs=1"))
    moved = tmp_path / "moved"
    shutil.copytree(tiny_folder, moved)
    _, results, images = look_up_run(tiny_config("epochs=1", f"data.root={moved}"), tmp_path / "run")
    assert results
    assert images is None
    Image.new("RGB", (40, 40)).save(moved / "train" / "blue" / "another.JPEG")
    with pytest.raises(ValueError, match="a run of another data set"):
        look_up_run(tiny_config("epochs=1", f"data.root={moved}"), tmp_path / "run")


def test_a_small_folder_brings_its_sizes_and_a_begun_run_keeps_them(
    tiny_config: Callable[..., Config], train: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    words = ("batch_size=0", "epochs=0", "max_steps=2")
    config, results, images = look_up_run(tiny_config(*words), tmp_path / "run")
    assert results is None
    assert images is not None
    assert (config.batch_size, config.epochs, config.lr_scaling) == (8, 20, "sqrt")  # 20 epochs: the recipe's
    train(config)
    config, results, images = look_up_run(tiny_config(*words), tmp_path / "run")
    assert images is None  # a finished run does not need them
    assert results is not None
    assert results["steps"] == 2
    assert (config.batch_size, config.epochs, config.lr_scaling) == (8, 20, "sqrt")


def test_an_edited_config_of_a_begun_run_is_refused_and_not_taken_up(
    tiny_config: Callable[..., Config], train: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    words = ("batch_size=0", "epochs=0", "max_steps=2")
    train(look_up_run(tiny_config(*words), tmp_path / "run")[0])
    file = tmp_path / "run" / "config.json"
    saved = json.loads(file.read_text())
    for edited in ({"batch_size": "x"}, {"epochs": None}):
        file.write_text(json.dumps(saved | edited))
        with pytest.raises(ValueError, match="holds a run of another config"):
            look_up_run(tiny_config(*words), tmp_path / "run")
