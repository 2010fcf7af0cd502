"""TODO imgcls.data.on_device."""

from imgcls.data.on_device.augment import PCA_AXES, PCA_SCALES, Augment, Augmented, turn_hue
from imgcls.data.on_device.keyed_random import uniforms_on_device
from imgcls.data.on_device.normalise import Normalise, input_statistics

__all__ = [
    "PCA_AXES",
    "PCA_SCALES",
    "Augment",
    "Augmented",
    "Normalise",
    "input_statistics",
    "turn_hue",
    "uniforms_on_device",
]
