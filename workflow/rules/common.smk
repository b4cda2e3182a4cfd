"""
The validated configuration, the plan, and helpers that the other rule files share.

The configuration is checked here, before the first job. A mistake prints one message and exits with code 2.
"""

import os
import subprocess
import sys
from pathlib import Path

from fineclip import config as settings
from fineclip import identity
from fineclip.errors import FineclipError
from fineclip.plan import Plan, run_this_checkout

run_this_checkout(workflow.basedir)


def checked_plan():
    """Return the plan, or print one message and exit with code 2."""
    names = workflow.overwrite_configfiles or ["config.yaml"]
    try:
        plan = Plan(
            settings.load(config, where=" + ".join(map(os.path.relpath, names)))
        )
        plan.benchmarks, plan.left_out
        return plan
    except FineclipError as error:
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        os._exit(2)


PLAN = checked_plan()
RUNTIME = PLAN.config.runtime
RUNTIME_JSON = identity.canonical(identity.identity(RUNTIME))
DEVICES = (
    RUNTIME.devices
    if RUNTIME.devices == "auto"
    else ",".join(map(str, RUNTIME.devices))
)


def one_of(names):
    """Return a wildcard constraint that matches exactly these names."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    dataset=re.escape(PLAN.dataset),
    shard=one_of(PLAN.shards),
    scale=one_of(PLAN.config.scales),
    regions=one_of(PLAN.config.detect),
    captions=one_of(PLAN.config.caption),
    encoder=one_of(PLAN.config.encoders),
    benchmark=one_of(PLAN.config.benchmarks),
    kind="detect|caption|encoders|tokenizers",
    name="[a-z0-9.]+",
    run=one_of(PLAN.runs),


def job_key(stage):
    """Return a function of wildcards: version and configuration of the job, as JSON."""
    return lambda wildcards: PLAN.key(stage, **dict(wildcards.items()))


def planned(pattern, **more):
    """Return the pattern with the planned data set, regions and captions, for every planned shard unless `more` overrides."""
    values = dict(
        dataset=PLAN.dataset,
        regions=PLAN.config.regions,
        captions=PLAN.config.captions,
        shard=list(PLAN.shards),
    )
    return expand(pattern, **values | more)


def prefix_of(pattern):
    """Return a function of wildcards: the pattern for every shard that the scale may need."""
    return lambda wildcards: planned(pattern, shard=PLAN.prefix(scale_of(wildcards)))


def scale_of(wildcards):
    """Return the scale of a job, from its wildcard or its run."""
    return (
        PLAN.runs[wildcards.run].scale if "run" in wildcards.keys() else wildcards.scale
    )


def encoder_of(wildcards):
    """Return the encoder of a job, from its wildcard or its run."""
    return (
        PLAN.runs[wildcards.run].encoder
        if "run" in wildcards.keys()
        else wildcards.encoder
    )


def weights_of(kind):
    """Return a function of wildcards: the manifest of the weights of the model, or nothing."""

    def manifests(wildcards):
        name = {"detect": "regions", "caption": "captions"}.get(kind)
        model = wildcards[name] if name else encoder_of(wildcards)
        return (
            [f"data/weights/{kind}/{model}.json"] if PLAN.weights(kind, model) else []
        )

    return manifests


def concepts_of(wildcards):
    """Return the manifest of the concepts of the scale, for methods that need concepts."""
    run = PLAN.runs[wildcards.run]
    if not PLAN.config.options(run).needs_concepts:
        return []
    return planned("data/{dataset}/concepts/{regions}/{scale}.json", scale=run.scale)


def texts_of(wildcards):
    """Return the manifests of embedded texts of a run under loader.cached_texts with a frozen text tower."""
    run, config = PLAN.runs[wildcards.run], PLAN.config
    if not (config.loader.cached_texts and config.options(run).can_cache_texts):
        return []
    return planned(
        "data/{dataset}/texts/{encoder}/{regions}.{captions}/{shard}.json",
        encoder=run.encoder,
        shard=PLAN.prefix(run.scale),
    )


def detected_of(wildcards):
    """Return the manifests of detect with the labels of a scale; none for concepts from captions."""
    if PLAN.config.concepts.from_ != "labels":
        return []
    return planned(
        "data/{dataset}/detect/{regions}/{shard}.json",
        regions=wildcards.regions,
        shard=PLAN.prefix(wildcards.scale),
    )


def source_annotations(wildcards):
    """Return the JSON files or the table of captions that index_source reads beside the images."""
    return PLAN.source_annotations


def source_fingerprint(wildcards):
    """Return the fingerprint of the image folder: a new, removed or changed image plans index_source again."""
    return PLAN.source_fingerprint


def check_of(wildcards):
    """
    Return the manifest of the check of a source that a user brings. It orders jobs and plans none.

    Snakemake ignores all other reasons to run a job whose `ancient` input is made again. Therefore the rule that makes it
    has only triggers that plan every job of `detect` through the other inputs.
    """
    drawn = PLAN.config.source.kind == "miniature"
    return (
        []
        if drawn
        else ancient(f"data/{wildcards.dataset}/check/{wildcards.regions}.json")
    )


def benchmark_annotations(wildcards):
    """Return the JSON file that index_benchmark reads beside the images of a benchmark."""
    return PLAN.benchmark_annotations(wildcards.benchmark)


def benchmark_fingerprint(wildcards):
    """Return the fingerprints of the folders of a benchmark: a changed image or mask plans index_benchmark again."""
    return PLAN.benchmark_fingerprint(wildcards.benchmark)


def local_weights(wildcards):
    """Return the file or folder of weights that the user brings, or nothing."""
    return PLAN.local_weights(wildcards.kind, wildcards.name)


def annotation_json(wildcards):
    """Return the released JSON of boxes or captions of an entry, or the table or class names of own boxes."""
    return PLAN.external_json(wildcards.kind, wildcards.name)


def annotation_fingerprint(wildcards):
    """Return the fingerprint of a folder of own boxes: a new, removed or changed file plans import_annotations again."""
    return PLAN.external_fingerprint(wildcards.kind, wildcards.name)


def annotations_of(kind):
    """Return a function of wildcards: the manifest of the imported boxes or captions, or nothing."""

    def manifests(wildcards):
        name = wildcards["regions" if kind == "detect" else "captions"]
        return (
            [f"data/{wildcards.dataset}/given/{kind}/{name}.json"]
            if PLAN.is_external(kind, name)
            else []
        )

    return manifests


def listing_of(wildcards):
    """Return the index of the source, for the kinds of source that have one."""
    listed = PLAN.config.source.kind in ("folder", "coco")
    return [f"data/{wildcards.dataset}/listing.json"] if listed else []


def tars_of(wildcards):
    """Return the tar files of a shard of kind webdataset."""
    return list(PLAN.shards[wildcards.shard].tars)


def tables_of(wildcards):
    """Return the tables of img2dataset beside the tar files of a shard."""
    tables = (Path(tar).with_suffix(".parquet") for tar in tars_of(wildcards))
    return [str(table) for table in tables if table.is_file()]


def shard_index_of(wildcards):
    """Return I/N for shard I of the N shards of its source; 0/1 for a shard of tar files."""
    shard = PLAN.shards[wildcards.shard]
    return "0/1" if shard.tars else f"{shard.position}/{shard.of}"


def partial_report():
    """Write the report after a failed job; it lists missing results."""
    page = f"results/{PLAN.dataset}/report/index.html"
    command = [
        sys.executable,
        "-m",
        "fineclip",
        "report",
        "--output",
        page,
        "--config",
        PLAN.key("report"),
    ]
    subprocess.run(command, check=False)
