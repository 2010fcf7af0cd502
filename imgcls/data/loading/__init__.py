"""Loading: batches of a split decoded in threads, views of images, and the images that cannot be decoded."""

from imgcls.data.loading.bad_images import BadImages, RefusedImageError
from imgcls.data.loading.check_files import check_files
from imgcls.data.loading.factory import build_loaders
from imgcls.data.loading.loader import LOOK_AHEAD, Batch, Coming, Loader
from imgcls.data.loading.resident import Resident, make_resident
from imgcls.data.loading.views import ImageViews, View, view_images

__all__ = [
    "LOOK_AHEAD",
    "BadImages",
    "Batch",
    "Coming",
    "ImageViews",
    "Loader",
    "RefusedImageError",
    "Resident",
    "View",
    "build_loaders",
    "check_files",
    "make_resident",
    "view_images",
]
