# Fine-tune on what a defence kept. Where it kept everything, the plain fine-tune is copied.
rule finetune:
    input:
        samples=f"{CELL}/kept.json",
        plain_samples=training_samples,
        plain_adapter=f"results/{{model}}/{{dataset}}/{{attack}}/s{{seed}}/{VANILLA}/adapter",
        plain_log=f"results/{{model}}/{{dataset}}/{{attack}}/s{{seed}}/{VANILLA}/loss.csv",
        model=model_files,
    output:
        adapter=directory(f"{CELL}/adapter"),
        loss=f"{CELL}/loss.csv",
    log:
        "results/logs/finetune/{model}.{dataset}.{attack}.s{seed}.{defence}.log",
    benchmark:
        "results/benchmarks/finetune/{model}.{dataset}.{attack}.s{seed}.{defence}.tsv"
    wildcard_constraints:
        defence=keys_pattern(defences_of_kind("random", "bye", "sentinet", "oracle")),
    priority: 50
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
        options=finetune_options,
        plain=lambda wildcards, input: as_options(
            {name: getattr(input, name) for name in ("plain_samples", "plain_adapter", "plain_log")}
        ),
    shell:
        "python -m bye --gpus {resources.gpu} finetune --model {params.model:q} --samples {input.samples:q}"
        " --images {params.images:q} {params.options} {params.plain} --seed {wildcards.seed}"
        " --processes {resources.processes} --threads {resources.torch_threads}"
        " --out {output.adapter:q} --log {output.loss:q} > {log:q} 2>&1"


# The plain fine-tune on everything: done once, read by every detector, and first in the queue since they all wait for it.
use rule finetune as finetune_vanilla with:
    input:
        samples=training_samples,
        model=model_files,
    wildcard_constraints:
        defence=keys_pattern([VANILLA]),
    priority: 100
    params:
        model=model_path,
        images=training_images,
        options=finetune_options,
        plain="",
