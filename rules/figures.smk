rule figure3:
    input:
        cells=cell_files("table2", "flags.parquet"),
        labels=label_files("table2"),
    output:
        png="results/figure3.png",
        pdf="results/figure3.pdf",
    log:
        "results/logs/figure3.log",
    benchmark:
        "results/benchmarks/figure3.tsv"
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    shell:
        "python -m bye histograms-figure --cells {input.cells:q} --labels {input.labels:q} --out {output:q} > {log:q} 2>&1"


rule figure4:
    input:
        "results/figure4.csv",
    output:
        png="results/figure4.png",
        pdf="results/figure4.pdf",
    log:
        "results/logs/figure4.log",
    benchmark:
        "results/benchmarks/figure4.tsv"
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        stage="bars-figure",
    shell:
        "python -m bye {params.stage} --table {input:q} --out {output:q} > {log:q} 2>&1"


use rule figure4 as layers_figure with:
    input:
        "results/layers.csv",
    output:
        png="results/layers.png",
        pdf="results/layers.pdf",
    log:
        "results/logs/layers_figure.log",
    benchmark:
        "results/benchmarks/layers_figure.tsv"
    params:
        stage="layers-figure",


use rule figure4 as poison_rate_figure with:
    input:
        "results/poison_rate.csv",
    output:
        png="results/poison_rate.png",
        pdf="results/poison_rate.pdf",
    log:
        "results/logs/poison_rate_figure.log",
    benchmark:
        "results/benchmarks/poison_rate_figure.tsv"
    params:
        stage="poison-rate-figure",
