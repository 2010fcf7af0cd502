"""The training steps of other programs, on one batch of floats: what `gpu_report.py` measures ours against.

Each is written after what its program does in a step, by the options that its authors name fastest. They get their
images normalised and on the device already; our own step starts from bytes.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def published_network(name: str, *, num_classes: int) -> nn.Module | None:
    """Return torchvision's network of the same name as ours, or None if it has none."""
    import torchvision

    if name not in torchvision.models.list_models(module=torchvision.models):
        return None
    settings: dict[str, Any] = {"init_weights": False, "aux_logits": True} if name == "googlenet" else {}
    return torchvision.models.get_model(name, num_classes=num_classes, **settings)


def torchvision_step(network: nn.Module, device: torch.device, *, shape: tuple[int, ...]) -> Callable[[], int]:
    """Return a step of torchvision's references/classification/train.py with --amp: fp16, scaled loss, no compiler.

    It reads the loss and two accuracies of every step back to the host.
    """
    network = network.to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    criterion = nn.CrossEntropyLoss()
    images, labels = _batch(shape, device)

    def step() -> int:
        with _autocast(device, torch.float16):
            loss, logits = _loss(criterion, network(images), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        right = logits.detach().topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        for figure in (loss, right[:, 0].sum(), right.sum()):
            figure.item()
        return len(images)

    return step


def timm_step(network: nn.Module, device: torch.device, *, shape: tuple[int, ...], compiled: bool) -> Callable[[], int]:
    """Return a step of timm's train.py with --amp --amp-dtype bfloat16 --channels-last --torchcompile."""
    network = network.to(device, memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, nesterov=True, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()
    images, labels = _batch(shape, device)
    images = images.contiguous(memory_format=torch.channels_last)
    forward: Any = torch.compile(network) if compiled else network

    def step() -> int:
        with _autocast(device, torch.bfloat16):
            loss, _ = _loss(criterion, forward(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return len(images)

    return step


def _batch(shape: tuple[int, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(shape, device=device), torch.arange(shape[0], device=device) % 10


def _autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast("cuda", dtype=dtype) if device.type == "cuda" else contextlib.nullcontext()


def _loss(criterion: nn.Module, output: Any, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss and the logits; GoogLeNet has two auxiliary outputs (Szegedy et al. 2014: a weight of 0.3)."""
    if isinstance(output, torch.Tensor):
        return criterion(output, labels), output
    logits, *auxiliary = output
    return criterion(logits, labels) + 0.3 * sum(criterion(each, labels) for each in auxiliary), logits
