rule evaluate:
    input:
        clean=test_samples,
        triggered=triggered_samples,
        adapter=evaluated_adapter,
        model=model_files,
    output:
        eval=f"{CELL}/eval.json",
        predictions=f"{CELL}/predictions.parquet",
    log:
        "results/logs/evaluate/{model}.{dataset}.{attack}.s{seed}.{defence}.log",
    benchmark:
        "results/benchmarks/evaluate/{model}.{dataset}.{attack}.s{seed}.{defence}.tsv"
    wildcard_constraints:
        dataset=keys_pattern(EVALUATED),
    priority: 20
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
        images=test_images,
        options=evaluate_options,
    shell:
        "python -m bye --gpus {resources.gpu} evaluate --model {params.model:q} --adapter {input.adapter:q}"
        " --clean {input.clean:q} --clean-images {params.images:q} {params.options}"
        " --processes {resources.processes} --threads {resources.torch_threads}"
        " --predictions {output.predictions:q} --out {output.eval:q} > {log:q} 2>&1"


# Purified images do not depend on the model: once for each dataset and attack.
rule purify_test:
    input:
        samples=f"{CLEAN}/test.json",
        diffusion=diffusion_files,
    output:
        samples=f"{CLEAN}/{{defence}}/test.json",
        images=directory(f"{CLEAN}/{{defence}}/images"),
    log:
        "results/logs/purify_test/{dataset}.s{seed}.{defence}.log",
    benchmark:
        "results/benchmarks/purify_test/{dataset}.s{seed}.{defence}.tsv"
    wildcard_constraints:
        defence=keys_pattern(defences_of_kind("zip")),
        dataset=keys_pattern(EVALUATED),
    priority: 20
    conda:
        "../envs/bye.yaml"
    threads: torch_threads
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=purifier_gpu,
        torch_threads=1,
    params:
        images=image_root,
        options=detect_options,
    shell:
        "python -m bye --gpus {resources.gpu} purify --samples {input.samples:q} --images {params.images:q} {params.options}"
        " --seed {wildcards.seed} --threads {resources.torch_threads}"
        " --out-samples {output.samples:q} --out-images {output.images:q} > {log:q} 2>&1"


use rule purify_test as purify_triggered with:
    input:
        samples=f"{ATTACKED}/triggered.json",
        diffusion=diffusion_files,
    output:
        samples=f"{ATTACKED}/{{defence}}/triggered.json",
        images=directory(f"{ATTACKED}/{{defence}}/images"),
    log:
        "results/logs/purify_triggered/{dataset}.{attack}.s{seed}.{defence}.log",
    benchmark:
        "results/benchmarks/purify_triggered/{dataset}.{attack}.s{seed}.{defence}.tsv"
    wildcard_constraints:
        attack=keys_pattern(config["attacks"]),
        defence=keys_pattern(defences_of_kind("zip")),
        dataset=keys_pattern(EVALUATED),
    params:
        images=triggered_root,
        options=detect_options,


rule score:
    input:
        flags=f"{CELL}/flags.parquet",
        labels=LABELS,
        layers=optional_layers,
    output:
        f"{CELL}/detection.json",
    log:
        "results/logs/score/{model}.{dataset}.{attack}.s{seed}.{defence}.log",
    benchmark:
        "results/benchmarks/score/{model}.{dataset}.{attack}.s{seed}.{defence}.tsv"
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        layers=layers_option,
    shell:
        "python -m bye score --flags {input.flags:q} --labels {input.labels:q} {params.layers}"
        " --out {output:q} > {log:q} 2>&1"
