"""The table of published numbers is torchvision's own where it says so, and bands are as stated."""

from pathlib import Path

import numpy as np
import pytest
import torchvision

from imgcls.config import build_protocol, protocol_names
from imgcls.data.sets import wnids
from imgcls.environment import CONF_DIR
from imgcls.errors import ConfigError
from imgcls.evaluation import check_comparable, compare_scores, published_protocol, published_results
from imgcls.inference import Center, open_checkpoint
from imgcls.metrics import Scores

from .helpers import config_of, forbidden, run


def test_torchvisions_numbers_are_those_in_its_package() -> None:
    rows = [row for row in published_results() if row.weights]
    assert len(rows) == 16
    for row in rows:
        own = torchvision.models.get_model_weights(row.model)[row.weights].meta["_metrics"]["ImageNet-1K"]
        scores = {name: value for name, value in row.scores.items() if value is not None}
        assert scores == {"top1": own["acc@1"], "top5": own["acc@5"]}, row.model


def scores(top1: float, top5: float, *, num_images: int = 50_000) -> Scores:
    return Scores(num_images, loss=1.2, top1=top1, top5=top5)


def test_every_row_has_a_source_and_a_protocol_that_exists() -> None:
    for row in published_results():
        assert row.source
        assert (CONF_DIR / "protocol" / f"{row.protocol}.yaml").exists()


def test_a_protocol_has_the_name_of_its_config() -> None:
    for name in protocol_names(first="center"):
        assert published_protocol(build_protocol(name)) == name
    assert published_protocol(build_protocol("dense", scales=[384])) == "dense-scales=384"
    assert published_protocol(build_protocol("center", flip=True)) == "center-flip=True"


def test_the_same_weights_must_come_close() -> None:
    near = scores(69.9, 89.0)
    top1, top5 = compare_scores(near, model="resnet18", protocol="center", weights="IMAGENET1K_V1")
    assert top1.within
    assert top5.within
    assert "within the expected 0.30 points" in str(top1)
    far = compare_scores(
        scores(69.0, 89.0),
        model="resnet18",
        protocol="center",
        weights="IMAGENET1K_V1",
    )
    assert not far[0].within
    assert "OUTSIDE" in str(far[0])


def test_other_weights_of_a_network_have_their_own_number() -> None:
    measured = scores(80.86, 95.43)
    top1, top5 = compare_scores(measured, model="resnet50", protocol="center", weights="IMAGENET1K_V2")
    assert top1.within
    assert top5.within
    with pytest.raises(ValueError, match=r"of resnet101 \(IMAGENET1K_V2\) under center; of resnet101 there is center"):
        compare_scores(measured, model="resnet101", protocol="center", weights="IMAGENET1K_V2")


def test_another_training_and_fewer_images_have_wider_bands() -> None:
    trained = compare_scores(scores(69.0, 89.0), model="resnet18", protocol="center", weights=None)
    assert trained[0].band == 1
    few = compare_scores(
        scores(66.0, 89.0, num_images=1_000),
        model="resnet18",
        protocol="center",
        weights="IMAGENET1K_V1",
    )
    assert few[0].band == pytest.approx(0.3 + 196 * (0.69758 * 0.30242 / 1000) ** 0.5)


def test_a_network_trained_here_is_compared_with_its_paper_before_torchvision() -> None:
    (top5,) = compare_scores(scores(70, 90), model="googlenet", protocol="center", weights=None)
    assert "Szegedy" in top5.source
    with pytest.raises(
        ValueError,
        match=r"of resnet18 \(IMAGENET1K_V1\) under dense; of resnet18 there is center IMAGENET1K_V1, ten_crop",
    ):
        compare_scores(
            scores(70, 90),
            model="resnet18",
            protocol="dense",
            weights="IMAGENET1K_V1",
        )


def test_a_comparison_without_a_published_number_is_refused_before_the_test(run_dir: Path, tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"of ImageNet's 1,000 classes"):
        run(config_of(run_dir, root=tiny_folder, compare="published"), predict=forbidden)
    member = open_checkpoint(run_dir)
    member.classes = list(wnids())
    with pytest.raises(ConfigError, match=r"the images are of 3 classes alone"):
        check_comparable(member, np.arange(3), Center())
    with pytest.raises(ValueError, match=r"no published number of lenet5 under center; of lenet5 there is nothing"):
        check_comparable(member, np.arange(1000), Center())
