"""ReaL labels: what they count, and which files are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from .helpers import config_of, forbidden, run


def real_file(path: Path, labels: list[Any]) -> str:
    path.write_text(json.dumps(labels))
    return str(path)


def imagenet_like(folder: Path, out: Path) -> Path:
    """The tiny folder with its validation images numbered as ImageNet's are, in reverse order."""
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


def test_real_labels_that_do_not_fit_are_refused_before_the_test(
    run_dir: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    short = real_file(tmp_path / "short.json", [[0]] * 14)
    with pytest.raises(ValueError, match="labels of 14 images, but the set has 15"):
        run(config_of(run_dir, root=tiny_folder, real=short), predict=forbidden)
    with pytest.raises(ValueError, match=r"00.JPEG has no number as ILSVRC2012_val_00000001"):
        run(config_of(run_dir, root=tiny_folder, real=real_file(tmp_path / "long.json", [[0]] * 15)), predict=forbidden)
    with pytest.raises(ValueError, match="not a list of lists"):
        run(config_of(run_dir, root=tiny_folder, real=real_file(tmp_path / "odd.json", [0] * 15)), predict=forbidden)
    with pytest.raises(ValueError, match=r"odd.json has 3, which is no class index; the network knows 0 to 2"):
        run(
            config_of(run_dir, root=tiny_folder, real=real_file(tmp_path / "odd.json", [[0]] * 14 + [[3]])),
            predict=forbidden,
        )
    with pytest.raises(ValueError, match=r"none.json has no class for any image"):
        run(config_of(run_dir, root=tiny_folder, real=real_file(tmp_path / "none.json", [[]] * 15)), predict=forbidden)
    (tmp_path / "none.json").unlink()
    (tmp_path / "torn.json").write_text("[[0], [")
    with pytest.raises(ValueError, match="is not JSON"):
        run(config_of(run_dir, root=tiny_folder, real=str(tmp_path / "torn.json")), predict=forbidden)
    with pytest.raises(FileNotFoundError, match=r"real=.*no such file"):
        run(config_of(run_dir, root=tiny_folder, real=str(tmp_path / "none.json")), predict=forbidden)
