"""Commands around the workflow."""

import sys

from bye.data.findings import POLICIES
from bye.stages.options import CONFIGFILES, IMAGES, SEED, THREADS, UNJUDGED, may, need, stage, switch


@stage(
    "clean",
    need("--model", "key of a model in config.yaml or --configfile, or a model folder"),
    may("--configfile", None, "YAML file whose section models is used in place of config.yaml's", type=str),
    need("--data", "your samples file: JSON, JSON lines or Parquet, in the form of LLaVA, OpenAI, TRL or ms-swift"),
    IMAGES,
    need("--out", "folder for kept, dropped, summary.txt and the evidence"),
    may("--unjudged", None, UNJUDGED, choices=POLICIES),
    switch(
        "--follow-links",
        False,
        "read images through symbolic links in the image folder that lead out of it: whoever made the links chooses "
        "which files of this machine are opened as images",
    ),
    may("--kind", "consensus", "kind of detector, or the path of a .py file"),
    SEED,
    may("--cores", None, "cores to use (default: all, or what the profile says)", type=int),
    may("--profile", None, "of Snakemake, for a cluster: a folder, or one of profiles/ (default: run here)", type=str),
    methods=(("kind", "defence"),),
)
def clean(**options):
    """Clean a training file of your own: fine-tune, find which answers follow a trigger, drop what is proven."""
    from bye.tools.clean import clean

    clean(**options)


@stage(
    "doctor",
    CONFIGFILES,
    may("--models", (), "keys of the models to look at (default: all)", nargs="+", type=str),
    may("--datasets", (), "keys of the datasets to look at (default: all)", nargs="+", type=str),
    may("--rates", None, "file of `bye rates`: what was measured, in place of an estimate"),
    may("--price", None, "of an hour of one device: what the tables cost", type=float),
)
def doctor(**options):
    """Check models, datasets, prompts, memory and time of a configuration, before hours are spent."""
    from bye.tools.doctor import doctor

    sys.exit(1 if doctor(**options) else 0)


@stage("workflow")
def workflow():
    """Print the folder with the Snakefile, config/ and profiles/: the clone, or one in the installed package."""
    from bye.tools.configuration import find_workflow

    print(find_workflow())


@stage(
    "rates",
    CONFIGFILES,
    may("--models", (), "keys of the models to measure (default: all)", nargs="+", type=str),
    may("--steps", 50, "optimiser steps of the fine-tune"),
    may("--batches", 8, "batches of the extraction and of the evaluation"),
    may("--max-new-tokens", 16, "tokens of an answer"),
    need("--out", "JSON file to write, for `bye doctor --rates`"),
)
def rates(**options):
    """Measure fine-tune, extraction and evaluation of models on this machine."""
    from bye.tools.rates import measure_rates

    measure_rates(**options)


@stage(
    "bench",
    may("--models", ("base_models/llava-mini", "base_models/internvl-mini"), "model folders", nargs="+", type=str),
    may("--n", 32, "samples"),
    may("--batch-size", 32, "samples a forward pass"),
    may("--rounds", 7, "repetitions; medians are compared"),
    THREADS,
)
def bench(**options):
    """Measure the attention extraction against a plain forward and against the authors' way."""
    from bye.tools.bench import bench

    bench(**options)


@stage(
    "bench-reading",
    may("--n", 100_000, "samples"),
    may("--model", None, "model folder: check the texts for it too"),
    may("--jobs", None, "processes (default: one a core)", type=int),
    SEED,
)
def bench_reading(**options):
    """Measure how long a large file of samples takes to be read and checked, and its memory."""
    from bye.tools.bench_reading import bench_reading

    bench_reading(**options)


@stage(
    "twin",
    need("--model", "folder of a mini base model, llava or internvl: its family, tokenizer and template are taken"),
    need("--out", "model folder to write"),
    may("--size", "true", "of the original (14 to 16 GB), or in the middle", choices=("true", "mid")),
    switch("--weights", True, "write the weights too; without them it serves `bye doctor`"),
)
def twin(model, out, size, weights):
    """Write a model of the original's size with random weights, to measure what it costs."""
    from bye.tools.twin import write_twin

    write_twin(model, out, size, weights)
