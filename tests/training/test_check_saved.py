"""A last.pt that was edited, with the right checksum, is one error before it is loaded."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from imgcls.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from imgcls.config import Console
from imgcls.runs import Interrupted
from imgcls.training import Trainer

from .helpers import EVERYTHING, Make, Train, stop_at_step

Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture
def half(tiny_config: Make, train: Train, tmp_path: Path) -> Path:
    with pytest.raises(Interrupted):
        train(tiny_config(*EVERYTHING), before=stop_at_step(7))
    (tmp_path / "run" / "previous.pt").unlink(missing_ok=True)
    return tmp_path / "run" / "last.pt"


EDITS: dict[str, Edit] = {
    "state is no dict": lambda saved: saved.update(state=[1]),
    "step is text": lambda saved: saved["state"].update(step="x"),
    "step is huge": lambda saved: saved["state"].update(step=2**60),
    "epoch is negative": lambda saved: saved["state"].update(epoch=-1),
    "batch is beyond the end": lambda saved: saved["state"].update(batch=10**6),
    "rollbacks is a list": lambda saved: saved["state"].update(rollbacks=[1]),
    "best is text": lambda saved: saved["state"].update(best={"top1": "x"}),
    "microbatch is nothing": lambda saved: saved["state"].update(microbatch=0),
    "a counter is missing": lambda saved: saved["state"].pop("moving_step"),
    "no weights": lambda saved: saved.pop("model"),
    "weights are a list": lambda saved: saved.update(model=[1]),
    "a weight is a number": lambda saved: saved["model"].update({next(iter(saved["model"])): 1.0}),
    "an average is of another shape": lambda saved: saved["average"].update(
        {next(iter(saved["average"])): torch.zeros(1)}
    ),
    "no average": lambda saved: saved.update(average=None),
    "no optimizer": lambda saved: saved.update(optimizer=None),
    "lr is text": lambda saved: saved["optimizer"]["param_groups"][0].update(lr="x"),
    "lr is not finite": lambda saved: saved["optimizer"]["param_groups"][0].update(lr=float("nan")),
    "a group is missing": lambda saved: saved["optimizer"]["param_groups"].pop(),
    "a momentum is missing": lambda saved: saved["optimizer"]["state"].pop(0),
    "a momentum is a number": lambda saved: saved["optimizer"]["state"].update({0: float("nan")}),
    "a momentum is of another shape": lambda saved: saved["optimizer"]["state"][0].update(
        momentum_buffer=torch.zeros(3)
    ),
    "a momentum is renamed": lambda saved: saved["optimizer"]["state"].update({0: {"x": torch.zeros(3)}}),
    "sums are text": lambda saved: saved["meters"].update(sums="x"),
    "a length is text": lambda saved: saved["events"].update({"metrics.csv": "/etc/passwd"}),
    "a bad image is beyond the end": lambda saved: saved.update(bad_images=[10**9]),
    "data is a list": lambda saved: saved.update(data=[]),
}


def test_an_edited_checkpoint_is_one_error_and_the_file_as_it_was_goes_on(
    half: Path, tiny_config: Make, train: Train
) -> None:
    good = half.read_bytes()
    for name, edit in EDITS.items():
        half.write_bytes(good)
        saved = load_checkpoint(half)
        edit(saved)
        save_checkpoint(saved, half)
        with pytest.raises(CheckpointError) as caught:
            train(tiny_config(*EVERYTHING))
        assert "remove it" in str(caught.value), name
        assert "\n" not in str(caught.value), name
    half.write_bytes(good)
    train(tiny_config(*EVERYTHING))


def test_an_error_of_the_first_step_after_a_checkpoint_may_be_of_the_checkpoint_and_keeps_its_traceback(
    half: Path, tiny_config: Make, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(trainer: Trainer) -> None:
        raise RuntimeError("a fault of the loss")

    with pytest.raises(
        CheckpointError, match=r"RuntimeError: a fault of the loss.*log has the traceback\. If the"
    ) as caught:
        train(tiny_config(*EVERYTHING), before=lambda trainer: trainer.before_step.append(fail))
    assert isinstance(caught.value.__cause__, RuntimeError)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "in fail" in caplog.text
    assert not Console(io.StringIO()).filter(record)  # there the error is one line
    assert half.exists()
