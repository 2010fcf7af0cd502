"""A test as a user runs it: what it counts, writes, keeps, joins and refuses."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from imgcls import distributed
from imgcls.checkpoints import load_checkpoint, save_checkpoint
from imgcls.config import Config, EvaluateConfig, compose, consequential, from_flat
from imgcls.data.loading import Loader
from imgcls.data.sets import wnids
from imgcls.environment import CONF_DIR
from imgcls.errors import ConfigError
from imgcls.evaluation import (
    check_comparable,
    check_same_images,
    data_name,
    evaluate_member,
    members,
    run_evaluation,
    use_data,
)
from imgcls.inference import (
    Center,
    Predictions,
    average_weights,
    ensemble_predictions,
    open_checkpoint,
    open_weights,
    predict_split,
    scores_of_predictions,
)
from imgcls.training import validate

ROOT = CONF_DIR.parent
CPU = torch.device("cpu")

Make = Callable[..., Config]
Train = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """The folder of a short run of LeNet-5 on the tiny folder, trained once for the module."""
    return _run(tmp_path_factory.mktemp("run"), tiny_folder)


@pytest.fixture(scope="module")
def other_run_dir(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """The same from another seed."""
    return _run(tmp_path_factory.mktemp("other"), tiny_folder, "seed=1")


def _run(path: Path, folder: Path, *overrides: str) -> Path:
    from imgcls.training import build_trainer, open_run_directory

    torch.set_num_threads(1)
    words = ["model=lenet5", "model.activation=relu", "model.pool=max", "optimizer.lr=0.02", "data=folder"]
    words += [f"data.root={folder}", "image_size=32", "batch_size=12", "epochs=2", "tensorboard=false"]
    config = compose([*words, "data.num_threads=1", *overrides])
    with open_run_directory(config, path) as held:
        held.finish(build_trainer(config, held, CPU).fit())
    return path


def config_of(*checkpoints: Path, protocol: dict[str, Any] | None = None, root: Path, **more: Any) -> EvaluateConfig:
    config = EvaluateConfig(
        checkpoint=[str(path) for path in checkpoints],
        protocol=protocol or {"_target_": "imgcls.inference.protocols.Center"},
        tensorboard=False,
        device="cpu",
        **more,
    )
    config.data.root = str(root)
    config.data.num_threads = 1
    return config


def run(config: EvaluateConfig, **seams: Any) -> dict[str, Any]:
    results = run_evaluation(config, CPU, **seams)
    assert results is not None
    return results


def test_the_center_protocol_gives_the_validation_scores_of_training(run_dir: Path, tiny_folder: Path) -> None:
    results = run(config_of(run_dir, root=tiny_folder, fresh=True))
    trained = json.loads((run_dir / "results.json").read_text())
    assert results["top1"] == pytest.approx(trained["val_top1"])
    assert results["loss"] == pytest.approx(trained["val_loss"], abs=1e-5)
    assert results["num_images"] == 15
    assert results["top5"] is None


def test_a_test_leaves_results_predictions_and_pictures(run_dir: Path, tiny_folder: Path, tmp_path: Path) -> None:
    config = config_of(run_dir, root=tiny_folder, out=str(tmp_path / "out"))
    config.tensorboard = True
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
        assert row["top1"] == pytest.approx(100 * sum(r["right"] == "1" for r in own) / len(own))
    mistakes = sum(pair["images"] for pair in results["most_confused"])
    assert mistakes == 15 - right
    worst = results["worst"]
    assert [w["probability"] for w in worst] == sorted((w["probability"] for w in worst), reverse=True)
    assert len(worst) == min(25, 15 - right)


@pytest.mark.parametrize(
    "protocol",
    [
        {"_target_": "imgcls.inference.protocols.TenCrop"},
        {"_target_": "imgcls.inference.protocols.GoogLeNet144", "scales": [256, 288]},
        {"_target_": "imgcls.inference.protocols.Dense", "scales": [256]},
        {"_target_": "imgcls.inference.protocols.Center", "flip": True},
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
    config = config_of(run_dir, root=root, protocol={"_target_": f"imgcls.protocols.{protocol}"}, fresh=True)
    config.out = str(tmp_path / "out")
    config.data.on_bad_image = "skip"
    with pytest.raises(ValueError, match=r"1 of 15 images are bad, more than 1% may be skipped .*red/03\.JPEG: is not"):
        run(config)
    monkeypatch.setattr("imgcls.data.loading.bad_images.MAX_SHARE", 0.1)
    assert run(config)["num_images"] == 14


def test_a_center_test_by_views_is_that_by_the_loader(run_dir: Path, tiny_folder: Path) -> None:
    from imgcls.data.loading import view_images
    from imgcls.inference import Center, predict, predict_views

    member = open_checkpoint(run_dir)
    config = config_of(run_dir, root=tiny_folder)
    use_data(member, config)
    from imgcls.config import build_component
    from imgcls.data.sets import open_image_set

    split = open_image_set(member.config).val
    crop = build_component("augment.eval_crop", member.config.augment.eval_crop)
    network, prepare = member.build(CPU), member.prepare(CPU)
    loader = Loader(split, crop, image_size=32, batch_size=4, seed=0, shuffle=False, num_threads=1)
    one = predict(network, loader.epoch(0), prepare=prepare, device=CPU)
    views = view_images(
        split,
        range(15),
        lambda height, width: Center().views(height, width, image_size=32, crop=crop),
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


def test_a_network_is_run_once(run_dir: Path, tiny_folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run_dir, moved, ignore=shutil.ignore_patterns("evaluate"))
    first = run(config_of(moved, root=tiny_folder))
    runs: list[str] = []

    def counted(*args: Any) -> Predictions | None:
        runs.append("run")
        return predict_split(*args)

    assert run(config_of(moved, root=tiny_folder), predict=counted) == first
    assert runs == []
    run(config_of(moved, root=tiny_folder, fresh=True), predict=counted)
    assert runs == ["run"]
    run(config_of(moved, root=tiny_folder, image_size=40), predict=counted)
    run(config_of(moved, root=tiny_folder, precision="bf16"), predict=counted)
    assert len(runs) == 3
    # Other weights under the same name are another network.
    content = load_checkpoint(moved / "best.pt")
    content["model"]["fc7.bias"] += 1
    save_checkpoint(content, moved / "best.pt")
    run(config_of(moved, root=tiny_folder), predict=counted)
    assert len(runs) == 4


def test_images_that_changed_are_looked_at_anew(run_dir: Path, tiny_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(tiny_folder / "val", root / "val")
    before = run(config_of(run_dir, root=root))
    shutil.copy(root / "val/red/00.JPEG", root / "val/blue/00.JPEG")  # the same name and, nearly, size
    after = run(config_of(run_dir, root=root))
    assert after["loss"] != before["loss"]
    assert after == run(config_of(run_dir, root=root, fresh=True))


def test_a_pack_that_changed_is_known(tmp_path: Path) -> None:
    from imgcls.data.sets import PackSplit

    file = tmp_path / "a.pack"
    empty = np.zeros(0, np.int64)

    def digest() -> str:
        split = PackSplit(file, starts=empty, lengths=empty, names=empty, name_offsets=empty, labels=empty)
        return split.fingerprint()

    file.write_bytes(b"one")
    first = digest()
    assert digest() == first
    file.write_bytes(b"other")
    assert digest() != first


def test_names_that_are_no_text_are_written_as_they_are(run_dir: Path, tiny_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(tiny_folder / "val", root / "val")
    (root / "val/red/00.JPEG").rename(os.fsdecode(os.fsencode(root) + b"/val/red/\xff\xe9.JPEG"))
    words = [f"checkpoint={run_dir}", f"data.root={root}", "device=cpu", "tensorboard=false", "out=out"]
    done = evaluate_script(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"/red/\xff\xe9.JPEG," in (tmp_path / "out/predictions.csv").read_bytes()


@pytest.mark.parametrize("name", ["log_probs.npy", "log_probs.json"])
@pytest.mark.parametrize("left", [0, 100])
def test_torn_predictions_are_made_anew(name: str, left: int, run_dir: Path, tiny_folder: Path, tmp_path: Path) -> None:
    first = run(config_of(run_dir, root=tiny_folder, out=str(tmp_path)))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:left])
    assert run(config_of(run_dir, root=tiny_folder, out=str(tmp_path))) == first
    assert (tmp_path / name).read_bytes() == whole
    assert not list(tmp_path.glob("*.partial"))


def test_an_ensemble_tells_its_members_its_gain_and_what_differs(
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


def test_the_joint_prediction_is_the_mean_probability() -> None:
    one = Predictions(torch.tensor([[0.9, 0.1]]).log(), torch.tensor([0]))
    other = Predictions(torch.tensor([[0.2, 0.8]]).log(), torch.tensor([0]))
    assert torch.allclose(ensemble_predictions([one, other]).log_probs.exp(), torch.tensor([[0.55, 0.45]]))


def test_a_config_comes_back_from_a_checkpoint() -> None:
    config = compose(["model=vgg16", "data=folder", "data.root=/x", "epochs=3"])
    again = from_flat(consequential(config))
    assert consequential(again) == consequential(config)
    with pytest.raises(ConfigError, match="of another version"):
        from_flat({"no_such_key": 1})


def test_data_with_some_of_the_known_classes_is_told_apart_among_all(
    run_dir: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    for name in ("green", "red"):
        shutil.copytree(tiny_folder / "val" / name, tmp_path / "part/val" / name)
    results = run(config_of(run_dir, root=tmp_path / "part"))
    whole = run(config_of(run_dir, root=tiny_folder))
    assert results["num_images"] == 10
    ours = {row["class"]: row["top1"] for row in results["per_class"]}
    assert ours == {row["class"]: row["top1"] for row in whole["per_class"] if row["class"] != "blue"}


def test_data_of_other_classes_is_refused(run_dir: Path, tmp_path: Path) -> None:
    for name in ("blue", "yellow", "pink", "red"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "val" / name / "1.png")
    with pytest.raises(ValueError, match=r"knows 3 classes \(blue, green, red.*has 4, 2 of them unknown.*pink, yellow"):
        run(config_of(run_dir, root=tmp_path))


def test_a_checkpoint_of_another_network_than_it_says_lists_what_differs(
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


def test_an_empty_folder_and_a_missing_checkpoint_are_one_line(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match="val is empty; the layout is"):
        run(config_of(run_dir, root=tmp_path))
    with pytest.raises(FileNotFoundError, match=r"checkpoint=.*there is no such file"):
        run(config_of(tmp_path / "none.pt", root=tmp_path))


def real_file(path: Path, labels: list[Any]) -> str:
    path.write_text(json.dumps(labels))
    return str(path)


def imagenet_like(folder: Path, out: Path) -> Path:
    """The tiny folder with its validation images numbered as ImageNet's are, in an order of their own."""
    number = 15
    for name in ("blue", "green", "red"):
        (out / "val" / name).mkdir(parents=True)
        for file in sorted((folder / "val" / name).iterdir()):
            shutil.copy(file, out / "val" / name / f"ILSVRC2012_val_{number:08}.JPEG")
            number -= 1
    return out


def test_real_labels_count_any_of_the_classes_that_people_saw(run_dir: Path, tiny_folder: Path, tmp_path: Path) -> None:
    root = imagenet_like(tiny_folder, tmp_path / "set")
    own = [[2]] * 5 + [[1]] * 5 + [[0]] * 5  # image 1 is red: the numbers run backwards
    same = run(config_of(run_dir, root=root, real=real_file(tmp_path / "own.json", own)))
    assert same["real"]["top1"] == pytest.approx(same["top1"])
    everything = [[0, 1, 2]] * 14 + [[]]
    all_right = run(config_of(run_dir, root=root, real=real_file(tmp_path / "all.json", everything)))
    assert all_right["real"] == {"top1": 100.0, "num_images": 14}


def refuse(config: EvaluateConfig) -> None:
    """Evaluate a config that is refused before a network is run."""
    run(config, predict=lambda *arguments: pytest.fail("the network was run"))


def test_real_labels_that_do_not_fit_are_refused_before_the_test(
    run_dir: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    short = real_file(tmp_path / "short.json", [[0]] * 14)
    with pytest.raises(ValueError, match="labels of 14 images, but the set has 15"):
        refuse(config_of(run_dir, root=tiny_folder, real=short))
    with pytest.raises(ValueError, match=r"00.JPEG has no number as ILSVRC2012_val_00000001"):
        refuse(config_of(run_dir, root=tiny_folder, real=real_file(tmp_path / "long.json", [[0]] * 15)))
    with pytest.raises(ValueError, match="not a list of lists"):
        refuse(config_of(run_dir, root=tiny_folder, real=real_file(tmp_path / "odd.json", [0] * 15)))
    with pytest.raises(ValueError, match=r"odd.json has 3, which is no class index; the network knows 0 to 2"):
        refuse(config_of(run_dir, root=tiny_folder, real=real_file(tmp_path / "odd.json", [[0]] * 14 + [[3]])))
    with pytest.raises(ValueError, match=r"none.json has no class for any image"):
        refuse(config_of(run_dir, root=tiny_folder, real=real_file(tmp_path / "none.json", [[]] * 15)))
    (tmp_path / "none.json").unlink()
    (tmp_path / "torn.json").write_text("[[0], [")
    with pytest.raises(ValueError, match="is not JSON"):
        refuse(config_of(run_dir, root=tiny_folder, real=str(tmp_path / "torn.json")))
    with pytest.raises(FileNotFoundError, match=r"real=.*no such file"):
        refuse(config_of(run_dir, root=tiny_folder, real=str(tmp_path / "none.json")))


def test_members_of_an_ensemble_must_be_there(run_dir: Path, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"checkpoint=.*none.pt: there is no such file"):
        refuse(config_of(run_dir, tmp_path / "none.pt", root=tiny_folder, fresh=True))
    (tmp_path / "torn.pt").write_bytes((run_dir / "best.pt").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"torn.pt is damaged"):
        refuse(config_of(run_dir, tmp_path / "torn.pt", root=tiny_folder, fresh=True))
    torch.save({"model": {}}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"odd.pt is not a checkpoint of imgcls"):
        refuse(config_of(run_dir, tmp_path / "odd.pt", root=tiny_folder, fresh=True))


def test_results_that_could_not_be_written_are_refused_before_the_test(
    run_dir: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/x: no folder for results can be made there .*; use out=DIR"):
        refuse(config_of(run_dir, root=tiny_folder, out=str(tmp_path / "file/x")))


def test_a_comparison_without_a_published_number_is_refused_before_the_test(run_dir: Path, tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"of ImageNet's 1,000 classes"):
        refuse(config_of(run_dir, root=tiny_folder, compare="published"))
    member = open_checkpoint(run_dir)
    member.classes = list(wnids())
    with pytest.raises(ConfigError, match=r"the images are of 3 classes alone"):
        check_comparable(member, np.arange(3), Center())
    with pytest.raises(ValueError, match=r"no published number of lenet5 under center; of lenet5 there is nothing"):
        check_comparable(member, np.arange(1000), Center())


def test_members_of_an_ensemble_must_know_the_same_classes(run_dir: Path, tiny_folder: Path, tmp_path: Path) -> None:
    content = load_checkpoint(run_dir / "best.pt")
    content["classes"] = ["blue", "red", "green"]
    save_checkpoint(content, tmp_path / "best.pt")
    with pytest.raises(ValueError, match="members must know the same"):
        refuse(config_of(run_dir, tmp_path / "best.pt", root=tiny_folder))
    with pytest.raises(ValueError, match=r"average=weights: .* knows other classes"):
        refuse(config_of(run_dir, tmp_path / "best.pt", root=tiny_folder, average="weights"))


def evaluate_script(*words: str, cwd: Path, ranks: int = 0) -> subprocess.CompletedProcess[str]:
    python = [sys.executable]
    if ranks:
        python += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [*python, str(ROOT / "scripts/evaluate.py"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], "name what to test: checkpoint=runs/.../best.pt, or network=resnet50 weights=torchvision"),
        (["weights=x.pt"], "weights=x.pt of which network"),
        (["checkpoint=a.pt", "network=resnet18"], "a checkpoint brings its own"),
        (["checkpoint=a.pt", "protocol=ten_corp"], "there is no such protocol (did you mean ten_crop?)"),
        (["checkpoint=a.pt", "protocol.flp=true"], "protocol.flp: there is no such key (did you mean flip?)"),
        (["checkpoint=a.pt", "batch_sise=3"], "batch_sise: there is no such key (did you mean batch_size?)"),
        (["checkpoint=a.pt", "average=weights"], "average=weights needs several checkpoints"),
        (["checkpoint=a.pt", "average=median"], "average=median is none of softmax, weights"),
        (["checkpoint=a.pt", "compare=papers"], "compare=papers is none of published"),
        (["checkpoint=[a.pt,b.pt]", "compare=published"], "of single networks, not of an ensemble"),
        (["checkpoint=a.pt", "compare=published", "image_size=64"], "not of image_size=64 but of each network's own"),
        (["checkpoint=a.pt"], "checkpoint=a.pt: there is no such file"),
        (["checkpoint=runs/a=1,b=2/best.pt"], "checkpoint=runs/a=1,b=2/best.pt: there is no such file"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(words: list[str], expected: str, tmp_path: Path) -> None:
    done = evaluate_script(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_help_names_every_protocol_and_comes_without_torch(tmp_path: Path) -> None:
    code = f"""
import sys, runpy
sys.argv = ["evaluate.py", "--help"]
try:
    runpy.run_path({str(ROOT / "scripts/evaluate.py")!r}, run_name="__main__")
except SystemExit:
    pass
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    for file in (CONF_DIR / "protocol").glob("*.yaml"):
        assert file.stem in done.stdout


def test_every_image_counts_once_on_two_ranks(run_dir: Path, tiny_folder: Path, tmp_path: Path) -> None:
    alone = run(config_of(run_dir, root=tiny_folder, fresh=True))
    words = [f"checkpoint={run_dir}", f"data.root={tiny_folder}", "device=cpu", "fresh=true", "tensorboard=false"]
    done = evaluate_script(*words, f"out={tmp_path / 'two'}", cwd=tmp_path, ranks=2)
    assert done.returncode == 0, done.stderr
    both = json.loads((tmp_path / "two/results.json").read_text())
    assert both["num_images"] == 15
    assert both["top1"] == alone["top1"]
    assert both["loss"] == pytest.approx(alone["loss"], abs=1e-6)
    assert done.stdout.count("top-1") == 1


def test_one_rank_gathers_itself() -> None:
    assert distributed.gather(3) == [3]


def test_published_weights_are_tested_as_published(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    theirs = torchvision.models.resnet18()
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **options: theirs.state_dict())
    member = open_weights("torchvision", "resnet18", [])
    assert member.config.image_size == 224
    assert member.config.augment.eval_crop["short_side"] == 256
    assert member.classes is not None
    assert member.classes[1] == "n01443537"
    assert member.arch == "resnet18"
    ours: nn.Module = member.build(CPU)
    images = torch.randn(1, 3, 64, 64)
    assert torch.allclose(ours(images), theirs.eval()(images), atol=1e-5)
    config = EvaluateConfig(
        weights="torchvision", network="resnet18", protocol={"_target_": "imgcls.inference.protocols.Center"}
    )
    config.data.source = {"_target_": "imgcls.data.sets.open_folder"}
    config.data.root = str(tiny_folder)
    with pytest.raises(ValueError, match=r"knows 1000 classes .* has 3, 3 of them unknown"):
        run_evaluation(config, CPU)


def test_weights_from_a_file_are_tested_from_the_command_line(tiny_folder: Path, run_dir: Path, tmp_path: Path) -> None:
    torch.save(load_checkpoint(run_dir / "best.pt")["model"], tmp_path / "weights.pt")
    words = ["weights=weights.pt", "network=lenet5", "device=cpu", "out=out", "tensorboard=false", "image_size=32"]
    model = "overrides=['model.num_classes=3','model.activation=relu','model.pool=max','augment=resnet']"
    done = evaluate_script(*words, model, "data=folder", f"data.root={tiny_folder}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/results.json").read_text())["num_images"] == 15
    wrong = model.replace("num_classes=3", "num_classes=4")
    other = evaluate_script(*words, wrong, "data=folder", f"data.root={tiny_folder}", cwd=tmp_path)
    assert other.returncode == 2
    assert "has 4 outputs, but the data has 3 classes" in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1


def test_the_number_of_outputs_is_that_of_the_file(tiny_folder: Path, run_dir: Path, tmp_path: Path) -> None:
    torch.save(load_checkpoint(run_dir / "best.pt")["model"], tmp_path / "weights.pt")
    config = config_of(root=tiny_folder, weights=str(tmp_path / "weights.pt"), network="lenet5", out=str(tmp_path))
    config.overrides = ["model.activation=relu", "model.pool=max"]
    config.data.source, config.image_size = {"_target_": "imgcls.data.sets.open_folder"}, 32
    assert run(config)["num_images"] == 15


def test_a_remedy_is_in_evaluates_own_words() -> None:
    for network, words in (
        ("resnet50", r"add: overrides=\[model.stride_in_3x3=true\]"),
        ("alexnet", r"another network: network=torchvision overrides=\[model.arch=alexnet\]"),
    ):
        config = EvaluateConfig(weights="torchvision", network=network)
        with pytest.raises(ConfigError, match=words):
            members(config)[0]()


def test_results_of_other_data_and_weights_lie_apart(
    run_dir: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    member = open_checkpoint(run_dir)
    names_of = []
    for root in (tiny_folder, tmp_path, tmp_path):
        config = config_of(run_dir, root=root)
        config.data.source = {"_target_": "imgcls.data.sets.open_folder"}
        use_data(member, config)
        names_of.append(data_name(member, config))
    assert names_of[0] != names_of[1] == names_of[2]
    assert names_of[0].startswith("folder-")
    use_data(member, own := config_of(run_dir, root=tmp_path))
    assert data_name(member, own) == "folder"
    monkeypatch.setattr("imgcls.inference.network.read_weights", lambda source, model: {})
    homes = [
        open_weights(*told).home.name
        for told in (
            ("torchvision", "resnet50", ["model.stride_in_3x3=true"]),
            ("torchvision:IMAGENET1K_V2", "resnet50", ["model.stride_in_3x3=true"]),
            ("torchvision", "torchvision", ["model.arch=resnet50"]),
            ("torchvision", "torchvision", ["model.arch=alexnet"]),
            ("a/w.pt", "lenet5", []),
            ("b/w.pt", "lenet5", []),
        )
    ]
    assert homes[:2] == ["resnet50-IMAGENET1K_V1", "resnet50-IMAGENET1K_V2"]
    assert len({*homes}) == 5
    assert homes[2] == homes[0]  # the same network
    assert homes[4].startswith("lenet5-w-")


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
