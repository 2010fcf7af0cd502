"""Learning rates, the parameters that decay, and the average of the weights."""

import copy
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from imgcls.training.sharding import local_part


def without_dynamo(kind: type[Optimizer]) -> type[Optimizer]:
    """Return an optimizer of torch's as a subclass that does the same without importing torch._dynamo.

    torch (2.11 to 2.15) wraps the methods of its optimizers so that torch.compile leaves them out, and the wrappers
    import its compiler, which takes as long as all the rest of torch. The subclass has the methods that they wrap, and
    what the wrapper of `step` does besides: no gradients. Optimizers from elsewhere are returned as they are.
    """
    if not is_of_torch(kind):
        return kind
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), methods)


def is_of_torch(kind: Any) -> bool:
    """Return True for an optimizer of torch's."""
    return isinstance(kind, type) and issubclass(kind, Optimizer) and kind.__module__.startswith("torch.optim")


def set_lr(optimizer: Optimizer, factor: float) -> float:
    """Set every group's lr to `factor` times its first one; return the first group's."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
    return optimizer.param_groups[0]["lr"]


def fill_momenta(optimizer: Optimizer, late: Iterable[Tensor]) -> None:
    """Give parameters that begin to learn `late`, after others of their group, the momentum of zero that SGD needs.

    Its fused step (torch 2.11 to 2.15) takes a momentum of each parameter of a group or of none.
    """
    learning = {id(parameter) for parameter in late if parameter.requires_grad}
    if not isinstance(optimizer, torch.optim.SGD) or not learning:
        return
    for group in optimizer.param_groups:
        new = [each for each in group["params"] if id(each) in learning and not has_momentum(optimizer, each)]
        if group["momentum"] and new and any(has_momentum(optimizer, each) for each in group["params"]):
            for parameter in new:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def has_momentum(optimizer: Optimizer, parameter: Tensor) -> bool:
    return optimizer.state.get(parameter, {}).get("momentum_buffer") is not None


def parameter_groups(model: nn.Module, *, decay_norms_and_biases: bool) -> list[dict[str, Any]]:
    """Return the model's parameters for an optimizer: one group, or a second one, undecayed, of norms and biases.

    He et al. 2019, section 3.1: only the weights of convolutions and linear layers decay. Those have two axes or more,
    and are called so; a transformer's embeddings and tokens, and the scales of layers, are not.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if decay_norms_and_biases:
        return [{"params": [parameter for _, parameter in named]}]
    decays = {name: parameter.ndim >= 2 and name.endswith("weight") for name, parameter in named}
    return [
        {"params": [parameter for name, parameter in named if decays[name]]},
        {"params": [parameter for name, parameter in named if not decays[name]], "weight_decay": 0.0},
    ]


class WeightAverage:
    """The exponential moving average of a model's weights, in a copy that is evaluated in its stead.

    Floating-point buffers are averaged as well, as by torch's AveragedModel(use_buffers=True): batch-norm statistics
    are of the activations that the newest weights give, and fit those of the average no better than the newest weights
    would. Integer buffers, which count, are copied. In the first steps the decay is at most (1 + steps) / (10 + steps),
    or the average would stay near the random weights it starts from.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, *, step: int) -> None:
        """Move the average towards `model` after optimizer step `step`, the first being 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        (averages, counts), (newest, newest_counts) = _split(self.model), _split(model)
        # One kernel for all the tensors, as torch's own averaged models do it.
        torch._foreach_lerp_(averages, newest, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        if counts:
            torch._foreach_copy_(counts, newest_counts)  # pyright: ignore[reportPrivateImportUsage]


def _split(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors of a model that are averaged, then those that are copied."""
    tensors = [local_part(tensor.detach()) for tensor in (*model.parameters(), *model.buffers())]
    averaged = [tensor for tensor in tensors if tensor.is_floating_point()]
    return averaged, [tensor for tensor in tensors if not tensor.is_floating_point()]
