#!/usr/bin/env bash
# Compare the pixels of the native decoder on this processor with those on 64-bit ARM, which QEMU emulates.
#
#     scripts/dev/check_arm.sh JPEG_FOLDER IMAGE...
#
# JPEG_FOLDER holds usr/ of libjpeg-turbo for ARM, as Debian has it:
#     apt-get install gcc-aarch64-linux-gnu qemu-user; dpkg --add-architecture arm64; apt-get update
#     apt-get download libjpeg62-turbo-dev:arm64 && dpkg-deb -x libjpeg62-turbo-dev_*.deb JPEG_FOLDER
set -euo pipefail
jpeg=$1/usr
shift
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
flags=(-O3 -std=gnu11 -Wall -ffp-contract=off tests/fuzz/pixels.c)
gcc "${flags[@]}" -o "$folder/here" -ljpeg -lm
aarch64-linux-gnu-gcc "${flags[@]}" -static -I"$jpeg/include" -I"$jpeg/include/aarch64-linux-gnu" \
    -o "$folder/arm" "$jpeg/lib/aarch64-linux-gnu/libjpeg.a" -lm
here=$("$folder/here" "$@")
arm=$(qemu-aarch64 "$folder/arm" "$@")
echo "here $here"
echo "ARM  $arm"
[ "$here" = "$arm" ]
