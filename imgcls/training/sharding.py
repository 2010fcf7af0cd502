"""sharding=full: each rank keeps a part of the weights, of their gradients and of the optimizer's state.

It is torch's FSDP2: a block's weights are gathered when they are used, and dropped afterwards. Files hold whole
weights, so that a run goes on with or without sharding, on any number of ranks. FSDP2 is imported where weights are
shared out, as its import takes almost a second.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from imgcls import distributed
from imgcls.config import Config
from imgcls.errors import ConfigError
from imgcls.training.compiling import find_repeated_blocks

LARGE = 1_000_000  # weights of a layer that is gathered by itself, such as the first linear layers of VGG


def is_sharded(config: Config) -> bool:
    """Return True if the weights are shared out; a single process keeps all of them."""
    return config.sharding == "full" and distributed.world_size() > 1


def check_precision(config: Config, dtype: torch.dtype | None) -> None:
    """Refuse fp16: a gradient that is not finite on one rank would not be noticed by the others.

    Raises:
        ConfigError: with the precisions that there are.
    """
    if is_sharded(config) and dtype == torch.float16:
        raise ConfigError(f"sharding=full: precision={config.precision} is float16 here; use precision=bf16 or fp32")


def shard(network: nn.Module, config: Config, device: torch.device) -> nn.Module:
    """Share the weights of `network` out over all ranks, in place; each rank has the same ones before."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    reduce_dtype = torch.bfloat16 if config.ranks.gradients == "bf16" else None
    policy = MixedPrecisionPolicy(reduce_dtype=reduce_dtype)
    for unit in _units(network):
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy)
    return network.to(device)  # the buffers, which every rank keeps


def _units(network: nn.Module) -> list[nn.Module]:
    """Return what is gathered together: the repeated blocks, and large layers outside of them."""
    blocks = find_repeated_blocks(network)
    inside = {id(module) for block in blocks for module in block.modules()}
    large = [
        module
        for module in network.modules()
        if id(module) not in inside
        and sum(parameter.numel() for parameter in module.parameters(recurse=False)) >= LARGE
    ]
    return [*blocks, *(module for module in large if module is not network)]


def is_shared_out(value: Any) -> bool:
    """Return True for torch's DTensor, without importing it."""
    return isinstance(value, Tensor) and hasattr(value, "to_local")


def local_part(tensor: Tensor) -> Tensor:
    """Return the part of a shared-out tensor that this rank has; any other tensor as it is."""
    return tensor.to_local() if is_shared_out(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]


def whole(value: Any) -> Any:
    """Return a nest of dicts and lists with whole tensors in the place of shared-out ones, on the host of rank 0.

    All ranks must call it; the others get empty tensors, so that no rank has to hold what only rank 0 writes.
    """
    if is_shared_out(value):
        gathered = value.detach().full_tensor()
        return gathered.cpu() if distributed.is_main() else torch.empty(0)
    if isinstance(value, dict):
        return type(value)((key, whole(part)) for key, part in value.items())
    return [whole(part) for part in value] if isinstance(value, list) else value


def load_whole(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Load whole weights into a network, shared out or not."""
    own = network.state_dict()
    network.load_state_dict({name: _like(value, own.get(name)) for name, value in state.items()})


def load_whole_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Load an optimizer's whole state, whether its parameters are shared out or not."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    by_number = dict(zip(numbers, parameters, strict=True))
    state = {
        number: {name: _like(value, by_number[number]) for name, value in values.items()}
        for number, values in saved["state"].items()
    }
    # Whether a step is fused is of this run: torch has no fused SGD over parts of tensors.
    groups = [
        group | {"fused": own["fused"]} if "fused" in own else group
        for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**saved, "state": state, "param_groups": groups})


def _like(value: Any, own: Any) -> Any:
    """Return a `value` of the shape of `own` as `own` is: this rank's part of it, or in its memory format."""
    if not isinstance(own, Tensor) or not isinstance(value, Tensor) or value.shape != own.shape:
        return value
    if not is_shared_out(own):
        # In the memory format of the weights: a fused step goes through both in the order of their memory.
        return torch.empty_like(own, dtype=value.dtype).copy_(value)
    from torch.distributed.tensor import distribute_tensor

    # Every rank has the whole value: nothing is sent.
    shared_out: Any = own
    return distribute_tensor(value.to(own.device), shared_out.device_mesh, shared_out.placements, src_data_rank=None)


@contextmanager
def gathered(network: nn.Module) -> Iterator[None]:
    """Within this context every rank has all weights of a network: ranks validate different numbers of batches.

    Outside of it a forward pass is an exchange that all ranks must take part in.
    """
    parts: list[Any] = [module for module in network.modules() if hasattr(module, "set_reshard_after_forward")]
    for part in parts:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not network, recurse=False)  # as torch has it by default
            part.reshard()
