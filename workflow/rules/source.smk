"""
Source tables, filter tables, benchmark indices, and the samples of each scale.

Needs     source.root, for kinds of source that have one; it is never written to
Makes     data/weights/{kind}/{name}.json           weights of each model, with their hash
          data/{dataset}/listing.json                kinds folder and coco: all samples, shuffled by the seed
          data/{dataset}/source/{shard}.json         a row for each sample, with the byte range of its image
          data/{dataset}/filter/{shard}.json         kept and dropped samples, with reasons
          data/{dataset}/index/{benchmark}.json      images of a benchmark, with their hashes
          data/{dataset}/check/{regions}.json        audit of images, captions, boxes and benchmarks; errors stop the workflow
          data/{dataset}/select/{scale}.json         samples of a scale
Config    source, filter, check, select, scales, benchmarks, and the weights in detect, caption, encoders
Targets   weights, source, filter, index, check, select

Rules exchange only manifests (.json), which name tables with their hashes.
"""


localrules:
    fetch_weights,


rule fetch_weights:
    """Fetch the weights of {wildcards.kind}.{wildcards.name} (needs a network)"""
    input:
        local_weights,
    output:
        manifest="data/weights/{kind}/{name}.json",
    log:
        "logs/weights/{kind}/{name}.log",
    conda:
        "../../envs/core.yaml"
    params:
        config=job_key("weights"),
    shell:
        r"""
        exec python -m fineclip weights \
            --kind {wildcards.kind:q} \
            --name {wildcards.name:q} \
            --manifest {output.manifest:q} \
            --config {params.config:q} \
            --log {log:q}
        """


rule index_source:
    """Index the samples of {wildcards.dataset}"""
    input:
        source_annotations,
    output:
        manifest="data/{dataset}/listing.json",
    log:
        "logs/{dataset}/listing.log",
    benchmark:
        "logs/{dataset}/listing.tsv"
    conda:
        "../../envs/core.yaml"
    params:
        config=job_key("list"),
        fingerprint=source_fingerprint,
    shell:
        r"""
        exec python -m fineclip index-source \
            --manifest {output.manifest:q} \
            --config {params.config:q} \
            --log {log:q}
        """


rule source_shard:
    """Write the source table of shard {wildcards.shard}"""
    input:
        listing=listing_of,
        tars=tars_of,
        tables=tables_of,
    output:
        manifest="data/{dataset}/source/{shard}.json",
    log:
        "logs/{dataset}/source/{shard}.log",
    benchmark:
        "logs/{dataset}/source/{shard}.tsv"
    conda:
        "../../envs/core.yaml"
    params:
        config=job_key("source"),
        shard_index=shard_index_of,
    shell:
        r"""
        exec python -m fineclip source \
            --shard {wildcards.shard:q} \
            --shard-index {params.shard_index:q} \
            --listing {input.listing:q} \
            --tars {input.tars:q} \
            --manifest {output.manifest:q} \
            --config {params.config:q} \
            --log {log:q}
        """


rule filter_shard:
    """Filter the images of shard {wildcards.shard}"""
    input:
        source="data/{dataset}/source/{shard}.json",
    output:
        manifest="data/{dataset}/filter/{shard}.json",
    log:
        "logs/{dataset}/filter/{shard}.log",
    benchmark:
        "logs/{dataset}/filter/{shard}.tsv"
    conda:
        "../../envs/core.yaml"
    params:
        config=job_key("filter"),
    shell:
        r"""
        exec python -m fineclip filter \
            --source {input.source:q} \
            --manifest {output.manifest:q} \
            --config {params.config:q} \
            --log {log:q}
        """


rule index_benchmark:
    """Index the images of benchmark {wildcards.benchmark}"""
    input:
        benchmark_annotations,
    output:
        manifest="data/{dataset}/index/{benchmark}.json",
    log:
        "logs/{dataset}/index/{benchmark}.log",
    benchmark:
        "logs/{dataset}/index/{benchmark}.tsv"
    conda:
        "../../envs/core.yaml"
    params:
        config=job_key("index"),
        fingerprint=benchmark_fingerprint,
    shell:
        r"""
        exec python -m fineclip index \
            --manifest {output.manifest:q} \
            --config {params.config:q} \
            --log {log:q}
        """


rule check_dataset:
    """Check what {wildcards.dataset} is made of"""
    input:
        source_annotations,
        lambda wildcards: PLAN.external_json("detect", wildcards.regions),
    output:
        manifest="data/{dataset}/check/{regions}.json",
    log:
        "logs/{dataset}/check/{regions}.log",
    benchmark:
        "logs/{dataset}/check/{regions}.tsv"
    conda:
        "../../envs/core.yaml"
    resources:
        check_config=PLAN.check_config,
    params:
        source=job_key("source"),
        fingerprint=source_fingerprint,
    shell:
        r"""
        exec python -m fineclip check \
            --manifest {output.manifest:q} \
            --config {resources.check_config:q} \
            --threads {threads} \
            --log {log:q}
        """


rule select_scale:
    """Select the samples of scale {wildcards.scale}"""
    input:
        filters=prefix_of("data/{dataset}/filter/{shard}.json"),
        benchmarks=expand(
            "data/{{dataset}}/index/{benchmark}.json", benchmark=PLAN.left_out
        ),
    output:
        manifest="data/{dataset}/select/{scale}.json",
    log:
        "logs/{dataset}/select/{scale}.log",
    benchmark:
        "logs/{dataset}/select/{scale}.tsv"
    conda:
        "../../envs/core.yaml"
    params:
        config=job_key("select"),
    shell:
        r"""
        exec python -m fineclip select \
            --scale {wildcards.scale:q} \
            --filter {input.filters:q} \
            --index {input.benchmarks:q} \
            --manifest {output.manifest:q} \
            --config {params.config:q} \
            --log {log:q}
        """


rule weights:
    input:
        [f"data/weights/{kind}/{name}.json" for kind, name in PLAN.needed_weights()],


rule source:
    input:
        planned("data/{dataset}/source/{shard}.json"),


rule filter:
    input:
        planned("data/{dataset}/filter/{shard}.json"),


rule index:
    input:
        planned("data/{dataset}/index/{benchmark}.json", benchmark=PLAN.benchmarks),


rule check:
    input:
        planned("data/{dataset}/check/{regions}.json", shard=[]),


rule select:
    input:
        planned("data/{dataset}/select/{scale}.json", scale=PLAN.config.plan.scales),
