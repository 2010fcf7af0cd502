"""How well a network does on images it was not trained on."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls import distributed
from imgcls.config import EvaluateConfig
from imgcls.data.loading import BadImages, Batch, ImageViews, Loader, view_images
from imgcls.data.sets import Split
from imgcls.device import autocast_dtype, float64_device
from imgcls.environment import default_num_threads
from imgcls.inference.fused_batch_norm import fuse_batch_norms
from imgcls.inference.network import Member, validation_crop
from imgcls.inference.protocols import TestProtocol
from imgcls.metrics import TOPK, Meter, Scores, metrics_of
from imgcls.runs import Progress


class Predictions(NamedTuple):
    """Log-probabilities (N, K) float32 and the images' positions in their split (N,) int64, ascending; on the CPU."""

    log_probs: Tensor
    indices: Tensor


@torch.inference_mode()
def predict(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    prepare: Callable[[Tensor], Tensor],
    device: torch.device,
    autocast: torch.dtype | None = None,
    flip: bool = False,
    average: str = "softmax",
    after_batch: Callable[[int], None] = lambda num_images: None,
) -> Predictions:
    """Predict images of one view each, as the loader gives them; `flip` averages over each and its mirror image."""
    model.eval()
    log_probs: list[Tensor] = []
    indices: list[Tensor] = []
    for batch in batches:
        if len(batch.labels):  # none is left where all of them were bad
            shown = _outputs(model, prepare(batch.images), autocast=autocast, flip=flip, average=average)
            log_probs.append(_mean(shown, average).cpu())
            indices.append(batch.indices.cpu().clone())  # the batch's own memory is used again
        after_batch(len(batch.indices))
    return _ordered(log_probs, indices)


@torch.inference_mode()
def predict_views(
    model: nn.Module,
    images: Iterable[ImageViews],
    *,
    prepare: Callable[[Tensor], Tensor],
    device: torch.device,
    max_pixels: int,
    autocast: torch.dtype | None = None,
    flip: bool = False,
    average: str = "softmax",
    after_batch: Callable[[int], None] = lambda num_images: None,
) -> Predictions:
    """Predict images of several views each, of any sizes: the mean over an image's views, and their mirror images.

    Args:
        max_pixels: that go through the network at once; views of one size share a forward pass.
        average: softmax or logits, what the mean is taken of.
    """
    model.eval()
    log_probs: list[Tensor] = []
    indices: list[Tensor] = []

    def finish(window: list[ImageViews]) -> None:
        by_size: dict[tuple[int, int], list[tuple[int, np.ndarray]]] = {}
        for position, viewed in enumerate(window):
            for view in viewed.views:
                by_size.setdefault(view.shape[:2], []).append((position, view))
        outputs: list[list[Tensor]] = [[] for _ in window]
        for (rows, columns), members in by_size.items():
            at_once = max(1, max_pixels // (rows * columns))
            for first in range(0, len(members), at_once):
                part = members[first : first + at_once]
                pixels = prepare(torch.from_numpy(np.stack([view for _, view in part])).to(device))
                shown = _outputs(model, pixels, autocast=autocast, flip=flip, average=average)
                for (position, _), output in zip(part, shown.unbind(dim=1), strict=True):
                    outputs[position].append(output)
        log_probs.append(torch.stack([_mean(torch.cat(output), average) for output in outputs]).cpu())
        indices.append(torch.tensor([viewed.index for viewed in window]))
        after_batch(len(window))

    window: list[ImageViews] = []
    pixels_waiting = 0
    for viewed in images:
        window.append(viewed)
        pixels_waiting += sum(view.shape[0] * view.shape[1] for view in viewed.views)
        # Several passes' worth: views of odd sizes wait for others of theirs.
        if pixels_waiting >= 4 * max_pixels:
            finish(window)
            window, pixels_waiting = [], 0
    if window:
        finish(window)
    return _ordered(log_probs, indices)


def _outputs(model: nn.Module, pixels: Tensor, *, autocast: torch.dtype | None, flip: bool, average: str) -> Tensor:
    # (1, B, K), or (2, B, K) with the mirror images: logits, or log-probabilities, whose softmax may be too small for a
    # number. In float64, so that a mean does not depend on how the views were cut into passes.
    outputs = []
    for shown in (pixels, pixels.flip(3)) if flip else (pixels,):
        with torch.autocast(pixels.device.type, dtype=autocast, enabled=autocast is not None):
            logits = model(shown)
        logits = logits.to(float64_device(logits.device)).double()
        outputs.append(logits if average == "logits" else logits.log_softmax(dim=1))
    return torch.stack(outputs)


def _mean(outputs: Tensor, average: str) -> Tensor:
    # (views, ..., K) to the log-probabilities (..., K) of their mean.
    if average == "logits":
        return outputs.mean(dim=0).log_softmax(dim=-1).float()
    return (outputs.logsumexp(dim=0) - math.log(len(outputs))).float()


def _ordered(log_probs: list[Tensor], indices: list[Tensor]) -> Predictions:
    if not log_probs:
        return Predictions(torch.empty(0, 0), torch.empty(0, dtype=torch.int64))
    everything = torch.cat(indices)
    order = everything.argsort()
    return Predictions(torch.cat(log_probs)[order], everything[order])


def gather_predictions(predictions: Predictions) -> Predictions | None:
    """Join the ranks' shares on the main one, each image once; return None on the others."""
    parts = distributed.gather(tuple(predictions))
    if parts is None:
        return None
    # A rank without images knows of no classes either.
    parts = [part for part in parts if len(part[1])]
    return _ordered([part[0] for part in parts], [part[1] for part in parts])


def scores_of_predictions(predictions: Predictions, labels: Tensor, topk: Iterable[int] = TOPK) -> Scores:
    """Return the scores of predictions, given the labels (N,) of the same images."""
    meter = Meter(torch.device("cpu"), predictions.log_probs.shape[1], metrics_of(topk))
    if len(labels):
        log_probs = predictions.log_probs.double()
        meter.update(F.nll_loss(log_probs, labels), log_probs, labels)
    return meter.scores(predictions.log_probs.shape[1])


def ensemble_predictions(members: Sequence[Predictions]) -> Predictions:
    """Return an ensemble's predictions of the same images: the mean of the members' probabilities."""
    stacked = torch.stack([member.log_probs.double() for member in members])
    return Predictions((stacked.logsumexp(dim=0) - math.log(len(members))).float(), members[0].indices)


def predict_split(
    member: Member, split: Split, protocol: TestProtocol, config: EvaluateConfig, device: torch.device
) -> Predictions | None:
    """Run the network over the images, each rank its share; the main rank gets all predictions, others None.

    Raises:
        ConfigError: the network does not take images of that size.
    """
    network = member.build(device, channels_last=config.channels_last)
    with member.explained(network):
        return _predict_split(network, member, split, protocol, config, device)


def _predict_split(
    network: nn.Module,
    member: Member,
    split: Split,
    protocol: TestProtocol,
    config: EvaluateConfig,
    device: torch.device,
) -> Predictions | None:
    data, size = member.config.data, member.config.input_size
    prepare = _layout(member.prepare(device), channels_last=config.channels_last)
    # A trial image of noise: the sizes of weights are what folding could get wrong.
    trial = torch.randint(0, 256, (2, *size, data.channels), generator=torch.Generator().manual_seed(0))
    network = fuse_batch_norms(network, prepare(trial.to(device, torch.uint8)))
    network = protocol.prepare(network)
    crop = validation_crop(member)
    rank, ranks = distributed.rank(), distributed.world_size()
    threads = data.num_threads or default_num_threads()
    common: dict[str, Any] = {
        "prepare": prepare,
        "device": device,
        "autocast": autocast_dtype(config.precision, device, size),
        "flip": protocol.flip,
        "average": protocol.average,
    }
    share = range(rank, len(split), ranks)
    with Progress("test", total=len(share), num_images=1, enabled=distributed.is_main()) as progress:

        def after_batch(num_images: int) -> None:
            for _ in range(num_images):
                progress.advance()

        if (only_crop := protocol.only_crop(crop)) is not None:
            loader = Loader(
                split,
                only_crop,
                image_size=size,
                batch_size=config.batch_size * ranks,
                seed=0,
                shuffle=False,
                channels=data.channels,
                interpolation=member.interpolation,
                rank=rank,
                world_size=ranks,
                num_threads=threads,
                prefetch=data.prefetch,
                device=device,
                on_bad_image=data.on_bad_image,  # type: ignore[arg-type]
                max_bad_share=data.max_bad_share,
                cache_gb=data.cache_gb,
                pillow_draft=data.pillow_draft,
            )
            predictions = predict(network, loader.epoch(0), after_batch=after_batch, **common)
            loader.close()
            bad = loader.bad_images
        else:

            def plan(height: int, width: int) -> list[Any]:
                return protocol.views(height, width, image_size=size, crop=crop)

            bad = BadImages(split, skip=data.on_bad_image == "skip", max_share=data.max_bad_share)
            images = view_images(
                split,
                share,
                plan,
                channels=data.channels,
                num_threads=threads,
                interpolation=member.interpolation,
                on_bad=bad.note,
            )
            at_once = config.batch_size * size.num_pixels
            predictions = predict_views(network, images, max_pixels=at_once, after_batch=after_batch, **common)
    bad.share()
    bad.check()
    return gather_predictions(predictions)


def _layout(prepare: Callable[[Tensor], Tensor], *, channels_last: bool) -> Callable[[Tensor], Tensor]:
    return prepare if channels_last else lambda pixels: prepare(pixels).contiguous()
