"""The console command `imgcls`, which is each script under one name."""

import subprocess
import sys
from pathlib import Path

import pytest

from imgcls import __version__
from imgcls.commands import COMMANDS, main
from imgcls.environment import CONF_DIR, command, torchrun_command

ROOT = CONF_DIR.parent


def imgcls(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "imgcls", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_help_names_every_command_and_every_command_has_its_door_in_the_checkout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["imgcls", "--help"])
    main()
    shown = capsys.readouterr().out
    scripts = {file.stem for file in (ROOT / "scripts").glob("*.py")} | {"train"}
    for name in scripts:
        assert f"imgcls {name} " in shown
    assert "imgcls init " in shown
    files = {file.stem for file in (ROOT / "imgcls/commands").glob("*.py")} - {"__init__", "dispatch", "named_set"}
    assert files == set(COMMANDS)


def test_the_command_itself_imports_nothing_slow() -> None:
    code = "import sys, imgcls.commands; print({'hydra', 'numpy', 'torch', 'argparse'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize(
    "word, message",
    [
        ("trian", "trian: there is no such command (did you mean train?)"),
        ("model=vgg16", "model=vgg16: there is no such command (did you mean imgcls train model=vgg16?)"),
        ("xyz", "xyz: there is no such command; one of train, evaluate"),
    ],
)
def test_a_command_that_is_not_there_is_one_line(
    word: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["imgcls", word])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_messages_name_the_command_that_was_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for started, train, pack, after_torchrun in (
        (ROOT / "train.py", "python train.py", "python scripts/pack.py", "train.py"),
        (ROOT / "scripts/predict.py", "python train.py", "python scripts/pack.py", "train.py"),
        ("/usr/bin/imgcls", "imgcls train", "imgcls pack", "-m imgcls train"),
        (ROOT / "imgcls/__main__.py", "imgcls train", "imgcls pack", "-m imgcls train"),
        (tmp_path / "train.py", "imgcls train", "imgcls pack", "-m imgcls train"),
    ):
        monkeypatch.setattr(sys, "argv", [str(started)])
        assert (command("train"), command("pack"), torchrun_command("train")) == (train, pack, after_torchrun)


@pytest.mark.e2e
def test_a_command_of_imgcls_is_its_script(tmp_path: Path) -> None:
    shown = imgcls("train", "--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "imgcls train model=vgg16" in shown.stdout
    assert "python train.py" not in shown.stdout
    assert imgcls("predict", "--version", cwd=tmp_path).stdout == f"imgcls {__version__}\n"
    wrong = imgcls("train", "protocol=ten_crop", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "error: protocol: there is no such key; it belongs to `imgcls evaluate`\n",
    )
    assert not list(tmp_path.iterdir())
