"""Weights from other trainers load as they are saved: below any usual key, under prefixes, raw or averaged."""

import argparse
import pathlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from imgcls.config import Config
from imgcls.inference import open_checkpoint, open_weights
from imgcls.models import LeNet5, build_model, read_weights

Make = Callable[..., Config]
Train = Callable[..., dict[str, Any]]
NETWORK = LeNet5(num_classes=3, in_channels=3)


def state(fill: float) -> dict[str, Tensor]:
    return {name: torch.full_like(value, fill) for name, value in NETWORK.state_dict().items()}


def under(prefix: str, fill: float = 1.0) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state(fill).items()}


def read(content: Any, tmp_path: Path, kind: str = "average") -> tuple[float, str]:
    """Return the value that fills the weights which a file of `content` gives, and what the log says of them."""
    torch.save(content, tmp_path / "w.pth")
    found = read_weights(str(tmp_path / "w.pth"), NETWORK, kind=kind)
    assert found.state.keys() == NETWORK.state_dict().keys()
    (value,) = {value.unique().item() for value in found.state.values()}
    return value, found.text


@pytest.mark.parametrize(
    "prefix, text",
    [
        ("", "as they are"),
        ("module.", "without module."),
        ("_orig_mod.", "without _orig_mod."),
        ("_orig_mod.module.", "without _orig_mod. and module."),
        ("module._orig_mod.module.", "without module. and _orig_mod."),
        ("model.", "without model."),
        ("net.", "without net."),
        ("backbone.", "without backbone."),
        ("module.model._orig_mod.backbone.", "without module. and _orig_mod. and model.backbone."),
    ],
)
def test_prefixes_nested_in_any_order_are_removed_and_named(prefix: str, text: str, tmp_path: Path) -> None:
    assert read(under(prefix), tmp_path) == (1, text)


@pytest.mark.parametrize(
    "container",
    [
        {"state_dict": under("model."), "pytorch-lightning_version": "2.5", "hyper_parameters": {"lr": 0.1}},
        {"model": state(1), "optimizer": {}, "epoch": 3, "args": argparse.Namespace(lr=0.1, betas=[0.9, 0.99])},
        {"model_state_dict": under("module."), "loss": 0.3},
        {"epoch": 1, "network": state(1)},
        {"model": {"state_dict": state(1)}},
        {"epoch": 1, "mine": state(1)},
        {"model_ema": under("module.") | {"n_averaged": torch.tensor(7)}},
        {"ema": {"module": state(1)}},
        {"state": {"model": under("module._orig_mod."), "step": 3}, "optim": {"state": {"0": state(5)}}},
    ],
    ids=["lightning", "reference", "script", "network", "nested", "other", "average", "nested average", "deep"],
)
def test_the_usual_containers_are_read(container: dict[str, Any], tmp_path: Path) -> None:
    assert read(container, tmp_path)[0] == 1


def test_an_average_beside_raw_weights_in_one_state_dict_is_told_by_its_prefix(tmp_path: Path) -> None:
    both = {"state_dict": under("model.") | under("model_ema.", 2)}
    raw = "the raw weights (model.), not the average of the weights (model_ema.; weights_kind=average)"
    average = "the average of the weights (model_ema.), not the raw weights (model.; weights_kind=raw)"
    assert read(both, tmp_path) == (2, f"below state_dict; {average}; without model_ema.")
    assert read(both, tmp_path, "raw") == (1, f"below state_dict; {raw}; without model.")


@pytest.mark.parametrize(
    "container",
    [
        {"model": under("module."), "model_ema": under("module.", 2)},
        {"state_dict": state(1), "state_dict_ema": under("module.", 2), "args": argparse.Namespace(model="lenet")},
        {"current_model_state": under("model."), "state_dict": under("model.", 2)},
        {"state_dict": under("model.") | under("ema_model.module.", 2)},
    ],
    ids=["references", "timm", "lightning", "lightning module"],
)
def test_of_raw_weights_and_their_average_the_setting_takes_one(container: dict[str, Any], tmp_path: Path) -> None:
    average, text = read(container, tmp_path)
    raw, other = read(container, tmp_path, kind="raw")
    assert (average, raw) == (2, 1)
    assert text != other
    if "ema_model" not in str(container.keys()) and "average" in text:
        assert "weights_kind=raw" in text
        assert "weights_kind=average" in other


def test_torchs_averaged_model_is_read(tmp_path: Path) -> None:
    averaged = AveragedModel(NETWORK)
    torch.save({"model_ema": averaged.state_dict()}, tmp_path / "w.pth")
    found = read_weights(str(tmp_path / "w.pth"), NETWORK)
    assert found.state.keys() == NETWORK.state_dict().keys()
    assert found.text == "the average of the weights (model_ema); without module.; left out: n_averaged"
    assert "as there are no others" in read_weights(str(tmp_path / "w.pth"), NETWORK, kind="raw").text


def test_what_is_beside_the_network_is_left_out_and_named(tmp_path: Path) -> None:
    content = {"state_dict": under("model.") | {"criterion.weight": torch.ones(3), "metric.total": torch.ones(1)}}
    assert read(content, tmp_path) == (
        1,
        "below state_dict; without model.; left out: criterion.weight, metric.total",
    )


class Wrapping(nn.Module):
    """A network whose own names begin like prefixes."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(2, 2)
        self.module = nn.Linear(2, 2)


def test_a_networks_own_names_are_no_prefixes(tmp_path: Path) -> None:
    network = Wrapping()
    torch.save({f"module.{name}": value for name, value in network.state_dict().items()}, tmp_path / "w.pth")
    assert read_weights(str(tmp_path / "w.pth"), network).state.keys() == network.state_dict().keys()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    assert read_weights(str(tmp_path / "w.pth"), network).text == "as they are"


@pytest.mark.parametrize(
    "content, words",
    [
        (under("encoder_q.") | under("encoder_k.", 2), "has the network 2 times, below encoder_q and encoder_k"),
        (state(1) | under("module.", 2), "twice, once inside module"),
        ({"student": state(1), "teacher": state(2)}, "holds no state dict: .*; it has student, teacher"),
    ],
)
def test_a_file_with_several_networks_is_refused(content: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        read(content, tmp_path)


def test_a_file_that_holds_itself_is_one_line(tmp_path: Path) -> None:
    content: dict[str, Any] = {"epoch": 1}
    content["model"] = content
    with pytest.raises(ValueError, match=r"w\.pth (holds no state dict|has \d+ bytes and unfolds)"):
        read(content, tmp_path)


def test_no_class_but_a_namespace_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds more than tensors and plain values \(.*PosixPath\)"):
        read({"model": state(1), "args": argparse.Namespace(out=pathlib.PosixPath("x"))}, tmp_path)


def test_safetensors_under_a_prefix_are_read(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(under("net."), tmp_path / "w.safetensors")
    assert read_weights(str(tmp_path / "w.safetensors"), NETWORK).text == "without net."


def test_the_log_says_in_one_line_what_a_run_starts_from(
    tiny_config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    torch.save({"model_ema": under("module.", 2), "model": state(1)}, tmp_path / "both.pth")
    source = tmp_path / "both.pth"
    config = tiny_config(f"weights={source}")
    network = build_model(config, num_classes=2)
    assert {value.unique().item() for name, value in network.state_dict().items() if "conv" in name} <= {2}
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("weights")]
    (head,) = {name.rpartition(".")[0] for name, value in NETWORK.state_dict().items() if len(value) == 3}
    assert lines == [
        f"weights  {source}: the average of the weights (model_ema), not the raw weights (model; weights_kind=raw); "
        f"without module.; new, for other classes: {head}"
    ]
    raw = build_model(tiny_config(f"weights={source}", "weights_kind=raw"), num_classes=3)
    assert next(iter(raw.state_dict().values())).unique().item() == 1


def test_a_runs_last_checkpoint_gives_the_same_weights_as_checkpoint_and_as_weights(
    tiny_config: Make, train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config("epochs=1", "ema_decay=0.9")
    train(config)
    last = tmp_path / "run/last.pt"
    taken: dict[str, Tensor] = {}
    for kind in ("average", "raw"):
        caplog.clear()
        caplog.set_level("INFO")
        checkpoint, weights = open_checkpoint(last, kind=kind), open_weights(str(last), config, kind=kind)
        for name, value in checkpoint.state.items():
            assert torch.equal(value, weights.state[name])
        assert f"{last}: the {'average of the' if kind == 'average' else 'raw'} weights (weights_kind=" in caplog.text
        assert f"weights  {last}: the {'average of the' if kind == 'average' else 'raw'} weights" in caplog.text
        taken[kind] = next(iter(checkpoint.state.values()))
    assert not torch.equal(taken["average"], taken["raw"])


def test_the_folder_of_a_run_gives_its_best_weights(tiny_config: Make, train: Train, tmp_path: Path) -> None:
    train(tiny_config("epochs=1"))
    by_folder, by_file = (read_weights(str(tmp_path / name), NETWORK) for name in ("run", "run/best.pt"))
    assert all(torch.equal(value, by_file.state[name]) for name, value in by_folder.state.items())
