"""The keyed random numbers of `imgcls.data.augment.keyed_random`, computed on the device."""

from typing import NamedTuple

import torch
from torch import Tensor

from imgcls.data.augment import GAMMA, keyed_random, mix_int, stream_key
from imgcls.device import float64_device

MOST_DRAWS = 16  # of an image in one stream


class EpochNumbers(NamedTuple):
    """What the random numbers of an epoch are made of.

    As tensors: code compiled with numbers in it would be compiled again for the next epoch's.
    """

    bases: Tensor  # (NUM_STREAMS,) int64: what those of each stream start from
    steps: Tensor  # (MOST_DRAWS,) int64: from one to the next


def epoch_numbers(seed: int, epoch: int, device: torch.device) -> EpochNumbers:
    """Return what `uniforms_on_device` takes."""
    bases = [_signed(mix_int(stream_key(seed, epoch, stream))) for stream in range(keyed_random.NUM_STREAMS)]
    steps = [_signed(GAMMA * step % (1 << 64)) for step in range(1, MOST_DRAWS + 1)]
    return EpochNumbers(*(torch.tensor(each, dtype=torch.int64, device=device) for each in (bases, steps)))


def uniforms_on_device(numbers: EpochNumbers, indices: Tensor, num_draws: int, *, stream: int = 0) -> Tensor:
    """Return the numbers of `uniforms`, (B, num_draws) float64, on the device of `indices` (B,) int64.

    On a device without float64 they are float32, of the first 24 of their 53 bits.

    Raises:
        ValueError: more than MOST_DRAWS.
    """
    if num_draws > MOST_DRAWS:
        raise ValueError(f"{num_draws} random numbers of an image in one stream; there are {MOST_DRAWS}")
    sample = _mix_tensor(indices * _signed(GAMMA) + numbers.bases[stream])
    bits = _mix_tensor(sample[:, None] + numbers.steps[:num_draws])
    if float64_device(indices.device) != indices.device:
        return _shift_right(bits, 40).to(torch.float32) * 2.0**-24
    return _shift_right(bits, 11).to(torch.float64) * 2.0**-53


def _mix_tensor(bits: Tensor) -> Tensor:
    bits = (bits ^ _shift_right(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shift_right(bits, 27)) * _signed(0x94D049BB133111EB)
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Tensor, count: int) -> Tensor:
    # torch shifts int64 arithmetically; the mask drops the copies of the sign.
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _signed(bits: int) -> int:
    return bits - (1 << 64) if bits >= 1 << 63 else bits
