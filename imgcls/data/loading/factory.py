"""Build the loaders of a run from its config."""

import uuid
from typing import Any

import torch

from imgcls import distributed
from imgcls.config import Config, build_component
from imgcls.data.augment import make_policy
from imgcls.data.loading.loader import Loader
from imgcls.data.sets import ImageSet, StreamedSplit
from imgcls.errors import ConfigError


def build_loaders(config: Config, images: ImageSet, device: torch.device) -> tuple[Loader, Loader]:
    """Build the training and the validation loader of this rank."""
    data, augment = config.data, config.augment
    ranks = distributed.world_size()
    if config.batch_size % ranks:
        raise ConfigError(
            f"batch_size={config.batch_size} does not divide over {ranks} ranks; use a multiple of {ranks}"
        )
    if isinstance(images.train, StreamedSplit):
        _share_stream(images.train)
    common: dict[str, Any] = {
        "image_size": config.image_size,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "rank": distributed.rank(),
        "world_size": ranks,
        "num_threads": data.num_threads,
        "prefetch": data.prefetch,
        "device": device,
        "on_bad_image": data.on_bad_image,
        "max_bad_share": data.max_bad_share,
        "cache_gb": data.cache_gb,
        "pillow_draft": data.pillow_draft,
        "channels": data.channels,
    }
    crop, eval_crop = (
        build_component("augment.crop", augment.crop),
        build_component("augment.eval_crop", augment.eval_crop),
    )
    policy = make_policy(augment.policy, ops=augment.policy_ops, magnitude=augment.policy_magnitude)
    balanced = config.sampler == "balanced"
    train = Loader(
        images.train,
        crop,
        shuffle=True,
        balanced=balanced,
        repeats=augment.repeats,
        flip=augment.flip,
        policy=policy,
        num_epochs=config.epochs,
        interpolation=augment.interpolation,
        **common,
    )
    return train, Loader(images.val, eval_crop, shuffle=False, interpolation=augment.interpolation_of_test, **common)


def _share_stream(split: StreamedSplit) -> None:
    """Let the ranks of a machine fetch streamed shards once; all of them join before one begins."""
    run, error = distributed.from_main(uuid.uuid4().hex), None
    try:
        split.join(run, distributed.rank())
    except (ValueError, OSError) as raised:
        error = raised
    distributed.check_errors(error)
