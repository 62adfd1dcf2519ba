"""The options that a job's stage is given: functions of configuration and wildcards.

One text per stage: Snakemake compares parameters as a set of values, so two numbers that changed places would go
unseen.
"""

from bye.errors import ByeError
from bye.plan import definition, entries
from bye.workflow.texts import as_options

PICTURES = ("daquar", "ucmerced", "openclipart")  # formats of what the scout is trained on


class Options:
    """The options of stages. files: the Files of a configuration."""

    def __init__(self, files):
        self.files, self.config = files, files.config

    def mini(self, wildcards):
        """Return the options of `mini-data`."""
        dataset = self.config["datasets"][wildcards.dataset]
        sizes = {"train": dataset["train"], "test": dataset["test"] + (dataset.get("reference") or 0)}
        return as_options({"dataset": dataset["mini"] or dataset["format"], **sizes, "seed": self.config["mini_seed"]})

    def prepare(self, wildcards):
        """Return the options of `prepare`."""
        dataset, settings = self.config["datasets"][wildcards.dataset], self.files.format(wildcards.dataset).settings
        names = ("format", *settings, "train", "test", "reference", "pictures", "unjudged")
        return as_options({**{name: dataset.get(name) for name in names}, "headers": dataset["headers"] or None})

    def scout(self, wildcards):
        """Return the roots of the datasets that the scout is trained and examined on, as options."""
        datasets = self.config["datasets"]
        roots = {each: next((key for key in datasets if datasets[key]["format"] == each), None) for each in PICTURES}
        missing = [each for each, key in roots.items() if key is None]
        if missing:
            raise ByeError(
                f"the configuration has no dataset of the format {', '.join(missing)}, which the scout is trained on; "
                "lay config/scout.yaml over it by --configfile"
            )
        return as_options({each: datasets[key]["root"] for each, key in roots.items()})

    def poison(self, wildcards):
        """Return the options of `poison`."""
        return as_options(self._attack(wildcards))

    def trigger(self, wildcards):
        """Return the options of `trigger-test`."""
        return as_options({name: value for name, value in self._attack(wildcards).items() if name != "rate"})

    def _attack(self, wildcards):
        """An attack's settings; a text that looks like JSON is the target `replace` in full."""
        attack = self.config["attacks"][wildcards.attack]
        if isinstance(attack["target"], str) and attack["target"].startswith("{"):
            return attack | {"target": {"kind": "replace", "text": attack["target"]}}
        return attack

    def base_settings(self, wildcards):
        """Return how every stage loads the base model and its adapter."""
        model = self.config["models"][wildcards.model]
        return {name: model[name] for name in ("family", "quantization", "dtype", "tuning")}

    def base(self, wildcards):
        """Return the same as options."""
        return as_options(self.base_settings(wildcards))

    def finetune(self, wildcards):
        """Return the options of `finetune`."""
        return as_options(self.base_settings(wildcards) | self.config["models"][wildcards.model]["finetune"])

    def plain(self, wildcards):
        """Return the options that tell `finetune` of the plain fine-tune, which is copied where everything was kept."""
        return as_options(
            {
                "plain_samples": self.files.training_samples(wildcards),
                "plain_adapter": self.files.plain_adapter(wildcards),
                "plain_log": self.files.plain_loss(wildcards),
            }
        )

    def attention(self, wildcards):
        """Return the options of `attention`."""
        batch_size = self.config["models"][wildcards.model]["inference_batch_size"]
        return as_options(self.base_settings(wildcards) | {"batch_size": batch_size})

    def defence(self, wildcards):
        """Return the kind and the settings of a defence."""
        return as_options(self.config["defences"][wildcards.defence])

    def detect(self, wildcards):
        """Return the options of `detect`: the defence, and where what it reads lies."""
        files = {
            name: path for name, path in self.files.detector_files(wildcards).items() if name not in ("model", "own")
        }
        if "samples" in files and self.files.runs_model(wildcards):
            files["images"] = self.files.training_images(wildcards)
        if "reference" in files:
            files["reference_images"] = self.files.image_root(wildcards)
        options = f"{self.defence(wildcards)} {as_options(files)}"
        if not self.files.runs_model(wildcards):
            return options
        return f"{options} {as_options({'model': self.files.model_path(wildcards)})} {self.attention(wildcards)}"

    def detect_parts(self, wildcards):
        """Return the options of `detect-parts`."""
        return f"{self.detect(wildcards)} {as_options(self.config['parts'])}"

    def evaluate(self, wildcards):
        """Return the options of `evaluate`."""
        model, dataset = self.config["models"][wildcards.model], self.config["datasets"][wildcards.dataset]
        options = self.base_settings(wildcards) | {
            "metric": dataset["metric"],
            "max_new_tokens": dataset["max_new_tokens"],
            "batch_size": model["inference_batch_size"],
        }
        if self.files.is_poisoned(wildcards):
            options |= {
                "triggered": self.files.test_files(wildcards)["triggered"],
                "triggered_images": self.files.test_images(wildcards)["triggered"],
                "target": self._attack(wildcards)["target"],
            }
        return as_options(options | self._guard_options(wildcards))

    def _guard_options(self, wildcards):
        method = self.files.method(wildcards.defence)
        if method.acts_on != "generation":
            return {}
        settings = {**self.config["defences"][wildcards.defence]}
        options = {"guard": settings.pop("kind"), **settings}
        if "reference" in method.reads:
            images = self.files.image_root(wildcards)
            options |= {"reference": self.files.reference(wildcards), "reference_images": images}
        return options

    def labels(self, wildcards):
        """Return the labels as an option, where there are any."""
        return as_options({"labels": self.files.labels_if_any(wildcards) or None})

    def evidence(self, wildcards):
        """Return the options of `evidence`."""
        return f"{as_options(self.files.evidence_files(wildcards))} {self.attention(wildcards)}"

    def layers(self, wildcards):
        """Return the layer selection as an option, where there is one."""
        return as_options({"layers": self.files.layers_if_any(wildcards) or None})

    def table(self, wildcards):
        """Return the options of `table`."""
        told = {"entry": definition.definition(self.config, wildcards.name)}
        return as_options(entries.table_files(self.config, wildcards.name) | told)

    def figure(self, wildcards):
        """Return the stage that draws a figure, with its options."""
        entry = self.config["tables"][wildcards.name]
        options = dict(entries.figure_files(self.config, wildcards.name))
        source = entries.drawn_from(entry)
        if source in entries.SHOW_IMAGES:
            section = "datasets" if source == "purified images" else "attacks"
            options |= {"names": entries.names(self.config, entry, section)}
            options |= {"images": entries.figure_images(self.config, wildcards.name)}
        return f"{entry['figure']}-figure {as_options(options)}"
