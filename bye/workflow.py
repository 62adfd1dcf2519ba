"""What the rules ask of a configuration: pure functions of it and of a job's wildcards.

Paths, input files, options of stages and resources of jobs. The rules bind the methods of a Workflow to their
directives.
"""

import json
import math
import os
import re
import shlex

from bye.config import is_built, is_downloaded
from bye.plan import definition, entries
from bye.plan.paths import ATTACKED, BUILT, CELL, CLEAN, DIFFUSION_FILES, LABELS, MODEL_FILES, RAW, UNTOUCHED
from bye.registry import COLUMNS, find

DETECTOR_MEM_MB = 1000  # of a detector that runs no model
PURIFIER_MEM_MB = 4000


class Workflow:
    """The plan of a checked configuration.

    config: as `bye.config.check` leaves it; cores: of Snakemake's --cores; machine_cores: of this machine, default:
    found.
    """

    def __init__(self, config, cores=1, machine_cores=None):
        self.config, self.cores = config, cores or 1
        self.machine_cores = machine_cores or _machine_cores()
        self.plain = entries.plain_defence(config)
        self.evaluated = entries.evaluated_datasets(config)

    # ---- names -------------------------------------------------------------------------------------------------------

    def pattern(self, section):
        """Return the regular expression that matches exactly the keys of a section of the configuration."""
        extra = [UNTOUCHED] if section == "attacks" else []
        return keys_pattern([*self.config[section], *extra])

    def method(self, defence):
        """Return the Method of a defence."""
        return entries.method_of(self.config, defence)

    def acting_on(self, what):
        """Return the keys of the defences that act on "training set", "test images", "generation" or "nothing"."""
        return [key for key in self.config["defences"] if self.method(key).acts_on == what]

    def detectors(self):
        """Return {rule name: keys of the detectors that it runs}: those that write the same files beside flags."""
        rules = {}
        for key in self.acting_on("training set"):
            rules.setdefault(definition.detect_rule(self.method(key)), []).append(key)
        return rules

    def generated(self):
        """Return the keys of the datasets that the generator of mini datasets draws."""
        sets = self.config["datasets"]
        return [key for key in sets if self.format(key).divided and not sets[key]["root"]]

    def format(self, dataset):
        """Return the Method of a dataset's format."""
        return find("dataset format", self.config["datasets"][dataset]["format"])

    # ---- resources ---------------------------------------------------------------------------------------------------

    def torch_threads(self, wildcards):
        """Return how many of --cores a job that computes with torch counts as: one core of the machine.

        One such job a core, with one thread each, is the fastest way through many small trainings. `--cores 4` on a
        machine with two cores therefore runs two of them, and `--cores 16` on one with sixteen runs sixteen.
        """
        return max(1, math.ceil(self.cores / self.machine_cores))

    def process_threads(self, wildcards):
        """Return the same for a job that divides its work among processes."""
        return self.torch_threads(wildcards) * self.processes(wildcards)

    def mem_mb(self, wildcards, attempt):
        """Return the memory that a job with a model asks for, more at each attempt."""
        return self._resources(wildcards)["mem_mb"] * attempt

    def runtime(self, wildcards):
        """Return the minutes that a job with a model asks for."""
        return self._resources(wildcards)["runtime"]

    def gpu(self, wildcards):
        """Return the GPUs of a job that divides its work."""
        return self._resources(wildcards)["gpu"]

    def one_gpu(self, wildcards):
        """Return what a job that runs in one process asks for, however many GPUs a fine-tune may have."""
        return min(1, self.gpu(wildcards))

    def processes(self, wildcards):
        """Return in how many processes a job divides its work: one a GPU."""
        return max(1, self.gpu(wildcards))

    def purifier_gpu(self, wildcards):
        """Return 1 where any model of the configuration runs on a GPU, else 0."""
        return min(1, max(model["resources"]["gpu"] for model in self.config["models"].values()))

    def detector_threads(self, wildcards):
        """Return the threads of a detector, which may run the model."""
        return self.torch_threads(wildcards) if self._runs_model(wildcards) else 1

    def detector_mem_mb(self, wildcards, attempt):
        """Return the memory of a detector."""
        return self.mem_mb(wildcards, attempt) if self._runs_model(wildcards) else DETECTOR_MEM_MB

    def detector_runtime(self, wildcards):
        """Return the minutes of a detector."""
        return self.runtime(wildcards) if self._runs_model(wildcards) else 10

    def detector_gpu(self, wildcards):
        """Return the GPUs of a detector."""
        return self.one_gpu(wildcards) if self._runs_model(wildcards) else 0

    def _resources(self, wildcards):
        return self.config["models"][wildcards.model]["resources"]

    def _runs_model(self, wildcards):
        return "model" in self.method(wildcards.defence).reads

    # ---- files -------------------------------------------------------------------------------------------------------

    def is_poisoned(self, wildcards):
        """Whether a run has an attack."""
        return wildcards.attack != UNTOUCHED

    def raw_dataset(self, wildcards):
        """Return what samples are prepared from: a file of the user's, the mini dataset, or nothing to wait for."""
        dataset = self.config["datasets"][wildcards.dataset]
        own = _own_file(self.format(wildcards.dataset))
        if wildcards.dataset in self.generated():
            return [RAW.format(dataset=wildcards.dataset), *own]
        if is_downloaded(dataset):
            return [dataset["root"], *own]
        return [*([dataset["json"]] if dataset.get("json") else []), *own]

    def image_root(self, wildcards):
        """Return the folder that the image paths of a dataset's samples start from."""
        return entries.image_root(self.config, wildcards.dataset)

    def training_samples(self, wildcards):
        """Return the training samples of a run."""
        return _fill(f"{ATTACKED if self.is_poisoned(wildcards) else CLEAN}/train.json", wildcards)

    def training_images(self, wildcards):
        """Return their image folder."""
        poisoned = self.is_poisoned(wildcards)
        return _fill(f"{ATTACKED}/images", wildcards) if poisoned else self.image_root(wildcards)

    def triggered_root(self, wildcards):
        """Return the folder of the triggered test images."""
        return _fill(f"{ATTACKED}/triggered", wildcards)

    def test_files(self, wildcards):
        """Return {clean, triggered}: the test samples that a cell answers, purified ones where its defence purifies."""
        purified = f"/{wildcards.defence}" if self.is_purified(wildcards) else ""
        files = {"clean": _fill(f"{CLEAN}{purified}/test.json", wildcards), "triggered": []}
        if self.is_poisoned(wildcards):
            files["triggered"] = _fill(f"{ATTACKED}{purified}/triggered.json", wildcards)
        return files

    def test_images(self, wildcards):
        """Return {clean, triggered}: the image folders of those samples."""
        if self.is_purified(wildcards):
            folders = (f"{CLEAN}/{wildcards.defence}/images", f"{ATTACKED}/{wildcards.defence}/images")
            return {
                name: _fill(folder, wildcards) for name, folder in zip(("clean", "triggered"), folders, strict=True)
            }
        return {"clean": self.image_root(wildcards), "triggered": self.triggered_root(wildcards)}

    def is_purified(self, wildcards):
        """Whether a defence leaves the training set and changes the test images."""
        return self.method(wildcards.defence).acts_on == "test images"

    def plain_file(self, wildcards, name):
        """Return a file of the plain fine-tune of a run."""
        return _fill(f"{CELL}/{name}", wildcards, defence=self.plain)

    def plain_adapter(self, wildcards):
        """Return the adapter of the plain fine-tune of a run."""
        return self.plain_file(wildcards, "adapter")

    def plain_loss(self, wildcards):
        """Return the loss curve of the plain fine-tune of a run."""
        return self.plain_file(wildcards, "loss.csv")

    def evaluated_adapter(self, wildcards):
        """Return the adapter that answers: the cell's own, or the plain one where nothing was trained for it."""
        own = self.method(wildcards.defence).acts_on in ("training set", "nothing")
        return _fill(f"{CELL}/adapter", wildcards) if own else self.plain_adapter(wildcards)

    def labels_if_any(self, wildcards):
        """Return the labels where there are any: the picture of a poisoned set shows both kinds of samples."""
        return _fill(LABELS, wildcards) if self.is_poisoned(wildcards) else []

    def layers_if_any(self, wildcards):
        """Return the layer selection of a detector that writes one."""
        writes = self.method(wildcards.defence).writes
        return _fill(f"{CELL}/layers.csv", wildcards) if "layers.csv" in writes else []

    def model_path(self, wildcards):
        """Return the folder or hub id of a model."""
        return self.config["models"][wildcards.model]["path"]

    def model_files(self, wildcards):
        """Return the files of a local base model, so that another checkpoint re-runs what was computed with the old
        one; and the file of a tuning method or family of the user's."""
        model = self.config["models"][wildcards.model]
        own = [*_own_file(find("tuning method", model["tuning"])), *_own_file(find("family", model["family"]))]
        return [*_files_of(model["path"], MODEL_FILES), *own]

    def attack_files(self, wildcards):
        """Return the files of a trigger and a target of the user's."""
        attack = self.config["attacks"][wildcards.attack]
        target = find("target", attack["target"]["kind"]) if isinstance(attack["target"], dict) else None
        return [*_own_file(find("trigger", attack["trigger"])), *(_own_file(target) if target else [])]

    def purifier_files(self, wildcards):
        """Return the files of the models that a purifier needs, and its own where it is the user's."""
        method, settings = self.method(wildcards.defence), self.config["defences"][wildcards.defence]
        folders = [_files_of(settings[name], DIFFUSION_FILES) for name in method.folders]
        return [*(file for files in folders for file in files), *_own_file(method)]

    def detector_files(self, wildcards):
        """Return what a detector reads, as {option of the stage: files}."""
        method, files = self.method(wildcards.defence), {}
        if set(method.reads) & set(COLUMNS):
            files["attention"] = self.plain_file(wildcards, "attention.parquet")
        if not set(method.reads) & set(COLUMNS) or "samples" in method.reads:
            files["samples"] = self.training_samples(wildcards)
        if "labels" in method.reads:
            files["labels"] = _fill(LABELS, wildcards)
        if "reference" in method.reads:
            files["reference"] = _fill(f"{CLEAN}/test.json", wildcards)
        if "model" in method.reads:
            files |= {"adapter": self.plain_adapter(wildcards), "model": self.model_files(wildcards)}
        return files | {"own": _own_file(method)}

    def guard_files(self, wildcards):
        """Return what a guard reads beside the model: clean samples, and its own file where it is the user's."""
        method = self.method(wildcards.defence)
        if method.acts_on != "generation":
            return []
        reference = [_fill(f"{CLEAN}/test.json", wildcards)] if "reference" in method.reads else []
        return [*reference, *_own_file(method)]

    # ---- options of stages -------------------------------------------------------------------------------------------
    # One text per stage: Snakemake compares parameters as a set of values, so two numbers that changed places would go
    # unseen.

    def mini_options(self, wildcards):
        """Return the options of `mini-data`."""
        dataset = self.config["datasets"][wildcards.dataset]
        sizes = {"train": dataset["train"], "test": dataset["test"]}
        return as_options({"dataset": dataset["format"], **sizes, "seed": self.config["mini_seed"]})

    def prepare_options(self, wildcards):
        """Return the options of `prepare`."""
        dataset, settings = self.config["datasets"][wildcards.dataset], self.format(wildcards.dataset).settings
        return as_options({name: dataset.get(name) for name in ("format", *settings, "train", "test")})

    def poison_options(self, wildcards):
        """Return the options of `poison`."""
        return as_options(self.config["attacks"][wildcards.attack])

    def trigger_options(self, wildcards):
        """Return the options of `trigger-test`."""
        attack = self.config["attacks"][wildcards.attack]
        return as_options({name: value for name, value in attack.items() if name != "rate"})

    def base_settings(self, wildcards):
        """Return how every stage loads the base model and its adapter."""
        model = self.config["models"][wildcards.model]
        return {name: model[name] for name in ("family", "quantization", "tuning")}

    def base_options(self, wildcards):
        """Return the same as options."""
        return as_options(self.base_settings(wildcards))

    def finetune_options(self, wildcards):
        """Return the options of `finetune`."""
        return as_options(self.base_settings(wildcards) | self.config["models"][wildcards.model]["finetune"])

    def plain_options(self, wildcards):
        """Return the options that tell `finetune` of the plain fine-tune, which is copied where everything was kept."""
        return as_options(
            {
                "plain_samples": self.training_samples(wildcards),
                "plain_adapter": self.plain_adapter(wildcards),
                "plain_log": self.plain_loss(wildcards),
            }
        )

    def attention_options(self, wildcards):
        """Return the options of `attention`."""
        batch_size = self.config["models"][wildcards.model]["inference_batch_size"]
        return as_options(self.base_settings(wildcards) | {"batch_size": batch_size})

    def defence_options(self, wildcards):
        """Return the kind and the settings of a defence."""
        return as_options(self.config["defences"][wildcards.defence])

    def detect_options(self, wildcards):
        """Return the options of `detect`: the defence, and where what it reads lies."""
        files = {name: path for name, path in self.detector_files(wildcards).items() if name not in ("model", "own")}
        if "samples" in files and self._runs_model(wildcards):
            files["images"] = self.training_images(wildcards)
        if "reference" in files:
            files["reference_images"] = self.image_root(wildcards)
        options = f"{self.defence_options(wildcards)} {as_options(files)}"
        if not self._runs_model(wildcards):
            return options
        return f"{options} {as_options({'model': self.model_path(wildcards)})} {self.attention_options(wildcards)}"

    def evaluate_options(self, wildcards):
        """Return the options of `evaluate`."""
        model, dataset = self.config["models"][wildcards.model], self.config["datasets"][wildcards.dataset]
        options = self.base_settings(wildcards) | {
            "metric": dataset["metric"],
            "max_new_tokens": dataset["max_new_tokens"],
            "batch_size": model["inference_batch_size"],
        }
        if self.is_poisoned(wildcards):
            options |= {
                "triggered": self.test_files(wildcards)["triggered"],
                "triggered_images": self.test_images(wildcards)["triggered"],
                "target": self.config["attacks"][wildcards.attack]["target"],
            }
        return as_options(options | self._guard_options(wildcards))

    def _guard_options(self, wildcards):
        method = self.method(wildcards.defence)
        if method.acts_on != "generation":
            return {}
        settings = {**self.config["defences"][wildcards.defence]}
        options = {"guard": settings.pop("kind"), **settings}
        if "reference" in method.reads:
            images = self.image_root(wildcards)
            options |= {"reference": _fill(f"{CLEAN}/test.json", wildcards), "reference_images": images}
        return options

    def clean_images(self, wildcards):
        """Return the image folder of the clean test samples that a cell answers."""
        return self.test_images(wildcards)["clean"]

    def labels_option(self, wildcards):
        """Return the labels as an option, where there are any."""
        return as_options({"labels": self.labels_if_any(wildcards) or None})

    def layers_option(self, wildcards):
        """Return the layer selection as an option, where there is one."""
        return as_options({"layers": self.layers_if_any(wildcards) or None})

    # ---- tables and figures ------------------------------------------------------------------------------------------

    def tables(self):
        """Return the names of the entries that are tables."""
        return [name for name, entry in self.config["tables"].items() if "columns" in entry]

    def figures(self):
        """Return the names of the entries that are figures."""
        return [name for name, entry in self.config["tables"].items() if "figure" in entry]

    def table_files(self, wildcards):
        """Return what a table is made of, as {option of the stage: files}."""
        return entries.table_files(self.config, wildcards.name)

    def table_options(self, wildcards):
        """Return the options of `table`."""
        told = {"entry": definition.definition(self.config, wildcards.name)}
        return as_options(entries.table_files(self.config, wildcards.name) | told)

    def figure_files(self, wildcards):
        """Return what a figure is drawn from, as {option of the stage: files}."""
        return entries.figure_files(self.config, wildcards.name)

    def figure_options(self, wildcards):
        """Return the stage that draws a figure, with its options."""
        entry = self.config["tables"][wildcards.name]
        options = dict(entries.figure_files(self.config, wildcards.name))
        source = entries.drawn_from(entry)
        if source in ("samples", "purified images"):
            section = "attacks" if source == "samples" else "datasets"
            options |= {"names": entries.names(self.config, entry, section)}
            options |= {"images": entries.figure_images(self.config, wildcards.name)}
        return f"{entry['figure']}-figure {as_options(options)}"

    def report_labels(self, wildcards):
        """Return where the report lists a table or a figure."""
        entry = self.config["tables"][wildcards.name]
        return {"of the paper": entry["title"] or "Beyond the paper", "shows": entry["caption"]}

    def targets(self):
        """Return what all entries ask for together."""
        return entries.targets(self.config)

    def base_models(self):
        """Return the files of the mini base models that a rule builds."""
        models = [f"{BUILT}/{model}/{name}" for model in self.config["models"] for name in MODEL_FILES]
        return [*models, *(f"{BUILT}/diffusion-mini/{name}" for name in DIFFUSION_FILES)]


def keys_pattern(keys):
    """Return the regular expression that matches exactly these keys (and nothing, if there are none)."""
    return "|".join(re.escape(key) for key in keys) or "(?!)"


def as_options(values):
    """Write settings as options: {"batch_size": 16, "plain": False, "root": None, "of": [1, 2]} is
    "--batch-size 16 --no-plain --of 1 2"; a mapping is JSON."""
    words = []
    for name, value in values.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, list):
            words.append(f"--{option} {' '.join(map(shlex.quote, map(str, value)))}" if value else "")
        elif isinstance(value, dict):
            words.append(f"--{option} {shlex.quote(json.dumps(value, ensure_ascii=False))}")
        elif value is not None:
            words.append(f"--{option} {shlex.quote(str(value))}")
    return " ".join(filter(None, words))


def record_name(rule, output):
    """Return where a rule's log and benchmark lie: RULE/WILDCARDS, by the wildcards of its first output."""
    wildcards = dict.fromkeys(re.findall(r"{(\w+)", str(output)))
    names = [f"s{{{name}}}" if name == "seed" else f"{{{name}}}" for name in wildcards]
    return f"{rule}/{'.'.join(names)}" if names else rule


def _fill(pattern, wildcards, **more):
    """Fill the wildcards into a path."""
    return pattern.format(**{**dict(wildcards.items()), **more})


def _own_file(method):
    """The file of a method of the user's, so that a change in it re-runs what it made."""
    return [os.path.relpath(method.path)] if method.is_own else []


def _files_of(path, built):
    """A model folder's files: the names `built` where a rule builds it, those that are there, or a hub id's none."""
    if is_built(path):
        return [f"{path}/{name}" for name in built]
    found = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    return sorted(each for each in found if each.endswith((".json", ".safetensors", ".jinja")))


def _machine_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
