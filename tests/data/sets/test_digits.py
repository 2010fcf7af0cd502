"""The digits that the program draws."""

from pathlib import Path

import numpy as np
import pytest

from imgcls.data.sets import digits, draw_digits
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


def test_digits_are_drawn_once_and_again_where_the_kept_ones_are_damaged(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, int]] = []

    def noted(label: int, number: int) -> np.ndarray:
        drawn.append((label, number))
        return np.full((28, 28), label + number % 200, np.uint8)

    monkeypatch.setattr(digits, "draw_digit", noted)
    first, again = draw_digits(), draw_digits()
    assert len(drawn) == 3500
    for one, other in ((first.train, again.train), (first.val, again.val)):
        assert one.decoded is not None
        assert other.decoded is not None
        assert np.array_equal(one.decoded, other.decoded)
        assert np.array_equal(one.labels, other.labels)
    assert first.val.decoded is not None
    assert first.val.decoded[51, 0, 0, 0] == 1 + 301 % 200  # the second validation image of class 1
    (file,) = cache.glob("digits/*")
    for damaged in (file.read_bytes()[:-1], b""):
        file.write_bytes(damaged)
        drawn.clear()
        draw_digits()
        assert len(drawn) == 3500


def test_digits_are_drawn_where_nothing_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(digits, "draw_digit", lambda label, number: np.zeros((28, 28), np.uint8))
    with caplog.at_level("INFO"):
        assert len(draw_digits().train) == 3000
    assert "is not kept for next time" in caplog.text
