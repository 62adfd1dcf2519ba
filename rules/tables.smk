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


rule table3:
    input:
        cell_files("table3", "eval.json") + cell_files("table3", "detection.json"),
    output:
        csv="results/table3.csv",
        markdown="results/table3.md",
        latex="results/table3.tex",
    log:
        "results/logs/table3.log",
    benchmark:
        "results/benchmarks/table3.tsv"
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        paper=paper_models,
        names=keys_with("table3", "attacks", "trigger"),
    shell:
        "python -m bye table-attacks --number 3 --cells {input:q} --paper-models {params.paper:q}"
        " --names {params.names:q} --out {output.csv:q} > {log:q} 2>&1"


rule table5:
    input:
        cell_files("table5", "detection.json"),
    output:
        csv="results/table5.csv",
        markdown="results/table5.md",
        latex="results/table5.tex",
    log:
        "results/logs/table5.log",
    benchmark:
        "results/benchmarks/table5.tsv"
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        paper=paper_models,
        names=keys_with("table5", "defences", "tau"),
    shell:
        "python -m bye table5 --cells {input:q} --paper-models {params.paper:q}"
        " --names {params.names:q} --out {output.csv:q} > {log:q} 2>&1"


rule table6:
    input:
        cell_files("table6", "eval.json") + cell_files("table6", "detection.json"),
    output:
        csv="results/table6.csv",
        markdown="results/table6.md",
        latex="results/table6.tex",
    log:
        "results/logs/table6.log",
    benchmark:
        "results/benchmarks/table6.tsv"
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        paper=paper_models,
        names=keys_with("table6", "attacks", "trigger"),
    shell:
        "python -m bye table-attacks --number 6 --cells {input:q} --paper-models {params.paper:q}"
        " --names {params.names:q} --out {output.csv:q} > {log:q} 2>&1"


rule table7:
    input:
        cell_files("table7", "detection.json"),
    output:
        csv="results/table7.csv",
        markdown="results/table7.md",
        latex="results/table7.tex",
    log:
        "results/logs/table7.log",
    benchmark:
        "results/benchmarks/table7.tsv"
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        paper=paper_models,
        names=keys_with("table7", "defences", "clustering"),
    shell:
        "python -m bye table-variants --number 7 --cells {input:q} --paper-models {params.paper:q}"
        " --names {params.names:q} --out {output.csv:q} > {log:q} 2>&1"
