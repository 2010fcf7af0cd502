"""Predictions are used again if nothing that they depend on has changed."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from imgcls.checkpoints import load_checkpoint, save_checkpoint
from imgcls.data.sets import PackSplit

from .helpers import CountedPredictions, config_of, run


def test_a_network_is_run_once(run_dir: Path, tiny_folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(run_dir, copied, ignore=shutil.ignore_patterns("evaluate"))
    first = run(config_of(copied, root=tiny_folder))
    predict = CountedPredictions()
    assert run(config_of(copied, root=tiny_folder), predict=predict) == first
    assert predict.count == 0
    run(config_of(copied, root=tiny_folder, fresh=True), predict=predict)
    assert predict.count == 1
    run(config_of(copied, root=tiny_folder, image_size=40), predict=predict)
    run(config_of(copied, root=tiny_folder, precision="bf16"), predict=predict)
    assert predict.count == 3
    # Other weights under the same name are another network.
    content = load_checkpoint(copied / "best.pt")
    content["model"]["fc7.bias"] += 1
    save_checkpoint(content, copied / "best.pt")
    run(config_of(copied, root=tiny_folder), predict=predict)
    assert predict.count == 4


def test_images_that_changed_are_predicted_again(run_dir: Path, tiny_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(tiny_folder / "val", root / "val")
    before = run(config_of(run_dir, root=root))
    shutil.copy(root / "val/red/00.JPEG", root / "val/blue/00.JPEG")  # the same name and, nearly, size
    after = run(config_of(run_dir, root=root))
    assert after["loss"] != before["loss"]
    assert after == run(config_of(run_dir, root=root, fresh=True))


def test_a_pack_that_changed_has_another_fingerprint(tmp_path: Path) -> None:
    file = tmp_path / "a.pack"
    empty = np.zeros(0, np.int64)

    def fingerprint() -> str:
        split = PackSplit(file, starts=empty, lengths=empty, names=empty, name_offsets=empty, labels=empty)
        return split.fingerprint()

    file.write_bytes(b"one")
    first = fingerprint()
    assert fingerprint() == first
    file.write_bytes(b"other")
    assert fingerprint() != first


@pytest.mark.parametrize("name", ["log_probs.npy", "log_probs.json"])
@pytest.mark.parametrize("left", [0, 100])
def test_damaged_predictions_are_made_again(
    name: str, left: int, run_dir: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    first = run(config_of(run_dir, root=tiny_folder, out=str(tmp_path)))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:left])
    assert run(config_of(run_dir, root=tiny_folder, out=str(tmp_path))) == first
    assert (tmp_path / name).read_bytes() == whole
    assert not list(tmp_path.glob("*.partial"))
