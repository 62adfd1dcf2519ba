# The labels leave this stage in a file of their own, outside every folder that a defence reads.
rule poison:
    input:
        "results/data/{dataset}/s{seed}/train.json",
    output:
        samples=f"{ATTACKED}/train.json",
        images=directory(f"{ATTACKED}/images"),
        labels=LABELS,
    log:
        "results/logs/poison/{dataset}.{attack}.s{seed}.log",
    benchmark:
        "results/benchmarks/poison/{dataset}.{attack}.s{seed}.tsv"
    wildcard_constraints:
        attack=keys_pattern(config["attacks"]),
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        images=image_root,
        out=subpath(output.samples, parent=True),
        options=poison_options,
    shell:
        "python -m bye poison --samples {input:q} --images {params.images:q} {params.options}"
        " --seed {wildcards.seed} --out {params.out:q} --labels {output.labels:q} > {log:q} 2>&1"


rule trigger_test:
    input:
        "results/data/{dataset}/s{seed}/test.json",
    output:
        samples=f"{ATTACKED}/triggered.json",
        images=directory(f"{ATTACKED}/triggered"),
    log:
        "results/logs/trigger_test/{dataset}.{attack}.s{seed}.log",
    benchmark:
        "results/benchmarks/trigger_test/{dataset}.{attack}.s{seed}.tsv"
    wildcard_constraints:
        attack=keys_pattern(config["attacks"]),
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        images=image_root,
        out=subpath(output.samples, parent=True),
        options=trigger_options,
    shell:
        "python -m bye trigger-test --samples {input:q} --images {params.images:q} {params.options}"
        " --seed {wildcards.seed} --out {params.out:q} > {log:q} 2>&1"
