"""Verb `check`."""

import argparse
from pathlib import Path

from fineclip.cli.options import Verbs, add_verb, positive
from fineclip.config import load, read_files


def add_verbs(verbs: Verbs) -> None:
    """Add `check`."""
    about = "audit images, captions, boxes and benchmarks before anything expensive runs"
    verb = add_verb(verbs, "check", _check, about=about)
    verb.add_argument(
        "files", type=Path, nargs="*", help="configuration files, merged from left to right, as --configfile does"
    )
    verb.add_argument(
        "--images", type=positive, metavar="N", help="samples to read (default: check.images of the configuration)"
    )
    verb.add_argument("--all", action="store_true", help="read all samples")
    verb.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="path of the manifest to write, with the page beside it (default: data/DATASET/check/REGIONS.json)",
    )
    verb.add_argument("--threads", type=positive, default=2, metavar="N", help="processes that read images (default 2)")


def _check(options: argparse.Namespace) -> None:
    from fineclip.check.check import check_dataset

    values = read_files(options.files) if options.files else dict(options.config)
    values.pop("version", None)
    config = load(values, where=" + ".join(map(str, options.files)) or "--config")
    if options.all or options.images:
        chosen = config.check.model_copy(update={"images": None if options.all else options.images})
        config = config.model_copy(update={"check": chosen})
    manifest = options.manifest or Path("data", config.dataset.folder, "check", f"{config.regions}.json")
    check_dataset(config, manifest, processes=options.threads)
