"""
The report: one page of what was run and what came of it.

Needs     everything that the plan names; after a failure, what there is of it
Makes     results/{dataset}/report/index.html
Targets   report
"""

import subprocess

# Not a parameter of the rule: the page is made again when a result changes, not when the plan is edited.
REPORTED = PLAN.section("report")


localrules:
    report,


rule report:
    """Put together the report"""
    input:
        rules.card.input,
        rules.select.input,
        rules.train.input,
        rules.evaluate.input,
    output:
        f"results/{PLAN.dataset}/report/index.html",
    log:
        f"logs/{PLAN.dataset}/report.log",
    shell:
        r"""
        exec fineclip report \
            --output {output:q} \
            --config {REPORTED:q} \
            --log {log:q}
        """


def partial_report():
    """After a failed job: the report of what there is, which names what is missing."""
    command = [
        "fineclip",
        "report",
        "--output",
        rules.report.output[0],
        "--config",
        REPORTED,
    ]
    subprocess.run(command, check=False)
