"""Whether a step fits in the host's memory, before it is tried: Linux kills a process that takes more."""

import logging
from dataclasses import dataclass

import torch
from torch import nn

from imgcls.config import Config
from imgcls.environment import available_memory
from imgcls.models import kept_bytes
from imgcls.training.freezing import Freezing

log = logging.getLogger(__name__)
# What a step takes at its peak, in times of what the forward pass keeps: also gradients of the maps, the scratch memory
# of convolutions, and freed blocks that are too small for the next tensor. It was 1.26 (ResNet-152, 32 images) to 2.3
# (AlexNet, 256 images) in nine steps of six networks at 224 px, in float32 by torch 2.15 on two AMD EPYC cores.
LEAST, MOST = 1.25, 2.5


@dataclass(frozen=True)
class HostMemory:
    """What a step on the CPU takes of the memory.

    Args:
        free: bytes that this process may still take, with its network built.
        of_image: bytes that the forward pass keeps of an image.
        of_weights: bytes of the weights that learn.
    """

    free: float
    of_image: float
    of_weights: float

    def least(self, num_images: int) -> float:
        """Return the bytes that a step takes at least with so many images at a time: gradients and maps."""
        return self.of_weights + LEAST * self.of_image * num_images

    def images_that_fit(self) -> int:
        """Return how many images at a time fit whatever the network, with gradients and two moments of each weight."""
        return max(0, int((self.free - 3 * self.of_weights) // max(MOST * self.of_image, 1.0)))


def host_memory(
    config: Config, network: nn.Module, freezing: Freezing, *, device: torch.device, dtype: torch.dtype | None
) -> HostMemory | None:
    """Return what a step of `network` takes of the host's memory.

    None on other devices, whose own error says it; where the system does not say what is free; and of compiled
    networks, which keep other tensors than the network as it is written.
    """
    if device.type != "cpu" or config.compile or (free := available_memory()) is None:
        return None
    with freezing.for_good():
        of_weights = sum(each.numel() * each.element_size() for each in network.parameters() if each.requires_grad)
        try:
            # A pass of its own: within the trial pass, a network that allows no look at it could not be tried.
            of_image = kept_bytes(
                network,
                channels=config.data.channels,
                size=config.input_size,
                autocast=dtype,
                in_eval=freezing.norms_for_good,
            )
        except RuntimeError as error:
            log.info("memory   what a step takes is not known before it: %s", str(error).partition("\n")[0])
            return None
    return HostMemory(free, of_image, float(of_weights))
