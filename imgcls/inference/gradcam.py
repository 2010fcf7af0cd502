"""Where in an image a network sees a class.

Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization".
"""

import torch
from torch import Tensor, nn


def grad_cam(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Maps (B, h, w) in 0..1 of what speaks for `classes` (B,) in images (B, C, H, W).

    Section 3: the last maps, each weighted by the mean of its gradient, summed and rectified; here scaled to a largest
    value of 1.

    Raises:
        ValueError: the network has no maps before its last layer, as a transformer.
    """
    last: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: object) -> Tensor | None:
        del module, inputs
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            # A copy goes on, as the next layer may overwrite what it is given; the gradient is that of the copy.
            last[:] = [output.clone()]
            return last[0]
        return None

    hooks = [module.register_forward_hook(keep) for module in network.modules() if module is not network]
    try:
        with torch.enable_grad():
            scores = network(images.requires_grad_())
            if not last:
                raise ValueError(
                    f"{type(network).__name__} has no maps of more than one position before its last layer, "
                    "which Grad-CAM needs; use a larger image_size, or a convolutional network"
                )
            chosen = scores.gather(1, classes[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, last[0])
    finally:
        for hook in hooks:
            hook.remove()
    heat = (last[0] * gradient.mean(dim=(2, 3), keepdim=True)).sum(dim=1).relu().detach()
    return heat / heat.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
