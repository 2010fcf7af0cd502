"""`python train.py ...` as a user runs it, each in a new process."""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imgcls.environment import CONF_DIR

ROOT = CONF_DIR.parent


def run(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / script), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.fixture
def tiny(tiny_folder: Path) -> list[str]:
    scale = ["image_size=32", "batch_size=12", "epochs=2", "data.num_threads=1", "logger=none"]
    return ["model=lenet5", "model.activation=relu", "data=folder", f"data.root={tiny_folder}", *scale]


@pytest.mark.e2e
def test_a_sweep_goes_on_after_a_failing_job_and_ends_with_a_table(tiny: list[str], tmp_path: Path) -> None:
    done = run("train.py", "-m", *tiny, "optimizer.momentum=-1,0.9", "seed=1,2", cwd=tmp_path)
    assert done.returncode == 1
    assert "Invalid momentum value: -1" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    table = done.stdout[done.stdout.index("\nrun  ") + 1 :].splitlines()
    assert "failed: 2 of 4 jobs; the same command tries them again" in table
    assert [line.split("  ")[-1] for line in table[4:6]] == ["failed: optimizer: Invalid momentum value: -1"] * 2
    assert not (tmp_path / "multirun.yaml").exists()
    assert [line.split()[-1] for line in table[2:4]] == ["finished", "finished"]
    results = sorted(tmp_path.glob("runs/lenet5-folder/*/results.json"))
    assert len(results) == 2
    for file in results:
        assert "optimizer.momentum-0.9+seed-" in file.parent.name
        assert "data.root" not in file.parent.name

    again = run("train.py", "-m", *tiny, "optimizer.momentum=0.9", "seed=1,2", cwd=tmp_path)
    assert again.returncode == 0
    assert again.stdout.count("this run has finished before") == 2

    *rows, over_seeds = run("scripts/compare.py", cwd=tmp_path).stdout.splitlines()[3:]
    assert [row.rsplit("  ", 1)[-1].strip() for row in rows] == ["finished", "finished"]  # what was refused left no run
    assert "over 2 seeds: top-1" in over_seeds


@pytest.mark.e2e
def test_a_run_ends_with_a_table_and_run_again_shows_it(tiny: list[str], tmp_path: Path) -> None:
    first = run("train.py", *tiny, "name=mine", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "best validation top-1" in first.stdout
    assert "61,411 parameters" in first.stdout
    results = json.loads((tmp_path / "runs/lenet5-folder/mine/results.json").read_text())
    assert results["epochs"] == 2
    log = (tmp_path / "runs/lenet5-folder/mine/train.log").read_text()
    assert "epoch 2/2" in log

    again = run("train.py", *tiny, "name=mine", cwd=tmp_path)
    assert "this run has finished; overwrite=true trains it from scratch" in again.stdout
    other = run("train.py", *tiny, "name=mine", "seed=5", cwd=tmp_path)
    assert other.returncode == 2
    assert other.stderr.startswith("error: ")
    assert "seed: 0 there, 5 now" in other.stderr
    below = run("train.py", *tiny, "name=mine", "min_val_top1=100", "overwrite=true", "max_steps=1", cwd=tmp_path)
    assert below.returncode == 1
    assert "below min_val_top1=100" in below.stderr


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["data=folder"], ["data.root"]),
        (["data=folder", "data.root=nowhere"], ["nowhere"]),
        (["model=alexnet", "image_size=32"], ["image_size=32", "67"]),
        (["batch_size=100000"], ["batch_size=100000"]),
        (["model=torchvision", "model.arch=resnett18"], ["resnett18", "resnet18"]),
        (["+optimizer.lrr=3"], ["optimizer.lrr=3", "did you mean lr?"]),
        (["device=cuda:99"], ["device=cuda:99"]),
        (["optimizer._target_=os.system"], ["optimizer._target_=os.system", "not allowed"]),
        (["model._target_=imgcls.models.Resnet"], ["did you mean imgcls.models.ResNet?"]),
        (["data.num_classes=11", "model=lenet5"], ["data.num_classes=11", "3 classes"]),
    ],
)
def test_a_mistake_found_on_the_way_is_one_error_before_any_training(
    overrides: list[str], words: list[str], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imgcls import distributed
    from imgcls.config import compose
    from imgcls.training import build_trainer, open_run_directory

    monkeypatch.chdir(tmp_path)
    data = [] if any(word.startswith("data=") for word in overrides) else ["data=folder", f"data.root={tiny_folder}"]
    config = compose([*data, "batch_size=12", *overrides])

    def start() -> None:
        with (
            distributed.process_group(config.device) as device,
            open_run_directory(config, tmp_path / "run") as run_dir,
        ):
            build_trainer(config, run_dir, device)

    with pytest.raises((ValueError, FileNotFoundError)) as error:
        start()
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.e2e
@pytest.mark.parametrize("sweep", [[], pytest.param(["-m", "seed=1,2"], marks=pytest.mark.slow)])
def test_a_reader_that_stops_reading_stops_no_run_and_causes_no_error(
    sweep: list[str], tiny: list[str], tmp_path: Path
) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *sweep, *tiny, "name=${seed}", "max_steps=2"]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **pipe) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert "Error" not in said
    assert process.returncode == 0
    folders = list(tmp_path.glob("runs/lenet5-folder/*"))
    assert len(folders) == (2 if sweep else 1)
    for folder in folders:
        assert "best validation top-1" in (folder / "train.log").read_text()


def test_ctrl_c_while_torch_is_imported_is_one_word(tmp_path: Path) -> None:
    # As torch does it: what is interrupted there comes out as another error.
    (tmp_path / "torch.py").write_text(
        "import os, signal, time\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(1)\n"
        "except KeyboardInterrupt:\n"
        "    raise ImportError('cannot load module more than once per process')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(ROOT / "train.py"), "model=lenet5"]

    def restore_ctrl_c() -> None:  # a job in the background of a shell ignores it
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, preexec_fn=restore_ctrl_c
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_ctrl_c_before_the_command_line_is_read_is_one_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    module = importlib.import_module("imgcls.config.command_line")  # the room's face has a function of that name
    monkeypatch.setattr(module, "register", interrupted)
    with pytest.raises(SystemExit) as stopped:
        module.command_line(lambda config, run_dir: None)
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_ctrl_c_outside_an_import_is_pythons_own_and_the_handler_goes(request: pytest.FixtureRequest) -> None:
    from imgcls.config.command_line import _interruptible_imports

    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, inherited))
    with pytest.raises(KeyboardInterrupt), _interruptible_imports():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _interruptible_imports():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize(
    "hidden", ["imgcls.data.sets.shapes.os.system", "torch.optim.sgd.torch", "torch.load", "builtins.eval"]
)
def test_a_hostile_target_is_refused(hidden: str) -> None:
    from imgcls.config import build_component

    for key in ("optimizer", "data.source", "model"):
        with pytest.raises(ValueError, match=r"not allowed|No module named"):
            build_component(key, {"_target_": hidden})


def test_a_target_hidden_in_a_setting_is_not_called(tmp_path: Path) -> None:
    from imgcls.config import build_component

    proof = tmp_path / "proof"
    node = {
        "_target_": "imgcls.training.Constant",
        "warmup_epochs": {"_target_": "os.mkdir", "path": str(proof)},
    }
    with pytest.raises((TypeError, ValueError)):
        build_component("schedule", node)
    assert not proof.exists()
