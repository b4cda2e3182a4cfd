"""Verbs of training, and of what evaluation needs."""

import argparse
from pathlib import Path

from fineclip.cli.options import Verbs, add_compute, add_job, one, section
from fineclip.config import BenchmarkConfig
from fineclip.versions import version_of


def add_verbs(verbs: Verbs) -> None:
    """train, pretrained, index."""
    verb = add_job(verbs, "train", _train, about="train one run; takes up where it was stopped")
    verb.add_argument("--select", type=Path, required=True, help="manifest of `select`: which samples")
    verb.add_argument("--packed", type=Path, nargs="+", required=True, help="manifests of `pack`: where they lie")
    verb.add_argument(
        "--weights", type=Path, nargs=1, required=True, help="manifest of `weights`: what training starts from"
    )
    verb.add_argument(
        "--tokenizer",
        type=Path,
        nargs="*",
        default=[],
        help="manifest of `weights` of the tokenizer, if it has its own",
    )
    verb.add_argument(
        "--concepts", type=Path, nargs="*", default=[], help="manifest of `concepts`, if the method needs any"
    )
    verb.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that read and decode (default 0: none)"
    )
    add_compute(verb)

    verb = add_job(verbs, "pretrained", _pretrained, about="publish an encoder as it comes, as a run to compare with")
    verb.add_argument("--weights", type=Path, nargs=1, required=True, help="manifest of `weights`")
    verb.add_argument(
        "--tokenizer",
        type=Path,
        nargs="*",
        default=[],
        help="manifest of `weights` of the tokenizer, if it has its own",
    )

    add_job(verbs, "index", _index, about="index a benchmark: its images, their hashes, its boxes or captions")


def _train(options: argparse.Namespace) -> None:
    from fineclip.train.run import VERSION, RunConfig, train_run

    config = section(RunConfig, options.config, where="train", version=VERSION)
    train_run(
        options.select,
        options.packed,
        options.weights[0],
        options.manifest,
        config,
        tokenizer=one(options.tokenizer),
        concepts=one(options.concepts),
        workers=options.workers,
        threads=options.threads,
        device=options.device,
    )


def _pretrained(options: argparse.Namespace) -> None:
    from fineclip.train.run import VERSION, PretrainedConfig, publish_pretrained

    config = section(PretrainedConfig, options.config, where="encoders", version=VERSION)
    publish_pretrained(options.weights[0], options.manifest, config, tokenizer=one(options.tokenizer))


def _index(options: argparse.Namespace) -> None:
    from fineclip.evals.sources import index_benchmark

    config = section(BenchmarkConfig, options.config, where="benchmarks", version=version_of("evals", "sources"))
    index_benchmark(options.manifest, config)
