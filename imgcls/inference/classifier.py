"""A network that names what images in memory show, for programs that use imgcls as a library."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from imgcls.config import build_protocol
from imgcls.data.decoding import PixelRules, pixels_of
from imgcls.data.loading import view_images
from imgcls.data.sets import pixel_rules
from imgcls.environment import default_num_threads
from imgcls.inference.network import Member, known_classes, validation_crop
from imgcls.inference.predict import ClassProbability, name_classes
from imgcls.inference.predictor import Predictions, predict_views


class Classifier:
    """A trained network with its classes and the input that it takes.

    Args:
        member: the network, not yet built.

    Attributes:
        network: the module itself, in eval mode; it takes what `prepare` makes of uint8 images (B, H, W, C).
        classes: what its outputs mean.
        image_size: height and width of what the network sees.
    """

    def __init__(self, member: Member, device: torch.device) -> None:
        self.network: nn.Module = member.build(device)
        self.classes = known_classes(member)
        self.image_size = member.config.input_size
        self.device = device
        self.prepare = member.prepare(device)
        self._rules = pixel_rules(member.config.data)
        self._channels = member.config.data.channels
        self._explained = member.explained
        self._crop, self._interpolation = validation_crop(member), member.interpolation

    def predict(
        self, images: Sequence[Image.Image], *, top: int = 5, protocol: str = "center", batch_size: int = 32
    ) -> list[list[ClassProbability]]:
        """Return the `top` most probable classes of each image, the most probable first.

        Args:
            images: of any sizes and modes, shown as in training: EXIF orientation is applied only if it was there.
            protocol: the views of each image, one of conf/protocol, as in testing.
            batch_size: views that go through the network at once.
        """
        return name_classes(self._run(images, protocol, batch_size), self.classes, top=top)

    def probabilities(
        self, images: Sequence[Image.Image], *, protocol: str = "center", batch_size: int = 32
    ) -> np.ndarray:
        """Return the probability of each class for each image, float32 (N, K), by the same arguments as `predict`."""
        return self._run(images, protocol, batch_size).log_probs.exp().numpy()

    def _run(self, images: Sequence[Image.Image], protocol: str, batch_size: int) -> Predictions:
        if isinstance(images, Image.Image):
            raise TypeError("images is one image; pass a list of them: [image]")
        views_of, size = build_protocol(protocol), self.image_size
        shown = view_images(
            _Pictures(images, self._rules),
            range(len(images)),
            lambda height, width: views_of.views(height, width, image_size=size, crop=self._crop),
            channels=self._channels,
            num_threads=default_num_threads(),
            interpolation=self._interpolation,
        )
        with self._explained(self.network):
            return predict_views(
                views_of.prepare(self.network),
                shown,
                prepare=self.prepare,
                device=self.device,
                max_pixels=batch_size * size.num_pixels,
                flip=views_of.flip,
                average=views_of.average,
            )


class _Pictures:
    """Pillow's images by index."""

    def __init__(self, images: Sequence[Image.Image], rules: PixelRules) -> None:
        self._images, self._rules = images, rules

    def pixels(self, index: int, channels: int) -> np.ndarray:
        return pixels_of(self._images[index], channels, self._rules)
