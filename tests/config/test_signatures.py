"""Values of a config fit the types of a signature, or do not."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
import torch

from imgcls.config.components import _fits, _hint, _parameters


def test_the_defaults_of_torchs_optimizers_are_of_the_types_they_are_held_to() -> None:
    optimizers = [found for found in vars(torch.optim).values() if isinstance(found, type)]
    assert len(optimizers) > 10
    for found in optimizers:
        for parameter in _parameters(found).values():
            default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
            if default is not parameter.empty:
                assert _fits(default, _hint(parameter)), (found, parameter)


@pytest.mark.parametrize(
    "value, hint, fits",
    [
        (1, float, True),
        (1.0, int, False),
        (True, int, False),
        ("D", Literal["D", "E"], True),
        ("F", Literal["D", "E"], False),
        ([1, 2], Sequence[float], True),
        ("12", Sequence[str], False),
        ([1], tuple[int, ...], True),
        ([1], tuple[int, int], False),
        (None, str | None, True),
        ("x", float | torch.Tensor, False),
        ({"a": 1}, dict[str, int], True),
        ({"_target_": "os.mkdir"}, float, False),
        ("DEFAULT", Callable[..., int], True),
        ("x", "a forward reference", True),
    ],
)
def test_a_value_fits_its_type_and_an_unknown_type_takes_anything(value: Any, hint: Any, fits: bool) -> None:
    assert _fits(value, hint) == fits


def test_where_no_type_is_given_the_default_implies_it() -> None:
    def target(lr=1, betas=(0.9, 0.99), kind="a", fused=None, loud=False) -> None: ...

    hints = {name: _hint(parameter) for name, parameter in _parameters(target).items()}
    assert hints == {"lr": float | None, "betas": tuple | None, "kind": str | None, "fused": Any, "loud": bool | None}
