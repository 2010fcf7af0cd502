"""Wrong settings of training are refused when the config is composed."""

import pytest
import torch
from torch import nn

from imgcls import distributed
from imgcls.config import compose
from imgcls.errors import ConfigError
from imgcls.training.factory import sync_batch_norm

from .helpers import Make


@pytest.mark.parametrize(
    "override, words",
    [
        ("microbatch=half", ["microbatch=half", "auto"]),
        ("microbatch=0", ["microbatch=0", "at least 1"]),
        ("microbatch=13", ["microbatch=13", "batch_size=12"]),
        ("checkpoint.keep=-1", ["checkpoint.keep=-1"]),
        ("checkpoint.best_metric=top2", ["checkpoint.best_metric=top2", "add it to topk=[1,5]"]),
        ("on_divergence=rolback", ["on_divergence=rolback", "did you mean rollback?"]),
        ("divergence.on_stuck=stopp", ["divergence.on_stuck=stopp", "did you mean stop?"]),
        ("divergence.lr_factor=2", ["divergence.lr_factor=2", "at most 1"]),
        ("divergence.stuck_epochs=0", ["divergence.stuck_epochs=0", "divergence.on_stuck=ignore"]),
        ("divergence.max_rollbacks=0", ["divergence.max_rollbacks=0"]),
    ],
)
def test_a_wrong_setting_is_refused_with_the_way_out(override: str, words: list[str], tiny_config: Make) -> None:
    with pytest.raises(ConfigError) as error:
        tiny_config(override)
    for word in words:
        assert word in str(error.value)


def test_batch_norms_are_synced_over_several_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    config, gpu = compose(["model=resnet18", "data=folder", "sync_batch_norm=true"]), torch.device("cuda")
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert sync_batch_norm(network, config, torch.device("cpu")) is network
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match=r"sync_batch_norm=true: .* CUDA devices alone"):
        sync_batch_norm(network, config, torch.device("cpu"))
    names = list(network.state_dict())
    synced = sync_batch_norm(network, config, gpu)
    assert isinstance(synced[1], nn.SyncBatchNorm)  # type: ignore[index]
    assert list(synced.state_dict()) == names
