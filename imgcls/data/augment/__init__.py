"""Augmentation of single images in the loader: crops, policies, and the random numbers they draw. Imports no torch."""

from imgcls.data.augment.augmix import AugMix
from imgcls.data.augment.crops import (
    CenterCrop,
    Crop,
    Letterbox,
    Pad,
    PadCrop,
    RandomResizedCrop,
    ResizeRandomCrop,
    ScaleJitterCrop,
    Whole,
    box_of_resized,
    frames,
    resized_to_cover,
    scaled_side,
)
from imgcls.data.augment.keyed_random import GAMMA, mix_int, num_different, stream_key
from imgcls.data.augment.operations import OPERATIONS, operate
from imgcls.data.augment.policies import STEPS, Policy, RandAugment, TrivialAugment, make_policy

__all__ = [
    "GAMMA",
    "OPERATIONS",
    "STEPS",
    "AugMix",
    "CenterCrop",
    "Crop",
    "Letterbox",
    "Pad",
    "PadCrop",
    "Policy",
    "RandAugment",
    "RandomResizedCrop",
    "ResizeRandomCrop",
    "ScaleJitterCrop",
    "TrivialAugment",
    "Whole",
    "box_of_resized",
    "frames",
    "make_policy",
    "mix_int",
    "num_different",
    "operate",
    "resized_to_cover",
    "scaled_side",
    "stream_key",
]
