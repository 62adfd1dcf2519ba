# Fine-tune on what a defence kept. Where it kept everything, the plain fine-tune is copied.
rule finetune:
    input:
        samples=f"{CELL}/kept.json",
        plain_samples=plan.training_samples,
        plain_adapter=plan.plain_adapter,
        plain_log=plan.plain_loss,
        model=plan.model_files,
    output:
        adapter=directory(f"{CELL}/adapter"),
        loss=f"{CELL}/loss.csv",
    wildcard_constraints:
        defence=keys_pattern(plan.acting_on("training set")),
    priority: 50
    threads: needs.process_threads
    resources:
        **on_model,
        gpu=needs.gpu,
        processes=needs.processes,
    params:
        model=plan.model_path,
        images=plan.training_images,
        options=options.finetune,
        plain=options.plain,
    shell:
        "python -m bye --gpus {resources.gpu} finetune --model {params.model:q} --samples {input.samples:q}"
        " --images {params.images:q} {params.options} {params.plain} --seed {wildcards.seed} --no-validate"
        " --processes {resources.processes} --threads {resources.torch_threads}"
        " --out {output.adapter:q} --log {output.loss:q} > {log:q} 2>&1"


# The plain fine-tune on everything: done once, read by every detector, and first in the queue since they all wait for it.
use rule finetune as finetune_vanilla with:
    input:
        samples=plan.training_samples,
        model=plan.model_files,
    wildcard_constraints:
        defence=keys_pattern([plan.plain]),
    priority: 100
    params:
        model=plan.model_path,
        images=plan.training_images,
        options=options.finetune,
        plain="",
