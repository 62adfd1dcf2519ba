# A table or a figure is an entry of the config section tables.
rule table:
    input:
        unpack(plan.table_files),
    output:
        csv=report(
            "results/{name}.csv",
            caption="../report/entry.rst",
            category="Tables",
            labels=plan.report_labels,
        ),
        markdown="results/{name}.md",
        latex="results/{name}.tex",
    wildcard_constraints:
        name=keys_pattern(plan.tables()),
    params:
        options=options.table,
    shell:
        "python -m bye table {params.options} --out {output.csv:q} > {log:q} 2>&1"


rule figure:
    input:
        unpack(plan.figure_files),
    output:
        png=report(
            "results/{name}.png",
            caption="../report/entry.rst",
            category="Figures",
            labels=plan.report_labels,
        ),
        pdf="results/{name}.pdf",
    wildcard_constraints:
        name=keys_pattern(plan.figures()),
    params:
        options=options.figure,
    shell:
        "python -m bye {params.options} --out {output:q} > {log:q} 2>&1"


# The files of cells that an entry lists, as one target: for example what the page of a run opens behind the matrix.
for name, files in plan.listed_files().items():

    rule:
        name:
            name
        input:
            files,


# Figures of single samples show their attention.
rule attention_maps:
    input:
        samples=plan.training_samples,
        adapter=plan.plain_adapter,
        labels=LABELS,
        model=plan.model_files,
    output:
        f"{PLAIN}/maps.npz",
    threads: needs.torch_threads
    resources:
        **on_model,
        gpu=needs.one_gpu,
    params:
        model=plan.model_path,
        images=plan.training_images,
        base=options.base,
    shell:
        "python -m bye --gpus {resources.gpu} attention-maps --model {params.model:q} {params.base} --adapter {input.adapter:q}"
        " --samples {input.samples:q} --images {params.images:q} --labels {input.labels:q} --seed {wildcards.seed}"
        " --no-validate --threads {resources.torch_threads} --out {output:q} > {log:q} 2>&1"
