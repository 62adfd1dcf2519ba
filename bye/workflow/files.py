"""Which files a job reads, and which defences and tables there are: functions of configuration and wildcards."""

import os

from bye.config import is_built, is_downloaded
from bye.plan import definition, entries
from bye.plan.paths import (
    ATTACKED,
    BUILT,
    CELL,
    CLEAN,
    DIFFUSION_FILES,
    ISSBA_FILE,
    LABELS,
    MAE_FILES,
    MODEL_FILES,
    RAW,
    UNTOUCHED,
)
from bye.registry import COLUMNS, find, kinds
from bye.workflow.texts import keys_pattern


class Files:
    """The plan of a configuration, as `bye.config.check` leaves it. The rules bind its methods to their inputs."""

    def __init__(self, config):
        self.config = config
        self.plain = entries.plain_defence(config)
        self.evaluated = entries.evaluated_datasets(config)

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
        return [key for key in sets if self.format(key).divided and not entries.root_of(self.config, key)]

    def fetched(self):
        """Return the formats of which the rule `fetch` downloads the official files."""
        return [kind for kind in kinds("dataset format") if find("dataset format", kind).fetched]

    def format(self, dataset):
        """Return the Method of a dataset's format."""
        return find("dataset format", self.config["datasets"][dataset]["format"])

    def runs_model(self, wildcards):
        return self.method(wildcards.defence).runs_model

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
        return fill(f"{ATTACKED if self.is_poisoned(wildcards) else CLEAN}/train.json", wildcards)

    def training_images(self, wildcards):
        """Return their image folder."""
        poisoned = self.is_poisoned(wildcards)
        return fill(f"{ATTACKED}/images", wildcards) if poisoned else self.image_root(wildcards)

    def triggered_root(self, wildcards):
        """Return the folder of the triggered test images."""
        return fill(f"{ATTACKED}/triggered", wildcards)

    def test_files(self, wildcards):
        """Return {clean, triggered}: the test samples that a cell answers, purified ones where its defence purifies."""
        purified = f"/{wildcards.defence}" if self.is_purified(wildcards) else ""
        files = {"clean": fill(f"{CLEAN}{purified}/test.json", wildcards), "triggered": []}
        if self.is_poisoned(wildcards):
            files["triggered"] = fill(f"{ATTACKED}{purified}/triggered.json", wildcards)
        return files

    def test_images(self, wildcards):
        """Return {clean, triggered}: the image folders of those samples."""
        if self.is_purified(wildcards):
            folders = (f"{CLEAN}/{wildcards.defence}/images", f"{ATTACKED}/{wildcards.defence}/images")
            return {name: fill(folder, wildcards) for name, folder in zip(("clean", "triggered"), folders, strict=True)}
        return {"clean": self.image_root(wildcards), "triggered": self.triggered_root(wildcards)}

    def is_purified(self, wildcards):
        """Whether a defence leaves the training set and changes the test images."""
        return self.method(wildcards.defence).acts_on == "test images"

    def plain_file(self, wildcards, name):
        """Return a file of the plain fine-tune of a run."""
        return fill(f"{CELL}/{name}", wildcards, defence=self.plain)

    def plain_adapter(self, wildcards):
        """Return the adapter of the plain fine-tune of a run."""
        return self.plain_file(wildcards, "adapter")

    def plain_loss(self, wildcards):
        """Return the loss curve of the plain fine-tune of a run."""
        return self.plain_file(wildcards, "loss.csv")

    def evaluated_adapter(self, wildcards):
        """Return the adapter that answers: the cell's own, or the plain one where nothing was trained for it."""
        own = self.method(wildcards.defence).acts_on in ("training set", "nothing")
        return fill(f"{CELL}/adapter", wildcards) if own else self.plain_adapter(wildcards)

    def labels_if_any(self, wildcards):
        """Return the labels where there are any: the picture of a poisoned set shows both kinds of samples."""
        return fill(LABELS, wildcards) if self.is_poisoned(wildcards) else []

    def layers_if_any(self, wildcards):
        """Return the layer selection of a detector that writes one."""
        writes = self.method(wildcards.defence).writes
        return fill(f"{CELL}/layers.csv", wildcards) if "layers.csv" in writes else []

    def evidence_files(self, wildcards):
        """Return what the evidence of a cell is made of, as {option of the stage: files}."""
        files = {"flags": fill(f"{CELL}/flags.parquet", wildcards), "samples": self.training_samples(wildcards)}
        files["adapter"] = self.plain_adapter(wildcards)
        for name in ("groups", "trials"):
            if f"{name}.csv" in self.method(wildcards.defence).writes:
                files[name] = fill(f"{CELL}/{name}.csv", wildcards)
        if self.is_poisoned(wildcards):
            files["labels"] = fill(LABELS, wildcards)
        return files

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
            files["labels"] = fill(LABELS, wildcards)
        if "reference" in method.reads:
            files["reference"] = self.reference(wildcards)
        if "model" in method.reads:
            files |= {"adapter": self.plain_adapter(wildcards), "model": self.model_files(wildcards)}
        return files | {"own": _own_file(method)}

    def reference(self, wildcards):
        """Return the clean samples that a defence may read."""
        return fill(entries.reference_file(self.config, wildcards.dataset), wildcards)

    def guard_files(self, wildcards):
        """Return what a guard reads beside the model: clean samples, and its own file where it is the user's."""
        method = self.method(wildcards.defence)
        if method.acts_on != "generation":
            return []
        reference = [self.reference(wildcards)] if "reference" in method.reads else []
        return [*reference, *_own_file(method)]

    def clean_images(self, wildcards):
        """Return the image folder of the clean test samples that a cell answers."""
        return self.test_images(wildcards)["clean"]

    def tables(self):
        """Return the names of the entries that are tables."""
        return [name for name, entry in self.config["tables"].items() if "columns" in entry]

    def figures(self):
        """Return the names of the entries that are figures."""
        return [name for name, entry in self.config["tables"].items() if "figure" in entry]

    def table_files(self, wildcards):
        """Return what a table is made of, as {option of the stage: files}."""
        return entries.table_files(self.config, wildcards.name)

    def figure_files(self, wildcards):
        """Return what a figure is drawn from, as {option of the stage: files}."""
        return entries.figure_files(self.config, wildcards.name)

    def listed_files(self):
        """Return {name of a target: the files of cells that an entry lists under `files`}."""
        found = {name: entries.listed_files(self.config, name) for name in self.config["tables"]}
        return {
            entries.files_target(name): [cell.path(file) for cell, file in each] for name, each in found.items() if each
        }

    def targets(self):
        """Return what all entries ask for together."""
        return entries.targets(self.config)

    def base_models(self):
        """Return the files of the mini base models, and of the encoder of issba, that a rule builds."""
        models = [f"{BUILT}/{model}/{name}" for model in self.config["models"] for name in MODEL_FILES]
        diffusion = [f"{BUILT}/diffusion-mini/{name}" for name in DIFFUSION_FILES]
        mae = [f"{BUILT}/mae-mini/{name}" for name in MAE_FILES]
        return [*models, *diffusion, *mae, ISSBA_FILE]

    def report_labels(self, wildcards):
        """Return where the report lists a table or a figure."""
        entry = self.config["tables"][wildcards.name]
        return {"of the paper": entry["title"] or "Beyond the paper", "shows": entry["caption"]}


def fill(pattern, wildcards, **more):
    """Fill wildcards into a path."""
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
