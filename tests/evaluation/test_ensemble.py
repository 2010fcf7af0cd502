"""Ensembles: their scores, those of their members, and which members fit together."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from imgcls.checkpoints import load_checkpoint, save_checkpoint
from imgcls.errors import ConfigError
from imgcls.evaluation import check_same_images, evaluate_member
from imgcls.inference import Center, Predictions, average_weights, ensemble_predictions, open_checkpoint

from .helpers import CPU, config_of, forbidden, run


@pytest.mark.e2e
def test_an_ensemble_reports_its_members_its_gain_and_which_differ(
    run_dir: Path, other_run_dir: Path, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    results = run(config_of(run_dir, other_run_dir, root=tiny_folder, out=str(tmp_path / "both")))
    ensemble = results["ensemble"]
    alone = [json.loads((path / "results.json").read_text())["val_top1"] for path in (run_dir, other_run_dir)]
    assert [member["top1"] for member in ensemble["members"]] == pytest.approx(alone)
    assert ensemble["added"][0]["top1"] == pytest.approx(alone[0])
    assert ensemble["added"][1]["top1"] == results["top1"]
    assert ensemble["seeds_top1"]["mean"] == pytest.approx(sum(alone) / 2)
    kept = [np.load(path / "evaluate/folder-center/log_probs.npy") for path in (run_dir, other_run_dir)]
    mean = (np.exp(kept[0].astype(np.float64)) + np.exp(kept[1].astype(np.float64))) / 2
    with (tmp_path / "both/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["probability1"]) for row in rows] == pytest.approx(mean.max(axis=1).tolist(), abs=1e-5)
    (pair,) = ensemble["mcnemar"]
    labels = np.repeat(np.arange(3), 5)
    right = [probs.argmax(axis=1) == labels for probs in kept]
    assert pair["only_first"] == int((right[0] & ~right[1]).sum())
    assert "gain over the best member" in caplog.text
    assert caplog.messages[caplog.messages.index("the ensemble of 2:") + 1].startswith(f"loss {results['loss']:.4f}")
    assert "over the seeds: top-1" in caplog.text


def test_the_soup_is_the_mean_of_the_weights(run_dir: Path, other_run_dir: Path, tiny_folder: Path) -> None:
    soup = average_weights([str(run_dir), str(other_run_dir)])
    states = [load_checkpoint(path / "best.pt")["model"] for path in (run_dir, other_run_dir)]
    for name, value in soup.state.items():
        assert torch.allclose(value, (states[0][name] + states[1][name]) / 2, atol=1e-6)
    assert soup.build(CPU)(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_the_prediction_of_an_ensemble_is_the_mean_probability() -> None:
    one = Predictions(torch.tensor([[0.9, 0.1]]).log(), torch.tensor([0]))
    other = Predictions(torch.tensor([[0.2, 0.8]]).log(), torch.tensor([0]))
    assert torch.allclose(ensemble_predictions([one, other]).log_probs.exp(), torch.tensor([[0.55, 0.45]]))


def test_members_of_an_ensemble_must_exist(run_dir: Path, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"checkpoint=.*none.pt: there is no such file"):
        run(config_of(run_dir, tmp_path / "none.pt", root=tiny_folder, fresh=True), predict=forbidden)
    (tmp_path / "torn.pt").write_bytes((run_dir / "best.pt").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"torn.pt is damaged"):
        run(config_of(run_dir, tmp_path / "torn.pt", root=tiny_folder, fresh=True), predict=forbidden)
    torch.save({"model": {}}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"odd.pt is not a checkpoint of imgcls"):
        run(config_of(run_dir, tmp_path / "odd.pt", root=tiny_folder, fresh=True), predict=forbidden)


def test_members_of_an_ensemble_must_know_the_same_classes(run_dir: Path, tiny_folder: Path, tmp_path: Path) -> None:
    content = load_checkpoint(run_dir / "best.pt")
    content["classes"] = ["blue", "red", "green"]
    save_checkpoint(content, tmp_path / "best.pt")
    with pytest.raises(ValueError, match="members must know the same"):
        run(config_of(run_dir, tmp_path / "best.pt", root=tiny_folder), predict=forbidden)
    with pytest.raises(ValueError, match=r"average=weights: .* knows other classes"):
        run(config_of(run_dir, tmp_path / "best.pt", root=tiny_folder, average="weights"), predict=forbidden)


def test_members_that_saw_other_images_are_refused(run_dir: Path, other_run_dir: Path, tiny_folder: Path) -> None:
    tested = [
        evaluate_member(
            open_checkpoint(path),
            config_of(run_dir, other_run_dir, root=tiny_folder),
            Center(),
            CPU,
        )
        for path in (run_dir, other_run_dir)
    ]
    check_same_images(*tested)
    assert tested[1].predictions is not None
    tested[1].predictions = Predictions(*(part[1:] for part in tested[1].predictions))
    with pytest.raises(ConfigError, match=r"could not read the same images.*fresh=true"):
        check_same_images(*tested)
