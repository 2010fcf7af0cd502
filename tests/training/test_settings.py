"""Wrong settings of training are refused when the config is composed."""

import pytest

from imgcls.errors import ConfigError

from .helpers import Make


@pytest.mark.parametrize(
    "override, words",
    [
        ("microbatch=half", ["microbatch=half", "auto"]),
        ("microbatch=0", ["microbatch=0", "at least 1"]),
        ("microbatch=13", ["microbatch=13", "batch_size=12"]),
        ("checkpoint.keep=-1", ["checkpoint.keep=-1"]),
        ("checkpoint.best_metric=top2", ["checkpoint.best_metric=top2", "did you mean top"]),
        ("on_divergence=rolback", ["on_divergence=rolback", "did you mean rollback?"]),
        ("divergence.on_stuck=stopp", ["divergence.on_stuck=stopp", "did you mean stop?"]),
        ("divergence.lr_factor=2", ["divergence.lr_factor=2", "at most 1"]),
        ("divergence.stuck_epochs=0", ["divergence.stuck_epochs=0", "divergence.on_stuck=ignore"]),
        ("divergence.max_rollbacks=0", ["divergence.max_rollbacks=0"]),
    ],
)
def test_a_wrong_setting_is_refused_with_the_way_out(override: str, words: list[str], tiny_config: Make) -> None:
    with pytest.raises(ConfigError) as error:
        tiny_config(override)
    for word in words:
        assert word in str(error.value)
