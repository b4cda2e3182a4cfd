"""Verbs about a finished encoder: `evaluate` and `export`."""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fineclip.cli.options import Verbs, add_compute, add_verb, json_object, section
from fineclip.config import BenchmarkConfig, Config, load, read_files
from fineclip.errors import ConfigError
from fineclip.shards import write_text


def add_verbs(verbs: Verbs) -> None:
    """Add `evaluate` and `export`."""
    _add_evaluate(verbs)
    _add_export(verbs)


def _add_evaluate(verbs: Verbs) -> None:
    verb = add_verb(
        verbs, "evaluate", _evaluate, about="evaluate a run, or any checkpoint, on benchmarks", config=False
    )
    which = verb.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", type=Path, metavar="FILE", help="train.json of a run")
    which.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="without the workflow: a file of weights, the folder of a run, a folder of open_clip, or mini, which is shipped",
    )
    verb.add_argument("--encoder", metavar="NAME", help=f"with --checkpoint FILE: {ENCODER}")
    verb.add_argument(
        "--benchmark",
        nargs="+",
        default=[],
        metavar="NAME",
        help="with --checkpoint: entries of `benchmarks` (default: all whose data exists)",
    )
    verb.add_argument(
        "--index",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="with --run: manifests of `index`, one for each benchmark; with --checkpoint: a folder for indexes (default: a temporary one)",
    )
    verb.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="with --run: evals.json to write; the score files are written to evals/ beside it",
    )
    verb.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="with --checkpoint: a .json file for one benchmark, else a folder (default: print the scores only)",
    )
    verb.add_argument(
        "--config",
        nargs="+",
        metavar="CONFIG",
        help="with --run: the section `benchmarks` as JSON; with --checkpoint: configuration files (default: config.yaml)",
    )
    verb.add_argument("--force", action="store_true", help="with --run: compute all scores again")
    add_compute(verb, batch_size=64)


def _add_export(verbs: Verbs) -> None:
    verb = add_verb(verbs, "export", _export, about="write an encoder in the layout of another program", config=False)
    verb.add_argument(
        "encoder_path", metavar="PATH", help="folder of a run, folder of open_clip, file of weights, or mini"
    )
    verb.add_argument("--encoder", metavar="NAME", help=f"for a file: {ENCODER}")
    verb.add_argument(
        "--layout",
        required=True,
        metavar="NAME",
        help="open_clip (a folder), eva_clip (a file in the layout of EVA-02-CLIP) or backbone (the vision tower with the names of timm)",
    )
    verb.add_argument(
        "--output", type=Path, required=True, metavar="PATH", help="folder, or file .pt, .pth or .safetensors"
    )
    verb.add_argument(
        "--config",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="configuration files, whose `encoders` are used",
    )
    verb.add_argument("--force", action="store_true", help="replace an existing output")


ENCODER = "model of the weights: an entry of `encoders`, an open_clip model such as EVA02-B-16, or a JSON in its format"


def _evaluate(options: argparse.Namespace) -> None:
    if options.run is None:
        _evaluate_checkpoint(options)
    else:
        _evaluate_run(options)


def _evaluate_run(options: argparse.Namespace) -> None:
    from fineclip.evals.evaluate import VERSION, discard_scores, evaluate_run

    for name in ("encoder", "benchmark", "output"):
        if getattr(options, name):
            raise ConfigError(f"--{name} goes with --checkpoint, not with --run")
    if options.manifest is None:
        raise ConfigError(
            "--run goes with --manifest, the file evals.json to write, and one --index for each benchmark"
        )
    values = section(
        dict[str, dict[str, Any]], _json_config(options.config or ["{}"]), where="--config", version=VERSION
    )
    benchmarks: dict[str, BenchmarkConfig] = {}
    for name, keys in values.get("benchmarks", {}).items():
        keys.pop("benchmark_version", None)
        benchmarks[name] = section(BenchmarkConfig, keys, where=f"benchmarks.{name}")
    if options.force:
        discard_scores(options.manifest, list(benchmarks))
    evaluate_run(
        options.run,
        options.index,
        options.manifest,
        benchmarks,
        batch_size=options.batch_size,
        device=options.device,
        threads=options.threads,
    )


def _evaluate_checkpoint(options: argparse.Namespace) -> None:
    from fineclip.evals.evaluate import record_text
    from fineclip.evals.evaluate_file import chosen_benchmarks, evaluate_checkpoint
    from fineclip.models.checkpoints import find_encoder

    config = _configuration([Path(name) for name in options.config or ["config.yaml"]])
    benchmarks = chosen_benchmarks(config.benchmarks, options.benchmark)
    places = _score_files(options.output, list(benchmarks))
    found = find_encoder(options.checkpoint, encoder=options.encoder, catalog=config.encoders)
    if len(options.index) > 1:
        raise ConfigError(f"--index: with --checkpoint, expected one folder, but got {len(options.index)} paths")
    with tempfile.TemporaryDirectory(prefix="fineclip-index-") as temporary:
        records = evaluate_checkpoint(
            found,
            benchmarks,
            options.index[0] if options.index else Path(temporary),
            batch_size=options.batch_size,
            device=options.device,
            threads=options.threads,
        )
    for name, path in places.items():
        write_text(path, record_text(records[name]))
    sys.stdout.write(_table(records))


def _export(options: argparse.Namespace) -> None:
    from fineclip.models.checkpoints import export, find_encoder

    catalog = _configuration(options.config).encoders if options.config else {}
    found = find_encoder(options.encoder_path, encoder=options.encoder, catalog=catalog)
    export(found, options.output, layout=options.layout, replace=options.force)


def _configuration(files: Sequence[Path]) -> Config:
    return load(read_files(files), where=" + ".join(map(str, files)))


def _json_config(texts: Sequence[str]) -> dict[str, Any]:
    try:
        [text] = texts
        return dict(json_object(text))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise ConfigError(f"--config: with --run, expected the section `benchmarks` as JSON: {error}") from None


def _score_files(output: Path | None, benchmarks: Sequence[str]) -> dict[str, Path]:
    """Return the score file of each benchmark; empty if no output is asked for."""
    if output is None:
        return {}
    if output.suffix != ".json":
        return {name: output / f"{name}.json" for name in benchmarks}
    if len(benchmarks) > 1:
        raise ConfigError(
            f"--output {output}: is one file, for {len(benchmarks)} benchmarks ({', '.join(benchmarks)}): name a folder, or one benchmark"
        )
    return {benchmarks[0]: output}


def _table(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the scores in percent as a text table."""
    rows = [("benchmark", "metric", "score", "chance", "n")]
    for name, record in records.items():
        for score in record["scores"]:
            chance = record["chance"][score["metric"]]
            rows.append((name, score["metric"], f"{score['value']:.2f}", f"{chance:.2f}", f"{score['n']:,}"))
    first, second, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = ["  ".join([row[0].ljust(first), row[1].ljust(second), *map(str.rjust, row[2:], others)]) for row in rows]
    return "\n".join(lines) + "\n"
