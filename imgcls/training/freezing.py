"""Layers that do not learn, for good or in the first epochs: their weights and their batch-norm statistics stay."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from imgcls.config import Config
from imgcls.errors import ConfigError, did_you_mean
from imgcls.models import find_heads, is_head


def is_inside(name: str, prefix: str) -> bool:
    """Return True if a parameter or a layer is `prefix` or a part of it: layer1.0 is inside layer1, layer10 is not."""
    return name == prefix or name.startswith(f"{prefix}.")


def check_layers(key: str, prefixes: list[str], network: nn.Module) -> None:
    """Check that the network has parameters below each of `prefixes`.

    Raises:
        ConfigError: with the nearest name, and the network's layers.
    """
    names = [name for name, _ in network.named_parameters()]
    for prefix in prefixes:
        if not any(is_inside(name, prefix) for name in names):
            parts = [name.split(".") for name in names]
            layers = dict.fromkeys(".".join(name[:depth]) for name in parts for depth in range(1, len(name)))
            top = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
            raise ConfigError(
                f"{key}: the network has no layer {prefix}{did_you_mean(prefix, layers)}; its layers are {top}"
            )


def frozen_layers(config: Config, network: nn.Module) -> Callable[[str], bool]:
    """Return the function from the name of a parameter or a layer to whether `freeze` says that it does not learn.

    Raises:
        ConfigError: the network has no such layer, or nothing is left that learns.
    """
    freeze = config.freeze
    if freeze == "none":
        return lambda name: False
    if freeze == "backbone":
        heads = find_heads(network)
        return lambda name: not is_head(name, heads)
    check_layers(f"freeze=[{','.join(freeze)}]", freeze, network)

    def frozen(name: str) -> bool:
        return any(is_inside(name, prefix) for prefix in freeze)

    if all(frozen(name) for name, parameter in network.named_parameters() if parameter.requires_grad):
        raise ConfigError(f"freeze=[{','.join(freeze)}] leaves nothing that learns; leave the last layer out")
    return frozen


class Freezing:
    """The frozen layers of a network, and how long they are; a function of the epoch alone."""

    def __init__(self, config: Config, network: nn.Module) -> None:
        frozen = frozen_layers(config, network)
        self.until_epoch = config.unfreeze_after_epochs
        # A parameter that never learns, as a fixed embedding, is not unfrozen.
        learns = [(name, each) for name, each in network.named_parameters() if each.requires_grad]
        self.parameters = [parameter for name, parameter in learns if frozen(name)]
        kinds = nn.modules.batchnorm._NormBase
        self.norms = [each for name, each in network.named_modules() if isinstance(each, kinds) and frozen(name)]
        self._applied = False

    def holds(self, epoch: int) -> bool:
        """Return True if the layers are frozen in `epoch`, the first being 0."""
        return bool(self.parameters) and (self.until_epoch is None or epoch < self.until_epoch)

    def apply(self, epoch: int) -> bool:
        """Freeze the layers, or let them learn, as `epoch` has it; return True if that is a change."""
        if self.holds(epoch) == self._applied:
            return False
        self._applied = not self._applied
        for parameter in self.parameters:
            parameter.requires_grad_(not self._applied)
        return True

    def keep_in_eval(self) -> None:
        """Put the frozen batch norms into eval mode, after the whole network was put into training mode."""
        for norm in self.norms if self._applied else ():
            norm.eval()

    @property
    def norms_for_good(self) -> Sequence[nn.Module]:
        """The batch norms that are in eval mode in every step of the run."""
        return self.norms if self.until_epoch is None else []

    @contextmanager
    def for_good(self) -> Iterator[None]:
        """Within this context the parameters that learn in no step of the run need no gradient."""
        parameters = self.parameters if self.until_epoch is None else []
        for parameter in parameters:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(not self._applied)

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Within this context all parameters that can learn are as if nothing was frozen."""
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in self.parameters:
                parameter.requires_grad_(not self._applied)
