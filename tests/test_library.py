"""imgcls as a library: `imgcls.train` and `imgcls.load`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import imgcls
from imgcls.errors import ConfigError

TINY = ["model=lenet5", "model.activation=relu", "model.pool=max", "optimizer.lr=0.02", "image_size=32", "epochs=3"]
TINY += ["batch_size=12", "logger=none", "device=cpu", "data.num_threads=1"]


def test_importing_imgcls_imports_nothing_and_an_unknown_name_is_pythons_error() -> None:
    code = "import sys, imgcls; print({'torch', 'hydra', 'imgcls.library'} & set(sys.modules), dir(imgcls)[-2:])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set() ['load', 'train']\n", done.stderr
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = imgcls.trian


def test_a_network_is_trained_and_names_images(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "data=folder", f"data.root={tiny_folder}"]
    results = imgcls.train(*words)
    assert results["epochs"] == 3
    assert results["run_dir"].startswith(f"runs/lenet5-folder/{tiny_folder.name}+optimizer.lr-0.02+")
    assert imgcls.train(*words) == results  # it has finished

    network = imgcls.load(results["run_dir"], device="cpu")
    files = [tiny_folder / "val" / name / "00.JPEG" for name in ("blue", "green", "red")]
    images = [Image.open(file) for file in files]
    named = network.predict(images, top=2)
    assert [len(guesses) for guesses in named] == [2, 2, 2]
    probabilities = network.probabilities(images)
    assert probabilities.shape == (3, 3)
    assert np.allclose(probabilities.sum(axis=1), 1)
    for row, guesses in enumerate(named):
        assert guesses[0].class_name == network.classes[int(probabilities[row].argmax())]
        assert guesses[0].probability == pytest.approx(float(probabilities[row].max()))
    assert network.predict([images[0].convert("P"), images[1].convert("RGBA"), images[2].convert("L")])
    assert network.predict([]) == []
    assert network.probabilities(images, protocol="ten_crop").shape == (3, 3)
    with pytest.raises(TypeError, match=r"pass a list of them: \[image\]"):
        network.predict(images[0])  # type: ignore[arg-type]


def test_a_network_names_images_as_the_command_does(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from imgcls.config import build_protocol
    from imgcls.inference import open_checkpoint, predict_files

    monkeypatch.chdir(tmp_path)
    results = imgcls.train(*TINY, "data=folder", f"data.root={tiny_folder}", "name=mine", "max_steps=2")
    assert results["run_dir"] == "runs/lenet5-folder/mine"
    files = sorted(map(str, (tiny_folder / "val/red").iterdir()))
    member = open_checkpoint("runs/lenet5-folder/mine")
    expected, _ = predict_files(member, files, device=torch.device("cpu"), protocol=build_protocol("center"))
    shown = imgcls.load("runs/lenet5-folder/mine", device="cpu").predict([Image.open(file) for file in files])
    for one, other in zip(expected, shown, strict=True):
        assert one.guesses == other


def test_mistakes_are_value_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"model=vg16: there is no such model \(did you mean vgg16\?\)"):
        imgcls.train("model=vg16")
    with pytest.raises(ConfigError, match=r"data.root is not set"):
        imgcls.train("data=folder")
    with pytest.raises(FileNotFoundError, match=r"checkpoint=none.pt: there is no such file"):
        imgcls.load("none.pt")
    assert not list(tmp_path.iterdir())
