rule table1:
    input:
        cell_files("table1", "eval.json"),
    output:
        csv="results/table1.csv",
        markdown="results/table1.md",
        latex="results/table1.tex",
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
        upper_bounds=defences_of_kind("oracle"),
    shell:
        "python -m bye table1 --cells {input:q} --paper-models {params.paper:q}"
        " --upper-bounds {params.upper_bounds:q} --out {output.csv:q} > {log:q} 2>&1"


rule table2:
    input:
        cell_files("table2", "detection.json"),
    output:
        csv="results/table2.csv",
        markdown="results/table2.md",
        latex="results/table2.tex",
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
        "python -m bye table2 --cells {input:q} --paper-models {params.paper:q} --out {output.csv:q} > {log:q} 2>&1"
