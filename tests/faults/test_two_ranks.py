"""Two processes on one machine: they stop together, go on together, and count every validation image once."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imgcls.checkpoints import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent.parent
TORCHRUN = ["-m", "torch.distributed.run", "--nnodes=1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
RUN = ["model=lenet5", "model.activation=relu", "data=folder", "image_size=32", "batch_size=12", "device=cpu"]

pytestmark = pytest.mark.e2e


@pytest.fixture
def odd_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """13 validation images: 7 on one rank, two batches of 6, and 6 on the other, one batch."""
    folder = tmp_path / "odd"
    shutil.copytree(tiny_folder, folder)
    for name in ("green", "red"):
        (folder / "val" / name / "04.JPEG").unlink()
    return folder


@pytest.mark.parametrize("stop", [pytest.param("SIGTERM", marks=pytest.mark.slow), "SIGKILL"])
def test_a_signal_to_one_of_two_ranks_stops_both_and_resumed_they_equal_the_unbroken(
    stop: str, odd_folder: Path
) -> None:
    overrides = [*RUN, f"data.root={odd_folder}", "augment=modern", "augment.policy=null", "ema_decay=0.9"]
    script = [str(ROOT / "scripts/dev/verify_resume.py"), "7", "4", "--ranks=2", f"--stop={stop}"]
    done = subprocess.run([sys.executable, *script, *overrides], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the stopped run IS the unbroken run" in done.stdout


def test_every_validation_image_counts_once_on_two_ranks(odd_folder: Path, tmp_path: Path) -> None:
    # At lr 0 all depends on nothing but which images are counted: 13 of them, in an odd share.
    overrides = [*RUN, f"data.root={odd_folder}", "optimizer.lr=0", "optimizer.weight_decay=0", "epochs=1"]
    scores = []
    for name, start in (("one", []), ("two", [*TORCHRUN, "--nproc-per-node=2"])):
        command = [sys.executable, *start, str(ROOT / "train.py"), *overrides, f"hydra.run.dir={tmp_path / name}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["val/loss"]]
        scores.append([float(row[column]) for row in rows for column in ("val/loss", "val/balanced")])
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


def test_a_bad_validation_file_of_one_rank_ends_both_before_the_first_step(odd_folder: Path, tmp_path: Path) -> None:
    (odd_folder / "val/blue/01.JPEG").write_bytes(b"no image")  # the second image: the second rank's
    overrides = [*RUN, f"data.root={odd_folder}", "sampler=balanced", f"hydra.run.dir={tmp_path / 'run'}"]
    command = [sys.executable, *TORCHRUN, "--nproc-per-node=2", str(ROOT / "train.py"), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.count("val/blue/01.JPEG: is not an image") == 1
    assert "data.on_bad_image=skip" in done.stderr
    assert not (tmp_path / "run/metrics.csv").exists()
    done = subprocess.run(
        [*command, "data.on_bad_image=skip", "max_steps=2"], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped a bad image" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "saved_after"),
    [pytest.param("03", 3, id="of the fourth step"), pytest.param("10", 0, id="of the first", marks=pytest.mark.slow)],
)
def test_a_bad_training_file_of_one_rank_ends_both_with_one_line_once_they_have_saved(
    name: str, saved_after: int, odd_folder: Path, tmp_path: Path
) -> None:
    file = odd_folder / f"train/blue/{name}.JPEG"  # the second rank's, in the first epoch of seed 0
    file.write_bytes(b"no image")
    overrides = [*RUN, f"data.root={odd_folder}", "epochs=1", f"hydra.run.dir={tmp_path / 'run'}"]
    command = [sys.executable, *TORCHRUN, "--nproc-per-node=2", str(ROOT / "train.py"), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: rank 1: ")
    assert f"train/blue/{name}.JPEG: is not an image" in line
    assert "RuntimeError" not in done.stderr
    last = tmp_path / "run/last.pt"
    assert (load_checkpoint(last)["state"]["step"] if last.exists() else 0) == saved_after
