"""The table of published numbers is torchvision's own where it says so, and bands are as stated."""

import pytest
import torchvision

from imgcls import published
from imgcls.metrics import Scores


def test_torchvisions_numbers_are_those_in_its_package() -> None:
    rows = [row for row in published.table() if row.weights == "torchvision"]
    assert len(rows) == 15
    for row in rows:
        own = torchvision.models.get_model_weights(row.model)["IMAGENET1K_V1"].meta["_metrics"]["ImageNet-1K"]
        assert (row.top1, row.top5) == (own["acc@1"], own["acc@5"]), row.model


def test_every_row_has_a_source_and_a_protocol_that_exists() -> None:
    from imgcls.config import CONF_DIR

    for row in published.table():
        assert row.source
        assert (CONF_DIR / "protocol" / f"{row.protocol}.yaml").exists()


def test_the_same_weights_must_come_close() -> None:
    near = Scores(1.2, 69.9, 89.0, 50_000)
    top1, top5 = published.compare(near, model="resnet18", protocol="center", same_weights=True)
    assert top1.within
    assert top5.within
    assert "within the 0.30 points to be expected" in str(top1)
    far = published.compare(Scores(1.2, 69.0, 89.0, 50_000), model="resnet18", protocol="center", same_weights=True)
    assert not far[0].within
    assert "OUTSIDE" in str(far[0])


def test_training_anew_and_fewer_images_have_wider_bands() -> None:
    anew = published.compare(Scores(1.2, 69.0, 89.0, 50_000), model="resnet18", protocol="center", same_weights=False)
    assert anew[0].band == 1
    few = published.compare(Scores(1.2, 66.0, 89.0, 1_000), model="resnet18", protocol="center", same_weights=True)
    assert few[0].band == pytest.approx(0.3 + 196 * (0.69758 * 0.30242 / 1000) ** 0.5)


def test_a_paper_goes_before_the_library_for_a_network_trained_anew() -> None:
    (top5,) = published.compare(Scores(1, 70, 90, 50_000), model="googlenet", protocol="center", same_weights=False)
    assert "Szegedy" in top5.source
    with pytest.raises(ValueError, match="no published number of resnet18 under dense; of resnet18 there is center"):
        published.compare(Scores(1, 70, 90, 50_000), model="resnet18", protocol="dense", same_weights=True)
