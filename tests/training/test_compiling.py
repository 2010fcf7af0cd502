"""Compiled training: what is compiled, that a change of lr compiles nothing, and where compiled code is kept."""

import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from imgcls.config import Config, compose
from imgcls.data.on_device import Augment, build_augmentations, input_statistics
from imgcls.errors import ConfigError
from imgcls.models import GoogLeNet, ResNet
from imgcls.runs import Interrupted
from imgcls.training import Trainer, build_optimizer, set_lr
from imgcls.training.compiled_step import step_uncompiled, with_compiled_step
from imgcls.training.compiling import check_compiler, keep_compiled_code, repeated_blocks
from imgcls.training.optim import fill_momenta

from .helpers import same, stop_at_step


def test_the_blocks_of_a_network_are_its_outermost_repeated_parts() -> None:
    with torch.device("meta"):
        assert len(repeated_blocks(ResNet(depth=50))) == 3 + 4 + 6 + 3
        assert {type(block).__name__ for block in repeated_blocks(GoogLeNet())} >= {"Inception"}
        with pytest.raises(ConfigError, match="compile_mode=blocks: the network has no repeated blocks; leave"):
            repeated_blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))


def test_a_mode_without_compile_is_refused(tiny_config: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match="compile_mode=blocks compiles nothing by itself; add compile=true"):
        tiny_config("compile_mode=blocks")


def test_compiled_code_is_kept_in_the_cache_folder_unless_the_user_names_one(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    keep_compiled_code()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(cache / "compiled")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/mine")
    keep_compiled_code()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/mine"


def test_a_step_is_compiled_where_it_is_not_fused_but_for_optimizers_from_elsewhere(
    tiny_config: Callable[..., Config],
) -> None:
    layer = nn.Linear(2, 3)

    def is_compiled(*words: str) -> bool:
        return hasattr(build_optimizer(tiny_config(*words), layer), "compiles")

    assert not is_compiled("compile=true")
    assert is_compiled("compile=true", "+optimizer.fused=false")
    assert not is_compiled("compile=false", "+optimizer.fused=false")
    assert is_compiled("compile=true", "optimizer=adamw", "optimizer._target_=torch.optim.NAdam")

    class Other(torch.optim.SGD):
        pass

    assert with_compiled_step(Other) is Other


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.NAdam])
def test_a_compiled_step_is_compiled_once_for_all_lrs_and_its_state_is_that_of_torchs_own(
    kind: type[torch.optim.Optimizer], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    torch._dynamo.reset()
    settings = {"lr": 0.1, "weight_decay": 0.01} | ({"momentum": 0.9} if kind is torch.optim.SGD else {})
    layers = [nn.Linear(5, 3) for _ in range(3)]
    for layer in layers[1:]:
        layer.load_state_dict(layers[0].state_dict())
    late = layers[0].bias, layers[1].bias, layers[2].bias
    own = kind(layers[0].parameters(), **settings)
    compiled, resumed = (with_compiled_step(kind)(layer.parameters(), **settings) for layer in layers[1:])
    hooked, counts = [], []
    compiled.register_step_pre_hook(lambda *_: hooked.append(1))

    def step(*optimizers: torch.optim.Optimizer, number: int) -> None:
        """Take a step with the same gradients; the biases begin to learn at the sixth."""
        for optimizer in optimizers:
            set_lr(optimizer, 0.7**number)
            for parameter in optimizer.param_groups[0]["params"]:
                draws = torch.randn(parameter.shape, generator=torch.manual_seed(number))
                parameter.grad = None if number < 6 and any(parameter is each for each in late) else draws
            optimizer.step()
            fill_momenta(optimizer, late)

    torch._dynamo.utils.counters.clear()
    for number in range(10):
        step(own, compiled, number=number)
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        if number == 3:
            layers[2].load_state_dict(layers[1].state_dict())
            resumed.load_state_dict(copy.deepcopy(compiled.state_dict()))
    assert len(hooked) == 10
    assert counts[2:6] == [1] * 4  # of which the first, where there is no state yet, is not compiled
    assert counts[8:] == [2] * 2
    assert own.state_dict()["param_groups"] == compiled.state_dict()["param_groups"]
    for number in range(4, 10):
        step(resumed, number=number)
    for name in ("weight", "bias"):
        values = [getattr(layer, name).detach() for layer in layers]
        torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-5)
        assert torch.equal(values[1], values[2])
    for state, own_state in zip(compiled.state.values(), own.state.values(), strict=True):
        assert state.keys() == own_state.keys()

    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with step_uncompiled(compiled):
        compiled.load_state_dict(compiled.state_dict())
        step(compiled, number=11)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before


def test_a_cache_folder_that_cannot_be_written_leaves_compiled_code_to_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("IMGCLS_CACHE", str(blocked))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    with caplog.at_level("INFO"):
        keep_compiled_code()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    assert f"not kept for next time: {blocked}/compiled cannot be written to (Not a directory)" in caplog.text


def test_compiling_without_a_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ConfigError, match=r"compile=true needs a C compiler; install gcc, name yours by CC=\.\.\."):
        check_compiler(torch.device("cuda"))
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}),
        pytest.raises(ConfigError, match=r"compile=true needs a C\+\+ compiler on a CPU; install g\+\+"),
    ):
        check_compiler(torch.device("cpu"))
    monkeypatch.setenv("CC", "mycc")
    check_compiler(torch.device("cuda"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # which torch's compiler looks at
@pytest.mark.parametrize(
    "words",
    [
        ("compile_mode=default",),
        # Batch normalisation over few values doubles a difference of rounding with each step: a small lr, larger maps.
        ("compile_mode=blocks", "model=resnet18", "image_size=64", "optimizer.lr=1e-4", "max_steps=4"),
    ],
)
def test_a_compiled_run_is_compiled_once_though_lr_changes_and_ends_where_the_eager_one_and_a_resumed_one_do(
    words: tuple[str, ...],
    tiny_config: Callable[..., Config],
    train: Callable[..., dict[str, Any]],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    torch._dynamo.reset()
    counts, lrs = [], []

    def after_step(trainer: Trainer) -> None:
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        lrs.append(trainer.optimizer.param_groups[0]["lr"])

    torch._dynamo.utils.counters.clear()
    both = ["epochs=1", "schedule=cosine", "+optimizer.fused=false"]
    eager = tiny_config(*both, *(word for word in words if "compile" not in word))
    compiled = tiny_config(*both, "compile=true", *words)
    expected = train(eager, "eager")["weights"]
    weights = train(compiled, "compiled", lambda trainer: trainer.after_step.append(after_step))["weights"]
    assert len(set(lrs)) == len(lrs) > 3
    # The network and the augmentations in the first step, the optimizer in the second.
    assert 0 < counts[0] < counts[1]
    assert counts[1:] == counts[1:2] * (len(counts) - 1)
    # Not the same bits: compiled kernels add in another order and contract multiplications with additions.
    for key, value in weights.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-4)
    with pytest.raises(Interrupted):
        train(compiled, "cut", stop_at_step(3))
    assert same(train(compiled, "cut")["weights"], weights)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_augmentations_are_compiled_once_for_all_epochs_and_give_the_eager_ones_up_to_rounding(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    on = [
        "colour.hue=0.1",
        "colour.contrast=0.4",
        "pca.std=0.1",
        "erasing.probability=0.5",
        "mix.cutmix=1",
        "mix.mixup=1",
    ]
    on += ["blur.probability=0.5", "grayscale.probability=0.2", "three_augment.probability=0.5"]
    config = compose(["model=resnet18", "data=cifar10", *(f"augment.batch.{word}" for word in on)])
    statistics = input_statistics(config)
    eager, compiled = (
        Augment(build_augmentations(config.augment.batch), **statistics, seed=config.seed) for _ in range(2)
    )
    compiled.compile()
    counts = []
    for epoch in range(3):
        images = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8, generator=torch.manual_seed(epoch))
        labels, indices = torch.arange(16) % 10, torch.arange(16) + 100 * epoch
        expected = eager(images, labels, indices, epoch=epoch, num_classes=10)
        batch = compiled(images, labels, indices, epoch=epoch, num_classes=10)
        torch.testing.assert_close(batch.images, expected.images, rtol=0, atol=1e-4)
        torch.testing.assert_close(batch.targets, expected.targets, rtol=0, atol=1e-6)
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counts == [1, 1, 1]
