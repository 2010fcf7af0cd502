"""Running out of memory: the error names what fits, and microbatch=auto finds it."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from imgcls.checkpoints import load_checkpoint
from imgcls.config import compose
from imgcls.runs import Interrupted
from imgcls.training import OutOfMemory, Trainer, out_of_memory_text
from imgcls.training.last_step import LastStep

from .helpers import Make, Prepare, Train, all_of, differences, same, stop_at_step


def memory_for(images: int) -> Callable[[Trainer], None]:
    """Make a device that runs out of memory with more images at a time."""

    def before(trainer: Trainer) -> None:
        forward = trainer.train_model

        class Small(torch.nn.Module):
            def forward(self, inputs: torch.Tensor) -> torch.Tensor:
                if len(inputs) > images:
                    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
                return forward(inputs)

        trainer.train_model = Small()

    return before


def test_out_of_memory_names_the_batch_and_what_fits(tiny_config: Make, train: Train) -> None:
    with pytest.raises(OutOfMemory, match=r"batch_size=12, 12 images .* 12 at a time\. microbatch=3 fits, .*=auto"):
        train(tiny_config(), before=memory_for(5))


def test_out_of_memory_with_a_single_image_says_that_no_microbatch_helps(tiny_config: Make, train: Train) -> None:
    for number, setting in enumerate(("microbatch=null", "microbatch=auto")):
        with pytest.raises(OutOfMemory, match="Not even one image at a time fits: use a smaller image_size"):
            train(tiny_config(setting), str(number), before=memory_for(0))


def test_out_of_memory_that_does_not_come_again_says_so(tiny_config: Make, train: Train) -> None:
    def run_out(trainer: Trainer) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemory, match="or it ran out in validation; try microbatch=6"):
        train(tiny_config(), before=lambda trainer: trainer.before_validation.append(run_out))


@pytest.mark.e2e
@pytest.mark.parametrize("batch_norm", [False, True])
def test_microbatch_auto_finds_what_fits_and_leaves_everything_else_as_it_was(
    batch_norm: bool, tiny_config: Make, tiny_folder: Path, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def small(microbatch: str, name: str, *, stop: int = -1) -> dict[str, Any]:
        overrides = [f"microbatch={microbatch}", "max_steps=4", "ema_decay=0.9"]
        resnet = [
            "model=resnet18",
            "data=folder",
            f"data.root={tiny_folder}",
            "image_size=32",
            "batch_size=12",
            "epochs=120",
        ]
        config = compose([*resnet, *overrides, "logger=none"]) if batch_norm else tiny_config(*overrides)
        return train(config, name, all_of(memory_for(5), stop_at_step(stop)))

    auto = small("auto", "auto")
    assert "microbatch=auto: 3 images at a time fit" in caplog.text
    fixed = small("3", "fixed")
    assert same(auto["weights"], fixed["weights"])
    with pytest.raises(Interrupted):
        small("auto", "cut", stop=2)
    assert same(small("auto", "cut")["weights"], fixed["weights"])


def run_out_once(at_step: int, *, part: int = 1) -> Callable[[Trainer], None]:
    """Make a device that has no memory left for one part of one step, after its forward pass; the first step is 0."""

    def before(trainer: Trainer) -> None:
        losses, parts = trainer.loss, []

        class Once(torch.nn.Module):
            def forward(self, *outputs: torch.Tensor) -> Any:
                if trainer.state.step == at_step and len(parts) < part:
                    parts.append(1)
                    if len(parts) == part:
                        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
                return losses(*outputs)

            def __getattr__(self, name: str) -> Any:
                return getattr(losses, name)

        trainer.loss = cast(Any, Once())

    return before


def test_a_run_that_runs_out_of_memory_is_saved_after_its_last_step_and_goes_on_as_an_unbroken_one(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    words = ("epochs=2", "ema_decay=0.9", "microbatch=6")
    whole = train(tiny_config(*words), "whole")
    saved = (
        r"try microbatch=3\. The run is saved after step 7: the same command goes on from there, and with continue_run"
    )
    for name in ("cut", "smaller"):
        with pytest.raises(OutOfMemory, match=saved):
            train(tiny_config(*words), name, run_out_once(7, part=2))
        assert load_checkpoint(tmp_path / name / "last.pt")["state"]["step"] == 7
    assert same(train(tiny_config(*words), "cut")["weights"], whole["weights"])
    assert differences(tmp_path / "whole", tmp_path / "cut") == []

    with pytest.raises(Interrupted):
        train(tiny_config(*words), "stopped", stop_at_step(7))
    smaller = tiny_config(*words[:2], "microbatch=4", "continue_run=true")
    assert same(train(smaller, "smaller")["weights"], train(smaller, "stopped")["weights"])


@pytest.mark.e2e
def test_the_statistics_of_batch_norm_are_saved_as_they_were_before_the_step_that_ran_out_of_memory(
    tiny_folder: Path, train: Train, tmp_path: Path
) -> None:
    sizes = ["image_size=32", "batch_size=12", "microbatch=6", "epochs=120", "max_steps=3", "logger=none"]
    config = compose(["model=resnet18", "data=folder", f"data.root={tiny_folder}", *sizes])
    whole = train(config, "whole")
    with pytest.raises(OutOfMemory, match="The run is saved after step 2"):
        train(config, "cut", run_out_once(2, part=2))
    assert same(train(config, "cut")["weights"], whole["weights"])


def test_what_a_forward_pass_changes_is_brought_back_until_the_weights_change() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    last_step = LastStep(network)
    for _ in range(2):
        before = copy.deepcopy(network.state_dict())
        last_step.move_buffers()
        network(torch.randn(2, 3, 5, 5))
        network(torch.randn(2, 3, 5, 5))
        moved = copy.deepcopy(network.state_dict())
        assert last_step.restore()
        assert same(network.state_dict(), before)
        assert not same(moved, before)
        network.load_state_dict(moved)
        last_step.leave()
        assert not last_step.restore()
        last_step.reach()
        assert last_step.restore()  # the statistics are those of this step's end
        assert same(network.state_dict(), moved)


def test_out_of_memory_in_validation_costs_no_step_and_in_the_optimizer_goes_back_to_the_checkpoint(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    def run_out(step: int, hook: str) -> Prepare:
        def prepare(trainer: Trainer) -> None:
            def fail(*arguments: Any) -> None:
                if trainer.state.step == step:
                    raise torch.OutOfMemoryError("CUDA out of memory")

            if hook == "optimizer":
                trainer.optimizer.register_step_post_hook(fail)
            else:
                trainer.before_validation.append(fail)

        return prepare

    config = tiny_config("epochs=2")
    whole = train(config, "whole")
    for hook, step, saved in (("validation", 5, 5), ("optimizer", 7, 5)):
        with pytest.raises(OutOfMemory) as error:
            train(config, hook, run_out(step, hook))
        assert ("The run is saved after step" in str(error.value)) == (hook == "validation")
        assert load_checkpoint(tmp_path / hook / "last.pt")["state"]["step"] == saved
        assert same(train(config, hook)["weights"], whole["weights"])
        assert differences(tmp_path / "whole", tmp_path / hook) == []


def test_running_out_in_the_optimizer_with_loss_scaling_and_clipping_is_explained_too(
    tiny_config: Make, train: Train
) -> None:
    def new_scaler() -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", enabled=True)

    def once(trainer: Trainer) -> None:
        failures = [torch.cuda.OutOfMemoryError("CUDA out of memory")]

        def run_out(*arguments: Any) -> None:
            if failures:
                raise failures.pop()

        trainer.optimizer.register_step_pre_hook(run_out)

    with pytest.raises(OutOfMemory, match="The same fits now that the memory is free again"):
        train(tiny_config("clip_grad_norm=1"), "error", once, new_scaler=new_scaler)
    config = tiny_config("clip_grad_norm=1", "microbatch=auto")
    assert train(config, "auto", once, new_scaler=new_scaler)["steps"] == 15


def test_ranks_that_ran_out_of_memory_get_a_guess_marked_as_one() -> None:
    sizes = {"batch_size": 24, "local_size": 12, "fits": None}
    cpu = torch.device("cpu")
    assert "microbatch=6 may fit" in out_of_memory_text(cpu, microbatch=12, tried=False, **sizes)
    assert "Not even one image" in out_of_memory_text(cpu, microbatch=1, tried=False, **sizes)
