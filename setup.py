"""What pyproject.toml cannot say: conf/ travels in the package, and the native decoder is built for any Python."""

import os
import sys
from typing import Any

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# For wheels that are given away: the folder of a static libjpeg-turbo, as .ci/build_libjpeg makes it. It becomes a part
# of the native decoder, so that no other libjpeg of the process takes its place; without the decoder the build fails.
JPEG = os.environ.get("IMGCLS_JPEG")

# The flags are those of imgcls/data/decoding/native.py. Optional: without a compiler or libjpeg-turbo's headers the
# package installs all the same and decodes with Pillow.
NATIVE = Extension(
    "imgcls.data.decoding._native",
    sources=["imgcls/data/decoding/_native.c"],
    depends=["imgcls/data/decoding/_intervals.h"],
    libraries=["jpeg", *([] if sys.platform == "win32" else ["m"])],
    extra_compile_args=["-O3", "-std=gnu11", "-fvisibility=hidden", "-ffp-contract=off"],
    include_dirs=[f"{JPEG}/include"] if JPEG else [],
    library_dirs=[f"{JPEG}/lib"] if JPEG else [],
    extra_link_args=["-Wl,--exclude-libs,ALL"] if JPEG and sys.platform == "linux" else [],
    py_limited_api=True,
    optional=not JPEG,
)


class BuildNative(build_ext):
    """Build a library that ctypes loads: it is no Python module and has no PyInit function to export."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.force = JPEG is not None  # what build/ holds may be linked with another libjpeg
        if sys.platform == "win32":
            self.compiler = "mingw32"  # the source is written for GCC and Clang

    def get_export_symbols(self, ext: Extension) -> None:
        return None  # all that the source does not hide


class Wheel(bdist_wheel):
    """A wheel for a platform and any Python 3: the library uses nothing of Python's."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


options: dict[str, Any] = {"ext_modules": [NATIVE], "cmdclass": {"build_ext": BuildNative, "bdist_wheel": Wheel}}
setup(
    packages=[*find_packages(include=["imgcls*"]), "imgcls.conf"],
    package_dir={"imgcls.conf": "conf"},
    **options,
)
