"""Say in one sentence what is wrong with a configuration or a requested file, before any job starts."""

import copy
import os
import re
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import best_match

from bye.errors import ByeError
from bye.files import read_json, read_text
from bye.machine.distributed import split_batch
from bye.machine.hub import NATIVE, find_file
from bye.plan import problems
from bye.plan.paths import BUILT, DOWNLOADS, OWN_FOLDERS, UNTOUCHED
from bye.registry import find, kinds


def read_config(paths):
    """Return the content of YAML files, each laid over those before as Snakemake does it. Raises ByeError."""
    from snakemake.utils import update_config

    config = {}
    for path in paths:
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise ByeError(f"{path} has no sections; write it like config.yaml")
        update_config(config, content)
    return config


def read_yaml(path):
    """Return the content of a YAML file. Raises ByeError."""
    try:
        return yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ByeError(f"{path} is not valid YAML ({' '.join(str(error).split())}); mend the file there") from None


def check(config, base):
    """Check a configuration as a whole and fill in its defaults, before any job: against the schema, against the
    settings of the methods that it names, and against itself.

    base: the folder of the workflow, which has config.schema.yaml. Paths of models become such as `from_pretrained`
    should get. Raises ByeError naming the config key and what is known.
    """
    check_content(config, base)
    for key, model in config["models"].items():
        model["path"] = find_model(f"models.{key}.path", model["path"], base)
        check_family(key, model["family"], model["path"])
    for key, defence in config["defences"].items():
        for setting, file in find("defence", defence["kind"]).folders.items():
            defence[setting] = find_model(f"defences.{key}.{setting}", defence[setting], base, file)


def check_content(config, base):
    """`check`, but for the folders and checkpoints of models, which stay as the configuration names them."""
    schema = read_yaml(Path(base) / "config.schema.yaml")
    drop_nulls(config)
    check_schema(config, without_methods(schema))
    check_schema(config, with_methods(schema, config))
    check_references(config)


def drop_nulls(config):
    """Take the keys that are null out of the entries of section tables: a file laid over another takes them away so."""
    tables = config.get("tables")
    for entry in tables.values() if isinstance(tables, dict) else ():
        if isinstance(entry, dict):
            for key in [key for key, value in entry.items() if value is None]:
                del entry[key]


def check_schema(config, schema):
    """Validate a configuration against a schema (a dict) and fill in the schema's defaults. Raises ByeError."""
    while (problem := best_match(WITH_DEFAULTS(schema).iter_errors(config))) is not None:
        if not restore_type(config, problem):
            raise ByeError(describe_schema_error(problem))


def _properties_with_defaults(validator, properties, instance, schema):
    if isinstance(instance, dict):
        for name, part in properties.items():
            if isinstance(part, dict) and "default" in part:
                instance.setdefault(name, copy.deepcopy(part["default"]))
    yield from Draft202012Validator.VALIDATORS["properties"](validator, properties, instance, schema)


WITH_DEFAULTS = validators.extend(Draft202012Validator, {"properties": _properties_with_defaults})


def without_methods(schema):
    """Return the schema without what depends on the kinds of methods: they must be known before their settings are."""
    schema = copy.deepcopy(schema)
    parts = schema["$defs"]
    for part in (parts["model"]["properties"]["finetune"], parts["dataset"], parts["attack"], parts["defence"]):
        del part["additionalProperties"]
    for name in ("root", "train", "test", "metric"):  # which depend on the format
        del parts["dataset"]["properties"][name]["default"]
    return schema


def with_methods(schema, config):
    """Return the schema with the settings of each method that the configuration names, in the place of its entry.

    Raises ByeError for a kind that is unknown, and for a method whose file does not say what it must.
    """
    schema = copy.deepcopy(schema)
    parts, sections = schema["$defs"], schema["properties"]
    for section, part in (("models", "model"), ("datasets", "dataset"), ("attacks", "attack"), ("defences", "defence")):
        entries = {key: copy.deepcopy(parts[part]) for key in config[section]}
        sections[section]["properties"] = entries
        for key, entry in entries.items():
            where, values = f"config key {section}.{key}", config[section][key]
            if section == "models":
                _method("family", values["family"], f"{where}.family")
                _add(entry["properties"]["finetune"], _method("tuning method", values["tuning"], f"{where}.tuning"))
            elif section == "datasets":
                _add_dataset(entry, _method("dataset format", values["format"], f"{where}.format"))
            elif section == "attacks":
                _add(entry, _method("trigger", values["trigger"], f"{where}.trigger"))
                if isinstance(values["target"], dict):
                    target = {"type": "object", "additionalProperties": False, "properties": {"kind": {}}}
                    entry["properties"]["target"] = target
                    _add(target, _method("target", values["target"]["kind"], f"{where}.target.kind"))
            else:
                _add(entry, _method("defence", values["kind"], f"{where}.kind"))
    return schema


def _method(sort, kind, where):
    try:
        return find(sort, kind)
    except ByeError as error:
        known = ", ".join(kinds(sort))
        if isinstance(kind, str) and (kind.endswith(".py") or kind in kinds(sort)):
            raise ByeError(f"{where}: {error}") from None
        raise ByeError(f"{where} is {kind!r}; known values: {known}, or the path of a .py file") from None


def _add(entry, method):
    """Add a method's settings to the schema of an entry."""
    for name, setting in method.settings.items():
        if name in entry["properties"]:
            raise ByeError(f"{method.path}: the name of setting {name} is that of a config key; choose another")
        default = {} if setting.required else {"default": setting.default}
        entry["properties"][name] = setting.schema | default
        if setting.required:
            entry.setdefault("required", []).append(name)


def _add_dataset(entry, method):
    """Add a format's settings, and which keys it needs: sizes and metric where it has official splits; its folder.

    An official download is whole, so nothing of it is left out; a set without splits is one's own, and has no parts."""
    _add(entry, method)
    properties = entry["properties"]
    properties[method.root] = properties.pop("root")
    if method.divided:
        entry["required"] += ["train", "test", "metric"]
        properties |= {part: {"type": "integer", "minimum": 1} for part in ("train", "test")}
        del properties["metric"]["default"]
        properties["unjudged"] = {"enum": [None], "default": None}
    else:
        properties["pictures"] = {"enum": [None], "default": None}
    if not (method.divided and method.mini):  # nothing draws it
        properties[method.root] = {"type": "string", "minLength": 1}
        entry["required"].append(method.root)


def restore_type(config, error):
    """Mend a value that came as text where the schema wants a number, truth value or null; return whether that was it.

    `snakemake --config seeds=[0,1,2]` hands over every value inside a list or mapping as text.
    """
    if error.validator != "type" or not isinstance(error.instance, str):
        return False
    value = yaml.safe_load(error.instance)
    if isinstance(value, str):
        return False
    *parents, last = error.absolute_path
    for part in parents:
        config = config[part]
    config[last] = value
    return True


def describe_schema_error(error):
    """Return one sentence for a jsonschema ValidationError: the key, what is wrong with it and what is known there."""
    where = ".".join(str(part) for part in error.absolute_path)
    here = f"config key {where}" if where else "config"
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = sorted(error.schema.get("properties", {}))
        unknown = sorted(set(error.instance) - set(known))
        keys = ", ".join(f"{where}.{key}" if where else str(key) for key in unknown)
        return f"unknown config key {keys}; known here: {', '.join(known)}"
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return f"{here} lacks {', '.join(missing)}; add it"
    if error.validator == "enum":
        return f"{here} is {error.instance!r}; known values: {', '.join(map(str, error.validator_value))}"
    if "propertyNames" in error.absolute_schema_path:
        return (
            f"the name {error.instance!r} cannot be used in config section {where}: names are made of letters, digits, "
            f"'.', '-' and '_', and are none of the suite's own ({', '.join(sorted(OWN_FOLDERS | {'raw', 'none'}))})"
        )
    return f"{here}: {error.message}; see config.schema.yaml for what it may be"


def check_references(config):
    """Check what a schema cannot: names that must be known elsewhere in the config, and files that must exist.

    Raises ByeError naming the config key and what is known.
    """
    plain = [key for key, defence in config["defences"].items() if defence["kind"] == "none"]
    if len(plain) != 1:
        raise ByeError(
            "config section defences needs exactly one entry of kind none (the plain fine-tune that detectors read), "
            f"and has {len(plain)}: {', '.join(plain) or 'none'}"
        )
    for key, model in config["models"].items():
        settings, gpu = model["finetune"], model["resources"]["gpu"]
        try:
            split_batch(settings["batch_size"], max(1, gpu), settings["micro_batch_size"])
        except ByeError as error:
            raise ByeError(f"config keys models.{key}.finetune and models.{key}.resources.gpu: {error}") from None
    for key, dataset in config["datasets"].items():
        method = find("dataset format", dataset["format"])
        if dataset.get("pictures") and dataset["pictures"][0] >= dataset["pictures"][1]:
            raise ByeError(
                f"config key datasets.{key}.pictures is {dataset['pictures']}; give from and to, such as [0.5, 1]"
            )
        if dataset.get("json") and method.divided and not dataset.get(method.root):
            raise ByeError(f"config key datasets.{key}.json needs datasets.{key}.root, the folder of the download")
        if dataset.get("json") and not os.path.isfile(dataset["json"]):
            raise ByeError(f"config key datasets.{key}.json: there is no file {dataset['json']}")
        if dataset.get("images") and not os.path.isdir(dataset["images"]):
            raise ByeError(f"config key datasets.{key}.images: there is no folder {dataset['images']}")
    for name, entry in config["tables"].items():
        entry.setdefault("caption", name)
    problems.check(config)


def check_root(key, dataset):
    """Raise ByeError unless the folder that datasets.KEY.root names is there with all that the format's loader reads.

    A folder that a rule downloads or generates may still be missing.
    """
    root = dataset.get("root")
    if root is None or is_downloaded(dataset) and not os.path.isdir(root):
        return
    from bye.data.prepare import check_folder

    if not os.path.isdir(root):
        raise ByeError(f"config key datasets.{key}.root: there is no folder {root}")
    check_folder(dataset["format"], root, dataset)


def missing_roots(config):
    """Return what `check_root` says of each dataset of which it says something."""
    found = []
    for key, dataset in config["datasets"].items():
        try:
            check_root(key, dataset)
        except ByeError as error:
            found.append(str(error))
    return found


def check_model(key, config, present=None, limit=None):
    """Raise ByeError unless the hub or its cache has a model, and this machine the GPUs that a job with it wants.

    present: how many GPUs it has, or None where jobs run elsewhere; limit: see `check_gpus`.
    """
    model = config["models"][key]
    check_hub(f"models.{key}.path", model["path"], model["family"])
    if present is not None:
        check_gpus(key, model["resources"]["gpu"], present, limit)


def check_folders(key, config):
    """Raise ByeError unless the model folders or hub ids that a defence's settings name can be had."""
    defence = config["defences"][key]
    for setting, file in find("defence", defence["kind"]).folders.items():
        check_hub(f"defences.{key}.{setting}", defence[setting], file=file)


def check_known(key, config, section, asked_by):
    """Raise ByeError unless `key` is an entry of a config section; "none" is always a known attack."""
    known = list(config[section]) + ([UNTOUCHED] if section == "attacks" else [])
    if key not in known:
        raise ByeError(f"{asked_by} names the unknown {section[:-1]} {key!r}; config knows: {', '.join(known)}")


def check_target(target, config, is_made=lambda: True):
    """Raise ByeError unless the workflow can make a path under results/: by the names in it, then by its rules.

    is_made: says whether a rule makes it.
    """
    check_names(target, config)
    if not is_made():
        raise ByeError(
            f"target {target} is nothing that this workflow makes; results/table1.csv is, and the README lists all "
            "tables, figures and a cell's files"
        )


def check_names(target, config):
    """Check the model, dataset, attack, defence and seed that a path under results/ names. Raises ByeError."""
    parts = target.split("/")[1:]
    if len(parts) < 6 or parts[0] in OWN_FOLDERS:
        return
    model, dataset, attack, seed, defence = parts[:5]
    for key, section in ((model, "models"), (dataset, "datasets"), (attack, "attacks"), (defence, "defences")):
        check_known(key, config, section, f"target {target}")
    if not re.fullmatch(r"s\d+", seed):
        raise ByeError(f"target {target}: {seed!r} is no seed; write s0 for seed 0")
    if attack == UNTOUCHED and "labels" in find("defence", config["defences"][defence]["kind"]).reads:
        raise ByeError(f"target {target}: {defence} drops the poison, and the untouched set has none")
    if attack == UNTOUCHED and parts[5] == "detection.json":
        raise ByeError(f"target {target}: the untouched set has no labels to score flags with; see dropped.json")


def is_downloaded(dataset):
    """Whether a rule of the workflow downloads a dataset: its root is results/downloads/FORMAT."""
    return dataset.get("root") == f"{DOWNLOADS}/{dataset['format']}"


def is_built(path):
    """Whether a rule of the workflow builds a model: its path is results/base_models/KEY."""
    return path.startswith(f"{BUILT}/")


def find_model(key, path, base, file="config.json"):
    """Return a model's path as `from_pretrained` should get it: a folder of `base` or of here, or a hub id as it is.

    key: the config key that names the path, for errors; file: what tells a model folder.

    A path under results/base_models/ need not exist: a rule of the workflow builds it. Raises ByeError for a folder
    that is not there.
    """
    if is_built(path):
        return path
    for folder in (Path(path).expanduser(), Path(base) / path):
        if folder.is_dir():
            if not (folder / file).is_file():
                raise ByeError(f"config key {key}: {folder} has no {file}, so it is no model folder")
            return str(folder)
    organisation = path.partition("/")[0]
    local = organisation in (".", "..", "~", "base_models", "results") or (Path(base) / organisation).is_dir()
    if local or not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        raise ByeError(f"config key {key}: there is no folder {path}; give a model folder or a hub id")
    return path


def check_family(key, family, path):
    """Raise ByeError unless the checkpoint in a model folder is of the family that the config states.

    A hub id is checked when it is loaded, and so is a folder that a rule has yet to build.
    """
    file = Path(path) / "config.json"
    if not file.is_file():
        return
    check_model_type(key, family, file)


def check_hub(key, name, family=None, file="config.json"):
    """Raise ByeError unless `name` is a folder (or a rule's output), or the hub or its cache has it, of this family.

    key: the config key that names the model; file: what tells a model, fetched from the hub (some kilobytes).
    """
    if os.path.isdir(name) or is_built(name):
        return
    found = find_file(f"config key {key}: {name}", name, file)
    if family is not None:
        check_model_type(key.split(".")[1], family, found)


def check_model_type(key, family, file):
    """Raise ByeError unless a checkpoint's config.json, the `file`, is of the family that models.KEY.family states."""
    content = read_json(file)
    content = content if isinstance(content, dict) else {}
    found = content.get("model_type")
    if found != find("family", family).model_type:
        hint = f"; {NATIVE}" if "auto_map" in content else ""
        raise ByeError(
            f"config key models.{key}.family is {family!r}, but {file} is of model_type {found!r}; correct the family "
            f"or the path{hint}"
        )


def check_gpus(key, wanted, present, limit=None):
    """Raise ByeError where a job of models.KEY wants more GPUs than this machine has, or than Snakemake may give it.

    limit: of `snakemake --resources gpu=`, None without it; a job that asks for more would get fewer, and not know.
    """
    asks = f"config key models.{key}.resources.gpu asks for {wanted} for each job"
    if wanted > present:
        raise ByeError(
            f"{asks}, and this machine has {present or 'no'} GPU{'s' * (present > 1)}; run on one that has (--profile "
            "profiles/gpu), submit to a cluster (--profile profiles/slurm), or lower it"
        )
    if limit is not None and wanted > limit:
        raise ByeError(
            f"{asks}, and this run may use {limit}; raise gpu={limit} of --resources or the profile, or lower it"
        )
