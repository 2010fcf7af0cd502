"""Read every image of a set: what is damaged, odd, or there twice."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from imgcls.config import Config, ScriptParser, parse_run_words, run_script
from imgcls.data.sets import (
    ODD_TEXTS,
    Place,
    Verification,
    as_line,
    name_in_list,
    odd_of_imagenet,
    open_image_set,
    verify,
)
from imgcls.environment import command, default_num_threads, printable
from imgcls.errors import EXIT_RUN_FAILED, ConfigError

SHOWN = 10  # names of each kind on the screen; the list has all
HEAD = "# Written by verify_data"


def verify_data() -> int:
    """Verify the set that the command line names; 1 if a file is damaged."""
    parser = ScriptParser(
        "verify_data",
        "Read and decode every image of a set, and say which files are damaged, odd, or there twice.\n\n"
        f"    {command('verify_data')} data=imagenet data.root=DIR\n"
        f"    {command('train')} data=imagenet data.root=DIR data.exclude=exclude.txt\n\n"
        "The set is named in train.py's words. Broken off, the same command goes on; a file that has not changed is\n"
        "not read again. Checksums are kept in the cache folder, and a run that is taken up again compares them.",
    )
    parser.add_argument("--out", type=Path, default=Path("exclude.txt"), metavar="FILE", help=HELP_OUT)
    parser.add_argument("--checksums", type=Path, metavar="FILE", help=HELP_CHECKSUMS)
    options, config, _ = parse_run_words(parser)
    check_out(options.out)
    if config.data.stream_gb is not None:
        raise ConfigError(
            f"data.stream_gb={config.data.stream_gb:g}: every image is read, by class and name, so all shards must "
            "be here; leave it out, and name as many shards as the disk holds"
        )
    images = open_image_set(config)
    images.log_notes()
    num_threads = config.data.num_threads or default_num_threads()
    total = len(images.train) + (len(images.val) if images.val is not images.train else 0)
    print(f"data={config.data.name}: {total:,} images, {num_threads} threads", flush=True)
    with tqdm(total=total, unit="image", smoothing=0.02, disable=None) as bar:
        found = verify(images, channels=config.data.channels, num_threads=num_threads, progress=bar.update)
    print(printable("\n".join(report(found, images.classes))))
    write_list(options.out, found, config)
    leaves_out = f"lists the damaged files; data.exclude={options.out} leaves them out" if found.bad else "lists none"
    print(printable(f"{options.out} {leaves_out}"))
    same = options.checksums is None or compare_or_write(options.checksums, found, config.data.root)
    return EXIT_RUN_FAILED if found.bad or not same else 0


HELP_OUT = "the list of damaged files, for data.exclude (default: exclude.txt)"
HELP_CHECKSUMS = "write the files' checksums there; if the file exists, compare them with it"


def check_out(out: Path) -> None:
    """Refuse to write over a file that was not written here.

    Raises:
        ConfigError: it is another file.
    """
    if out.is_dir() or (out.exists() and not out.read_text(errors="replace").startswith(HEAD)):
        raise ConfigError(f"out={out} exists, and is no list of this command; name another file")


def report(found: Verification, classes: Sequence[str]) -> list[str]:
    """Return what there is to say of a set."""
    good = found.num_images - len(found.bad)
    lines = [f"{good:,} of {found.num_images:,} images can be decoded; {found.num_read:,} files were read now"]
    lines += _named("damaged", [f"{error}" for _, error in found.bad])
    for flag, places in found.odd.items():
        lines += _named(ODD_TEXTS[flag], [place.path for place in places])
    lines += _of_imagenet(found)
    lines += _named("in train and in val, with the same bytes", _groups(found.in_both_parts()))
    of_two = [
        " = ".join(f"{place.path} ({classes[place.label]})" for place in group) for group in found.of_two_classes()
    ]
    lines += _named("of several classes, with the same bytes", of_two)
    return lines + _named("twice in a class", _groups(found.within_a_class()))


def _of_imagenet(found: Verification) -> list[str]:
    known = list(odd_of_imagenet(found))
    if not known:
        return []
    as_known = [place for place, _, as_it_was in known if as_it_was]
    others = [f"{place.path} (was {kind})" for place, kind, as_it_was in known if not as_it_was]
    line = f"of ImageNet's 23 known odd files (22 CMYK, a PNG) {len(known)} are here, {len(as_known)} as they were"
    return [line, *_named("converted, so these files are not ImageNet's own", others)]


def _groups(groups: Iterable[Sequence[Place]]) -> list[str]:
    return [" = ".join(place.path for place in group) for group in groups]


def _named(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = [f"    and {len(names) - SHOWN:,} more"] if len(names) > SHOWN else []
    return [f"{len(names):,} {what}:", *(f"    {name}" for name in names[:SHOWN]), *more]


def write_list(out: Path, found: Verification, config: Config) -> None:
    """Write the list for data.exclude: the damaged files, and as comments those that are odd or there twice."""
    root = config.data.root

    def line(place: Place) -> str:
        return as_line(name_in_list(place.path, root))

    lines = [f"{HEAD}: data={config.data.name}. Lines without # are left out by data.exclude=THIS_FILE."]
    for place, error in found.bad:
        lines += [f"# {_one_line(error.reason)}", line(place)]
    for flag, places in found.odd.items():
        lines += [f"# {ODD_TEXTS[flag]}:", *(f"# {line(place)}" for place in places)] if places else []
    for group in found.same:
        lines += ["# the same bytes:", *(f"# {line(place)}" for place in group)]
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    partial.replace(out)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def compare_or_write(file: Path, found: Verification, root: str | None) -> bool:
    """Compare the checksums with those in a file, or write the file; return False if some differ."""
    now = {as_line(name_in_list(path, root)): f"{checksum:016x}" for path, checksum in found.checksums.items()}
    if not file.exists():
        lines = [f"{checksum}  {name}\n" for name, checksum in now.items()]
        file.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
        print(printable(f"{file} has the checksums of {len(now):,} files; the same option compares a copy with it"))
        return True
    before = {}
    for line in file.read_text(encoding="utf-8", errors="surrogateescape").split("\n"):
        checksum, _, name = line.partition("  ")
        if checksum:
            before[name] = checksum
    lines = _named(f"differ from {file}", [name for name in now if name in before and before[name] != now[name]])
    lines += _named(f"are not in {file}", [name for name in now if name not in before])
    lines += _named(f"of {file} are not here", [name for name in before if name not in now])
    print(printable("\n".join(lines or [f"all {len(now):,} files are those of {file}"])))
    return not lines


def main() -> None:
    """Run the command line."""
    run_script(verify_data)
