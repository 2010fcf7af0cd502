"""`imgcls init` writes a project that trains, tests itself and predicts."""

import subprocess
import sys
from pathlib import Path

import pytest

from imgcls.commands.init import write_project


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match="is there already; name a new folder"):
            write_project(target)
    (tmp_path / "empty").mkdir()
    names = [str(file.relative_to(tmp_path / "empty")) for file in write_project(tmp_path / "empty")]
    assert names == ["README.md", "conf/experiment/mine.yaml", "conf/model/mynet.yaml", "mynet.py", "test_mynet.py"]


@pytest.mark.e2e
def test_the_project_that_is_written_trains_and_passes_its_test(tmp_path: Path) -> None:
    def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", *words], cwd=cwd, capture_output=True, text=True, timeout=120)

    made = run("imgcls", "init", "mine", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "next: cd mine && imgcls train --config-dir conf experiment=mine" in made.stdout
    project = tmp_path / "mine"
    tested = run("pytest", "-q", "-p", "no:cacheprovider", cwd=project)
    assert "2 passed" in tested.stdout, tested.stdout + tested.stderr
    trained = run(
        "imgcls", "train", "--config-dir", "conf", "experiment=mine", "max_steps=2", "device=cpu", cwd=project
    )
    assert trained.returncode == 0, trained.stderr
    run_dir = "runs/mynet-shapes/mine"
    assert (project / run_dir / "best.pt").is_file()
    refused = run("imgcls", "evaluate", f"checkpoint={run_dir}", cwd=project)
    assert refused.returncode == 2
    assert "trust=[mynet]" in refused.stderr
    tested = run("imgcls", "evaluate", f"checkpoint={run_dir}", "trust=[mynet]", "device=cpu", cwd=project)
    assert tested.returncode == 0, tested.stderr
