"""A trial pass: whether a network takes the images of a run, tried before anything is trained or written.

Two images go through the network itself, on its device. Tensors without values (torch's meta device) would need none
of that work, but import torch.compile's machinery, which takes longer than the pass.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call

from imgcls.config import ImageSize
from imgcls.device import is_out_of_memory
from imgcls.errors import ConfigError

# What a layer raises where a size cannot work. Other errors are bugs of the network, which need their traceback.
REFUSALS = (ValueError, RuntimeError, AssertionError, IndexError, TypeError)
ONE_VALUE = "more than 1 value per channel"  # torch's words of a batch norm that has one value to average
SIZES = (32, 48, 64, 96, 128, 160, 192, 224, 256, 299, 384, 448, 512)  # tried for the advice
OF_LIBRARIES = ("imgcls", "torchvision", "timm")


def try_out(
    network: nn.Module,
    *,
    num_images: int,
    channels: int,
    size: tuple[int, int],
    num_classes: int,
    autocast: torch.dtype | None = None,
    in_eval: Collection[nn.Module] = (),
) -> Tensor | tuple[Tensor, ...]:
    """Train on images without content as the run would, less the step; the network and its draws stay as they were.

    Args:
        num_images: how many go through the network at a time.
        size: height and width of the images.
        num_classes: how many logits it must return for each, at least.
        in_eval: the layers that are in eval mode in training.

    Returns:
        The output of the network.

    Raises:
        ConfigError: the network does not take such images, or so few, or returns no logits.
    """
    # With two images no batch norm has a single value, as with any larger number.
    num_images = min(num_images, 2)

    def attempt(height: int, width: int, count: int) -> Tensor | tuple[Tensor, ...]:
        return _forward(network, (count, channels, height, width), autocast=autocast, in_eval=in_eval)

    def works(height: int, width: int, count: int) -> bool:
        try:
            attempt(height, width, count)
        except (*REFUSALS, ConfigError):
            return False
        return True

    try:
        output = attempt(*size, num_images)
    except REFUSALS as error:
        if is_out_of_memory(error):
            raise
        if ONE_VALUE in str(error):
            advice = ["2 images or more (batch_size for each device, over microbatch)"] if works(*size, 2) else []
            advice += [_size_words((larger, larger)) for larger in _larger(size) if works(larger, larger, 1)][:1]
            raise ConfigError(
                f"{_size_words(size)} with one image at a time: a batch norm of {_name(network)} would have one value "
                f"to average; use {' or '.join(advice) or 'another model'}"
            ) from error
        if _is_own(network):
            raise  # the traceback says where
        advice = [_size_words((larger, larger)) for larger in _larger(size) if works(larger, larger, num_images)][:1]
        option = getattr(network, "size_option", None)
        if option is not None:
            advice.append(f"+model.{option}={_size_words(size).partition('=')[2]}, which builds it for that size")
        raise _refusal(network, size, error, advice) from error
    _check_logits(network, output, num_images, num_classes)
    return output


@contextmanager
def explained_sizes(network: nn.Module, *, channels: int, size: tuple[int, int]) -> Iterator[None]:
    """Within this context an error of `network` that comes from the size of its images is one line.

    Only then one image goes through it, in eval mode, to see whether it is the size.

    Raises:
        ConfigError: the network does not take images of `size`.
    """
    try:
        yield
    except REFUSALS as error:
        if not isinstance(error, ConfigError) and not is_out_of_memory(error):
            _check_in_test(network, channels, size)
        raise


@torch.inference_mode()
def _check_in_test(network: nn.Module, channels: int, size: tuple[int, int]) -> None:
    """Let an image of `size` through the network as in a test.

    Raises:
        ConfigError: the network does not take it.
    """
    device = next((each.device for each in network.parameters()), torch.device("cpu"))

    def refused(height: int, width: int) -> Exception | None:
        try:
            network.eval()(torch.zeros(1, channels, height, width, device=device))
        except REFUSALS as error:
            if is_out_of_memory(error):
                raise
            return error
        return None

    if _is_own(network) or (error := refused(*size)) is None:
        return
    others = [*_larger(size), *(side for side in reversed(SIZES) if side < min(size))]
    advice = next(([_size_words((side, side))] for side in others if refused(side, side) is None), [])
    raise _refusal(network, size, error, advice) from error


def _is_own(network: nn.Module) -> bool:
    """Return True of a network of the user's own."""
    return type(network).__module__.partition(".")[0] not in OF_LIBRARIES


def _refusal(network: nn.Module, size: tuple[int, int], error: Exception, advice: Sequence[str]) -> ConfigError:
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return ConfigError(
        f"{_size_words(size)} does not work with {_name(network)}: {reason.rstrip('.')}; use "
        f"{' or '.join(advice) or 'another image_size or model'}"
    )


def parameters_without_gradient(network: nn.Module, output: Tensor | tuple[Tensor, ...]) -> list[str]:
    """Return the names of the parameters that learn but do not contribute to `output`: they get no gradient."""
    outputs = output if isinstance(output, tuple) else (output,)
    learning = {name: each for name, each in network.named_parameters() if each.requires_grad}
    if not learning:
        return []
    gradients = torch.autograd.grad(
        torch.stack([each.float().sum() for each in outputs]).sum(), list(learning.values()), allow_unused=True
    )
    return [name for name, gradient in zip(learning, gradients, strict=True) if gradient is None]


def kept_bytes(
    network: nn.Module,
    *,
    channels: int,
    size: tuple[int, int],
    autocast: torch.dtype | None = None,
    in_eval: Collection[nn.Module] = (),
) -> float:
    """Return the bytes of an image that a forward pass in training keeps for the backward pass, without the weights.

    Args:
        size, autocast, in_eval: as of `try_out`, which has found that the network takes such images.

    Raises:
        RuntimeError: the network allows no look at what it keeps, as with torch.func's gradients within its forward.
    """
    weights = [*network.parameters(), *network.buffers()]
    storages, shapes = {_storage(each) for each in weights}, {tuple(sorted(each.shape)) for each in weights}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Of a weight's shape: its copy in mixed precision, or a batch norm's statistics.
        if _storage(tensor) not in storages and tuple(sorted(tensor.shape)) not in shapes:
            kept[_storage(tensor)] = tensor.untyped_storage()  # held, so that no other one gets its number
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = _forward(network, (2, channels, *size), autocast=autocast, in_eval=in_eval)
    del output
    return sum(storage.nbytes() for storage in kept.values()) / 2


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _forward(
    network: nn.Module, shape: Sequence[int], *, autocast: torch.dtype | None, in_eval: Collection[nn.Module]
) -> Tensor | tuple[Tensor, ...]:
    device = next((each.device for each in network.parameters()), torch.device("cpu"))
    images = torch.zeros(*shape, device=device)
    buffers = {name: each.clone() for name, each in network.named_buffers()}  # statistics that the pass changes
    precision = nullcontext() if autocast is None else torch.autocast(device.type, dtype=autocast)
    # cuDNN would time all its kernels for a shape that does not come again.
    quick = torch.backends.cudnn.flags(benchmark=False, deterministic=torch.backends.cudnn.deterministic)
    with _training(network, in_eval), torch.random.fork_rng(devices=[]), quick, precision:
        return functional_call(network, buffers, (images,))


@contextmanager
def _training(network: nn.Module, in_eval: Collection[nn.Module]) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.train()
    for module in in_eval:
        module.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _check_logits(network: nn.Module, output: object, num_images: int, num_classes: int) -> None:
    logits = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(logits, Tensor):
        raise ConfigError(
            f"{_name(network)} returns {type(logits).__name__} in training; a network returns logits, or a tuple of "
            "them whose first are the logits and the rest those of auxiliary heads"
        )
    if logits.dim() != 2 or len(logits) != num_images or logits.shape[1] < num_classes:
        raise ConfigError(
            f"{_name(network)} returns {'x'.join(map(str, logits.shape))} for {num_images} images; a network returns "
            f"logits, an image a row, with {num_classes} columns for the data's classes"
        )


def _larger(size: tuple[int, int]) -> list[int]:
    return [side for side in SIZES if side > max(size)]


def _size_words(size: tuple[int, int]) -> str:
    return f"image_size={ImageSize(*size).setting}".replace(" ", "")


def _name(network: nn.Module) -> str:
    return str(getattr(network, "arch", type(network).__name__))
