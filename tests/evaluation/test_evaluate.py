"""The test of one network: what it counts and writes, on which images, and what it refuses."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imgcls.checkpoints import load_checkpoint, save_checkpoint
from imgcls.config import ImageSize, build_component
from imgcls.data.loading import Loader, view_images
from imgcls.data.sets import FolderSplit, ImageSet, open_image_set
from imgcls.errors import ConfigError
from imgcls.evaluation import data_name, use_data
from imgcls.evaluation.evaluate import labels_for
from imgcls.evaluation.report import Report
from imgcls.inference import Center, Predictions, open_checkpoint, predict, predict_views, scores_of_predictions
from imgcls.runs import DiskError
from imgcls.training import validate

from .helpers import CPU, FOLDER, config_of, forbidden, run


def test_the_center_protocol_gives_the_validation_scores_of_training(run_dir: Path, tiny_folder: Path) -> None:
    results = run(config_of(run_dir, root=tiny_folder, fresh=True))
    trained = json.loads((run_dir / "results.json").read_text())
    assert results["top1"] == pytest.approx(trained["val_top1"])
    assert results["loss"] == pytest.approx(trained["val_loss"], abs=1e-5)
    assert results["num_images"] == 15
    assert results["top5"] is None


def test_a_checkpoint_is_tested_on_the_images_of_its_training(run_dir: Path, tiny_folder: Path) -> None:
    config = config_of(run_dir, root=tiny_folder, fresh=True)
    expected = run(config)
    config.data.root = None
    assert run(config)["top1"] == expected["top1"]


def test_a_test_that_names_no_set_downloads_none(run_dir: Path, tiny_folder: Path) -> None:
    for given, expected in ((None, False), ({"_target_": "imgcls.data.sets.load_mnist"}, None)):
        config, member = config_of(run_dir, root=tiny_folder), open_checkpoint(run_dir / "best.pt")
        member.config.data.source = {"_target_": "imgcls.data.sets.load_mnist"}
        config.data.source = given
        use_data(member, config)
        assert member.config.data.source.get("download") is expected


def test_a_test_writes_results_predictions_and_pictures(run_dir: Path, tiny_folder: Path, tmp_path: Path) -> None:
    config = config_of(run_dir, root=tiny_folder, out=str(tmp_path / "out"))
    config.logger = {"tensorboard": {"_target_": "imgcls.runs.loggers.TensorBoard"}}
    results = run(config)
    out = tmp_path / "out"
    assert json.loads((out / "results.json").read_text())["top1"] == results["top1"]
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15
    right = sum(row["right"] == "1" for row in rows)
    assert 100 * right / 15 == pytest.approx(results["top1"])
    for row in rows:
        probabilities = [float(row[f"probability{rank}"]) for rank in (1, 2, 3)]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert row["label"] == Path(row["path"]).parent.name
        assert (row["class1"] == row["label"]) == (row["right"] == "1")
    assert Image.open(out / "confusion.png").width > 100
    assert list(out.glob("events.out.tfevents.*"))
    per_class = {row["class"]: row for row in results["per_class"]}
    assert sum(row["images"] for row in per_class.values()) == 15
    for name, row in per_class.items():
        own = [r for r in rows if r["label"] == name]
        assert row["recall"] == pytest.approx(100 * sum(r["right"] == "1" for r in own) / len(own))
    with (out / "confusion.csv").open(newline="") as file:
        counts = {row.pop("true class"): row for row in csv.DictReader(file)}
    assert counts == {
        true: {name: str(sum((r["label"], r["class1"]) == (true, name) for r in rows)) for name in counts}
        for true in ("blue", "green", "red")
    }
    kept = json.loads((out / "confusion.json").read_text())
    assert kept["classes"] == list(counts)
    assert kept["counts"] == [[int(cell) for cell in row.values()] for row in counts.values()]
    assert Image.open(out / "calibration.png").width > 100
    assert results["averages"]["weighted"]["recall"] == pytest.approx(results["top1"])
    assert results["averages"]["macro"]["recall"] == pytest.approx(results["balanced"])
    assert sum(one["images"] for one in results["calibration"]["bins"]) == 15
    low, high = results["intervals_95"]["top1"]
    assert low <= results["top1"] <= high
    mistakes = sum(pair["images"] for pair in results["most_confused"])
    assert mistakes == 15 - right
    worst = results["worst"]
    assert [w["probability"] for w in worst] == sorted((w["probability"] for w in worst), reverse=True)
    assert len(worst) == min(25, 15 - right)


@pytest.mark.parametrize(
    "protocol",
    [
        {"_target_": "imgcls.inference.TenCrop"},
        {"_target_": "imgcls.inference.GoogLeNet144", "scales": [256, 288]},
        {"_target_": "imgcls.inference.Dense", "scales": [256]},
        {"_target_": "imgcls.inference.Center", "flip": True},
    ],
)
def test_every_protocol_tests_every_image(protocol: dict[str, Any], run_dir: Path, tiny_folder: Path) -> None:
    results = run(config_of(run_dir, root=tiny_folder, protocol=protocol))
    assert results["num_images"] == 15
    assert (run_dir / "evaluate" / f"folder-{results['protocol']}" / "results.json").exists()


@pytest.mark.parametrize("protocol", ["Center", "TenCrop"])
def test_more_than_one_percent_of_bad_images_end_a_test(
    protocol: str, run_dir: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "set"
    shutil.copytree(tiny_folder, root)
    (root / "val/red/03.JPEG").write_bytes(b"no image")
    config = config_of(run_dir, root=root, protocol={"_target_": f"imgcls.inference.{protocol}"}, fresh=True)
    config.out = str(tmp_path / "out")
    config.data.on_bad_image = "skip"
    config.data.max_bad_share = 0.0
    with pytest.raises(ValueError, match=r"1 of 15 images are bad, more than 0 of them.*red/03\.JPEG: is not"):
        run(config)
    config.data.max_bad_share = 0.01  # one of a small set
    assert run(config)["num_images"] == 14


def test_a_center_test_by_views_gives_the_predictions_of_the_loader(run_dir: Path, tiny_folder: Path) -> None:
    member = open_checkpoint(run_dir)
    config = config_of(run_dir, root=tiny_folder)
    use_data(member, config)
    split = open_image_set(member.config).val
    crop = build_component("augment.eval_crop", member.config.augment.eval_crop)
    network, prepare = member.build(CPU), member.prepare(CPU)
    loader = Loader(split, crop, image_size=32, batch_size=4, seed=0, shuffle=False, num_threads=1)
    one = predict(network, loader.epoch(0), prepare=prepare, device=CPU)
    views = view_images(
        split,
        range(15),
        lambda height, width: Center().views(height, width, image_size=ImageSize.of(32), crop=crop),
        channels=3,
        num_threads=1,
    )
    other = predict_views(network, views, prepare=prepare, device=CPU, max_pixels=5000)
    assert torch.equal(one.indices, other.indices)
    assert torch.allclose(one.log_probs, other.log_probs, atol=0.02)
    # The trainer's own scores of the same images.
    trained = validate(network, loader.epoch(0), prepare=prepare, num_classes=3, device=CPU)
    again = scores_of_predictions(one, torch.from_numpy(split.labels))
    assert again.top1 == trained.top1
    assert again.loss == pytest.approx(trained.loss, abs=1e-6)


def test_file_names_that_are_not_text_are_written_byte_for_byte(
    run_dir: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    shutil.copytree(tiny_folder / "val", root / "val")
    (root / "val/red/00.JPEG").rename(os.fsdecode(os.fsencode(root) + b"/val/red/\xff\xe9.JPEG"))
    run(config_of(run_dir, root=root, out=str(tmp_path / "out")))
    assert b"/red/\xff\xe9.JPEG," in (tmp_path / "out/predictions.csv").read_bytes()


def test_data_with_some_of_the_classes_is_scored_among_all_of_them(
    run_dir: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    for name in ("green", "red"):
        shutil.copytree(tiny_folder / "val" / name, tmp_path / "part/val" / name)
    results = run(config_of(run_dir, root=tmp_path / "part"))
    whole = run(config_of(run_dir, root=tiny_folder))
    assert results["num_images"] == 10
    ours = {row["class"]: row["recall"] for row in results["per_class"]}
    assert ours == {row["class"]: row["recall"] for row in whole["per_class"] if row["class"] != "blue"}
    assert results["among_present"]["classes"] == 2
    assert results["among_present"]["top1"] >= results["top1"]
    assert results["among_present"]["loss"] < results["loss"]
    assert "among_present" not in whole


def test_a_class_that_has_no_images_takes_none_from_those_that_have(tiny_folder: Path) -> None:
    split = FolderSplit.of_files(["a", "b"])
    log_probs = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]).log()
    report = Report(Predictions(log_probs, torch.arange(2)), split, np.array([1, 2]), ["cat", "dog", "fox"])
    assert report.scores.top1 == 50
    present = report.among_present()
    assert present is not None
    assert present.top1 == 100
    assert present.loss == pytest.approx(-(np.log(0.3 / 0.5) + np.log(0.7 / 0.9)) / 2)


@pytest.mark.parametrize("names", [("blue", "green", "red"), ("0", "1", "2")])
def test_class_folders_alone_are_tested_by_their_names_or_by_their_numbers(
    names: tuple[str, ...], run_dir: Path, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, other in zip(("blue", "green", "red"), names, strict=True):
        shutil.copytree(tiny_folder / "val" / name, tmp_path / "set" / other)
    with caplog.at_level("INFO"):
        results = run(config_of(run_dir, root=tmp_path / "set", out=str(tmp_path / "out")))
    assert {key: results[key] for key in ("num_images", "top1", "loss")} == {
        key: run(config_of(run_dir, root=tiny_folder))[key] for key in ("num_images", "top1", "loss")
    }
    assert ("numbers are taken for places among its classes: 0 is blue" in caplog.text) == (names[0] == "0")


def test_numbered_folders_are_the_classes_in_the_order_of_their_numbers(run_dir: Path) -> None:
    member = open_checkpoint(run_dir)
    member.classes = [f"class {k:02}" for k in range(12)]
    files = FolderSplit.of_files([str(k) for k in range(4)])
    files.labels = np.array([0, 1, 2, 3])
    images = ImageSet(files, files, ["0", "1", "10", "2"], 3)  # sorted as text
    assert labels_for(member, images).tolist() == [0, 1, 10, 2]


def test_data_of_other_classes_is_refused(run_dir: Path, tmp_path: Path) -> None:
    for name in ("blue", "yellow", "pink", "red"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "val" / name / "1.png")
    with pytest.raises(ValueError, match=r"knows 3 classes \(blue, green, red.*has 4, 2 of them unknown.*pink, yellow"):
        run(config_of(run_dir, root=tmp_path))


def test_a_checkpoint_that_does_not_fit_its_network_lists_what_differs(
    run_dir: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    content = load_checkpoint(run_dir / "best.pt")
    content["model"]["fc7.weight"] = torch.zeros(4, 84)
    content["model"]["extra"] = content["model"].pop("conv1.bias")
    save_checkpoint(content, tmp_path / "best.pt")
    with pytest.raises(
        ValueError, match=r"missing: conv1.bias; unknown: extra; of another shape: fc7.weight 4x84 for 3x84"
    ):
        run(config_of(tmp_path / "best.pt", root=tiny_folder))


def test_an_empty_folder_and_a_missing_checkpoint_are_refused(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match="val is empty; the layout is"):
        run(config_of(run_dir, root=tmp_path))
    with pytest.raises(FileNotFoundError, match=r"checkpoint=.*there is no such file"):
        run(config_of(tmp_path / "none.pt", root=tmp_path))


def test_results_that_could_not_be_written_are_refused_before_the_test(
    run_dir: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/x: a folder for results cannot be made there .*; use out=DIR"):
        run(config_of(run_dir, root=tiny_folder, out=str(tmp_path / "file/x")), predict=forbidden)


def test_results_of_different_data_are_in_different_folders(run_dir: Path, tiny_folder: Path, tmp_path: Path) -> None:
    member = open_checkpoint(run_dir)
    names = []
    for root in (tiny_folder, tmp_path, tmp_path):
        config = config_of(run_dir, root=root)
        config.data.source = FOLDER
        use_data(member, config)
        names.append(data_name(member, config))
    assert names[0] != names[1] == names[2]
    assert names[0].startswith("folder-")
    use_data(member, own := config_of(run_dir, root=tmp_path))
    assert data_name(member, own) == "folder"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, a disk that is always full")
@pytest.mark.parametrize("name", ["results.json", "confusion.png", "log_probs.npy.partial"])
def test_a_full_disk_names_the_folder_of_the_results(
    name: str, run_dir: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(DiskError, match=rf"^{tmp_path}: No space left on device") as caught:
        run(config_of(run_dir / "best.pt", root=tiny_folder, out=str(tmp_path)))
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    "words", [["augment.eval_crop=center", "augment.eval_crop.short_side=320"], ["augment.eval_crop=whole"]]
)
def test_a_checkpoint_is_tested_with_the_crop_that_the_words_name(run_dir, tiny_folder, words):
    before = run(config_of(run_dir, root=tiny_folder))
    after = run(config_of(run_dir, root=tiny_folder, crop=words))
    swapped = run(config_of(run_dir, root=tiny_folder, crop=words[::-1]), predict=forbidden)  # the same test
    assert after["eval_crop"] == swapped["eval_crop"] == ("whole" if len(words) == 1 else "center-short_side=320")
    assert "eval_crop" not in before
    assert before["loss"] != after["loss"] == swapped["loss"]
    folders = {path.name for path in (run_dir / "evaluate").iterdir()}
    assert f"folder-center-{after['eval_crop']}" in folders


def test_a_checkpoint_is_tested_with_the_interpolation_that_is_named(run_dir, tiny_folder):
    before = run(config_of(run_dir, root=tiny_folder))
    after = run(config_of(run_dir, root=tiny_folder, interpolation="bicubic"))
    assert after["interpolation"] == "bicubic"
    assert "interpolation" not in before
    assert "folder-center-bicubic" in {path.name for path in (run_dir / "evaluate").iterdir()}


def test_a_crop_that_does_not_exist_is_refused_before_the_test(run_dir, tiny_folder):
    with pytest.raises(ConfigError, match=r"augment\.eval_crop=leterbox: .*did you mean letterbox"):
        run(config_of(run_dir, root=tiny_folder, crop=["augment.eval_crop=leterbox"]), predict=forbidden)
    with pytest.raises(ConfigError, match=r"augment\.eval_crop\.shrt: there is no such key"):
        run(config_of(run_dir, root=tiny_folder, crop=["augment.eval_crop.shrt=3"]), predict=forbidden)
