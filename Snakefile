from snakemake.utils import min_version

min_version("9.8")


configfile: f"{workflow.current_basedir}/config.yaml"


report: "report/workflow.rst"


include: "rules/common.smk"
include: "rules/checks.smk"
include: "rules/data.smk"
include: "rules/attack.smk"
include: "rules/finetune.smk"
include: "rules/detect.smk"
include: "rules/evaluate.smk"
include: "rules/tables.smk"
include: "rules/base_models.smk"
include: "rules/scout.smk"


rule all:
    input:
        plan.targets(),


rule base_models:
    input:
        plan.base_models(),


name_records()
check_request()
