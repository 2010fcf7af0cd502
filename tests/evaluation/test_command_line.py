"""scripts/evaluate.py as a user starts it."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from imgcls.checkpoints import load_checkpoint
from imgcls.environment import CONF_DIR

from .helpers import config_of, run

SCRIPT = str(CONF_DIR.parent / "scripts/evaluate.py")


def evaluate_script(*words: str, cwd: Path, ranks: int = 0) -> subprocess.CompletedProcess[str]:
    python = [sys.executable]
    if ranks:
        python += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return subprocess.run([*python, SCRIPT, *words], cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], "name the network: checkpoint=runs/.../best.pt, or model=resnet50 weights=torchvision"),
        (["weights=x.pt"], "weights=x.pt of which network"),
        (["checkpoint=a.pt", "model=resnet18"], "a checkpoint brings its network"),
        (["checkpoint=a.pt", "protocol=ten_corp"], "there is no such protocol (did you mean ten_crop?)"),
        (["checkpoint=a.pt", "protocol.flp=true"], "protocol.flp: there is no such key (did you mean flip?)"),
        (["checkpoint=a.pt", "batch_sise=3"], "batch_sise: there is no such key (did you mean batch_size?)"),
        (["checkpoint=a.pt", "average=weights"], "average=weights needs several checkpoints"),
        (["checkpoint=a.pt", "average=median"], "average=median is none of softmax, weights"),
        (["checkpoint=a.pt", "compare=papers"], "compare=papers is none of published"),
        (["checkpoint=[a.pt,b.pt]", "compare=published"], "of single networks, not of an ensemble"),
        (["checkpoint=a.pt", "compare=published", "image_size=64"], "not of image_size=64 but of each network's own"),
        (["checkpoint=a.pt", "augment.flip=0.5"], "augment.flip=0.5: a checkpoint brings its network"),
        (["checkpoint=a.pt", "augment.interpolation=bicubix"], "bicubix is none of bilinear, bicubic (did you mean"),
        (["checkpoint=a.pt", "interpolation=bicubic", "compare=published"], "of each network's own crop"),
        (["checkpoint=a.pt", "augment.eval_crop=whole", "compare=published"], "of each network's own crop"),
        (["checkpoint=a.pt", "augment.eval_crop=whole", "protocol=dense"], "is for protocol=center: Dense has views"),
        (["checkpoint=a.pt"], "checkpoint=a.pt: there is no such file"),
        (["checkpoint=runs/a=1,b=2/best.pt"], "checkpoint=runs/a=1,b=2/best.pt: there is no such file"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    words: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [SCRIPT, *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(SCRIPT, run_name="__main__")
    assert end.value.code == 2
    error = capfd.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.e2e
def test_help_names_every_protocol_and_imports_no_torch(tmp_path: Path) -> None:
    code = f"""
import sys, runpy
sys.argv = ["evaluate.py", "--help"]
try:
    runpy.run_path({SCRIPT!r}, run_name="__main__")
except SystemExit:
    pass
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    for file in (CONF_DIR / "protocol").glob("*.yaml"):
        assert file.stem in done.stdout


@pytest.mark.e2e
def test_every_image_counts_once_on_two_ranks(run_dir: Path, tiny_folder: Path, tmp_path: Path) -> None:
    alone = run(config_of(run_dir, root=tiny_folder, fresh=True))
    words = [f"checkpoint={run_dir}", f"data.root={tiny_folder}", "device=cpu", "fresh=true", "logger=none"]
    done = evaluate_script(*words, f"out={tmp_path / 'two'}", cwd=tmp_path, ranks=2)
    assert done.returncode == 0, done.stderr
    both = json.loads((tmp_path / "two/results.json").read_text())
    assert both["num_images"] == 15
    assert both["top1"] == alone["top1"]
    assert both["loss"] == pytest.approx(alone["loss"], abs=1e-6)
    assert done.stdout.count("top-1") == 1


@pytest.mark.e2e
def test_weights_from_a_file_are_tested_from_the_command_line(tiny_folder: Path, run_dir: Path, tmp_path: Path) -> None:
    torch.save(load_checkpoint(run_dir / "best.pt")["model"], tmp_path / "weights.pt")
    words = ["weights=weights.pt", "model=lenet5", "device=cpu", "out=out", "logger=none", "image_size=32"]
    words += ["model.activation=relu", "model.pool=max", "augment=resnet", "data=folder", f"data.root={tiny_folder}"]
    done = evaluate_script(*words, "model.num_classes=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/results.json").read_text())["num_images"] == 15
    other = evaluate_script(*words, "model.num_classes=4", cwd=tmp_path)
    assert other.returncode == 2
    assert "has 4 outputs, but the data has 3 classes" in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1
