rule mini_data:
    output:
        directory(RAW),
    wildcard_constraints:
        dataset=keys_pattern(plan.generated()),
    params:
        options=options.mini,
    shell:
        "python -m bye mini-data {params.options} --out {output:q} > {log:q} 2>&1"


# An official download, for a dataset whose root is results/downloads/FORMAT.
rule fetch:
    output:
        directory(f"{DOWNLOADS}/{{format}}"),
    wildcard_constraints:
        format=keys_pattern(plan.fetched()),
    resources:
        runtime=600,
    shell:
        "python -m bye fetch {wildcards.format} --out {output:q} > {log:q} 2>&1"


rule prepare:
    input:
        plan.raw_dataset,
    output:
        train=f"{CLEAN}/train.json",
        test=f"{CLEAN}/test.json",
        reference=f"{CLEAN}/reference.json",
        unjudged=f"{CLEAN}/unjudged.json",
    params:
        root=plan.image_root,
        out=subpath(output.train, parent=True),
        options=options.prepare,
    shell:
        "python -m bye prepare --root {params.root:q} {params.options}"
        " --seed {wildcards.seed} --out {params.out:q} > {log:q} 2>&1"
