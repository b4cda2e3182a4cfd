"""
Concepts of a scale, for methods that classify regions by name.

Needs     data/{dataset}/select/{scale}.json                selected samples; for captions also the filter tables behind it
          data/{dataset}/detect/{regions}/{shard}.json      labels of the regions, under concepts.from: labels
Makes     data/{dataset}/concepts/{regions}/{scale}.json    names with their counts, and reasons of dropped ones
Config    concepts
Targets   concepts (included in train for methods that need it)
"""


rule concepts_scale:
    """List the concepts of scale {wildcards.scale}"""
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
