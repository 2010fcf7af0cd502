"""Tests on sets as people have them: held-out images, classes without images, photos that are turned."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls.config import build_protocol
from imgcls.evaluation import use_data
from imgcls.inference import open_checkpoint, predict_files

from .conftest import _train
from .helpers import CPU, config_of, run


@pytest.fixture
def unsplit(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny folder's training images as class folders alone: 3 x 20."""
    return Path(shutil.copytree(tiny_folder / "train", tmp_path / "unsplit"))


def test_a_network_is_tested_on_the_images_that_were_held_out_of_its_training(unsplit, tiny_folder, tmp_path):
    trained = _train(tmp_path / "run", unsplit, "data.val_share=0.2", "epochs=1")
    config = config_of(trained, root=unsplit)
    results = run(config)
    assert results["num_images"] == 12
    member = open_checkpoint(trained)
    use_data(member, config)
    assert (member.config.data.val_share, member.config.data.split_seed) == (0.2, 0)
    elsewhere = run(config_of(trained, root=tiny_folder, out=str(tmp_path / "out")))
    assert elsewhere["num_images"] == 15  # that folder has a val/


def test_classes_without_images_are_in_no_score(run_dir, tiny_folder, tmp_path):
    root = Path(shutil.copytree(tiny_folder, tmp_path / "set"))
    shutil.rmtree(root / "val/green")
    for number in range(4):
        (root / f"val/red/{number:02}.JPEG").unlink()
    results = run(config_of(run_dir, root=root, out=str(tmp_path / "out")))
    assert results["num_images"] == 6
    recalls = {row["class"]: row["recall"] for row in results["per_class"]}
    assert set(recalls) == {"blue", "red"}
    assert results["balanced"] == pytest.approx(np.mean(list(recalls.values())))


def test_a_photo_is_turned_for_a_network_that_was_trained_so(run_dir, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif.tobytes())
    Image.fromarray(np.rot90(pixels, -1)).save(tmp_path / "upright.png")
    member = open_checkpoint(run_dir)

    def chances(name: str) -> list[float]:
        (predicted,), bad = predict_files(
            member, [str(tmp_path / name)], device=CPU, protocol=build_protocol("center"), top=3
        )
        assert bad == []
        return [guess.probability for guess in sorted(predicted.guesses)]

    as_stored, upright = chances("turned.png"), chances("upright.png")
    assert as_stored != upright
    member.config.data.orientation = "apply"
    assert chances("turned.png") == upright
