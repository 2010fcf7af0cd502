"""Random numbers that are a function of (seed, epoch, sample index), whoever asks, in whatever order.

A counter-based generator: each number is a hash of its key, by the finaliser of SplitMix64 (Steele, Lea & Flood 2014,
section 4, with Stafford's variant 13 constants). So no thread, rank or resumed run has a state that could differ.
"""

from collections.abc import Sequence

import numpy as np

# One stream per kind of choice, so that adding a choice never changes the numbers that another one gets.
CROP, FLIP, REFILL, POLICY, COLOUR, ERASE, NOISE, MIX, ORDER, BALANCE, GRAYSCALE, BLUR, THREE_AUGMENT = range(13)
WINDOW = THREE_AUGMENT + 1
NUM_STREAMS = WINDOW + 1
GAMMA = 0x9E3779B97F4A7C15  # SplitMix64's increment: 2**64 over the golden ratio, odd
MASK = (1 << 64) - 1


def uniforms(seed: int, epoch: int, indices: np.ndarray, num_draws: int, *, stream: int = 0) -> np.ndarray:
    """Uniform numbers in [0, 1) for each sample: (B,) indices to (B, num_draws) float64."""
    base = np.uint64(mix_int(stream_key(seed, epoch, stream)))
    with np.errstate(over="ignore"):
        sample = _mix(base + np.asarray(indices).astype(np.uint64) * np.uint64(GAMMA))
        steps = np.arange(1, num_draws + 1, dtype=np.uint64) * np.uint64(GAMMA)
        bits = _mix(sample[:, None] + steps)
    return (bits >> np.uint64(11)) * 2.0**-53


def permutation(num: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of `num` samples in this epoch, as int64 indices."""
    key = stream_key(seed, epoch, ORDER)
    return np.random.Generator(np.random.Philox(key=key)).permutation(num)


def windowed_permutation(groups: np.ndarray, windows: Sequence[np.ndarray], seed: int, epoch: int) -> np.ndarray:
    """Return an order of samples in this epoch, window after window, each shuffled as a whole: (N,) int64 indices.

    Args:
        groups: (N,) the group of each sample.
        windows: the groups of each window, each group in one of them.
    """
    draws = np.random.Generator(np.random.Philox(key=stream_key(seed, epoch, ORDER)))
    by_group = np.argsort(groups, kind="stable")
    ends = np.cumsum(np.bincount(groups, minlength=max(int(window.max()) for window in windows) + 1))
    members = np.split(by_group, ends[:-1])
    parts = [draws.permutation(np.concatenate([members[group] for group in window.tolist()])) for window in windows]
    return np.concatenate(parts).astype(np.int64)


def windows_of_groups(sizes: np.ndarray, most: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Return the groups of samples in this epoch's order, cut into windows of at most `most`: arrays of indices.

    Args:
        sizes: (G,) of the groups, each at most `most`; those of size 0 come in no window.
    """
    draws = np.random.Generator(np.random.Philox(key=stream_key(seed, epoch, WINDOW)))
    windows: list[list[int]] = [[]]
    filled = 0
    for group in draws.permutation(np.flatnonzero(sizes)).tolist():
        if filled + int(sizes[group]) > most:
            windows.append([])
            filled = 0
        windows[-1].append(group)
        filled += int(sizes[group])
    return [np.array(window, np.int64) for window in windows]


def balanced_order(labels: np.ndarray, num: int, seed: int, epoch: int) -> np.ndarray:
    """Return an order of `num` samples in this epoch in which classes are equally frequent, as int64 indices.

    The counts of two classes differ by one at most, and so do those of two samples of a class. A sample that comes
    again has its index plus a multiple of len(labels), by which it gets other random numbers.

    Args:
        labels: (N,) of the samples.
    """
    draws = np.random.Generator(np.random.Philox(key=stream_key(seed, epoch, BALANCE)))
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    classes = [members for members in by_class if len(members)]
    one_more = draws.permutation(len(classes)) < num % len(classes)
    parts = []
    for members, more in zip(classes, one_more.tolist(), strict=True):
        quota = num // len(classes) + more
        rounds = [draws.permutation(members) + len(labels) * again for again in range(-(-quota // len(members)))]
        parts.append(np.concatenate([*rounds, np.empty(0, np.int64)])[:quota])
    return draws.permutation(np.concatenate(parts)).astype(np.int64)


def repeated_order(order: np.ndarray, repeats: int, *, num: int, batch_size: int) -> np.ndarray:
    """Return the order of an epoch in whose batches each image comes up to `repeats` times (Hoffer et al. 2020).

    A batch is ceil(batch_size / repeats) different images, once and again, the last round cut to fit: so an image is
    never beside itself. Each time counts on from the split's end, by which it gets other random numbers.

    Args:
        order: the indices of the different draws, as many as the batches take.
        num: images of the split.
    """
    batches = order.reshape(-1, num_different(batch_size, repeats))
    drawn, images = np.divmod(batches, num)  # a balanced epoch has drawn some images again
    times = [images + (drawn * repeats + time) * num for time in range(repeats)]
    return np.concatenate(times, axis=1)[:, :batch_size].reshape(-1)


def num_different(batch_size: int, repeats: int) -> int:
    """Return how many different images a batch has."""
    return -(-batch_size // repeats)


def stream_key(seed: int, epoch: int, stream: int) -> int:
    key = 0
    for part in (seed, epoch, stream):
        key = mix_int((key + GAMMA + (part & MASK)) & MASK)
    return key


def mix_int(bits: int) -> int:
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
