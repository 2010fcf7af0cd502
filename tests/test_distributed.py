"""Several processes: what ends them, what they say, and how they go on. training/test_ranks.py has what they train."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from imgcls import __version__, distributed
from imgcls.checkpoints import load_checkpoint
from imgcls.device import choose_device
from imgcls.environment import CONF_DIR, launch
from imgcls.errors import ConfigError

TRAIN = str(CONF_DIR.parent / "train.py")


def run_two_ranks(
    words: tuple[list[str], list[str]], cwd: Path, *, scripts: tuple[str, str] = (TRAIN, TRAIN)
) -> list[tuple[int, str]]:
    """Start rank 0 and rank 1, each with words of its own; return the exit code and the errors of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, script, *of_rank],
            cwd=cwd,
            env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, (script, of_rank) in enumerate(zip(scripts, words, strict=True))
    ]
    try:
        errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, text) for rank, text in zip(ranks, errors, strict=True)]


def check_one_error(ended: list[tuple[int, str]], *words: str) -> None:
    (code, error), (other_code, other_error) = ended
    assert (code, other_code) == (2, 2), error + other_error
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, error
    for word in words:
        assert word in lines[0]
    assert "error: " not in other_error
    assert "Traceback" not in error + other_error


def few_steps(folder: Path) -> list[str]:
    sizes = ["image_size=32", "batch_size=4", "max_steps=2"]
    return ["model=lenet5", "data=folder", f"data.root={folder}", *sizes, "device=cpu", "logger=none", "name=a"]


@pytest.mark.e2e
def test_ranks_with_other_settings_all_end_with_one_error_and_write_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    words = few_steps(tiny_folder)
    other = [*words, "seed=1", "image_size=28", "label_smoothing=0.1", "optimizer.lr=0.5", "data.num_threads=1"]
    ended = run_two_ranks((words, other), tmp_path)
    check_one_error(
        ended,
        "seed: 0 on rank 0; 1 on rank 1",
        "image_size: 32 on rank 0; 28 on rank 1",
        "label_smoothing: 0.0 on rank 0; 0.1 on rank 1",
        "optimizer.lr: ",
        "0.5 on rank 1",
        "the same command",
    )
    assert "data.num_threads" not in ended[0][1]
    assert not list(tmp_path.rglob("config.json"))


@pytest.mark.e2e
def test_ranks_with_other_images_or_without_images_all_end_with_one_error(tiny_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    (other / "train" / "red").rename(other / "train" / "pink")
    (other / "val" / "red").rename(other / "val" / "pink")
    ended = run_two_ranks((few_steps(tiny_folder), few_steps(other)), tmp_path)
    check_one_error(ended, "data: checksum: ", " on rank 0; ", " on rank 1")
    ended = run_two_ranks((few_steps(tiny_folder), few_steps(tmp_path / "none")), tmp_path)
    check_one_error(ended, "rank 1: ", "data.root=", "none is not a folder")


@pytest.mark.e2e
def test_ranks_with_other_code_all_end_with_one_error(tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("imgcls", "conf"):
        shutil.copytree(CONF_DIR.parent / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(TRAIN, tmp_path)
    init = tmp_path / "imgcls" / "__init__.py"
    init.write_text(init.read_text().replace(__version__, "9.9.9"))
    words = few_steps(tiny_folder)
    ended = run_two_ranks((words, words), tmp_path, scripts=(TRAIN, str(tmp_path / "train.py")))
    check_one_error(ended, "imgcls: ", "9.9.9 on rank 1")


def test_one_process_agrees_with_itself() -> None:
    distributed.check_same({"seed": 1})
    distributed.check_errors(None)
    with pytest.raises(FileNotFoundError, match="gone"):
        distributed.check_errors(FileNotFoundError("gone"))
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


RUN = ["model=lenet5", "model.activation=relu", "data=folder", "image_size=32", "batch_size=14", "data.num_threads=1"]
RUN += ["logger=none", "device=cpu"]
RANKS = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def start(*words: str, cwd: Path, script: str = TRAIN, ranks: list[str] = RANKS) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*ranks, script, *RUN, *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


HOOKED = """
import os, signal, sys
sys.path.insert(0, {folder!r})
from hooked_run import run_with_hooks

def add_hooks(trainer):
    def die(trainer):
        if trainer.state.step == 3 and os.environ["RANK"] == {rank!r} and {when}:
            os.kill(os.getpid(), signal.SIGKILL)
    trainer.after_step.append(die)

run_with_hooks(add_hooks)
"""


# Of a busy machine: torchrun's SIGTERM reaches the rank before it has said what it lost.
SLOW_REPORT = """
import time
from imgcls import distributed

def slowly(report=distributed._first_to_report, **words):
    time.sleep(2)
    return report(**words)

distributed._first_to_report = slowly
"""


def hooked(tmp_path: Path, *, rank: str, when: str = "True", first: str = "") -> str:
    script = tmp_path / "hooked.py"
    script.write_text(first + HOOKED.format(folder=str(CONF_DIR.parent / "scripts/dev"), rank=rank, when=when))
    return str(script)


@pytest.mark.e2e
@pytest.mark.parametrize(("rank", "first"), [("0", SLOW_REPORT), ("1", "")])
def test_a_killed_rank_is_one_line_of_ours(rank: str, first: str, tiny_folder: Path, tmp_path: Path) -> None:
    script = hooked(tmp_path, rank=rank, first=first)
    done = start(f"data.root={tiny_folder}", "epochs=2", cwd=tmp_path, script=script)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"rank {1 - int(rank)} has lost another rank: it was killed" in line
    assert "without overwrite=true, resumes" in line
    assert "RuntimeError" not in done.stderr
    assert done.stderr.index(line) < done.stderr.index("FAILED")  # torchrun's own report


@pytest.mark.e2e
def test_a_run_that_torchrun_restarts_goes_on_though_overwrite_is_given(tiny_folder: Path, tmp_path: Path) -> None:
    once = 'os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"'
    ranks = [*RANKS, "--max-restarts=1"]
    words = [f"data.root={tiny_folder}", "epochs=3", "overwrite=true", "checkpoint.every_minutes=0"]
    done = start(*words, cwd=tmp_path, script=hooked(tmp_path, rank="1", when=once), ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert "going on after step" in done.stdout


ABORTS_LATE = """
import os, runpy, sys

class Late:
    def __del__(self, abort=os.abort, finalizing=sys.is_finalizing):
        if finalizing():
            abort()

sys.late = Late()
runpy.run_path({train!r}, run_name="__main__")
"""


@pytest.mark.e2e
@pytest.mark.parametrize(("words", "code"), [(["max_steps=1"], 0), (["sync_batch_norm=true"], 2)])
def test_a_rank_ends_with_its_own_code_though_finalization_would_abort(
    words: list[str], code: int, tiny_folder: Path, tmp_path: Path
) -> None:
    script = tmp_path / "aborts_late.py"
    script.write_text(ABORTS_LATE.format(train=TRAIN))
    command = [sys.executable, str(script), *RUN, f"data.root={tiny_folder}", *words]
    alone = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert alone.returncode == -signal.SIGABRT  # what the script is for
    of_rank = [*RUN, f"data.root={tiny_folder}", "name=two", *words]
    ends = run_two_ranks((of_rank, of_rank), tmp_path, scripts=(str(script), str(script)))
    assert [rank_code for rank_code, _ in ends] == [code, code]


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("Application timeout caused pair closure"), True),
        (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"), True),
        (RuntimeError("Timed out waiting 15000ms for recv operation to complete"), True),
        (torch.distributed.DistBackendError("NCCL communicator was aborted"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ConfigError("data.root=/gloo: there is no such folder"), False),
    ],
)
def test_what_torch_says_of_a_lost_rank_is_told_from_other_errors(error: Exception, lost: bool) -> None:
    assert distributed._is_lost_connection(error) == lost


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="all ranks have a GPU here")
def test_a_rank_without_the_gpu_that_is_asked_for_ends_all_with_one_error(tiny_folder: Path, tmp_path: Path) -> None:
    words = few_steps(tiny_folder)
    without = [word.replace("device=cpu", "device=cuda") for word in words]
    check_one_error(run_two_ranks((words, without), tmp_path), "rank 1: device=cuda, but torch sees no CUDA device")
    check_one_error(run_two_ranks((without, without), tmp_path), "error: device=cuda, but torch sees no CUDA device")


@pytest.mark.slow
def test_ranks_that_see_other_directories_train_in_that_of_rank_0_and_do_not_resume_apart(
    tiny_folder: Path, tmp_path: Path
) -> None:
    words = few_steps(tiny_folder)[:-1]
    by_clock = ([*words, "hydra.run.dir=runs/12-00-00"], [*words, "hydra.run.dir=runs/12-00-01"])
    assert [code for code, _ in run_two_ranks(by_clock, tmp_path)] == [0, 0]
    assert {path.parent.name for path in tmp_path.glob("runs/*/*")} == {"12-00-00"}
    # Two machines without a common disk: the second one has no checkpoint.
    alone = tmp_path / "alone"
    alone.mkdir()
    script = alone / "elsewhere.py"
    script.write_text(f"import os, runpy\nos.chdir({str(alone)!r})\nrunpy.run_path({TRAIN!r}, run_name='__main__')")
    (tmp_path / "runs/12-00-00/results.json").unlink()  # as a run that was broken off
    ended = run_two_ranks((by_clock[0], by_clock[0]), tmp_path, scripts=(TRAIN, str(script)))
    check_one_error(ended, "runs/12-00-00 is not the same on all ranks", "must be on a disk that all nodes share")


@pytest.mark.e2e
def test_sync_batch_norm_on_cpus_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    done = start(f"data.root={tiny_folder}", "sync_batch_norm=true", cwd=tmp_path)
    assert done.returncode == 1
    assert "error: sync_batch_norm=true: torch's SyncBatchNorm runs on CUDA devices alone" in done.stderr
    assert "ConfigError" not in done.stderr


def test_a_port_in_use_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in place.items():
            monkeypatch.setenv(name, value)
        with (
            pytest.raises(ConfigError, match=f"MASTER_PORT={port}: the ranks cannot meet there .*use another port"),
            distributed.process_group("cpu"),
        ):
            pass


TORCHVISIONS_GOOGLENET = ["model=torchvision", "model.arch=googlenet"]
NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.stem, self.fc, self.unused = nn.Linear(in_channels, 8), nn.Linear(8, num_classes), nn.Linear(8, 8)

    def forward(self, images):
        return self.fc(torch.relu(self.stem(images.mean(dim=(2, 3)))))

if __name__ == "__main__":
    torch.save(Net(3, 3).state_dict(), "weights.pth")
"""
MY_NETWORK = ["model._target_=mynet.Net", "~model.activation", "~model.pool", "trust=[mynet]"]
MY_NETWORK += ["weights=weights.pth", "freeze=[stem]"]


@pytest.mark.e2e
@pytest.mark.parametrize(
    "words",
    [
        MY_NETWORK,
        pytest.param([*MY_NETWORK, "ranks.static_graph=true"], marks=pytest.mark.slow),
        pytest.param(["model=googlenet", "auxiliary_weight=0"], marks=pytest.mark.slow),
        pytest.param([*TORCHVISIONS_GOOGLENET, "auxiliary_weight=0"], marks=pytest.mark.slow),
        pytest.param(TORCHVISIONS_GOOGLENET, marks=pytest.mark.slow),
    ],
    ids=[
        "frozen and unused parameters",
        "in a static graph",
        "auxiliary heads of no weight",
        "torchvision's",
        "torchvision's, which learn",
    ],
)
def test_two_ranks_train_a_network_of_which_parts_do_not_learn(
    tiny_folder: Path, tmp_path: Path, words: list[str]
) -> None:
    (tmp_path / "mynet.py").write_text(NETWORK)
    subprocess.run([sys.executable, "mynet.py"], cwd=tmp_path, check=True)
    of_rank = [*few_steps(tiny_folder), *words]
    ended = run_two_ranks((of_rank, of_rank), tmp_path)
    assert [code for code, _ in ended] == [0, 0], ended
    last = load_checkpoint(next(tmp_path.glob("runs/*/a/last.pt")))["model"]
    log = next(tmp_path.glob("runs/*/a/train.log")).read_text()
    assert ("get no gradient, which each step looks for: unused.weight, unused.bias" in log) == ("unused.bias" in last)
    if "unused.bias" in last:
        first = torch.load(tmp_path / "weights.pth")
        assert {name for name in first if not torch.equal(first[name], last[name])} == {"fc.weight", "fc.bias"}
