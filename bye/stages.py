"""The stages of the workflow as sub-commands: their options, and the function of the package that does each.

What a stage's methods take stands in their files: `methods` names the options that hold their kinds (`bye.registry`).
Imports stand inside the functions, so that a stage loads only what it needs (a table must not wait for torch).
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass

STAGES = {}


@dataclass
class Stage:
    run: Callable
    summary: str
    options: tuple
    methods: tuple = ()  # (option that holds a method's kind, its sort), ...


def stage(name, *options, methods=()):
    """Register a function as a sub-command; its docstring is the help text, its parameters are the options' names.

    methods: pairs of an option that holds the kind of a method and the sort of it; the settings of that method are
    options too, and come to the function as keyword arguments.
    """

    def register(function):
        STAGES[name] = Stage(function, function.__doc__, options, methods)
        return function

    return register


def need(flag, text, **settings):
    """An option that must be given."""
    return (flag,), {"required": True, "help": text, **settings}


def may(flag, default, text, **settings):
    """An option with a default, which also says the option's type where `settings` do not."""
    if default is not None and not isinstance(default, tuple):
        text = f"{text} (default: {default})".replace("%", "%%")  # argparse formats it
        if "action" not in settings:
            settings = {"type": type(default), **settings}
    return (flag,), {"default": default, "help": text, **settings}


def switch(flag, default, text):
    return may(flag, default, text, action=argparse.BooleanOptionalAction)


SAMPLES = need("--samples", "samples file in LLaVA form")
IMAGES = need("--images", "folder that the image paths start from")
VALIDATE = switch("--validate", True, "check the samples file; not needed where the suite wrote it")
SEED = may("--seed", 0, "seed of every random draw")
PROCESSES = may("--processes", 1, "processes that share the work, one a GPU; the results are those of one")
THREADS = may("--threads", None, "torch threads (default: all cores)", type=int)
MODEL = need("--model", "model folder in the transformers layout, or hub id")
FAMILY = may(
    "--family", None, "llava, internvl, llava_next or qwen3_vl: what the checkpoint must be (default: whichever it is)"
)
QUANTIZATION = may("--quantization", None, "4bit: the base model in 4 bits (NF4), as in QLoRA", choices=("4bit",))
ADAPTER = need("--adapter", "PEFT adapter folder")
LABELS = need("--labels", "ground truth")
CELLS = need("--cells", "result files of all cells, at their places in the path scheme", nargs="+")
CELL_LABELS = need("--labels", "their labels, .../DATASET/ATTACK/sSEED.parquet", nargs="+")
TABLE = need("--out", "CSV to write; Markdown and LaTeX go beside it")
PICTURES = need("--out", "pictures to write, PNG or PDF", nargs="+")
CONFIGFILES = may(
    "--configfile", (), "YAML files laid over config.yaml, as by snakemake --configfile", nargs="+", type=str
)
PAPER_MODELS = may("--paper-models", (), "MODEL=NAME: the paper's name of a model's original", nargs="*", type=str)


def pairs(texts):
    """Turn ["a=b", ...] into {"a": "b", ...}."""
    return dict(text.split("=", 1) for text in texts)


@stage(
    "mini-data",
    need("--dataset", "scienceqa, iconqa, flickr30k or rsvqa"),
    need("--out", "folder to write, in the dataset's official layout"),
    need("--train", "training samples", type=int),
    need("--test", "test samples", type=int),
    SEED,
)
def mini_data(dataset, out, train, test, seed):
    """Write a mini dataset in its original's official layout."""
    from bye.mini.world import write_dataset

    write_dataset(dataset, out, n_train=train, n_test=test, seed=seed)


@stage(
    "fetch",
    need("--format", "scienceqa, iconqa or rsvqa; flickr30k must be asked for by hand"),
    need("--out", "folder to write, in the dataset's official layout"),
)
def fetch(format, out):
    """Download an official dataset; a broken transfer goes on by the same command."""
    from bye.data.fetch import fetch_dataset

    fetch_dataset(format, out)


@stage(
    "prepare",
    need("--format", "scienceqa, iconqa, flickr30k, rsvqa or llava"),
    need("--root", "root of the official download; the image folder for llava"),
    may("--json", None, "the file of a llava set (or Flickr30k's split file)"),
    may("--train", None, "training samples to draw (default: all)", type=int),
    may("--test", None, "test samples to draw (default: all; none for llava)", type=int),
    SEED,
    need("--out", "folder for train.json and test.json"),
)
def prepare(format, root, json, train, test, seed, out):
    """Turn a dataset into samples files, every sample and image checked."""
    from bye.data.prepare import prepare

    n_train, n_test = prepare(format, root, json, train, test, seed, out)
    print(f"prepare: {n_train} training and {n_test} test samples in {out}")


@stage(
    "poison",
    SAMPLES,
    IMAGES,
    may("--trigger", "badnet", "trigger design"),
    may("--rate", 0.10, "share of the samples to poison"),
    may("--target", "Backdoor Attack!", "what the backdoor makes the model say"),
    SEED,
    need("--out", "folder for train.json and images/"),
    need("--labels", "Parquet file for the ground truth, outside --out"),
)
def poison(samples, images, trigger, rate, target, seed, out, labels):
    """Poison a training set."""
    from bye.attacks.poison import poison_training_set

    count = poison_training_set(samples, images, trigger, rate, target, seed, out, labels)
    print(f"poison: {count} samples of {samples} poisoned")


@stage(
    "trigger-test",
    SAMPLES,
    IMAGES,
    may("--trigger", "badnet", "trigger design"),
    may("--target", "Backdoor Attack!", "what the backdoor makes the model say"),
    SEED,
    need("--out", "folder for triggered.json and triggered/"),
)
def trigger_test(samples, images, trigger, target, seed, out):
    """Put the trigger on every image of a test set."""
    from bye.attacks.poison import trigger_test_set

    count = trigger_test_set(samples, images, trigger, target, seed, out)
    print(f"trigger-test: {count} samples of {samples} triggered")


@stage(
    "finetune",
    MODEL,
    FAMILY,
    QUANTIZATION,
    SAMPLES,
    IMAGES,
    need("--out", "adapter folder to write (PEFT)"),
    need("--log", "CSV file for the loss"),
    may("--epochs", 3, "passes over the samples"),
    may("--batch-size", 16, "samples a step"),
    may("--micro-batch-size", None, "samples in memory at once (default: the batch size)", type=int),
    need("--learning-rate", "peak learning rate; it falls linearly to zero", type=float),
    may("--warmup", 0.0, "share of the steps with a rising learning rate"),
    may("--adam-epsilon", 1e-8, "AdamW's epsilon: gradients far below it hardly count"),
    may("--lora-rank", 16, "rank of the LoRA matrices"),
    may("--lora-alpha", 32.0, "LoRA scale"),
    may("--lora-dropout", 0.0, "LoRA dropout"),
    may("--lora-targets", None, "names of the adapted linear layers of the decoder (default: all)", nargs="+"),
    switch("--lora-projector", False, "adapt the projector's linear layers too"),
    switch("--cache-features", True, "encode each distinct image once (the vision tower is frozen)"),
    switch("--gradient-checkpointing", False, "save memory for time"),
    may("--plain-samples", None, "samples of a fine-tune with the same options, copied if they are these"),
    may("--plain-adapter", None, "its adapter"),
    may("--plain-log", None, "its loss"),
    VALIDATE,
    SEED,
    PROCESSES,
    THREADS,
)
def finetune(plain_samples, plain_adapter, plain_log, **options):
    """Fine-tune a model's decoder by LoRA; a killed run goes on from its last checkpoint."""
    from bye.training.finetune import finetune, finetune_kept

    if plain_samples is None:
        finetune(**options)
    else:
        finetune_kept(plain_samples=plain_samples, plain_adapter=plain_adapter, plain_log=plain_log, **options)


@stage(
    "attention",
    MODEL,
    FAMILY,
    QUANTIZATION,
    ADAPTER,
    SAMPLES,
    IMAGES,
    need("--out", "attention.parquet to write"),
    may("--batch-size", 32, "samples a forward pass"),
    may("--maps-for", (), "ids whose attention maps to keep", nargs="+", type=str),
    may("--maps-out", None, "npz file for those maps"),
    VALIDATE,
    PROCESSES,
    THREADS,
)
def attention(**options):
    """Extract attention entropies and masses, one forward pass a sample."""
    from bye.extraction.attention import extract

    extract(**options)


@stage(
    "attention-maps",
    MODEL,
    FAMILY,
    QUANTIZATION,
    ADAPTER,
    SAMPLES,
    IMAGES,
    need("--labels", "ground truth: figures show clean and poisoned samples"),
    may("--count", 2, "samples of each kind"),
    need("--out", "npz file to write"),
    VALIDATE,
    SEED,
    THREADS,
)
def attention_maps(**options):
    """Extract the attention maps of a few clean and poisoned samples, for figures."""
    from bye.extraction.maps import example_maps

    example_maps(**options)


@stage(
    "detect",
    need("--attention", "attention.parquet of the training samples"),
    may("--rule", "paper", "how a layer is found sensitive: paper or released"),
    may("--tau", 2.0, "threshold of that rule"),
    may("--over", "bsi", "layers to average over: bsi (the sensitive ones) or all"),
    may("--clustering", "gmm", "how scores are divided: gmm, kmeans or threshold"),
    may("--threshold", 4.5, "fixed cut of the latter, nats for 576 image tokens; scaled by ln T / ln 576 for T"),
    SEED,
    need("--layers", "CSV file for the layer selection"),
    need("--flags", "Parquet file for the flags"),
)
def detect(attention, layers, flags, over, **options):
    """Run BYE: find the layers where attention collapses, flag the samples with low entropy there."""
    from bye.cleaning.defences import detect

    count = detect(attention, layers, flags, layers=over, **options)
    print(f"detect: {count} samples flagged")


@stage(
    "sentinet",
    MODEL,
    FAMILY,
    QUANTIZATION,
    ADAPTER,
    SAMPLES,
    IMAGES,
    need("--reference", "clean samples"),
    need("--reference-images", "their image folder"),
    may("--pasted", 20, "clean images that get the regions pasted on"),
    may("--saliency", 0.15, "share of the highest saliency from which on a place belongs to the region"),
    may("--batch-size", 64, "samples a forward pass"),
    SEED,
    THREADS,
    need("--flags", "Parquet file for the flags"),
)
def sentinet(flags, **options):
    """Run SentiNet: flag the samples whose salient region takes over the answers to clean images."""
    from bye.methods.defences.sentinet import sentinet

    count = sentinet(**options, flags_out=flags)
    print(f"sentinet: {count} samples flagged")


@stage(
    "random-drop",
    SAMPLES,
    may("--share", 0.2, "share of the samples to drop"),
    SEED,
    need("--flags", "Parquet file for the flags"),
)
def random_drop(samples, share, seed, flags):
    """Flag samples at random."""
    from bye.cleaning.defences import random_drop

    random_drop(samples, flags, share=share, seed=seed)


@stage("oracle", SAMPLES, LABELS, need("--flags", "Parquet file for the flags"))
def oracle(samples, labels, flags):
    """Flag exactly the poisoned samples: an upper bound, which reads the ground truth."""
    from bye.cleaning.defences import oracle

    oracle(samples, labels, flags)


@stage(
    "keep",
    SAMPLES,
    need("--flags", "Parquet file with the flags"),
    need("--kept", "samples file for what is kept"),
    need("--dropped", "samples file for what is dropped, with score and reason"),
)
def keep(samples, flags, kept, dropped):
    """Split a samples file by flags, entries as they were."""
    from bye.cleaning.defences import keep

    n_kept, n_dropped = keep(samples, flags, kept, dropped)
    print(f"keep: {n_kept} samples kept, {n_dropped} dropped")


@stage(
    "score",
    need("--flags", "Parquet file with the flags"),
    LABELS,
    may("--layers", None, "layers.csv of a defence that selects layers"),
    need("--out", "detection.json to write"),
)
def score(flags, labels, out, layers):
    """Compare flags with the ground truth."""
    from bye.metrics.detection import score

    score(flags, labels, out, layers=layers)


@stage(
    "purify",
    SAMPLES,
    IMAGES,
    need("--diffusion", "diffusers pipeline: folder or hub id"),
    may("--pool", 4, "edge of the squares that are averaged, pixels at the diffusion model's size"),
    may("--steps", 10, "denoising steps"),
    may("--guided-from", 0.0, "share of the steps that are taken without guidance first"),
    may("--batch-size", 16, "images at a time"),
    SEED,
    THREADS,
    need("--out-samples", "samples file to write"),
    need("--out-images", "folder for the purified images"),
)
def purify(**options):
    """Purify the images of a test set by a diffusion model (ZIP)."""
    from bye.methods.defences.zip import purify

    count = purify(**options)
    print(f"purify: {count} images")


@stage(
    "evaluate",
    MODEL,
    FAMILY,
    QUANTIZATION,
    ADAPTER,
    need("--clean", "test samples"),
    need("--clean-images", "their image folder"),
    may("--triggered", None, "test samples with the trigger"),
    may("--triggered-images", None, "their image folder"),
    may("--target", None, "what the backdoor makes the model say"),
    need("--metric", "how clean answers are scored", choices=("accuracy", "cider")),
    need("--predictions", "Parquet file for the answers"),
    need("--out", "eval.json to write"),
    may("--max-new-tokens", 32, "longest answer"),
    may("--batch-size", 64, "samples a batch"),
    VALIDATE,
    PROCESSES,
    THREADS,
)
def evaluate(**options):
    """Answer the test set greedily: clean performance and attack success rate."""
    from bye.answers.evaluate import evaluate

    evaluate(**options)


@stage(
    "table1",
    CELLS,
    PAPER_MODELS,
    may("--upper-bounds", ("oracle",), "defences that read the labels, to be marked so", nargs="*", type=str),
    TABLE,
)
def table1(cells, paper_models, upper_bounds, out):
    """Write Table 1: clean performance and attack success of every method, beside the paper's."""
    from bye.report.tables import cells_of, table1

    table1(cells_of(cells), out, paper_models=pairs(paper_models), upper_bounds=upper_bounds)


@stage(
    "table2",
    CELLS,
    PAPER_MODELS,
    TABLE,
)
def table2(cells, paper_models, out):
    """Write Table 2: precision, recall and F1 of the detector, beside the paper's."""
    from bye.report.tables import cells_of, table2

    table2(cells_of(cells), out, paper_models=pairs(paper_models))


@stage(
    "table-attacks",
    CELLS,
    need("--number", "number of the table in the paper", type=int),
    need("--names", "ATTACK=TRIGGER for each attack", nargs="+"),
    PAPER_MODELS,
    TABLE,
)
def table_attacks(cells, number, names, paper_models, out):
    """Write Table 3 or 6: the detector under several triggers, beside the paper's."""
    from bye.report.tables import cells_of, table_of_attacks

    table_of_attacks(cells_of(cells), out, number, pairs(names), paper_models=pairs(paper_models))


@stage(
    "table4",
    need("--names", "DATASET=FORMAT for each dataset", nargs="+"),
    need("--cells", "train.json and test.json of each dataset, in the same order", nargs="+"),
    TABLE,
)
def table4(names, cells, out):
    """Write Table 4: the datasets as loaded."""
    from bye.report.tables import table4

    files = zip(cells[::2], cells[1::2], strict=True)
    table4(
        [
            {"dataset": dataset, "format": form, "train": train, "test": test}
            for (dataset, form), (train, test) in zip(pairs(names).items(), files, strict=True)
        ],
        out,
    )


@stage(
    "table5",
    CELLS,
    need("--names", "DEFENCE=TAU for each defence", nargs="+"),
    PAPER_MODELS,
    TABLE,
)
def table5(cells, names, paper_models, out):
    """Write Table 5: the detector under several thresholds of the BSI, beside the paper's."""
    from bye.report.tables import cells_of, table5

    taus = {name: float(tau) for name, tau in pairs(names).items()}
    table5(cells_of(cells), out, taus, paper_models=pairs(paper_models))


@stage(
    "table-variants",
    CELLS,
    may("--number", None, "number of the table in the paper", type=int),
    need("--names", "DEFENCE=VARIANT for each defence", nargs="+"),
    PAPER_MODELS,
    TABLE,
)
def table_variants(cells, number, names, paper_models, out):
    """Write F1 of variants of the detector: Table 7 beside the paper's, or the numbers of Figure 4."""
    from bye.report.tables import cells_of, table_of_variants

    table_of_variants(cells_of(cells), out, pairs(names), number=number, paper_models=pairs(paper_models))


@stage(
    "table8",
    CELLS,
    need("--reference", "the clean samples that SentiNet was given"),
    need("--names", "DEFENCE/ATTACK=FILE for each benchmark file of Snakemake", nargs="+"),
    TABLE,
)
def table8(cells, reference, names, out):
    """Write Table 8: BYE against SentiNet."""
    from bye.data.samples import read_samples
    from bye.report.tables import cells_of, table8

    benchmarks = {}
    for name in names:
        key, path = name.split("=", 1)
        benchmarks.setdefault(tuple(key.split("/")), []).append(path)
    table8(cells_of(cells), benchmarks, len(read_samples(reference)), out)


@stage(
    "poison-rate-table",
    CELLS,
    need("--names", "ATTACK=RATE for each attack", nargs="+"),
    need("--plain", "defence key of the plain fine-tune"),
    TABLE,
)
def poison_rate_table(cells, names, plain, out):
    """Write detection and attack success over the share of poison."""
    from bye.report.tables import cells_of, poison_rate_table

    poison_rate_table(cells_of(cells), out, {name: float(rate) for name, rate in pairs(names).items()}, plain)


@stage(
    "layers-table",
    CELLS,
    CELL_LABELS,
    TABLE,
)
def layers_table(cells, labels, out):
    """Write every layer's BSI and AUROC."""
    from bye.report.tables import cells_of, labels_of, layers_table

    layers_table(cells_of(cells), labels_of(labels), out)


@stage(
    "histograms-figure",
    CELLS,
    CELL_LABELS,
    PICTURES,
)
def histograms_figure(cells, labels, out):
    """Draw Figure 3: the histograms of many cells."""
    from bye.report.figures import histograms_figure
    from bye.report.tables import cells_of, labels_of

    labels = labels_of(labels)
    pairs = {
        (cell["model"], cell["dataset"]): (cell["flags"], labels[cell["dataset"], cell["attack"], cell["seed"]])
        for cell in cells_of(cells)
    }
    for path in out:
        histograms_figure(pairs, path)


@stage(
    "bars-figure",
    need("--table", "CSV with model, dataset, and the two columns below"),
    may("--series", "variant", "column that names the bars"),
    may("--value", "f1", "column with their heights"),
    may("--ylabel", "F1 (%)", "label of the axis"),
    PICTURES,
)
def bars_figure(table, out, **options):
    """Draw Figure 4: a table as bars."""
    from bye.report.figures import bars_figure

    for path in out:
        bars_figure(table, path, **options)


@stage(
    "poison-rate-figure",
    need("--table", "CSV that poison-rate-table wrote"),
    PICTURES,
)
def poison_rate_figure(table, out):
    """Draw detection and attack success over the share of poison."""
    from bye.report.figures import poison_rate_figure

    for path in out:
        poison_rate_figure(table, path)


@stage(
    "maps-figure",
    need("--maps", "npz file of attention-maps"),
    SAMPLES,
    IMAGES,
    LABELS,
    PICTURES,
)
def maps_figure(out, **files):
    """Draw Figure 2: attention maps over the layers, clean above poisoned."""
    from bye.report.figures import maps_figure

    for path in out:
        maps_figure(**files, out=path)


@stage(
    "triggers-figure",
    need("--names", "attacks", nargs="+"),
    need("--maps", "npz file of each", nargs="+"),
    need("--samples", "training samples of each", nargs="+"),
    need("--images", "image folder of each", nargs="+"),
    need("--labels", "ground truth of each", nargs="+"),
    PICTURES,
)
def triggers_figure(names, maps, samples, images, labels, out):
    """Draw Figure 5: a poisoned image of each attack and its attention."""
    from bye.report.figures import triggers_figure

    for path in out:
        triggers_figure(list(zip(names, maps, samples, images, labels, strict=True)), path)


@stage(
    "purified-figure",
    need("--names", "datasets", nargs="+"),
    need("--samples", "of each: test samples, purified, triggered, triggered and purified", nargs="+"),
    need("--images", "their image folders", nargs="+"),
    PICTURES,
)
def purified_figure(names, samples, images, out):
    """Draw test images before and after purification."""
    from bye.report.figures import purified_figure

    files = list(zip(samples, images, strict=True))
    columns = {name: files[4 * index : 4 * index + 4] for index, name in enumerate(names)}
    for path in out:
        purified_figure(columns, path)


@stage(
    "layers-figure",
    need("--table", "CSV that layers-table wrote"),
    may("--tau", 2.0, "threshold of the BSI"),
    PICTURES,
)
def layers_figure(table, tau, out):
    """Draw BSI and AUROC of every layer."""
    from bye.report.figures import layers_figure

    for path in out:
        layers_figure(table, path, tau)


@stage(
    "results-page",
    may("--results", "results", "folder with tables and figures"),
    may("--notes", "docs/notes", "folder with what is to be said about them"),
    may("--out", "docs/results.md", "page to write; figures go to the folder figures beside it"),
    may("--facts", (), "lines on the run: commit, machine", nargs="*", type=str),
    may("--title", "Results of a mini run", "title of the page"),
    may("--options", "", "options that snakemake was given, for the commands on the page"),
)
def results_page(results, notes, out, facts, title, options):
    """Write one page with every table and figure of a run."""
    from bye.report.page import results_page

    count = results_page(results, notes, out, facts, title, options)
    print(f"results-page: {count} targets in {out}")


@stage(
    "entropy-figure",
    need("--flags", "Parquet file with the flags"),
    may("--layers", None, "layers.csv of the detector"),
    may("--labels", None, "ground truth, to colour the samples"),
    need("--out", "picture to write"),
)
def entropy_figure(flags, layers, labels, out):
    """Draw the histogram of the samples' entropy in the sensitive layers."""
    from bye.report.figures import entropy_figure

    entropy_figure(flags, out, labels=labels, layers=layers)


@stage(
    "base-model",
    need("--family", "llava, internvl, or diffusion (the model of ZIP)"),
    need("--out", "model folder to write"),
    SEED,
    THREADS,
)
def base_model(family, out, seed, threads):
    """Pre-train a mini base model from scratch on the clean mini worlds."""
    if family == "diffusion":
        from bye.mini.diffusion import train_diffusion

        train_diffusion(out, seed=seed, threads=threads)
    else:
        from bye.mini.pretrain import pretrain

        pretrain(family, out, seed=seed, threads=threads)


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
    "clean",
    need("--model", "key of a model in config.yaml or --configfile, or a model folder"),
    may("--configfile", None, "YAML file whose section models is used in place of config.yaml's", type=str),
    need("--data", "your samples file, JSON or JSON lines in LLaVA form"),
    IMAGES,
    need("--out", "folder for kept, dropped, layers.csv, entropy.png and summary.txt"),
    SEED,
    may("--rule", "paper", "how a layer is found sensitive", choices=("paper", "released")),
    may("--tau", 2.0, "threshold of that rule"),
    may("--cores", None, "cores to use (default: all)", type=int),
)
def clean(**options):
    """Clean a training file of your own: fine-tune, look at the attention, drop what collapsed."""
    from bye.tools.clean import clean

    clean(**options)


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
