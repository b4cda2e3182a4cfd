"""Verbs about a finished encoder: evaluate, which the workflow calls for its runs and people for any file, and export."""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fineclip.cli.options import Verbs, add_compute, add_verb, json_object, section
from fineclip.config import BenchmarkConfig, Config, load, read_files
from fineclip.errors import ConfigError
from fineclip.shards import forget, write_text


def add_verbs(verbs: Verbs) -> None:
    """evaluate, export."""
    verb = add_verb(
        verbs, "evaluate", _evaluate, about="score a run, or any file of weights, on benchmarks", config=False
    )
    which = verb.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", type=Path, metavar="FILE", help="train.json of a run of the workflow")
    which.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="anything else, without the workflow: a file of weights, the folder of a run or of open_clip's, or mini, which is shipped",
    )
    verb.add_argument("--encoder", metavar="NAME", help=f"with --checkpoint, of a file: {ENCODER}")
    verb.add_argument(
        "--benchmark",
        nargs="+",
        default=[],
        metavar="NAME",
        help="entries of `benchmarks`; with --run one, with --checkpoint by default all whose data is there",
    )
    verb.add_argument(
        "--index",
        type=Path,
        metavar="PATH",
        help="with --run the manifest of `index`; with --checkpoint a folder to keep indexes in (default: none is kept)",
    )
    verb.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="where the scores go: a name that ends in .json for one benchmark, else a folder (default: with --checkpoint nowhere)",
    )
    verb.add_argument(
        "--config",
        nargs="+",
        metavar="CONFIG",
        help="with --run the section of the benchmark, as JSON; with --checkpoint configuration files (default: config.yaml)",
    )
    verb.add_argument("--force", action="store_true", help="with --run: work even where nothing has changed")
    add_compute(verb, batch_size=64)

    verb = add_verb(verbs, "export", _export, about="write an encoder in the layout of another program", config=False)
    verb.add_argument(
        "encoder_path", metavar="PATH", help="the folder of a run or of open_clip's, a file of weights, or mini"
    )
    verb.add_argument("--encoder", metavar="NAME", help=f"of a file: {ENCODER}")
    verb.add_argument(
        "--layout",
        required=True,
        metavar="NAME",
        help="open_clip (a folder), eva_clip (a file as EVA-02-CLIP's authors write it) or backbone (the vision tower as timm names it)",
    )
    verb.add_argument(
        "--output", type=Path, required=True, metavar="PATH", help="the folder, or a file .pt, .pth or .safetensors"
    )
    verb.add_argument(
        "--config", type=Path, nargs="+", default=[], metavar="FILE", help="configuration files, for their `encoders`"
    )
    verb.add_argument("--force", action="store_true", help="replace what lies there")


ENCODER = "which model it is of: an entry of `encoders`, an open_clip model such as EVA02-B-16, or a JSON in its format"


def _evaluate(options: argparse.Namespace) -> None:
    if options.run is None:
        _evaluate_checkpoint(options)
    else:
        _evaluate_run(options)


def _evaluate_run(options: argparse.Namespace) -> None:
    from fineclip.evals.evaluate import VERSION, evaluate_run

    if options.encoder is not None:
        raise ConfigError("--encoder goes with --checkpoint: a run says itself which encoder it is")
    if options.index is None or options.output is None or len(options.benchmark) != 1:
        raise ConfigError("--run goes with one --index, one --benchmark and one --output")
    [name] = options.benchmark
    values = _section_of_json(options.config or ["{}"])
    values.pop("benchmark_version", None)
    if options.force:
        forget(options.output)
    evaluate_run(
        options.run,
        options.index,
        options.output,
        section(BenchmarkConfig, values, where=f"benchmarks.{name}", version=VERSION),
        name=name,
        batch_size=options.batch_size,
        device=options.device,
        threads=options.threads,
    )


def _evaluate_checkpoint(options: argparse.Namespace) -> None:
    from fineclip.evals.checkpoint import chosen_benchmarks, evaluate_checkpoint
    from fineclip.evals.evaluate import text_of
    from fineclip.models.checkpoints import find_encoder

    config = _configuration([Path(name) for name in options.config or ["config.yaml"]])
    benchmarks = chosen_benchmarks(config.benchmarks, options.benchmark)
    places = _places(options.output, list(benchmarks))
    found = find_encoder(options.checkpoint, encoder=options.encoder, catalogue=config.encoders)
    with ExitStack() as stack:
        indexes = options.index or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fineclip-index-")))
        records = evaluate_checkpoint(
            found,
            benchmarks,
            indexes,
            batch_size=options.batch_size,
            device=options.device,
            threads=options.threads,
        )
    for name, path in places.items():
        write_text(path, text_of(records[name]))
    sys.stdout.write(_table(records))


def _export(options: argparse.Namespace) -> None:
    from fineclip.models.checkpoints import export, find_encoder

    catalogue = _configuration(options.config).encoders if options.config else {}
    found = find_encoder(options.encoder_path, encoder=options.encoder, catalogue=catalogue)
    export(found, options.output, layout=options.layout, replace=options.force)


def _configuration(files: Sequence[Path]) -> Config:
    return load(read_files(files), where=" + ".join(map(str, files)))


def _section_of_json(texts: Sequence[str]) -> dict[str, Any]:
    try:
        [text] = texts
        return dict(json_object(text))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise ConfigError(f"--config: with --run, one section as JSON: {error}") from None


def _places(output: Path | None, benchmarks: Sequence[str]) -> dict[str, Path]:
    """Where the scores of each benchmark go, if anywhere."""
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
    """Scores in percent, a line each."""
    rows = [("benchmark", "metric", "score", "chance", "n")]
    for name, record in records.items():
        for score in record["scores"]:
            chance = record["chance"][score["metric"]]
            rows.append((name, score["metric"], f"{score['value']:.2f}", f"{chance:.2f}", f"{score['n']:,}"))
    first, second, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = ["  ".join([row[0].ljust(first), row[1].ljust(second), *map(str.rjust, row[2:], others)]) for row in rows]
    return "\n".join(lines) + "\n"
