"""What is done to a batch on the device: normalisation, and the augmentations that are cheaper there than per image."""

from imgcls.data.on_device.augment import Augment, AugmentedBatch, BatchAugmentation, BatchKey, build_augmentations
from imgcls.data.on_device.blur import GaussianBlur, blur
from imgcls.data.on_device.colour import PCA_AXES, PCA_SCALES, ColourJitter, PcaShift, turn_hue
from imgcls.data.on_device.erasing import RandomErasing
from imgcls.data.on_device.grayscale import RandomGrayscale
from imgcls.data.on_device.keyed_random import epoch_numbers, uniforms_on_device
from imgcls.data.on_device.mixing import Mix
from imgcls.data.on_device.normalise import Normalise, input_statistics
from imgcls.data.on_device.three_augment import ThreeAugment

__all__ = [
    "PCA_AXES",
    "PCA_SCALES",
    "Augment",
    "AugmentedBatch",
    "BatchAugmentation",
    "BatchKey",
    "ColourJitter",
    "GaussianBlur",
    "Mix",
    "Normalise",
    "PcaShift",
    "RandomErasing",
    "RandomGrayscale",
    "ThreeAugment",
    "blur",
    "build_augmentations",
    "epoch_numbers",
    "input_statistics",
    "turn_hue",
    "uniforms_on_device",
]
