"""Image sets: folders, packs, arrays, and the named sets over them. Imports no torch."""

from imgcls.data.sets.checksums import checksum_of, with_checksums
from imgcls.data.sets.containers import ContainerSplit
from imgcls.data.sets.digits import draw_digits
from imgcls.data.sets.exclusion import as_line, exclude, name_in_list
from imgcls.data.sets.factory import open_image_set, pixel_rules
from imgcls.data.sets.files import FileSplit, FolderSplit, PackSplit
from imgcls.data.sets.folder import open_folder
from imgcls.data.sets.holdout import Holdout
from imgcls.data.sets.hub import open_hf
from imgcls.data.sets.imagenet import (
    TRAIN_TAR,
    VAL_TAR,
    imagenet_classes,
    index_of_devkit_id,
    is_wnid,
    open_imagenet,
    open_tiny_imagenet,
    readable_names,
    validation_number,
    wnids,
)
from imgcls.data.sets.imagenet_labels import VAL_NAME, read_labels
from imgcls.data.sets.in_memory import draw_noise, load_cifar10, load_cifar100, load_fashion_mnist, load_mnist
from imgcls.data.sets.listing import Listing, list_folder, pack_names
from imgcls.data.sets.pack import PACK_LONGEST, PACK_QUALITY, PackSummary, make_pack, open_pack
from imgcls.data.sets.parquet import open_parquet
from imgcls.data.sets.parts import is_pattern, is_url, parts_present
from imgcls.data.sets.sample import describe_sample
from imgcls.data.sets.shapes import CLASSES, VERSION, draw_image, draw_set, open_shapes
from imgcls.data.sets.shards import open_webdataset
from imgcls.data.sets.splits import ArraySplit, ImageSet, Split, checksums_of
from imgcls.data.sets.streaming import StreamedEpoch, StreamedSplit
from imgcls.data.sets.table import open_csv
from imgcls.data.sets.verification import (
    ODD_TEXTS,
    Place,
    Verification,
    files_of,
    known_odd_files,
    odd_of_imagenet,
    verify,
)

__all__ = [
    "CLASSES",
    "ODD_TEXTS",
    "PACK_LONGEST",
    "PACK_QUALITY",
    "TRAIN_TAR",
    "VAL_NAME",
    "VAL_TAR",
    "VERSION",
    "ArraySplit",
    "ContainerSplit",
    "FileSplit",
    "FolderSplit",
    "Holdout",
    "ImageSet",
    "Listing",
    "PackSplit",
    "PackSummary",
    "Place",
    "Split",
    "StreamedEpoch",
    "StreamedSplit",
    "Verification",
    "as_line",
    "checksum_of",
    "checksums_of",
    "describe_sample",
    "draw_digits",
    "draw_image",
    "draw_noise",
    "draw_set",
    "exclude",
    "files_of",
    "imagenet_classes",
    "index_of_devkit_id",
    "is_pattern",
    "is_url",
    "is_wnid",
    "known_odd_files",
    "list_folder",
    "load_cifar10",
    "load_cifar100",
    "load_fashion_mnist",
    "load_mnist",
    "make_pack",
    "name_in_list",
    "odd_of_imagenet",
    "open_csv",
    "open_folder",
    "open_hf",
    "open_image_set",
    "open_imagenet",
    "open_pack",
    "open_parquet",
    "open_shapes",
    "open_tiny_imagenet",
    "open_webdataset",
    "pack_names",
    "parts_present",
    "pixel_rules",
    "read_labels",
    "readable_names",
    "validation_number",
    "verify",
    "with_checksums",
    "wnids",
]
