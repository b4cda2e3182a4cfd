"""
The concepts of a scale, for methods that tell regions apart by names.

Needs     data/{dataset}/select/{scale}.json                which samples; for captions the tables that it was drawn from too
          data/{dataset}/detect/{regions}/{shard}.json      for labels: what their regions are called
Makes     data/{dataset}/concepts/{regions}/{scale}.json    names with their counts, and why the rest is left out
Config    concepts
Targets   concepts, which no other target asks for: a training that needs concepts does
"""


rule concepts_scale:
    """Name what the regions of scale {wildcards.scale} show"""
    input:
        select="data/{dataset}/select/{scale}.json",
        detected=detected_of,
    output:
        manifest="data/{dataset}/concepts/{regions}/{scale}.json",
    log:
        "logs/{dataset}/concepts/{regions}/{scale}.log",
    benchmark:
        "logs/{dataset}/concepts/{regions}/{scale}.tsv"
    conda:
        "../../envs/core.yaml"
    params:
        config=job_key("concepts"),
    shell:
        r"""
        exec python -m fineclip concepts \
            --select {input.select:q} \
            --detect {input.detected:q} \
            --manifest {output.manifest:q} \
            --config {params.config:q} \
            --log {log:q}
        """


rule concepts:
    input:
        planned(
            "data/{dataset}/concepts/{regions}/{scale}.json",
            scale=PLAN.config.plan.scales,
        ),
