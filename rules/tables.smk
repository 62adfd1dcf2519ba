# All tables: one call of a stage on the result files of the cells that config.yaml lists under tables.
rule table1:
    input:
        cells=cell_files("table1", "eval.json"),
    output:
        csv=report(
            "results/table1.csv",
            caption="../report/table1.rst",
            category="Tables",
            labels={"of the paper": "Table 1", "shows": "clean performance and attack success"},
        ),
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
        stage="table1",
        options=as_options({"paper_models": paper_models(), "upper_bounds": defences_of_kind("oracle")}),
    shell:
        "python -m bye {params.stage} --cells {input.cells:q} {params.options} --out {output.csv:q} > {log:q} 2>&1"


use rule table1 as table2 with:
    input:
        cells=cell_files("table2", "detection.json"),
    output:
        csv=report(
            "results/table2.csv",
            caption="../report/table2.rst",
            category="Tables",
            labels={"of the paper": "Table 2", "shows": "detection of the poisoned samples"},
        ),
        markdown="results/table2.md",
        latex="results/table2.tex",
    log:
        "results/logs/table2.log",
    benchmark:
        "results/benchmarks/table2.tsv"
    params:
        stage="table2",
        options=as_options({"paper_models": paper_models()}),


use rule table1 as table3 with:
    input:
        cells=cell_files("table3", "eval.json") + cell_files("table3", "detection.json"),
    output:
        csv=report(
            "results/table3.csv",
            caption="../report/table3.rst",
            category="Tables",
            labels={"of the paper": "Table 3", "shows": "several triggers in an image"},
        ),
        markdown="results/table3.md",
        latex="results/table3.tex",
    log:
        "results/logs/table3.log",
    benchmark:
        "results/benchmarks/table3.tsv"
    params:
        stage="table-attacks",
        options=table_options("table3", "attacks", "trigger", paper_models=paper_models(), number=3),


use rule table1 as table4 with:
    input:
        cells=[
            f"results/data/{dataset}/s{config['seeds'][0]}/{part}.json"
            for dataset in EVALUATED
            for part in ("train", "test")
        ],
    output:
        csv=report(
            "results/table4.csv",
            caption="../report/table4.rst",
            category="Tables",
            labels={"of the paper": "Table 4", "shows": "the datasets as loaded"},
        ),
        markdown="results/table4.md",
        latex="results/table4.tex",
    log:
        "results/logs/table4.log",
    benchmark:
        "results/benchmarks/table4.tsv"
    params:
        stage="table4",
        options=as_options({"names": [f"{dataset}={config['datasets'][dataset]['format']}" for dataset in EVALUATED]}),


use rule table1 as table5 with:
    input:
        cells=cell_files("table5", "detection.json"),
    output:
        csv=report(
            "results/table5.csv",
            caption="../report/table5.rst",
            category="Tables",
            labels={"of the paper": "Table 5", "shows": "the threshold of the BSI"},
        ),
        markdown="results/table5.md",
        latex="results/table5.tex",
    log:
        "results/logs/table5.log",
    benchmark:
        "results/benchmarks/table5.tsv"
    params:
        stage="table5",
        options=table_options("table5", "defences", "tau", paper_models=paper_models()),


use rule table1 as table6 with:
    input:
        cells=cell_files("table6", "eval.json") + cell_files("table6", "detection.json"),
    output:
        csv=report(
            "results/table6.csv",
            caption="../report/table6.rst",
            category="Tables",
            labels={"of the paper": "Table 6", "shows": "other triggers"},
        ),
        markdown="results/table6.md",
        latex="results/table6.tex",
    log:
        "results/logs/table6.log",
    benchmark:
        "results/benchmarks/table6.tsv"
    params:
        stage="table-attacks",
        options=table_options("table6", "attacks", "trigger", paper_models=paper_models(), number=6),


use rule table1 as table7 with:
    input:
        cells=cell_files("table7", "detection.json"),
    output:
        csv=report(
            "results/table7.csv",
            caption="../report/table7.rst",
            category="Tables",
            labels={"of the paper": "Table 7", "shows": "clustering"},
        ),
        markdown="results/table7.md",
        latex="results/table7.tex",
    log:
        "results/logs/table7.log",
    benchmark:
        "results/benchmarks/table7.tsv"
    params:
        stage="table-variants",
        options=table_options("table7", "defences", "clustering", paper_models=paper_models(), number=7),


use rule table1 as figure4_data with:
    input:
        cells=cell_files("figure4", "detection.json"),
    output:
        csv="results/figure4.csv",
        markdown="results/figure4.md",
        latex="results/figure4.tex",
    log:
        "results/logs/figure4_data.log",
    benchmark:
        "results/benchmarks/figure4_data.tsv"
    params:
        stage="table-variants",
        options=figure4_names(),


use rule table1 as layers with:
    input:
        cells=cell_files("table2", "attention.parquet", kinds=["none"]) + cell_files("table2", "layers.csv"),
        labels=label_files("table2"),
    output:
        csv="results/layers.csv",
        markdown="results/layers.md",
        latex="results/layers.tex",
    log:
        "results/logs/layers.log",
    benchmark:
        "results/benchmarks/layers.tsv"
    params:
        stage="layers-table",
        options=as_options({"labels": label_files("table2")}),


use rule table1 as poison_rate with:
    input:
        cells=cell_files("poison_rate", "flags.parquet")
        + cell_files("poison_rate", "detection.json", poisoned=True)
        + cell_files("poison_rate", "eval.json", poisoned=True, first=True)
        + cell_files("poison_rate", "eval.json", kinds=["none"], poisoned=True),
    output:
        csv="results/poison_rate.csv",
        markdown="results/poison_rate.md",
        latex="results/poison_rate.tex",
    log:
        "results/logs/poison_rate.log",
    benchmark:
        "results/benchmarks/poison_rate.tsv"
    params:
        stage="poison-rate-table",
        options=table_options("poison_rate", "attacks", "rate", plain=VANILLA),


use rule table1 as table8 with:
    input:
        cells=cell_files("table8", "detection.json"),
        reference=table8_reference(),
    output:
        csv=report(
            "results/table8.csv",
            caption="../report/table8.rst",
            category="Tables",
            labels={"of the paper": "Table 8", "shows": "BYE against SentiNet"},
        ),
        markdown="results/table8.md",
        latex="results/table8.tex",
    log:
        "results/logs/table8.log",
    benchmark:
        "results/benchmarks/table8.tsv"
    params:
        stage="table8",
        options=as_options({"names": table8_benchmarks(), "reference": table8_reference()}),
