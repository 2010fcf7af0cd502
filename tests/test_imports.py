"""The part of the rule of imports that import-linter cannot see: torch, wherever it is imported from, takes seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

from imgcls.environment import CONF_DIR

ROOMS = ("errors", "environment", "metrics", "config", "runs", "data.augment", "data.decoding", "data.sets", "startup")


def test_what_help_and_mistakes_need_imports_no_torch() -> None:
    imports = "".join(f"import imgcls.{room}\n" for room in ROOMS)
    code = f"import sys\n{imports}print({{'torch', 'torchvision'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "set()\n"


def test_opening_image_sets_imports_no_torch(tiny_folder: Path) -> None:
    code = f"""
import sys
from imgcls.config import compose
from imgcls.data.sets import open_image_set
images = open_image_set(compose(["model=lenet5", "data=folder", "data.root={tiny_folder}"]))
images.train.pixels(0, 3)
images.identity()
print({{"torch", "torchvision"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.e2e
def test_a_default_run_with_tensorboard_imports_neither_torchvision_nor_dynamo(tmp_path: Path) -> None:
    code = f"""
import atexit, runpy, sys
slow = {{"torchvision", "torch._dynamo", "torch._inductor", "matplotlib", "scipy"}}
atexit.register(lambda: print(slow & set(sys.modules)))
sys.argv = ["train.py", "model=lenet5", "image_size=32", "epochs=1", "max_steps=2", "hydra.run.dir=run"]
runpy.run_path({str(CONF_DIR.parent / "train.py")!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))
    assert done.stdout.splitlines()[-1] == "set()"
