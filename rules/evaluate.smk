rule evaluate:
    input:
        unpack(plan.test_files),
        adapter=plan.evaluated_adapter,
        model=plan.model_files,
        guard=plan.guard_files,
    output:
        eval=f"{CELL}/eval.json",
        predictions=f"{CELL}/predictions.parquet",
    wildcard_constraints:
        dataset=keys_pattern(plan.evaluated),
    priority: 20
    threads: needs.process_threads
    resources:
        **on_model,
        gpu=needs.gpu,
        processes=needs.processes,
    params:
        model=plan.model_path,
        images=plan.clean_images,
        options=options.evaluate,
    shell:
        "python -m bye --gpus {resources.gpu} evaluate --model {params.model:q} --adapter {input.adapter:q}"
        " --clean {input.clean:q} --clean-images {params.images:q} {params.options} --no-validate"
        " --processes {resources.processes} --threads {resources.torch_threads}"
        " --predictions {output.predictions:q} --out {output.eval:q} > {log:q} 2>&1"


# Purified images do not depend on the model: once for each dataset and attack.
rule purify_test:
    input:
        samples=f"{CLEAN}/test.json",
        models=plan.purifier_files,
    output:
        samples=f"{CLEAN}/{{defence}}/test.json",
        images=directory(f"{CLEAN}/{{defence}}/images"),
    wildcard_constraints:
        defence=keys_pattern(plan.acting_on("test images")),
        dataset=keys_pattern(plan.evaluated),
    priority: 20
    threads: needs.torch_threads
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=needs.purifier_gpu,
        torch_threads=1,
    params:
        images=plan.image_root,
        options=options.defence,
    shell:
        "python -m bye --gpus {resources.gpu} purify --samples {input.samples:q} --images {params.images:q} {params.options}"
        " --seed {wildcards.seed} --threads {resources.torch_threads}"
        " --out-samples {output.samples:q} --out-images {output.images:q} > {log:q} 2>&1"


use rule purify_test as purify_triggered with:
    input:
        samples=f"{ATTACKED}/triggered.json",
        models=plan.purifier_files,
    output:
        samples=f"{ATTACKED}/{{defence}}/triggered.json",
        images=directory(f"{ATTACKED}/{{defence}}/images"),
    wildcard_constraints:
        attack=keys_pattern(config["attacks"]),
        defence=keys_pattern(plan.acting_on("test images")),
        dataset=keys_pattern(plan.evaluated),
    params:
        images=plan.triggered_root,
        options=options.defence,


rule score:
    input:
        flags=f"{CELL}/flags.parquet",
        labels=LABELS,
        layers=plan.layers_if_any,
    output:
        f"{CELL}/detection.json",
    params:
        layers=options.layers,
    shell:
        "python -m bye score --flags {input.flags:q} --labels {input.labels:q} {params.layers}"
        " --out {output:q} > {log:q} 2>&1"
