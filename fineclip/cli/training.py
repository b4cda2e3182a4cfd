"""Verbs of training and evaluation."""

import argparse
from pathlib import Path

from fineclip.cli.options import Verbs, add_compute, add_job, add_verb, one, section
from fineclip.config import BenchmarkConfig
from fineclip.shards import forget
from fineclip.versions import version_of


def add_verbs(verbs: Verbs) -> None:
    """train, pretrained, index, evaluate."""
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

    verb = add_verb(verbs, "evaluate", _evaluate, about="score one run on one benchmark")
    verb.add_argument("--run", type=Path, required=True, help="train.json of the run")
    verb.add_argument("--index", type=Path, required=True, help="manifest of `index`")
    verb.add_argument("--benchmark", required=True, help="name of the benchmark")
    verb.add_argument("--output", type=Path, required=True, metavar="FILE", help="where the scores go")
    verb.add_argument("--force", action="store_true", help="work even where nothing has changed")
    add_compute(verb, batch_size=64)


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


def _evaluate(options: argparse.Namespace) -> None:
    from fineclip.evals.evaluate import VERSION, evaluate_run

    values = dict(options.config)
    values.pop("benchmark_version", None)
    if options.force:
        forget(options.output)
    evaluate_run(
        options.run,
        options.index,
        options.output,
        section(BenchmarkConfig, values, where=f"benchmarks.{options.benchmark}", version=VERSION),
        name=options.benchmark,
        batch_size=options.batch_size,
        device=options.device,
        threads=options.threads,
    )
