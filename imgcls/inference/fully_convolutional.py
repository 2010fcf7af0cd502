"""Make a classifier fully convolutional: our networks by their own method, others by their structure."""

from torch import nn

from imgcls.models import DenseHead


def fully_convolutional(network: nn.Module) -> nn.Module:
    """Return a network for images of any size and shape that shares the weights of `network`.

    Our networks have a method for it. Of others, a network whose maps are averaged to 1x1 already takes any size; one
    with larger maps before linear layers, as torchvision's AlexNet, gets a `DenseHead`.

    Raises:
        ValueError: a network that is not known to work on maps of any size.
    """
    own = getattr(network, "fully_convolutional", None)
    if own is not None:
        return own()
    classifier, features = getattr(network, "classifier", None), getattr(network, "features", None)
    pool = getattr(network, "avgpool", None)
    if isinstance(pool, nn.AdaptiveAvgPool2d):
        side = pool.output_size if isinstance(pool.output_size, int) else 0
        side = pool.output_size[0] or 0 if isinstance(pool.output_size, tuple) else side
        if side == 1:
            return network
        if side and isinstance(classifier, nn.Sequential) and isinstance(features, nn.Module):
            return DenseHead(network, features, list(classifier), side=side)
    raise ValueError(
        f"protocol=dense: {type(network).__name__} is not known to work on maps of any size; "
        "use a protocol of crops, such as protocol=center or protocol=ten_crop"
    )
