import itertools
import math
import os
import re
import shlex
import sys

from snakemake.cli import get_argument_parser

from bye import config as settings
from bye.machine import devices
from bye.machine import processes
from bye.errors import ByeError

MODEL_FILES = ["config.json", "model.safetensors"]
DIFFUSION_FILES = [
    *("model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
    "scheduler/scheduler_config.json",
]

# ---- before anything else: a configuration that can be run, and a folder that is not locked by a dead run ------------


def stop(message):
    """End with one sentence in place of a traceback."""
    sys.exit(f"bye: error: {message}")


def check_config():
    """Validate the configuration against the schema and against itself; fill in the schema's defaults."""
    try:
        settings.check_schema(config, f"{workflow.basedir}/config.schema.yaml")
        settings.check_references(config)
        for key, model in config["models"].items():
            model["path"] = settings.find_model(f"models.{key}.path", model["path"], workflow.basedir)
            settings.check_family(key, model["family"], model["path"])
        for key, defence in config["defences"].items():
            if defence["kind"] == "zip":
                name, path = f"defences.{key}.diffusion", defence["diffusion"]
                defence["diffusion"] = settings.find_model(name, path, workflow.basedir, DIFFUSION_FILES[0])
    except ByeError as error:
        stop(error)


check_config()

if workflow.is_main_process:
    processes.end_with_parent()
    if not workflow.dryrun:
        try:
            processes.release_stale_lock()
        except ByeError as error:
            stop(error)
processes.announce_parent()
shell.prefix(processes.job_prefix(workflow.basedir))


def check_jobs():
    """Stop before the first job where some would fail hours later: no GPU, no such model, a dataset folder half there.

    Only what the jobs of this run need is looked at. Where jobs run on this machine, they take its GPUs in turn.
    """
    jobs = list(workflow.dag.needrun_jobs())
    computing = [job.wildcards for job in jobs if "gpu" in job.rule.resources]
    models = sorted({wildcards.model for wildcards in computing if hasattr(wildcards, "model")})
    purifiers = sorted({wildcards.defence for wildcards in computing if not hasattr(wildcards, "model")})
    try:
        for key in sorted({job.wildcards.dataset for job in jobs if job.rule.name == "prepare"}):
            settings.check_root(key, config["datasets"][key])
        for key in models:
            model = config["models"][key]
            settings.check_hub(f"models.{key}.path", model["path"], model["family"])
        for key in purifiers:
            settings.check_hub(
                f"defences.{key}.diffusion", config["defences"][key]["diffusion"], file=DIFFUSION_FILES[0]
            )
        if workflow.local_exec:
            present, limit = len(devices.announce()), workflow.global_resources.get("gpu")
            limit = getattr(limit, "value", limit)
            for key in models:
                settings.check_gpus(key, config["models"][key]["resources"]["gpu"], present, limit)
    except ByeError as error:
        stop(error)


onstart:
    check_jobs()
    if workflow.local_exec:
        # Snakemake's limit of jobs a second protects a cluster's controller. While jobs wait, it also wakes the scheduler a
        # second after each job that ended, and again a second later: after a hundred jobs that is half a core's work.
        workflow.scheduler.job_rate_limiter = None


# ---- names -----------------------------------------------------------------------------------------------------------

VANILLA = next(key for key, defence in config["defences"].items() if defence["kind"] == "none")
EVALUATED = [key for key, dataset in config["datasets"].items() if settings.has_test_set(dataset)]


def keys_pattern(keys):
    """Return the regular expression that matches exactly these keys (and nothing, if there are none)."""
    return "|".join(re.escape(key) for key in keys) or "(?!)"


def defences_of_kind(*kinds):
    return [key for key, defence in config["defences"].items() if defence["kind"] in kinds]


wildcard_constraints:
    model=keys_pattern(config["models"]),
    dataset=keys_pattern(config["datasets"]),
    attack=keys_pattern([*config["attacks"], settings.BUILT_IN_ATTACK]),
    defence=keys_pattern(config["defences"]),
    seed=r"\d+",


# ---- resources -------------------------------------------------------------------------------------------------------


def torch_threads(wildcards):
    """Return how many of --cores a job that computes with torch counts as: one core of the machine.

    One such job a core, with one thread each, is the fastest way through many small trainings. `--cores 4` on a machine
    with two cores therefore runs two of them, and `--cores 16` on one with sixteen runs sixteen.
    """
    machine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, math.ceil((workflow._cores or 1) / machine))


def model_mem_mb(wildcards, attempt):
    return config["models"][wildcards.model]["resources"]["mem_mb"] * attempt


def model_runtime(wildcards):
    return config["models"][wildcards.model]["resources"]["runtime"]


def model_gpu(wildcards):
    return config["models"][wildcards.model]["resources"]["gpu"]


def purifier_gpu(wildcards):
    """Return 1 where any model of the configuration runs on a GPU, else 0."""
    return min(1, max(model["resources"]["gpu"] for model in config["models"].values()))


def one_gpu(wildcards):
    """Return what a job that runs in one process asks for, however many GPUs a fine-tune may have."""
    return min(1, model_gpu(wildcards))


def model_processes(wildcards):
    """Return in how many processes a job divides its work: one a GPU."""
    return max(1, model_gpu(wildcards))


def process_threads(wildcards):
    return torch_threads(wildcards) * model_processes(wildcards)


# ---- inputs ----------------------------------------------------------------------------------------------------------

CELL = "results/{model}/{dataset}/{attack}/s{seed}/{defence}"
LABELS = "results/labels/{dataset}/{attack}/s{seed}.parquet"
CLEAN = "results/data/{dataset}/s{seed}"
ATTACKED = "results/data/{dataset}/{attack}/s{seed}"


def is_poisoned(wildcards):
    return wildcards.attack != settings.BUILT_IN_ATTACK


def raw_dataset(wildcards):
    """Return what samples are prepared from: a file of the user's, the mini dataset, or nothing to wait for."""
    dataset = config["datasets"][wildcards.dataset]
    if settings.is_downloaded(dataset):
        return dataset["root"]
    if dataset.get("root") or dataset.get("json"):
        return dataset["json"] or []
    return f"results/data/{wildcards.dataset}/raw"


def root_of_images(key):
    """Return the folder that the image paths of a dataset's samples start from."""
    dataset = config["datasets"][key]
    return dataset.get("images") or dataset.get("root") or f"results/data/{key}/raw"


def image_root(wildcards):
    return root_of_images(wildcards.dataset)


def training_samples(wildcards):
    folder = ATTACKED if is_poisoned(wildcards) else CLEAN
    return f"{folder}/train.json".format(**wildcards)


def training_images(wildcards):
    return f"{ATTACKED}/images".format(**wildcards) if is_poisoned(wildcards) else image_root(wildcards)


def triggered_samples(wildcards):
    return f"{purified(wildcards, ATTACKED)}/triggered.json".format(**wildcards) if is_poisoned(wildcards) else []


def triggered_root(wildcards):
    return f"{ATTACKED}/triggered".format(**wildcards)


def triggered_images(wildcards):
    if is_purified(wildcards):
        return f"{ATTACKED}/{wildcards.defence}/images".format(**wildcards)
    return triggered_root(wildcards)


def test_samples(wildcards):
    return f"{purified(wildcards, CLEAN)}/test.json".format(**wildcards)


def test_images(wildcards):
    return (
        f"{CLEAN}/{wildcards.defence}/images".format(**wildcards) if is_purified(wildcards) else image_root(wildcards)
    )


def is_purified(wildcards):
    """Whether a defence leaves the training set and changes the test images."""
    return wildcards.defence in defences_of_kind("zip")


def purified(wildcards, folder):
    """Return where a cell's test samples lie: in `folder`, or in the one of the defence that purifies images there."""
    return f"{folder}/{wildcards.defence}" if is_purified(wildcards) else folder


def evaluated_adapter(wildcards):
    """Return the adapter that answers: the cell's own, or the plain one where only the test images are changed."""
    return f"{CELL}/adapter".format(**{**wildcards, "defence": VANILLA} if is_purified(wildcards) else wildcards)


def optional_labels(wildcards):
    """Return the labels where there are any: the picture of a poisoned set shows both kinds of samples."""
    return LABELS.format(**wildcards) if is_poisoned(wildcards) else []


def optional_layers(wildcards):
    """Return the layer selection of a defence that makes one."""
    return f"{CELL}/layers.csv".format(**wildcards) if wildcards.defence in defences_of_kind("bye") else []


def model_path(wildcards):
    return config["models"][wildcards.model]["path"]


def model_files(wildcards):
    """Return the files of a local base model, so that another checkpoint re-runs what was computed with the old one."""
    return files_of_folder(model_path(wildcards), MODEL_FILES)


def diffusion_files(wildcards):
    return files_of_folder(config["defences"][wildcards.defence]["diffusion"], DIFFUSION_FILES)


def files_of_folder(path, built):
    """Return a model folder's files: the names `built` where a rule builds it, those that are there, or a hub id's none."""
    if settings.is_built(path):
        return [f"{path}/{name}" for name in built]
    found = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    return sorted(each for each in found if each.endswith((".json", ".safetensors", ".jinja")))


def cell_files(table, name, kinds=("none", "random", "zip", "bye", "sentinet", "oracle"), poisoned=False, first=False):
    """Return one file of every cell of a table whose defence is of one of these kinds.

    poisoned: of poisoned sets only; first: of the table's first defence only. The plain fine-tune belongs to every
    table: asked for kinds=["none"], it need not be among the table's defences.
    """
    table = config["tables"].get(table)
    if table is None:
        return []
    defences = [VANILLA] if kinds == ["none"] else table["defences"][: 1 if first else None]
    attacks = table.get("attacks", [table.get("attack")])
    return expand(
        f"{CELL}/{name}",
        model=table["models"],
        dataset=table["datasets"],
        attack=[attack for attack in attacks if not poisoned or attack != settings.BUILT_IN_ATTACK],
        seed=config["seeds"],
        defence=[defence for defence in defences if defence in defences_of_kind(*kinds)],
    )


def label_files(table):
    """Return the labels of every training set of a table."""
    table = config["tables"].get(table)
    if table is None:
        return []
    attacks = table.get("attacks", [table.get("attack")])
    return expand(LABELS, dataset=table["datasets"], attack=attacks, seed=config["seeds"])


def figure_files(figure, kind):
    """Return maps, samples, labels or image folders of a figure of single samples: of each of its attacks, seed one."""
    figure = config["tables"].get(figure)
    if figure is None:
        return []
    patterns = {
        "maps": f"results/{{model}}/{{dataset}}/{{attack}}/s{{seed}}/{VANILLA}/maps.npz",
        "samples": f"{ATTACKED}/train.json",
        "images": f"{ATTACKED}/images",
        "labels": LABELS,
    }
    cell = {"model": figure["model"], "dataset": figure["dataset"], "seed": config["seeds"][0]}
    return [patterns[kind].format(**cell, attack=attack) for attack in figure["attacks"]]


def purified_sets():
    """Return (datasets, samples files, image folders) of the figure of purified images: Table 1's datasets, seed one.

    Four sets of each: test samples, purified, triggered, triggered and purified.
    """
    table = config["tables"].get("table1", {"defences": []})
    purifiers = [defence for defence in table["defences"] if defence in defences_of_kind("zip")]
    if not purifiers:
        return [], [], []
    samples, images = [], []
    for dataset in table["datasets"]:
        names = {"dataset": dataset, "attack": table["attack"], "seed": config["seeds"][0]}
        sets = ((CLEAN, "test", root_of_images(dataset)), (ATTACKED, "triggered", f"{ATTACKED}/triggered"))
        for folder, name, originals in sets:
            samples += [f"{folder}/{name}.json".format(**names), f"{folder}/{purifiers[0]}/{name}.json".format(**names)]
            images += [originals.format(**names), f"{folder}/{purifiers[0]}/images".format(**names)]
    return table["datasets"], samples, images


# ---- settings as command line options --------------------------------------------------------------------------------
# One text per stage: Snakemake compares parameters as a set of values, so two numbers that changed places would go unseen.


def as_options(values):
    """Write settings as options: {"batch_size": 16, "plain": False, "root": None, "of": [1, 2]} is
    "--batch-size 16 --no-plain --of 1 2"."""
    words = []
    for name, value in values.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, list):
            words.append(f"--{option} {' '.join(map(shlex.quote, map(str, value)))}")
        elif value is not None:
            words.append(f"--{option} {shlex.quote(str(value))}")
    return " ".join(words)


def mini_options(wildcards):
    dataset = config["datasets"][wildcards.dataset]
    return as_options(
        {"dataset": dataset["format"], "train": dataset["train"], "test": dataset["test"], "seed": config["mini_seed"]}
    )


def prepare_options(wildcards):
    dataset = config["datasets"][wildcards.dataset]
    return as_options({name: dataset.get(name) for name in ("format", "json", "train", "test")})


def poison_options(wildcards):
    return as_options(config["attacks"][wildcards.attack])


def trigger_options(wildcards):
    attack = config["attacks"][wildcards.attack]
    return as_options({name: value for name, value in attack.items() if name != "rate"})


def base_settings(wildcards):
    """Return how every stage loads the base model."""
    model = config["models"][wildcards.model]
    return {"family": model["family"], "quantization": model["quantization"]}


def base_options(wildcards):
    return as_options(base_settings(wildcards))


def finetune_options(wildcards):
    return as_options(base_settings(wildcards) | config["models"][wildcards.model]["finetune"])


def attention_options(wildcards):
    batch_size = config["models"][wildcards.model]["inference_batch_size"]
    return as_options(base_settings(wildcards) | {"batch_size": batch_size})


def detect_options(wildcards):
    defence = config["defences"][wildcards.defence]
    return as_options({name: value for name, value in defence.items() if name != "kind"})


def sentinet_options(wildcards):
    return f"{attention_options(wildcards)} {detect_options(wildcards)}"


def evaluate_options(wildcards):
    model, dataset = config["models"][wildcards.model], config["datasets"][wildcards.dataset]
    options = base_settings(wildcards) | {
        "metric": dataset["metric"],
        "max_new_tokens": dataset["max_new_tokens"],
        "batch_size": model["inference_batch_size"],
    }
    if is_poisoned(wildcards):
        options |= {
            "triggered": triggered_samples(wildcards),
            "triggered_images": triggered_images(wildcards),
            "target": config["attacks"][wildcards.attack]["target"],
        }
    return as_options(options)


def labels_option(wildcards):
    return as_options({"labels": optional_labels(wildcards) or None})


def layers_option(wildcards):
    return as_options({"layers": optional_layers(wildcards) or None})


def paper_models():
    """Say which model of the paper stands beside which of ours: "llava-mini=llava-1.5-7b"."""
    return [f"{key}={model['paper']}" for key, model in config["models"].items() if model["paper"]]


def table_options(table, section, name=None, **more):
    """Return the options of an ablation's table: the setting `name` of each of its attacks or defences, or their keys."""
    entries = config["tables"].get(table, {}).get(section, [])
    names = [f"{key}={config[section].get(key, {}).get(name, 0) if name else key}" for key in entries]
    return as_options({"names": names or None, **more})


def figure4_names():
    """Return DEFENCE=NAME of the variants of BYE, named as in the paper by what they do without."""
    names = []
    for key in config["tables"].get("figure4", {}).get("defences", []):
        defence = config["defences"][key]
        missing = ["GMM"] * (defence.get("clustering", "gmm") != "gmm") + ["BSI"] * (defence.get("over") == "all")
        names.append(f"{key}={'w/o ' + '+'.join(missing) if missing else 'full BYE'}")
    return as_options({"names": names})


def table8_reference():
    """Return the file of SentiNet's reference samples."""
    table = config["tables"].get("table8")
    return f"results/data/{table['datasets'][0]}/s{config['seeds'][0]}/test.json" if table else []


def table8_benchmarks():
    """Return DEFENCE/ATTACK=FILE for each benchmark file of what the defences do after the fine-tune."""
    table = config["tables"].get("table8", {"attacks": []})
    names = []
    for attack, seed in itertools.product(table["attacks"], config["seeds"]):
        run = f"{table['models'][0]}.{table['datasets'][0]}.{attack}.s{seed}"
        for defence in table["defences"]:
            if config["defences"][defence]["kind"] == "sentinet":
                steps = [f"sentinet/{run}.{defence}"]
            else:
                steps = [f"attention/{run}", f"detect/{run}.{defence}"]
            names += [f"{defence}/{attack}=results/benchmarks/{step}.tsv" for step in steps]
    return names


# ---- requested files -------------------------------------------------------------------------------------------------


def check_request():
    """Stop with one sentence at a requested file under results/ that cannot be made; let a dry run tell what is missing."""
    arguments = get_argument_parser().parse_known_args(sys.argv[1:])[0]
    if arguments.dryrun and workflow.is_main_process:
        for key, dataset in config["datasets"].items():
            try:
                settings.check_root(key, dataset)
            except ByeError as error:
                print(f"bye: warning: {error}", file=sys.stderr)
    for target in map(os.path.normpath, arguments.targets):
        if not target.startswith("results/") or os.path.exists(target):
            continue
        try:
            settings.check_target(target, config)
        except ByeError as error:
            stop(error)
        if not any(each.is_producer(target) for each in workflow.rules):
            stop(
                f"target {target} is nothing that this workflow makes; results/table1.csv is, and the README lists all tables, figures and a cell's files"
            )
