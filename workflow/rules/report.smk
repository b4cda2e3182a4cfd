"""
Report: one HTML page about the data set, its runs and their scores.

Needs     everything that the plan names; after a failed job, whatever exists
Makes     results/{dataset}/report/index.html
Targets   report
"""


localrules:
    report,


rule report:
    """Write the report"""
    input:
        rules.card.input,
        rules.select.input,
        rules.train.input,
        rules.evaluate.input,
    output:
        report(
            f"results/{PLAN.dataset}/report/index.html",
            caption="../report/report.rst",
            category="Report",
            labels={"page": "runs and benchmarks"},
        ),
    log:
        f"logs/{PLAN.dataset}/report.log",
    conda:
        "../../envs/core.yaml"
    params:
        config=job_key("report"),
    shell:
        r"""
        exec python -m fineclip report \
            --output {output:q} \
            --config {params.config:q} \
            --log {log:q}
        """
