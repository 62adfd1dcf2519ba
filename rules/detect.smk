rule attention:
    input:
        samples=training_samples,
        adapter=f"results/{{model}}/{{dataset}}/{{attack}}/s{{seed}}/{VANILLA}/adapter",
        model=model_files,
    output:
        f"results/{{model}}/{{dataset}}/{{attack}}/s{{seed}}/{VANILLA}/attention.parquet",
    log:
        "results/logs/attention/{model}.{dataset}.{attack}.s{seed}.log",
    benchmark:
        "results/benchmarks/attention/{model}.{dataset}.{attack}.s{seed}.tsv"
    priority: 90
    conda:
        "../envs/bye.yaml"
    threads: process_threads
    resources:
        mem_mb=model_mem_mb,
        runtime=model_runtime,
        gpu=model_gpu,
        processes=model_processes,
        torch_threads=1,
    params:
        model=model_path,
        images=training_images,
        options=attention_options,
    shell:
        "python -m bye --gpus {resources.gpu} attention --model {params.model:q} --adapter {input.adapter:q}"
        " --samples {input.samples:q} --images {params.images:q} {params.options} --processes {resources.processes}"
        " --threads {resources.torch_threads} --out {output:q} > {log:q} 2>&1"


rule detect:
    input:
        rules.attention.output,
    output:
        layers=f"{CELL}/layers.csv",
        flags=f"{CELL}/flags.parquet",
    log:
        "results/logs/detect/{model}.{dataset}.{attack}.s{seed}.{defence}.log",
    benchmark:
        "results/benchmarks/detect/{model}.{dataset}.{attack}.s{seed}.{defence}.tsv"
    wildcard_constraints:
        defence=keys_pattern(defences_of_kind("bye")),
    priority: 90
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        options=detect_options,
    shell:
        "python -m bye detect --attention {input:q} {params.options} --seed {wildcards.seed}"
        " --layers {output.layers:q} --flags {output.flags:q} > {log:q} 2>&1"


# Unlike BYE this needs clean samples, which only an experiment has: those of the test set.
rule sentinet:
    input:
        samples=training_samples,
        adapter=f"results/{{model}}/{{dataset}}/{{attack}}/s{{seed}}/{VANILLA}/adapter",
        reference="results/data/{dataset}/s{seed}/test.json",
        model=model_files,
    output:
        f"{CELL}/flags.parquet",
    log:
        "results/logs/sentinet/{model}.{dataset}.{attack}.s{seed}.{defence}.log",
    benchmark:
        "results/benchmarks/sentinet/{model}.{dataset}.{attack}.s{seed}.{defence}.tsv"
    wildcard_constraints:
        defence=keys_pattern(defences_of_kind("sentinet")),
        dataset=keys_pattern(EVALUATED),
    conda:
        "../envs/bye.yaml"
    threads: torch_threads
    resources:
        mem_mb=model_mem_mb,
        runtime=model_runtime,
        gpu=one_gpu,
        torch_threads=1,
    params:
        model=model_path,
        images=training_images,
        reference_images=image_root,
        options=sentinet_options,
    shell:
        "python -m bye --gpus {resources.gpu} sentinet --model {params.model:q} --adapter {input.adapter:q} --samples {input.samples:q}"
        " --images {params.images:q} --reference {input.reference:q} --reference-images {params.reference_images:q}"
        " {params.options} --seed {wildcards.seed} --threads {resources.torch_threads}"
        " --flags {output:q} > {log:q} 2>&1"


rule random_drop:
    input:
        training_samples,
    output:
        f"{CELL}/flags.parquet",
    log:
        "results/logs/random_drop/{model}.{dataset}.{attack}.s{seed}.{defence}.log",
    benchmark:
        "results/benchmarks/random_drop/{model}.{dataset}.{attack}.s{seed}.{defence}.tsv"
    wildcard_constraints:
        defence=keys_pattern(defences_of_kind("random")),
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        options=detect_options,
    shell:
        "python -m bye random-drop --samples {input:q} {params.options} --seed {wildcards.seed}"
        " --flags {output:q} > {log:q} 2>&1"


# The upper bound, and the one defence that is allowed to read the labels.
rule oracle:
    input:
        samples=training_samples,
        labels=LABELS,
    output:
        f"{CELL}/flags.parquet",
    log:
        "results/logs/oracle/{model}.{dataset}.{attack}.s{seed}.{defence}.log",
    benchmark:
        "results/benchmarks/oracle/{model}.{dataset}.{attack}.s{seed}.{defence}.tsv"
    wildcard_constraints:
        defence=keys_pattern(defences_of_kind("oracle")),
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    shell:
        "python -m bye oracle --samples {input.samples:q} --labels {input.labels:q} --flags {output:q} > {log:q} 2>&1"


rule keep:
    input:
        samples=training_samples,
        flags=f"{CELL}/flags.parquet",
    output:
        kept=f"{CELL}/kept.json",
        dropped=f"{CELL}/dropped.json",
    log:
        "results/logs/keep/{model}.{dataset}.{attack}.s{seed}.{defence}.log",
    benchmark:
        "results/benchmarks/keep/{model}.{dataset}.{attack}.s{seed}.{defence}.tsv"
    priority: 90
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    shell:
        "python -m bye keep --samples {input.samples:q} --flags {input.flags:q}"
        " --kept {output.kept:q} --dropped {output.dropped:q} > {log:q} 2>&1"


rule entropy_figure:
    input:
        flags=f"{CELL}/flags.parquet",
        layers=f"{CELL}/layers.csv",
        labels=optional_labels,
    output:
        f"{CELL}/entropy.png",
    log:
        "results/logs/entropy_figure/{model}.{dataset}.{attack}.s{seed}.{defence}.log",
    benchmark:
        "results/benchmarks/entropy_figure/{model}.{dataset}.{attack}.s{seed}.{defence}.tsv"
    wildcard_constraints:
        defence=keys_pattern(defences_of_kind("bye")),
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        labels=labels_option,
    shell:
        "python -m bye entropy-figure --flags {input.flags:q} --layers {input.layers:q} {params.labels}"
        " --out {output:q} > {log:q} 2>&1"
