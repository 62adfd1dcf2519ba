rule attention:
    input:
        samples=plan.training_samples,
        adapter=plan.plain_adapter,
        model=plan.model_files,
    output:
        f"{PLAIN}/attention.parquet",
    priority: 90
    threads: needs.process_threads
    resources:
        **on_model,
        gpu=needs.gpu,
        processes=needs.processes,
    params:
        model=plan.model_path,
        images=plan.training_images,
        options=options.attention,
    shell:
        "python -m bye --gpus {resources.gpu} attention --model {params.model:q} --adapter {input.adapter:q}"
        " --samples {input.samples:q} --images {params.images:q} {params.options} --no-validate"
        " --processes {resources.processes} --threads {resources.torch_threads} --out {output:q} > {log:q} 2>&1"


# A detector says what it reads. Ground truth is read by none but the oracle, an upper bound. One rule for each set of
# files that detectors write beside their flags.
for name, defences in plan.detectors().items():

    rule:
        name:
            name
        input:
            unpack(plan.detector_files),
        output:
            flags=f"{CELL}/flags.parquet",
            more=[f"{CELL}/{file}" for file in plan.method(defences[0]).writes],
        wildcard_constraints:
            defence=keys_pattern(defences),
        priority: 90
        threads: needs.detector_threads
        resources:
            mem_mb=needs.detector_mem_mb,
            runtime=needs.detector_runtime,
            gpu=needs.detector_gpu,
            torch_threads=1,
        params:
            options=options.detect,
        shell:
            "python -m bye --gpus {resources.gpu} detect {params.options} --seed {wildcards.seed}"
            " --threads {resources.torch_threads} --flags {output.flags:q} > {log:q} 2>&1"


# Random parts of an untouched set: whatever is flagged there is a false alarm.
rule detect_parts:
    input:
        unpack(plan.detector_files),
    output:
        f"{CELL}/parts.csv",
    wildcard_constraints:
        attack=UNTOUCHED,
        defence=keys_pattern(plan.acting_on("training set")),
    threads: needs.detector_threads
    resources:
        mem_mb=needs.detector_mem_mb,
        runtime=needs.detector_runtime,
        gpu=needs.detector_gpu,
        torch_threads=1,
    params:
        options=options.detect_parts,
    shell:
        "python -m bye --gpus {resources.gpu} detect-parts {params.options} --seed {wildcards.seed}"
        " --threads {resources.torch_threads} --out {output:q} > {log:q} 2>&1"


rule keep:
    input:
        samples=plan.training_samples,
        flags=f"{CELL}/flags.parquet",
    output:
        kept=f"{CELL}/kept.json",
        dropped=f"{CELL}/dropped.json",
    priority: 90
    shell:
        "python -m bye keep --samples {input.samples:q} --flags {input.flags:q}"
        " --kept {output.kept:q} --dropped {output.dropped:q} > {log:q} 2>&1"


rule entropy_figure:
    input:
        flags=f"{CELL}/flags.parquet",
        layers=f"{CELL}/layers.csv",
        labels=plan.labels_if_any,
    output:
        f"{CELL}/entropy.png",
    params:
        labels=options.labels,
    shell:
        "python -m bye entropy-figure --flags {input.flags:q} --layers {input.layers:q} {params.labels}"
        " --out {output:q} > {log:q} 2>&1"


# What a page shows of a cell: some of its samples, on which the model is run once more.
rule evidence:
    input:
        unpack(plan.evidence_files),
        model=plan.model_files,
    output:
        f"{CELL}/evidence.json",
    wildcard_constraints:
        defence=keys_pattern(plan.acting_on("training set")),
    threads: needs.torch_threads
    resources:
        **on_model,
        gpu=needs.one_gpu,
    params:
        model=plan.model_path,
        images=plan.training_images,
        options=options.evidence,
    shell:
        "python -m bye --gpus {resources.gpu} evidence --model {params.model:q} --images {params.images:q} {params.options}"
        " --seed {wildcards.seed} --threads {resources.torch_threads} --out {output:q} > {log:q} 2>&1"
