"""Rectangles go all the way: trained, tested by every protocol, predicted, explained, exported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from imgcls.config import Config, build_protocol, consequential, protocol_names
from imgcls.inference import export_network, open_checkpoint, plot_gradcam, predict_files
from imgcls.startup import ExportForm

CPU = torch.device("cpu")


@pytest.mark.e2e
def test_a_network_of_rectangles_is_trained_tested_explained_and_exported(
    tiny_config: Callable[..., Config], train: Callable[..., dict[str, Any]], tiny_folder: Path, tmp_path: Path
) -> None:
    config = tiny_config("image_size=[48,32]", "epochs=1", "augment=modern")
    shapes = []

    def note(trainer: Any) -> None:
        augment = trainer.augment
        trainer.augment = lambda batch, epoch: shapes.append(augment(batch, epoch)[0].shape) or augment(batch, epoch)

    train(config, before=note)
    assert {tuple(shape[1:]) for shape in shapes} == {(3, 48, 32)}
    member = open_checkpoint(tmp_path / "run")
    assert consequential(member.config)["image_size"] == [48, 32]
    files = sorted(map(str, (tiny_folder / "val").rglob("*.JPEG")))[:2]
    for name in protocol_names(first="center"):
        predictions, bad = predict_files(member, files, device=CPU, protocol=build_protocol(name))
        assert (len(predictions), bad) == (2, [])
    picture, bad = plot_gradcam(member, files, device=CPU)
    assert (picture.width > 0, bad) == (True, [])
    assert export_network(member, tmp_path / "net.pt2", ExportForm(normalise=True, softmax=True)) < 1e-4
    extra = {"metadata.json": ""}
    program = torch.export.load(tmp_path / "net.pt2", extra_files=extra)
    facts = json.loads(extra["metadata.json"])
    assert (json.loads(facts["image_size"]), "(batch, 3, 48, 32)" in facts["input"]) == ([48, 32], True)
    assert program.module()(torch.rand(1, 3, 48, 32)).shape == (1, 3)
