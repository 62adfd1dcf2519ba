rule mini_data:
    output:
        directory("results/data/{dataset}/raw"),
    log:
        "results/logs/mini_data/{dataset}.log",
    benchmark:
        "results/benchmarks/mini_data/{dataset}.tsv"
    wildcard_constraints:
        dataset=keys_pattern(k for k, d in config["datasets"].items() if d["format"] != "llava" and not d["root"]),
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        options=mini_options,
    shell:
        "python -m bye mini-data {params.options} --out {output:q} > {log:q} 2>&1"


# An official download, for a dataset whose root is results/downloads/FORMAT.
rule fetch:
    output:
        directory("results/downloads/{format}"),
    log:
        "results/logs/fetch/{format}.log",
    benchmark:
        "results/benchmarks/fetch/{format}.tsv"
    wildcard_constraints:
        format=keys_pattern(["scienceqa", "iconqa", "flickr30k", "rsvqa"]),
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=600,
    shell:
        "python -m bye fetch --format {wildcards.format} --out {output:q} > {log:q} 2>&1"


rule prepare:
    input:
        raw_dataset,
    output:
        train="results/data/{dataset}/s{seed}/train.json",
        test="results/data/{dataset}/s{seed}/test.json",
    log:
        "results/logs/prepare/{dataset}.s{seed}.log",
    benchmark:
        "results/benchmarks/prepare/{dataset}.s{seed}.tsv"
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        root=image_root,
        out=subpath(output.train, parent=True),
        options=prepare_options,
    shell:
        "python -m bye prepare --root {params.root:q} {params.options}"
        " --seed {wildcards.seed} --out {params.out:q} > {log:q} 2>&1"
