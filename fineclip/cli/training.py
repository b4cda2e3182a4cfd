"""Verbs of training, and the index of a benchmark."""

import argparse
import os

from fineclip.cli.data import add_input
from fineclip.cli.devices import claim
from fineclip.cli.launch import LAUNCHER, die_with_launcher, launch, nodes_of
from fineclip.cli.options import Verbs, add_job, add_resources, json_object, one, positive, section
from fineclip.config import BenchmarkConfig, RuntimeConfig
from fineclip.environment import launched_ranks, number_of
from fineclip.errors import ConfigError
from fineclip.stages.declaration import Input
from fineclip.versions import version_of

INPUTS = {
    "select": Input(stage="select", note="the samples"),
    "packed": Input(stage="pack", note="the images of the samples", many=True),
    "weights": Input(stage="weights", note="the weights of the encoder"),
    "tokenizer": Input(
        stage="weights", note="the tokenizer, if the weights have none", option="tokenizer", required=False
    ),
    "concepts": Input(stage="concepts", note="for methods with concepts", required=False),
    "texts": Input(stage="texts", note="embeddings of captions, for loader.cached_texts", required=False, many=True),
}


def add_verbs(verbs: Verbs) -> None:
    """Add train, export-baseline and index."""
    verb = add_job(verbs, "train", _train, about="train one run, or resume it")
    verb.set_defaults(is_launchable=True)
    for parameter, needed in INPUTS.items():
        add_input(verb, parameter, needed)
    verb.add_argument(
        "--runtime",
        type=json_object,
        default={},
        metavar="JSON",
        help="section `runtime`: resources, which change no result",
    )
    verb.add_argument(
        "--processes",
        type=positive,
        metavar="N",
        help="processes on this machine, which share its threads (default: one per GPU of --gpus)",
    )
    add_resources(verb)

    verb = add_job(
        verbs,
        "export-baseline",
        _export_baseline,
        about="export a pretrained encoder without fine-tuning, as a run to compare with",
    )
    for parameter in ("weights", "tokenizer"):
        add_input(verb, parameter, INPUTS[parameter])

    add_job(verbs, "index", _index, about="index a benchmark: its images, their hashes, its boxes or captions")


def _train(options: argparse.Namespace) -> None:
    """Train in this process, or in several that this one launches."""
    runtime: RuntimeConfig = section(RuntimeConfig, options.runtime, where="runtime")
    ranks, launcher = launched_ranks(os.environ), number_of(LAUNCHER, os.environ)
    if ranks is not None:
        if launcher is None and options.processes not in (None, ranks.local_world_size):
            raise ConfigError(
                f"--processes {options.processes}: a launcher has started {ranks.local_world_size} on this machine"
                " (LOCAL_WORLD_SIZE). Omit --processes, or unset WORLD_SIZE."
            )
        die_with_launcher()
    else:
        held = () if runtime.device == "cpu" else claim(options.gpus, runtime.devices)
        processes, nodes = options.processes or max(1, len(held)), nodes_of(os.environ)
        if processes * nodes.count > 1:
            if code := launch(options.words, processes, nodes, threads=options.threads):
                raise SystemExit(code)
            return
    from fineclip.train.run import VERSION, RunConfig, train_run

    config = section(RunConfig, options.config, where="train", version=VERSION)
    train_run(
        options.select,
        options.packed,
        options.weights,
        options.manifest,
        config,
        tokenizer=one(options.tokenizer),
        concepts=one(options.concepts),
        texts=options.texts,
        runtime=runtime,
        threads=max(1, options.threads // (ranks.local_world_size if ranks else 1)),
    )


def _export_baseline(options: argparse.Namespace) -> None:
    from fineclip.train.run import VERSION, BaselineConfig, export_baseline

    config = section(BaselineConfig, options.config, where="encoders", version=VERSION)
    export_baseline(options.weights, options.manifest, config, tokenizer=one(options.tokenizer))


def _index(options: argparse.Namespace) -> None:
    from fineclip.evals.index import index_benchmark

    config = section(BenchmarkConfig, options.config, where="benchmarks", version=version_of("evals", "index"))
    index_benchmark(options.manifest, config)
