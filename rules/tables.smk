rule table1:
    input:
        cell_files(config["tables"]["table1"], "eval.json"),
    output:
        "results/table1.csv",
    log:
        "results/logs/table1.log",
    benchmark:
        "results/benchmarks/table1.tsv"
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        paper=paper_models,
    shell:
        "python -m bye table1 --cells {input:q} --paper-models {params.paper:q} --out {output:q} > {log:q} 2>&1"


rule table2:
    input:
        cell_files(config["tables"]["table2"], "detection.json"),
    output:
        "results/table2.csv",
    log:
        "results/logs/table2.log",
    benchmark:
        "results/benchmarks/table2.tsv"
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        paper=paper_models,
    shell:
        "python -m bye table2 --cells {input:q} --paper-models {params.paper:q} --out {output:q} > {log:q} 2>&1"
