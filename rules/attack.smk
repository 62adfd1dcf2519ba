# The labels leave this stage in a file of their own, outside every folder that a defence reads.
rule poison:
    input:
        samples=f"{CLEAN}/train.json",
        own=plan.attack_files,
    output:
        samples=f"{ATTACKED}/train.json",
        images=directory(f"{ATTACKED}/images"),
        labels=LABELS,
    wildcard_constraints:
        attack=keys_pattern(config["attacks"]),
    params:
        images=plan.image_root,
        out=subpath(output.samples, parent=True),
        options=options.poison,
    shell:
        "python -m bye poison --samples {input.samples:q} --images {params.images:q} {params.options}"
        " --seed {wildcards.seed} --out {params.out:q} --labels {output.labels:q} > {log:q} 2>&1"


rule trigger_test:
    input:
        samples=f"{CLEAN}/test.json",
        own=plan.attack_files,
    output:
        samples=f"{ATTACKED}/triggered.json",
        images=directory(f"{ATTACKED}/triggered"),
    wildcard_constraints:
        attack=keys_pattern(config["attacks"]),
    params:
        images=plan.image_root,
        out=subpath(output.samples, parent=True),
        options=options.trigger,
    shell:
        "python -m bye trigger-test --samples {input.samples:q} --images {params.images:q} {params.options}"
        " --seed {wildcards.seed} --out {params.out:q} > {log:q} 2>&1"
