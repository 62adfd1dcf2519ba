rule evaluate:
    input:
        clean="results/data/{dataset}/s{seed}/test.json",
        triggered=triggered_samples,
        adapter=f"{CELL}/adapter",
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
    threads: torch_threads
    resources:
        mem_mb=model_mem_mb,
        runtime=model_runtime,
        gpu=model_gpu,
        torch_threads=1,
    params:
        model=model_path,
        images=image_root,
        options=evaluate_options,
    shell:
        "python -m bye evaluate --model {params.model:q} --adapter {input.adapter:q}"
        " --clean {input.clean:q} --clean-images {params.images:q} {params.options}"
        " --threads {resources.torch_threads} --predictions {output.predictions:q} --out {output.eval:q} > {log:q} 2>&1"


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
