"""What the settings of a run risk, with its network and images known."""

import logging

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from imgcls import distributed
from imgcls.config import Config, Facts, Risk, find_risks
from imgcls.training.groups import lr_scale

log = logging.getLogger(__name__)
NORMALISING = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.modules.instancenorm._InstanceNorm)


def risks_of(config: Config, network: nn.Module, *, num_images: int) -> list[Risk]:
    """Return the settings that are known to fail in a run of `network`, which may be an outline, on `num_images`."""
    lr = config.optimizer.get("lr")
    layers = list(network.modules())
    facts = Facts(
        lr=None if lr is None else lr * lr_scale(config),
        num_images=num_images,
        num_ranks=distributed.world_size(),
        depth=sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in layers),
        normalised=any(isinstance(layer, NORMALISING) or "Norm2d" in type(layer).__name__ for layer in layers),
        batch_norm=any(isinstance(layer, _BatchNorm) for layer in layers),
    )
    return find_risks(config, facts)


def log_risks(config: Config, network: nn.Module, *, num_images: int) -> None:
    """Log each setting that is known to fail as a warning, with the switch that turns it off."""
    for risk in risks_of(config, network, num_images=num_images):
        log.warning("warning  %s (silence=[%s] turns this off)", risk.text, risk.name)
