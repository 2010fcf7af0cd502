"""Exported files are run on the validation images beside the checkpoint, by the command."""

import sys
from pathlib import Path

import numpy as np
import pytest

from imgcls.commands.export import export
from imgcls.data.sets import open_image_set
from imgcls.evaluation import calibration_pixels, images_of
from imgcls.inference import open_checkpoint


def test_calibration_images_are_training_images_as_validation_shows_them(run_dir: Path, tiny_folder: Path) -> None:
    member = open_checkpoint(run_dir)
    images = images_of(member, str(tiny_folder))
    pixels = calibration_pixels(member, images, 20)
    assert pixels.shape == (20, 32, 32, 3)
    whole = calibration_pixels(member, images, 1000)
    assert len(whole) <= len(open_image_set(member.config).train)
    assert np.array_equal(whole[:20], pixels)  # the same ones for the same seed
    # Not the validation images: their colours are drawn apart.
    assert len({image.numpy().tobytes() for image in whole}) == len(whole)


@pytest.mark.e2e
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_command_shows_the_accuracy_of_the_file_beside_the_checkpoints(
    precision: str,
    run_dir: Path,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    words = [f"checkpoint={run_dir}", f"out={tmp_path / 'net.onnx'}", f"precision={precision}", "--accuracy"]
    words += [f"data.root={tiny_folder}", "calibration=30", "softmax=true", "normalise=true"]
    monkeypatch.setattr(sys, "argv", ["export", *words])
    assert export() == 0
    head, images, own, exported = capsys.readouterr().out.strip().splitlines()
    assert "MB, differs from the checkpoint by" in head
    assert images == "15 validation images"
    assert own.split()[0] == "checkpoint"
    assert exported.split()[0] == "exported"
    # The images are easy: all are right, and the loss is nearly the same.
    assert own.split()[3:] == exported.split()[3:]
    assert float(exported.split()[2]) == pytest.approx(float(own.split()[2]), abs=0.05)
