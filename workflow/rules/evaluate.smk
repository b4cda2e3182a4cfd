"""
Evaluation: every run on every planned benchmark whose data is there.

Needs     results/{dataset}/{run}/train.json
          data/{dataset}/index/{benchmark}.json
Makes     results/{dataset}/{run}/evals/{benchmark}.json     scores in percent, with their inputs
Config    benchmarks.{benchmark}
Targets   evaluate
"""


rule evaluate_run:
    """Evaluate {wildcards.run} on {wildcards.benchmark}"""
    input:
        run="results/{dataset}/{run}/train.json",
        index="data/{dataset}/index/{benchmark}.json",
    output:
        scores="results/{dataset}/{run}/evals/{benchmark}.json",
    log:
        "logs/{dataset}/evaluate/{run}/{benchmark}.log",
    benchmark:
        "logs/{dataset}/evaluate/{run}/{benchmark}.tsv"
    conda:
        "../../envs/train.yaml"
    resources:
        batch_size=RUNTIME.evaluate_batch,
        device=RUNTIME.device,
        devices=DEVICES,
        gpu=0,
    params:
        config=job_key("evaluate"),
    shell:
        r"""
        exec python -m fineclip evaluate \
            --run {input.run:q} \
            --index {input.index:q} \
            --benchmark {wildcards.benchmark:q} \
            --output {output.scores:q} \
            --config {params.config:q} \
            --batch-size {resources.batch_size} \
            --device {resources.device} \
            --devices {resources.devices} \
            --gpus {resources.gpu} \
            --threads {threads} \
            --log {log:q}
        """


rule evaluate:
    input:
        expand(
            "results/{dataset}/{run}/evals/{benchmark}.json",
            dataset=PLAN.dataset,
            run=PLAN.runs,
            benchmark=PLAN.benchmarks,
        ),
