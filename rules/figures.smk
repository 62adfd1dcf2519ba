rule figure3:
    input:
        cells=cell_files("table2", "flags.parquet"),
        labels=label_files("table2"),
    output:
        png=report(
            "results/figure3.png",
            caption="../report/figure3.rst",
            category="Figures",
            labels={"of the paper": "Figure 3", "shows": "entropy of clean and poisoned samples"},
        ),
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
        png=report(
            "results/figure4.png",
            caption="../report/figure4.rst",
            category="Figures",
            labels={"of the paper": "Figure 4", "shows": "without layer selection, without the mixture"},
        ),
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
        png=report(
            "results/layers.png",
            caption="../report/layers.rst",
            category="Figures",
            labels={"of the paper": "Beyond the paper", "shows": "BSI and AUROC of every layer"},
        ),
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
        png=report(
            "results/poison_rate.png",
            caption="../report/poison_rate.rst",
            category="Figures",
            labels={"of the paper": "Beyond the paper", "shows": "share of poison"},
        ),
        pdf="results/poison_rate.pdf",
    log:
        "results/logs/poison_rate_figure.log",
    benchmark:
        "results/benchmarks/poison_rate_figure.tsv"
    params:
        stage="poison-rate-figure",


# Figures 2 and 5 show single samples of runs.
rule attention_maps:
    input:
        samples=training_samples,
        adapter=f"results/{{model}}/{{dataset}}/{{attack}}/s{{seed}}/{VANILLA}/adapter",
        labels=LABELS,
        model=model_files,
    output:
        f"results/{{model}}/{{dataset}}/{{attack}}/s{{seed}}/{VANILLA}/maps.npz",
    log:
        "results/logs/attention_maps/{model}.{dataset}.{attack}.s{seed}.log",
    benchmark:
        "results/benchmarks/attention_maps/{model}.{dataset}.{attack}.s{seed}.tsv"
    conda:
        "../envs/bye.yaml"
    threads: torch_threads
    resources:
        mem_mb=model_mem_mb,
        runtime=model_runtime,
        gpu=one_gpu,
        torch_threads=1,
    params:
        model=model_path,
        images=training_images,
        base=base_options,
    shell:
        "python -m bye --gpus {resources.gpu} attention-maps --model {params.model:q} {params.base} --adapter {input.adapter:q}"
        " --samples {input.samples:q} --images {params.images:q} --labels {input.labels:q} --seed {wildcards.seed}"
        " --threads {resources.torch_threads} --out {output:q} > {log:q} 2>&1"


rule figure2:
    input:
        maps=figure_files("figure2", "maps"),
        samples=figure_files("figure2", "samples"),
        labels=figure_files("figure2", "labels"),
    output:
        png=report(
            "results/figure2.png",
            caption="../report/figure2.rst",
            category="Figures",
            labels={"of the paper": "Figure 2", "shows": "attention over the layers"},
        ),
        pdf="results/figure2.pdf",
    log:
        "results/logs/figure2.log",
    benchmark:
        "results/benchmarks/figure2.tsv"
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        stage="maps-figure",
        options=as_options({"images": figure_files("figure2", "images")}),
    shell:
        "python -m bye {params.stage} {params.options} --maps {input.maps:q} --samples {input.samples:q}"
        " --labels {input.labels:q} --out {output:q} > {log:q} 2>&1"


use rule figure2 as figure5 with:
    input:
        maps=figure_files("figure5", "maps"),
        samples=figure_files("figure5", "samples"),
        labels=figure_files("figure5", "labels"),
    output:
        png=report(
            "results/figure5.png",
            caption="../report/figure5.rst",
            category="Figures",
            labels={"of the paper": "Figure 5", "shows": "trigger designs and their attention"},
        ),
        pdf="results/figure5.pdf",
    log:
        "results/logs/figure5.log",
    benchmark:
        "results/benchmarks/figure5.tsv"
    params:
        stage="triggers-figure",
        options=as_options(
            {
                "names": config["tables"].get("figure5", {}).get("attacks"),
                "images": figure_files("figure5", "images"),
            }
        ),


rule purified_figure:
    input:
        purified_sets()[1],
    output:
        png=report(
            "results/purified.png",
            caption="../report/purified.rst",
            category="Figures",
            labels={"of the paper": "Beside Table 1", "shows": "images before and after ZIP"},
        ),
        pdf="results/purified.pdf",
    log:
        "results/logs/purified_figure.log",
    benchmark:
        "results/benchmarks/purified_figure.tsv"
    conda:
        "../envs/bye.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        options=as_options({"names": purified_sets()[0], "images": purified_sets()[2]}),
    shell:
        "python -m bye purified-figure {params.options} --samples {input:q} --out {output:q} > {log:q} 2>&1"
