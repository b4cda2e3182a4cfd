"""
Regions, captions and training shards.

Needs     data/{dataset}/filter/{shard}.json                     kept images of a shard
Makes     data/{dataset}/given/{kind}/{name}.json               engines boxes_json, boxes_files, captions_json: boxes or captions as a table
          data/{dataset}/detect/{regions}/{shard}.json           boxes of the kept images
          data/{dataset}/caption/{regions}.{captions}/{shard}.json    a caption for every box
          data/{dataset}/pack/{regions}.{captions}/{shard}.json  the training shard: a tar and its index
          data/{dataset}/pack/{regions}.{captions}/card.json     the data card, over all shards
Config    detect.{regions}, caption.{captions}
Targets   detect, caption, pack, card, data

Rules exchange only manifests (.json), which name tables with their hashes.
"""


rule import_annotations:
    """Import the JSON of {wildcards.kind}.{wildcards.name}"""
    input:
        annotation_json,
    output:
        manifest="data/{dataset}/given/{kind}/{name}.json",
    log:
        "logs/{dataset}/given/{kind}/{name}.log",
    benchmark:
        "logs/{dataset}/given/{kind}/{name}.tsv"
    wildcard_constraints:
        kind="detect|caption",
    conda:
        "../../envs/core.yaml"
    params:
        config=job_key("given"),
        fingerprint=annotation_fingerprint,
    shell:
        r"""
        exec python -m fineclip import-annotations \
            --kind {wildcards.kind:q} \
            --name {wildcards.name:q} \
            --manifest {output.manifest:q} \
            --config {params.config:q} \
            --log {log:q}
        """


rule detect_shard:
    """Detect regions in shard {wildcards.shard}"""
    input:
        kept="data/{dataset}/filter/{shard}.json",
        check=check_of,
        weights=weights_of("detect"),
        annotations=annotations_of("detect"),
    output:
        manifest="data/{dataset}/detect/{regions}/{shard}.json",
    log:
        "logs/{dataset}/detect/{regions}/{shard}.log",
    benchmark:
        "logs/{dataset}/detect/{regions}/{shard}.tsv"
    conda:
        "../../envs/detect.yaml"
    resources:
        batch_size=RUNTIME.detect_batch_size,
        device=RUNTIME.device,
        devices=DEVICES,
        gpu=0,
    params:
        config=job_key("detect"),
    shell:
        r"""
        exec python -m fineclip detect \
            --filter {input.kept:q} \
            --weights {input.weights:q} \
            --annotations {input.annotations:q} \
            --manifest {output.manifest:q} \
            --config {params.config:q} \
            --batch-size {resources.batch_size} \
            --device {resources.device} \
            --devices {resources.devices} \
            --gpus {resources.gpu} \
            --threads {threads} \
            --log {log:q}
        """


rule caption_shard:
    """Caption the regions of shard {wildcards.shard}"""
    input:
        detected="data/{dataset}/detect/{regions}/{shard}.json",
        weights=weights_of("caption"),
        annotations=annotations_of("caption"),
    output:
        manifest="data/{dataset}/caption/{regions}.{captions}/{shard}.json",
    log:
        "logs/{dataset}/caption/{regions}.{captions}/{shard}.log",
    benchmark:
        "logs/{dataset}/caption/{regions}.{captions}/{shard}.tsv"
    conda:
        "../../envs/caption.yaml"
    resources:
        batch_size=RUNTIME.caption_batch_size,
        device=RUNTIME.device,
        devices=DEVICES,
        gpu=0,
    params:
        config=job_key("caption"),
    shell:
        r"""
        exec python -m fineclip caption \
            --detect {input.detected:q} \
            --weights {input.weights:q} \
            --annotations {input.annotations:q} \
            --manifest {output.manifest:q} \
            --config {params.config:q} \
            --batch-size {resources.batch_size} \
            --device {resources.device} \
            --devices {resources.devices} \
            --gpus {resources.gpu} \
            --threads {threads} \
            --log {log:q}
        """


rule pack_shard:
    """Write the training shard {wildcards.shard}"""
    input:
        captioned="data/{dataset}/caption/{regions}.{captions}/{shard}.json",
    output:
        manifest="data/{dataset}/pack/{regions}.{captions}/{shard}.json",
    log:
        "logs/{dataset}/pack/{regions}.{captions}/{shard}.log",
    benchmark:
        "logs/{dataset}/pack/{regions}.{captions}/{shard}.tsv"
    conda:
        "../../envs/core.yaml"
    params:
        config=job_key("pack"),
    shell:
        r"""
        exec python -m fineclip pack \
            --caption {input.captioned:q} \
            --manifest {output.manifest:q} \
            --config {params.config:q} \
            --log {log:q}
        """


rule data_card:
    """Write the data card"""
    input:
        packed=planned("data/{dataset}/pack/{regions}.{captions}/{shard}.json"),
    output:
        manifest=report(
            "data/{dataset}/pack/{regions}.{captions}/card.json",
            caption="../report/card.rst",
            category="Data",
            labels={"page": "data card"},
        ),
    log:
        "logs/{dataset}/pack/{regions}.{captions}/card.log",
    conda:
        "../../envs/core.yaml"
    params:
        config=job_key("card"),
    shell:
        r"""
        exec python -m fineclip card \
            --pack {input.packed:q} \
            --manifest {output.manifest:q} \
            --config {params.config:q} \
            --log {log:q}
        """


rule detect:
    input:
        planned("data/{dataset}/detect/{regions}/{shard}.json"),


rule caption:
    input:
        planned("data/{dataset}/caption/{regions}.{captions}/{shard}.json"),


rule pack:
    input:
        planned("data/{dataset}/pack/{regions}.{captions}/{shard}.json"),


rule card:
    input:
        planned("data/{dataset}/pack/{regions}.{captions}/card.json", shard=[]),


rule data:
    input:
        rules.source.input,
        rules.filter.input,
        rules.index.input,
        rules.select.input,
        rules.detect.input,
        rules.caption.input,
        rules.pack.input,
        rules.card.input,
