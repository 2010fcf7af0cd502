"""Whether a network is as often right as it says: its confidence beside its accuracy."""

from collections.abc import Sequence

import numpy as np

from imgcls.inference import CalibrationBin

NUM_BINS = 15  # of Guo et al. 2017, section 4.1


def calibration_bins(confidence: np.ndarray, right: np.ndarray, num_bins: int = NUM_BINS) -> list[CalibrationBin]:
    """Return bins of equal width of the images' confidences (N,) in 0..1, and whether they are right (N,) bool."""
    places = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    images, confidences, hits = (
        np.bincount(places, weights, num_bins) for weights in (np.ones(len(right)), confidence, right.astype(float))
    )
    return [
        CalibrationBin(
            low=place / num_bins,
            high=(place + 1) / num_bins,
            images=int(images[place]),
            confidence=float(confidences[place] / images[place]) if images[place] else None,
            accuracy=float(hits[place] / images[place]) if images[place] else None,
        )
        for place in range(num_bins)
    ]


def calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Return the expected calibration error in percent: Guo et al. 2017, section 2, equation 3."""
    gaps = [
        one.images * abs(one.accuracy - one.confidence)
        for one in bins
        if one.accuracy is not None and one.confidence is not None
    ]
    return 100 * sum(gaps) / max(1, sum(one.images for one in bins))
