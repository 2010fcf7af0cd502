"""Two processes train and count what one does."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from imgcls import distributed
from imgcls.checkpoints import load_checkpoint
from imgcls.device import choose_device
from imgcls.environment import CONF_DIR, launch

TRAIN = str(CONF_DIR.parent / "train.py")


def metrics(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.e2e
def test_two_ranks_train_what_one_trains_and_count_every_validation_image_once(
    tiny_folder: Path, tmp_path: Path
) -> None:
    overrides = [
        "model=lenet5",
        "model.activation=relu",
        "data=folder",
        f"data.root={tiny_folder}",
        "image_size=32",
        "batch_size=14",  # 15 validation images over batches of 7 a rank: 8 for one, 7 for the other
        "epochs=2",
        "data.num_threads=1",
        "tensorboard=false",
        "device=cpu",
        "log_every_steps=2",
    ]
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for command, name in (([sys.executable], "one"), (ranks, "two")):
        done = subprocess.run(
            [*command, TRAIN, *overrides, f"name={name}"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("best validation top-1") == 1
    one, two = (tmp_path / "runs/lenet5-folder" / name for name in ("one", "two"))
    for a, b in zip(metrics(one), metrics(two), strict=True):
        for key, value in a.items():
            assert (value == "") == (b[key] == "")
            if value:
                assert float(value) == pytest.approx(float(b[key]), rel=1e-4), key
    weights = [load_checkpoint(path / "last.pt")["model"] for path in (one, two)]
    for key, value in weights[0].items():
        assert value.sub(weights[1][key]).abs().max() < 1e-5, key


def test_one_process_agrees_with_itself() -> None:
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.agree(3) == 3
    assert distributed.from_main("a") == "a"
    with pytest.raises(ValueError, match="no"):
        distributed.from_main(ValueError("no"))


def test_a_cuda_device_that_is_not_there_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device=cuda, but torch sees no CUDA device.*device=auto"):
        choose_device("cuda", 0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ValueError, match="device=cuda:5, but there are 2"):
        choose_device("cuda:5", 0)
    assert choose_device("auto", 1).index == 1


def test_slurm_names_the_rank_and_asks_for_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SLURM_PROCID", "3"), ("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_LOCALID", "1")):
        monkeypatch.setenv(name, value)
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert launch() == (3, 8, 1)
    with pytest.raises(ValueError, match="MASTER_ADDR"), distributed.process_group("cpu"):
        pass
