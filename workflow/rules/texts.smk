"""
Embeddings of the captions of packed shards, for runs with a frozen text tower.

Needs     data/{dataset}/pack/{regions}.{captions}/{shard}.json               captions of images and regions
          data/weights/encoders/{encoder}.json                                weights of the text tower
Makes     data/{dataset}/texts/{encoder}/{regions}.{captions}/{shard}.json    one embedding per distinct caption
Config    encoders.{encoder}
Targets   texts (included in train under loader.cached_texts)
"""


rule texts_shard:
    """Embed the captions of shard {wildcards.shard} with {wildcards.encoder}"""
    input:
        packed="data/{dataset}/pack/{regions}.{captions}/{shard}.json",
        weights=weights_of("encoders"),
        tokenizer=weights_of("tokenizers"),
    output:
        manifest="data/{dataset}/texts/{encoder}/{regions}.{captions}/{shard}.json",
    log:
        "logs/{dataset}/texts/{encoder}/{regions}.{captions}/{shard}.log",
    benchmark:
        "logs/{dataset}/texts/{encoder}/{regions}.{captions}/{shard}.tsv"
    conda:
        "../../envs/train.yaml"
    resources:
        batch_size=RUNTIME.evaluate_batch_size,
        device=RUNTIME.device,
        devices=DEVICES,
        gpu=0,
    params:
        config=job_key("texts"),
    shell:
        r"""
        exec python -m fineclip texts \
            --pack {input.packed:q} \
            --weights {input.weights:q} \
            --tokenizer {input.tokenizer:q} \
            --manifest {output.manifest:q} \
            --config {params.config:q} \
            --batch-size {resources.batch_size} \
            --device {resources.device} \
            --devices {resources.devices} \
            --gpus {resources.gpu} \
            --threads {threads} \
            --log {log:q}
        """


rule texts:
    input:
        planned(
            "data/{dataset}/texts/{encoder}/{regions}.{captions}/{shard}.json",
            encoder=PLAN.config.planned_encoders,
        ),
