"""The accuracy of an exported network beside that of its checkpoint, and the images that int8 is calibrated by."""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from imgcls.config import EvaluateConfig
from imgcls.data.loading import Loader
from imgcls.data.on_device import Normalise, input_statistics
from imgcls.data.sets import ImageSet, Split, open_image_set
from imgcls.evaluation.evaluate import labels_for, use_data
from imgcls.inference import Member, input_of, open_exported, predict, scores_of_predictions, validation_crop
from imgcls.metrics import Scores
from imgcls.startup import ExportForm

log = logging.getLogger(__name__)
CPU = torch.device("cpu")
BATCH = 32


def images_of(member: Member, root: str | None) -> ImageSet:
    """Open the images that the network was trained on, or those below `root`; the member keeps where they are.

    Raises:
        ValueError, FileNotFoundError: there are none, or they have classes that the network does not know.
    """
    config = EvaluateConfig()
    config.data.root = root
    use_data(member, config)
    images = open_image_set(member.config)
    labels_for(member, images)
    return images


def calibration_pixels(member: Member, images: ImageSet, num_images: int) -> Tensor:
    """Return training images (N, H, W, C) uint8, drawn at random from seed 0 and cropped as in validation."""
    split = images.train
    if split is images.val or (split.path(0), len(split)) == (images.val.path(0), len(images.val)):
        log.info("int8     calibrated by validation images: there are no training images")
    pixels: list[Tensor] = []
    with _batches(member, split, shuffle=True) as batches:
        for batch in batches:
            pixels.append(batch.images.clone())
            if sum(map(len, pixels)) >= num_images:
                break
    return torch.cat(pixels)[:num_images]


def scores_beside(member: Member, images: ImageSet, file: Path, form: ExportForm) -> tuple[Scores, Scores]:
    """Return the scores on the validation images of the checkpoint's network, and of the file that was exported."""
    normalise = Normalise(**input_statistics(member.config))
    exported = _Exported(open_exported(file, form), is_softmax=form.softmax)
    network = member.build(CPU, channels_last=False)
    own = _score(member, images, network, lambda pixels: normalise(pixels).contiguous())
    return own, _score(member, images, exported, lambda pixels: input_of(pixels, normalise, form))


class _Exported(nn.Module):
    """An exported file as a module that gives logits."""

    def __init__(self, run: Callable[[Tensor], Tensor], *, is_softmax: bool) -> None:
        super().__init__()
        self.run = run
        self.is_softmax = is_softmax

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.run(images)
        return outputs.clamp(min=1e-30).log() if self.is_softmax else outputs


def _score(member: Member, images: ImageSet, network: nn.Module, prepare: Callable[[Tensor], Tensor]) -> Scores:
    with _batches(member, images.val, shuffle=False) as batches:
        predictions = predict(network, batches, prepare=prepare, device=CPU)
    labels = torch.from_numpy(labels_for(member, images))[predictions.indices]
    return scores_of_predictions(predictions, labels)


@contextmanager
def _batches(member: Member, split: Split, *, shuffle: bool) -> Generator[Generator, None, None]:
    data = member.config.data
    loader = Loader(
        split,
        validation_crop(member),
        image_size=member.config.image_size,
        batch_size=min(BATCH, len(split)),
        seed=0,
        shuffle=shuffle,
        channels=data.channels,
        interpolation=member.interpolation,
        num_threads=data.num_threads,
        device=CPU,
    )
    batches = loader.epoch(0)
    try:
        yield batches
    finally:
        batches.close()
        loader.close()
