"""A GPU's memory that is too small: `pytest -m gpu`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from imgcls import distributed
from imgcls.config import compose
from imgcls.training import OutOfMemory, build_trainer, open_run_directory

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _one_gibibyte() -> Iterator[None]:
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(2**30 / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def steps_of(path: Path, folder: Path, *overrides: str) -> int:
    size = ["image_size=224", "batch_size=60", "max_steps=2", "epochs=2", "precision=fp32", "logger=none"]
    config = compose(["model=resnet50", "data=folder", f"data.root={folder}", *size, "device=cuda", *overrides])
    with distributed.process_group(config.device) as device, open_run_directory(config, path) as run_dir:
        return build_trainer(config, run_dir, device).fit()["steps"]


def test_a_batch_that_does_not_fit_is_named_with_what_does(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"out of memory on cuda:0 .* batch_size=60.*microbatch=\d+ fits"):
        steps_of(tmp_path / "run", tiny_folder)


def test_microbatch_auto_trains_a_batch_that_does_not_fit(tiny_folder: Path, tmp_path: Path) -> None:
    assert steps_of(tmp_path / "run", tiny_folder, "microbatch=auto") == 2
