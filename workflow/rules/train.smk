"""
Training: one run for each planned method, encoder, scale and seed, and one for each pretrained encoder.

Needs     data/{dataset}/select/{scale}.json                         selected samples
          data/{dataset}/pack/{regions}.{captions}/{shard}.json      packed shards
          data/weights/encoders/{model}.json                         initial weights
          data/{dataset}/concepts/{regions}/{scale}.json             for methods that compare regions with concepts
          data/{dataset}/texts/{encoder}/{regions}.{captions}/{shard}.json    with loader.cached_texts, if the text tower is frozen
Makes     results/{dataset}/{run}/train.json                         beside it model.safetensors, config.yaml, metrics.jsonl, state/
Config    train, methods, encoders, plan
Targets   train
"""


rule train_run:
    """Train {wildcards.run}"""
    input:
        select=lambda wildcards: f"data/{wildcards.dataset}/select/{scale_of(wildcards)}.json",
        packed=prefix_of("data/{dataset}/pack/{regions}.{captions}/{shard}.json"),
        weights=weights_of("encoders"),
        tokenizer=weights_of("tokenizers"),
        concepts=concepts_of,
        texts=texts_of,
    output:
        manifest="results/{dataset}/{run}/train.json",
    log:
        "logs/{dataset}/train/{run}.log",
    benchmark:
        "logs/{dataset}/train/{run}.tsv"
    wildcard_constraints:
        run=one_of(PLAN.trained),
    conda:
        "../../envs/train.yaml"
    resources:
        gpu=0,
        runtime_json=RUNTIME_JSON,
        launcher="",
    params:
        config=job_key("train"),
    shell:
        r"""
        exec {resources.launcher} python -m fineclip train \
            --select {input.select:q} \
            --pack {input.packed:q} \
            --weights {input.weights:q} \
            --tokenizer {input.tokenizer:q} \
            --concepts {input.concepts:q} \
            --texts {input.texts:q} \
            --manifest {output.manifest:q} \
            --config {params.config:q} \
            --runtime {resources.runtime_json:q} \
            --gpus {resources.gpu} \
            --threads {threads} \
            --log {log:q}
        """


rule pretrained_run:
    """Write the pretrained encoder as a run, {wildcards.run}"""
    input:
        weights=weights_of("encoders"),
        tokenizer=weights_of("tokenizers"),
    output:
        manifest="results/{dataset}/{run}/train.json",
    log:
        "logs/{dataset}/train/{run}.log",
    benchmark:
        "logs/{dataset}/train/{run}.tsv"
    wildcard_constraints:
        run=one_of(PLAN.untrained),
    conda:
        "../../envs/train.yaml"
    params:
        config=job_key("pretrained"),
    shell:
        r"""
        exec python -m fineclip export-baseline \
            --weights {input.weights:q} \
            --tokenizer {input.tokenizer:q} \
            --manifest {output.manifest:q} \
            --config {params.config:q} \
            --log {log:q}
        """


rule train:
    input:
        expand(
            "results/{dataset}/{run}/train.json", dataset=PLAN.dataset, run=PLAN.runs
        ),
