from snakemake.utils import min_version

min_version("9.8")


configfile: f"{workflow.basedir}/config.yaml"


report: "report/workflow.rst"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/attack.smk"
include: "rules/finetune.smk"
include: "rules/detect.smk"
include: "rules/evaluate.smk"
include: "rules/tables.smk"
include: "rules/figures.smk"
include: "rules/base_models.smk"


rule all:
    default_target: True
    input:
        expand("results/table{number}.csv", number=range(1, 9)),
        expand(
            "results/{name}.{kind}",
            name=["figure2", "figure3", "figure4", "figure5", "layers", "poison_rate"]
            + ["purified"] * bool(purified_sets()[0]),
            kind=["png", "pdf"],
        ),
        cell_files("table2", "entropy.png", kinds=["bye"]),


rule base_models:
    input:
        [f"results/base_models/{model}/{name}" for model in config["models"] for name in MODEL_FILES],
        [f"results/base_models/diffusion-mini/{name}" for name in DIFFUSION_FILES],


check_request()
