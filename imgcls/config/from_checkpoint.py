"""The config that a checkpoint brings: it may describe a network and how images are shown to it, and nothing else.

A checkpoint can come from anyone. Nothing that its config names is downloaded, read from disk, or called but for the
networks, crops and data sets written here, and the networks of torchvision and timm by their names.
"""

import re
from collections.abc import Iterator
from typing import Any

from imgcls.config.checks import check_config
from imgcls.config.identity import from_flat
from imgcls.config.schema import Config
from imgcls.environment import TRUST, trusts_configs
from imgcls.errors import ConfigError

# The functions that build other packages' networks, whose settings reach code that is not ours.
EXTERNAL = ("torchvision_model", "timm_model")
# What a checkpoint may set there: sizes, rates and kinds of layers; no file, no URL, and nothing of unknown meaning.
# weights and pretrained say what the run began with; a network that gets a checkpoint's weights is built without them.
NETWORK_SETTINGS = frozenset(
    """
    act_layer alpha arch attention_dropout attn_drop_rate aux_logits avg_down base_width cardinality class_token
    depth depths drop_block_rate drop_path_rate drop_rate dropout dynamic_img_pad dynamic_img_size embed_dim
    fc_norm global_pool groups growth_rate head_dropout image_size img_size in_channels init_values init_weights
    input_size kernel_sizes layer_scale ls_init_value memory_efficient mlp_ratio no_embed_class norm_layer
    num_classes num_heads output_stride partition_size patch_drop_rate patch_size pos_drop_rate pos_embed
    pretrained proj_drop_rate qk_norm qkv_bias reduced_tail reg_tokens replace_stride_with_dilation stem_width
    stochastic_depth stochastic_depth_prob strict_img_size transform_input weights width width_mult
    width_per_group window_size zero_init_last zero_init_residual
    """.split()  # noqa: SIM905 - a list of one a line would fill a screen
)
PLAIN_NAME = re.compile(r"[\w.-]*\w[\w.-]*")  # no path, no URL, no name of another scheme, as hf-hub:owner/model


def config_from_checkpoint(flat: Any) -> Config:
    """Return the config whose flat keys are `flat`, from a checkpoint that anyone may have written.

    Raises:
        ConfigError: it sets what a checkpoint may not set, or is of another version of imgcls.
    """
    if not isinstance(flat, dict) or not all(isinstance(key, str) for key in flat):
        raise ConfigError("its config is damaged: it holds no keys and values")
    if not trusts_configs():
        _check(flat)
    config = from_flat(flat)
    check_config(config)
    return config


def _check(flat: dict[str, Any]) -> None:
    if "model._target_" not in flat:
        raise ConfigError("its config names no network: it has no model._target_")
    target = str(flat["model._target_"])
    network = target.rpartition(".")[2]
    if not network[:1].isupper() and network not in EXTERNAL:
        raise _refusal("model._target_", target, "it is no network")
    for key, value in flat.items():
        # OmegaConf would fill in an interpolation, from the environment too; a saved config has none.
        if any("${" in text for text in (key, *_texts(value))):
            raise _refusal(key, value, "a checkpoint's config has no interpolations")
        if key.endswith("._target_"):  # checked where it is called: it must be one of our classes
            continue
        if key.startswith("model.") and network in EXTERNAL:
            if key.removeprefix("model.") not in NETWORK_SETTINGS:
                raise _refusal(key, value, "it is none of the settings that a checkpoint may give this network")
            if not _is_plain(value):
                raise _refusal(key, value, "a checkpoint may name no file and no URL")
        if key.startswith("data.source.") and not _is_plain(value):
            raise _refusal(key, value, "a checkpoint may name a folder inside data.root, and no other path")


def _refusal(key: str, value: Any, reason: str) -> ConfigError:
    return ConfigError(f"its config has {key}={value}: {reason}; if you trust who wrote it, set {TRUST}=1")


def _is_plain(value: Any) -> bool:
    return all(PLAIN_NAME.fullmatch(text) for text in _texts(value))


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value, those in its lists and keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from (*_texts(key), *_texts(each))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
