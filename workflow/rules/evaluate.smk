"""
Evaluation: every run on all planned benchmarks whose data is there.

Needs     results/{dataset}/{run}/train.json
          data/{dataset}/index/{benchmark}.json              of each benchmark
Makes     results/{dataset}/{run}/evals.json                 names the score files
          results/{dataset}/{run}/evals/{benchmark}.json     scores in percent, with their inputs
Config    benchmarks
Targets   evaluate

A new benchmark computes only its own scores. If a benchmark fails, the others are written and the job fails.
"""


rule evaluate_run:
    """Evaluate {wildcards.run}"""
    input:
        run="results/{dataset}/{run}/train.json",
        indexes=expand(
            "data/{{dataset}}/index/{benchmark}.json", benchmark=PLAN.benchmarks
        ),
    output:
        manifest=report(
            "results/{dataset}/{run}/evals.json",
            caption="../report/scores.rst",
            category="Scores",
            labels={"run": "{run}"},
        ),
    log:
        "logs/{dataset}/evaluate/{run}.log",
    benchmark:
        "logs/{dataset}/evaluate/{run}.tsv"
    conda:
        "../../envs/train.yaml"
    resources:
        batch_size=RUNTIME.evaluate_batch_size,
        device=RUNTIME.device,
        devices=DEVICES,
        gpu=0,
    params:
        config=job_key("evaluate"),
    shell:
        r"""
        exec python -m fineclip evaluate \
            --run {input.run:q} \
            --index {input.indexes:q} \
            --manifest {output.manifest:q} \
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
            "results/{dataset}/{run}/evals.json",
            dataset=PLAN.dataset,
            run=PLAN.runs if PLAN.benchmarks else [],
        ),
