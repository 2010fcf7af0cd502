"""Open the image set that a config names."""

from imgcls.config import Config, build_component
from imgcls.data.sets.splits import ImageSet, to_memorise


def open_image_set(config: Config) -> ImageSet:
    """Open the data set that the config names, and hold `data.num_classes` against it."""
    data = config.data
    opened: ImageSet = build_component("data.source", data.source, root=data.root, channels=data.channels)
    opened.check_num_classes(data.num_classes)
    return opened if data.memorise is None else to_memorise(opened, data.memorise)
