"""image_size: the side of a square or [height,width], read in one place, and named the same way everywhere."""

import pytest

from imgcls.config import ImageSize, compose
from imgcls.config.identity import run_name
from imgcls.errors import ConfigError


@pytest.mark.parametrize(
    "word, size, setting, text",
    [
        ("image_size=96", (96, 96), 96, "96"),
        ("image_size=[96,64]", (96, 64), [96, 64], "96x64"),
        ("image_size=[96,96]", (96, 96), 96, "96"),
        ("data.scale.image_size=[96,64]", (96, 64), [96, 64], "96x64"),
        ("recipe.image_size=[96,64]", (72, 72), 72, "72"),  # the shapes bring their own
    ],
)
def test_one_number_or_two_give_height_and_width(word: str, size: tuple[int, int], setting: object, text: str) -> None:
    config = compose(["recipe=alexnet", word])
    assert config.input_size == size
    assert config.image_size == setting
    assert str(config.input_size) == text


@pytest.mark.parametrize(
    "value, words",
    [
        ("0", "image_size=0 is too small; use at least 1"),
        ("[224,0]", r"image_size=\[224, 0\] is too small; use at least 1"),
        (
            "[224]",
            r"image_size=\[224\] is no size of images; use the side of a square such as 224, or \[height,width\]",
        ),
        ("[1,2,3]", "is no size of images"),
        ("224x160", "image_size=224x160 is no size of images"),
        ("true", "image_size=True is no size of images"),
        ("[1.5,2]", "is no size of images"),
    ],
)
def test_anything_else_is_refused_with_the_way_out(value: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compose([f"image_size={value}"])


def test_the_name_of_a_run_has_height_and_width_without_brackets() -> None:
    assert run_name(None, "seed-1+image_size-[224,160]") == "seed-1+image_size-224x160"
    assert run_name(None, "image_size-[ 224, 224 ]") == run_name(None, "image_size-224") == "image_size-224"


def test_a_size_has_its_shorter_side_and_number_of_pixels() -> None:
    assert (ImageSize(224, 160).shorter, ImageSize(224, 160).num_pixels) == (160, 224 * 160)
