"""Some images of a set, to be learnt by heart."""

from pathlib import Path

import numpy as np
import pytest
import torch

from imgcls.data.augment import CenterCrop
from imgcls.data.loading import Loader
from imgcls.data.sets import Split, draw_noise, open_folder
from imgcls.data.sets.splits import to_memorise


def batch_of(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    loader = Loader(split, CenterCrop(32, 32), image_size=32, batch_size=len(split), seed=0, shuffle=False)
    batch = next(loader.epoch(0))
    images, labels = batch.images.clone(), batch.labels.clone()
    loader.close()
    return images, labels


def test_the_images_to_memorise_are_of_all_classes_alike_and_the_same_in_training_and_validation(
    tiny_folder: Path,
) -> None:
    images = open_folder(str(tiny_folder))
    few = to_memorise(images, 7)
    assert np.bincount(few.train.labels).tolist() == [3, 2, 2]
    assert few.train is few.val
    assert few.classes == images.classes
    assert few.train.path(3).endswith("train/green/00.JPEG")
    assert few.identity() != to_memorise(images, 6).identity() != images.identity()
    assert few.train.fingerprint() not in (images.train.fingerprint(), to_memorise(images, 6).train.fingerprint())


def test_all_images_are_memorised_where_there_are_fewer(tiny_folder: Path) -> None:
    assert len(to_memorise(open_folder(str(tiny_folder)), 64).train) == 60


@pytest.mark.parametrize("in_memory", [False, True])
def test_the_images_to_memorise_are_those_of_the_whole_set(in_memory: bool, tiny_folder: Path) -> None:
    images = draw_noise(image_size=40, num_images=30, num_classes=3) if in_memory else open_folder(str(tiny_folder))
    pixels, labels = batch_of(images.train)
    few = to_memorise(images, 8).train
    chosen = [[images.train.path(i) for i in range(len(labels))].index(few.path(i)) for i in range(8)]
    few_pixels, few_labels = batch_of(few)
    assert torch.equal(few_pixels, pixels[chosen])
    assert torch.equal(few_labels, labels[chosen])
    assert np.array_equal(few.pixels(5, 3), images.train.pixels(chosen[5], 3))


def test_an_image_to_memorise_that_is_drawn_again_is_the_same_image() -> None:
    images = to_memorise(draw_noise(image_size=32, num_images=30, num_classes=3), 4)  # 2, 1 and 1 of the classes
    crop = CenterCrop(32, 32)
    loader = Loader(images.train, crop, image_size=32, batch_size=4, seed=0, shuffle=True, balanced=True)
    for epoch in range(4):
        for batch in loader.epoch(epoch):
            for pixels, label, index in zip(batch.images, batch.labels, batch.indices.tolist(), strict=True):
                assert torch.equal(pixels, torch.from_numpy(images.train.pixels(index % 4, 3)))
                assert label == images.train.labels[index % 4]
    loader.close()
