"""
What the rule files share: the validated configuration, the plan that follows from it, and small helpers.

Everything is checked here, before the first job. A mistake prints one message and ends with exit code 2.
"""

import os
import sys

from fineclip import config as settings
from fineclip.errors import FineclipError
from fineclip.plan import Plan

# Jobs find the `fineclip` that stands beside the Python of this Snakemake.
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]


def checked_plan():
    """The plan, or one message and exit code 2."""
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


def one_of(names):
    """A wildcard constraint: exactly these names."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    dataset=re.escape(PLAN.dataset),
    shard=one_of(PLAN.shards),
    scale=one_of(PLAN.config.scales),
    regions=one_of(PLAN.config.detect),
    captions=one_of(PLAN.config.caption),
    benchmark=one_of(PLAN.config.benchmarks),
    kind="detect|caption|encoders|tokenizers",
    model="[a-z0-9.]+",
    run=one_of(PLAN.runs),


def section(stage):
    """A function of wildcards: what identifies the job beside its inputs, as JSON."""
    return lambda wildcards: PLAN.section(stage, **dict(wildcards.items()))


def planned(pattern, **more):
    """The pattern filled with the planned data set, regions and captions, for every planned shard unless said otherwise."""
    values = dict(
        dataset=PLAN.dataset,
        regions=PLAN.config.regions,
        captions=PLAN.config.captions,
        shard=list(PLAN.shards),
    )
    return expand(pattern, **values | more)


def prefix_of(pattern):
    """A function of wildcards: the pattern for every shard that the scale may need."""
    return lambda wildcards: planned(pattern, shard=PLAN.prefix(scale_of(wildcards)))


def scale_of(wildcards):
    """The scale that a job is about: named by it, or by its run."""
    return (
        PLAN.runs[wildcards.run].scale if "run" in wildcards.keys() else wildcards.scale
    )


def weights_of(kind):
    """A function of wildcards: the manifest of the model's weights, nothing where it needs none."""

    def manifests(wildcards):
        name = {"detect": "regions", "caption": "captions"}.get(kind)
        model = wildcards[name] if name else PLAN.runs[wildcards.run].encoder
        return (
            [f"data/weights/{kind}/{model}.json"] if PLAN.weights(kind, model) else []
        )

    return manifests
