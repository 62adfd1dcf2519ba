# The folders in base_models/ were made so. To use freshly built ones instead, set models.KEY.path to
# results/base_models/KEY, or copy them.
rule base_model:
    output:
        expand(f"{BUILT}/{{{{model}}}}/{{name}}", name=MODEL_FILES),
    wildcard_constraints:
        model=keys_pattern(sorted({*config["models"]} - {"scout"})),  # which has a rule of its own
    threads: needs.torch_threads
    resources:
        mem_mb=4000,
        runtime=120,
        torch_threads=1,
    params:
        family=lambda wildcards: config["models"][wildcards.model]["family"],
        seed=config["mini_seed"],
        out=subpath(output[0], parent=True),
    shell:
        "python -m bye base-model --family {params.family} --seed {params.seed} --threads {resources.torch_threads}"
        " --out {params.out:q} > {log:q} 2>&1"


# The diffusion model of ZIP.
use rule base_model as diffusion_model with:
    output:
        expand(f"{BUILT}/diffusion-mini/{{name}}", name=DIFFUSION_FILES),
    params:
        family="diffusion",
        seed=config["mini_seed"],
        out=subpath(output[0], parent=True),


# The masked autoencoder of BDMAE.
use rule base_model as mae_model with:
    output:
        expand(f"{BUILT}/mae-mini/{{name}}", name=MAE_FILES),
    params:
        family="mae",
        seed=config["mini_seed"],
        out=subpath(output[0], parent=True),


# The encoder of the trigger issba; the one that the suite has is bye/methods/triggers/issba.safetensors.
use rule base_model as issba_encoder with:
    output:
        ISSBA_FILE,
    params:
        family="issba",
        seed=config["mini_seed"],
        out=subpath(output[0], parent=True),
