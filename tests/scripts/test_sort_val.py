"""The command `sort_val`: every kind of label file, and nothing moved on doubt."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "sort_val.py"
WNIDS = ["n02119789", *(f"n{number:08}" for number in range(1, 1860))]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def val(tmp_path) -> Path:
    path = tmp_path / "val"
    path.mkdir()
    for number in (1, 2, 3):
        (path / f"ILSVRC2012_val_{number:08}.JPEG").write_bytes(bytes([number]))
    return path


def meta(tmp_path: Path) -> Path:
    synsets = np.array(list(enumerate(WNIDS, 1)), dtype=[("ILSVRC2012_ID", object), ("WNID", object)])
    savemat(tmp_path / "meta.mat", {"synsets": synsets})
    return tmp_path / "meta.mat"


def sorted_files(val: Path) -> list[str]:
    return sorted(path.relative_to(val).as_posix() for path in val.rglob("*.JPEG"))


EXPECTED = [f"{wnid}/ILSVRC2012_val_{number:08}.JPEG" for wnid, number in
            (("n00000001", 2), ("n00000999", 3), ("n02119789", 1))]  # fmt: skip


def test_the_development_kits_numbers_are_looked_up_in_its_meta(val, tmp_path):
    (tmp_path / "truth.txt").write_text("1\n2\n1000\n")
    done = run(val, tmp_path / "truth.txt", "--meta", meta(tmp_path))
    assert "moved 3 images into class folders, 0 were in theirs already" in done.stdout, done.stderr
    assert sorted_files(val) == EXPECTED


def test_kaggles_table_and_plain_ids_do_the_same_and_a_second_run_changes_nothing(val, tmp_path):
    rows = ["ILSVRC2012_val_00000003,n00000999 1 2 3 4", "ILSVRC2012_val_00000001,n02119789 1 1 2 2 n02119789 5 5 6 6",
            "ILSVRC2012_val_00000002,n00000001 0 0 1 1"]  # fmt: skip
    (tmp_path / "loc.csv").write_text("\n".join(["ImageId,PredictionString", *rows]))
    (tmp_path / "ids.txt").write_text("n02119789\nn00000001\nn00000999\n")
    assert run(val, tmp_path / "loc.csv").returncode == 0
    assert sorted_files(val) == EXPECTED
    assert "moved 0 images into class folders, 3 were in theirs already" in run(val, tmp_path / "ids.txt").stdout


@pytest.mark.parametrize(
    "labels, message",
    [
        ("1\n2\n3\n", "add --meta"),
        ("n00000001\nn00000002\n", "has no label"),
        ("n00000001\n" * 4, "holds 3 images but there are 4 labels"),
        ("hello", "is neither"),
        ("ImageId,PredictionString\nILSVRC2012_val_00000001,\n", "'ILSVRC2012_val_00000001,' names no image with its"),
        ("ImageId,PredictionString\nILSVRC2012_val_00000001\n", "'ILSVRC2012_val_00000001,' names no image with its"),
        ("ImageId\nILSVRC2012_val_00000001\n", "'ILSVRC2012_val_00000001,' names no image with its WordNet id"),
        ("ImageId,PredictionString\nval_1,n00000001 1 2\n", "'val_1,n00000001 1 2' names no image with its WordNet id"),
        ("ImageId,PredictionString\nILSVRC2012_val_00000001,../zzz 1 2\n", "../zzz 1 2' names no image with its"),
    ],
)
def test_labels_that_do_not_fit_move_nothing(val, tmp_path, labels, message):
    (tmp_path / "labels.txt").write_text(labels)
    done = run(val, tmp_path / "labels.txt")
    assert done.returncode == 2
    assert message in done.stderr
    assert [path.parent for path in val.rglob("*.JPEG")] == [val] * 3


def test_images_that_were_sorted_by_wrong_labels_are_moved_to_their_own(val, tmp_path):
    (tmp_path / "wrong.txt").write_text("n00000001\nn02119789\nn00000777\n")
    (tmp_path / "right.txt").write_text("n02119789\nn00000001\nn00000999\n")
    assert run(val, tmp_path / "wrong.txt").returncode == 0
    done = run(val, tmp_path / "right.txt")
    assert "moved 3 images into class folders, 0 were in theirs already" in done.stdout, done.stderr
    assert sorted_files(val) == EXPECTED
    assert [(val / name).read_bytes() for name in EXPECTED] == [b"\2", b"\3", b"\1"]
    assert not (val / "n00000777").exists()


def test_an_image_that_is_there_twice_is_refused(val, tmp_path):
    (tmp_path / "ids.txt").write_text("n02119789\nn00000001\nn00000999\n")
    (val / "n00000001").mkdir()
    (val / "n00000001/ILSVRC2012_val_00000003.JPEG").write_bytes(b"3")
    done = run(val, tmp_path / "ids.txt")
    assert done.returncode == 2
    assert "n00000001/ILSVRC2012_val_00000003.JPEG are the same image; remove one of them" in done.stderr


def test_another_meta_file_is_refused(val, tmp_path):
    (tmp_path / "truth.txt").write_text("1\n2\n3\n")
    (tmp_path / "other.mat").write_bytes(b"MATLAB 5.0".ljust(128) + b"junk")
    assert "is not the meta.mat" in run(val, tmp_path / "truth.txt", "--meta", tmp_path / "other.mat").stderr


@pytest.mark.skipif("IMGCLS_REAL_DATA" not in os.environ, reason="IMGCLS_REAL_DATA names no folder of real data")
def test_the_real_ground_truth_agrees_with_the_ids_derived_from_it():
    from imgcls.data.sets import read_labels

    folder = Path(os.environ["IMGCLS_REAL_DATA"]) / "imagenet-meta"
    truth = read_labels(folder / "ILSVRC2012_validation_ground_truth.txt", folder / "meta.mat")
    assert truth == read_labels(folder / "val_wnids.derived.txt")
    assert len(truth) == 50_000
