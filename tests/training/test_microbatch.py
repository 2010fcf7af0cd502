"""Running out of memory: the error names what fits, and microbatch=auto finds it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from imgcls.config import compose
from imgcls.runs import Interrupted
from imgcls.training import OutOfMemory, Trainer, out_of_memory_text

from .helpers import Make, Train, all_of, same, stop_at_step


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
