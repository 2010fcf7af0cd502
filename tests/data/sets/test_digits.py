"""The digits that the program draws."""

import numpy as np

from imgcls.data.sets import draw_digits
from imgcls.data.sets.digits import draw_digit


def test_digits_are_drawn_alike_every_time_and_no_two_alike() -> None:
    assert np.array_equal(draw_digit(3, 7), draw_digit(3, 7))
    assert not np.array_equal(draw_digit(3, 7), draw_digit(3, 8))


def test_the_set_has_ten_even_classes_of_small_gray_images() -> None:
    images = draw_digits()
    assert images.classes == list("0123456789")
    for split, count in ((images.train, 300), (images.val, 50)):
        assert np.bincount(split.labels).tolist() == [count] * 10
        assert split.decoded is not None
        assert split.decoded.shape == (10 * count, 28, 28, 1)
    assert draw_digits(channels=3).channels == 3
    pixels = images.train.decoded
    assert pixels is not None
    means = np.array([pixels[images.train.labels == k].mean(0) for k in range(10)])
    # The digit is what differs: bright in the middle, dark at the rim.
    assert (means[:, 10:18, 10:18].mean((1, 2, 3)) > 3 * means[:, 0].mean((1, 2))).all()
