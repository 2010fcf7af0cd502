"""The keyed random numbers of `imgcls.data.augment.keyed_random`, computed on the device."""

import torch
from torch import Tensor

from imgcls.data.augment import GAMMA, mix_int, stream_key
from imgcls.device import float64_device


def uniforms_on_device(seed: int, epoch: int, indices: Tensor, num_draws: int, *, stream: int = 0) -> Tensor:
    """Return the numbers of `uniforms`, (B, num_draws) float64, on the device of `indices` (B,) int64.

    On a device without float64 they are float32, of the first 24 of their 53 bits.
    """
    base = _signed(mix_int(stream_key(seed, epoch, stream)))
    sample = _mix_tensor(indices * _signed(GAMMA) + base)
    steps = torch.arange(1, num_draws + 1, dtype=torch.int64, device=indices.device) * _signed(GAMMA)
    bits = _mix_tensor(sample[:, None] + steps)
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
