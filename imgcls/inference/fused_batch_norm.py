"""Batch normalisation folded into the convolution before it: fewer passes over the maps, the same numbers."""

import copy
import itertools
import logging

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

log = logging.getLogger(__name__)
TOLERANCE = 1e-4


@torch.inference_mode()
def fuse_batch_norms(network: nn.Module, images: Tensor) -> nn.Module:
    """Return a copy of `network`, in evaluation mode, whose batch norms are part of the convolutions before them.

    In a tree of modules a norm that follows a convolution need not be what comes after it in the forward pass; so the
    copy is compared with the network on `images` (B, C, H, W), and given up where it differs.
    """
    network = network.eval()
    folded = copy.deepcopy(network)
    num_folded = 0
    for module in list(folded.modules()):
        children = list(module.named_children())
        for (conv_name, conv), (norm_name, norm) in itertools.pairwise(children):
            if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and conv.out_channels == norm.num_features:
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
                num_folded += 1
    if not num_folded:
        return network
    expected, outputs = network(images), folded(images)
    difference = float((outputs - expected).abs().max() / expected.abs().max().clamp(min=1))
    if not difference <= TOLERANCE:
        log.debug("batch norms stay as they are: folded, the logits differ by %.2g", difference)
        return network
    return folded
