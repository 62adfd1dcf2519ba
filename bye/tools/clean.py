"""`bye clean`: take the suspicious samples out of a training file, by the workflow's own rules.

The command writes a configuration with the user's file as its one dataset into OUT/work, has Snakemake make that cell
there, and copies what matters to OUT. Snakemake's records stay in OUT/work: a killed run goes on where it was, and a
finished one does nothing.
"""

import os
from collections import Counter
from pathlib import Path

import yaml

from bye.config import find_model, read_yaml
from bye.data.samples import answer_of, read_samples
from bye.errors import ByeError, counted
from bye.files import read_csv, read_json, write_bytes, write_text
from bye.registry import find, kinds
from bye.tools.configuration import find_workflow
from bye.tools.making import find_profile, make

DATASET = "mine"  # the names of the one cell in OUT/work
DEFENCE = "detector"
EVIDENCE = {"layers.csv", "entropy.png"}  # of BYE
CAUTION = 1 / 3  # a share of dropped samples above which they are hardly all poison


def clean(model, data, images, out, seed=0, cores=None, configfile=None, profile=None, kind="bye", **settings):
    """Write kept, dropped, summary.txt and the detector's evidence for the samples file `data` to the folder `out`.

    model: a key of the section models in config.yaml or `configfile`, or a folder with a checkpoint of a family known
    there, whose training settings it then gets; images: the folder that image paths start from. kept and dropped have
    the form of `data`, JSON or JSON lines. kind: the detector, with its settings; BYE's evidence are layers.csv and
    entropy.png. profile: of Snakemake, for a cluster; without one jobs run here, whatever the user's own Snakemake is
    set up to do. Returns the summary. Raises ByeError, for bad input before anything is trained.
    """
    from bye.detect.mixture import MIN_SAMPLES

    root, method = find_workflow(), _detector(kind, settings)
    profile = None if profile is None else find_profile(root, profile)
    samples = read_samples(data, images_root=images)
    if len(samples) < MIN_SAMPLES:
        raise ByeError(f"{data} has {counted(len(samples), 'sample')}; the detector needs {MIN_SAMPLES} or more")
    data, images, out = (Path(path).expanduser().resolve() for path in (data, images, out))
    for path in (data, images, out):
        if set("{}") & set(str(path)):
            raise ByeError(f"{path} has a brace in its name, which the workflow reads as a placeholder; rename it")
    work = out / "work"
    names = {"kept.json": f"kept{_suffix(data)}", "dropped.json": f"dropped{_suffix(data)}"}
    names |= {name: name for name in (*method.writes, *(["entropy.png"] if kind == "bye" else []))}
    if images == out or data in [out / name for name in names.values()] or data.is_relative_to(work):
        raise ByeError(f"a result in {out} could take the place of a file of {data} or {images}; choose another --out")
    key, model = _model(root, configfile, model)
    config = {
        "seeds": [seed],
        "models": {key: model},
        "datasets": {DATASET: {"format": "llava", "json": str(data), "images": str(images)}},
        "attacks": {},
        "defences": {"vanilla": {"kind": "none"}, DEFENCE: {"kind": _absolute(kind), **settings}},
    }
    text = yaml.safe_dump(config, allow_unicode=True, sort_keys=False)
    write_text(work / "config.yaml", text)

    cell = work / "results" / key / DATASET / "none" / f"s{seed}" / DEFENCE
    print(f"bye clean: {len(samples)} samples; work and logs are in {work}", flush=True)
    make(root, work, [os.path.relpath(cell / name, work) for name in names], cores, profile)
    for name in EVIDENCE - set(names):
        (out / name).unlink(missing_ok=True)  # of another detector, by an earlier run
    for name, copy in names.items():
        write_bytes(out / copy, (cell / name).read_bytes())
    summary = summarise(cell, len(samples), out, method.writes, method.fill(settings).get("tau"))
    write_text(out / "summary.txt", summary + "\n")
    print(summary)
    return summary


def summarise(cell, n_samples, out, evidence=(), tau=None):
    """Return what was dropped, by which layers where there are such, and whether one answer stands out there as a
    target would.

    Or that nothing was. More than CAUTION of the samples is hardly poison, and said so. evidence: files that the
    detector writes; tau: BYE's threshold.
    """
    dropped, place = read_samples(cell / "dropped.json", validate=False), ""
    if "layers.csv" in evidence:
        layers = read_csv(cell / "layers.csv")
        sensitive = [layer["layer"] for layer in layers if layer["sensitive"] == "true"]
        if not sensitive:
            needed = "" if tau is None else f" (threshold {tau:g})"
            kept = f"nothing was dropped; all {n_samples} samples are in {out}"
            return f"bye clean: no sensitive layer found{needed}, so {kept}"
        which = "layer" if len(sensitive) == 1 else "layers"
        place = f", by their attention in {which} {', '.join(sensitive)} of {len(layers)}"
    share = len(dropped) / n_samples
    summary = (
        f"bye clean: {len(dropped)} of {n_samples} samples dropped ({share:.1%}){place}; what was kept and "
        f"dropped is in {out}"
    )
    if dropped:
        kept = Counter(map(answer_of, read_samples(cell / "kept.json", validate=False)))
        [(answer, count)] = Counter(map(answer_of, dropped)).most_common(1)
        short = f"{answer[:60]}..." if len(answer) > 60 else answer
        summary += (
            f"\nbye clean: the most common answer among them is {short!r}: {count / len(dropped):.1%} of what was "
            f"dropped and {kept[answer] / max(1, kept.total()):.1%} of what was kept"
        )
    if share > CAUTION:
        summary += (
            "\nbye clean: caution, that is more than poison ever is; the two modes may be two kinds of questions or "
            "images. Look at entropy.png and at the answers in dropped before you train on the rest"
        )
    return summary


def _detector(kind, settings):
    """Return the Method of a detector that a file of one's own is enough for. Raises ByeError for another defence."""
    method = find("defence", kind)
    if method.acts_on != "training set":
        raise ByeError(f"defence {kind} acts on {method.acts_on}, and cleans no training file; choose a detector")
    missing = {"labels": "the truth about the poison", "reference": "clean samples"}
    for name in method.reads:
        if name in missing:
            raise ByeError(
                f"defence {kind} reads {missing[name]}, which a file of one's own does not bring; choose another"
            )
    method.check(settings)
    return method


def _absolute(kind):
    """The kind as it is known in OUT/work: the path of a file of one's own in full."""
    return str(Path(kind).expanduser().resolve()) if str(kind).endswith(".py") else kind


def _model(root, configfile, model):
    """Return (key, entry) of the model: of the configuration, or for a folder of one's own."""
    source = configfile or root / "config.yaml"
    models = _models(source)
    if model in models:
        key, entry = model, models[model]
    elif os.path.isdir(os.path.expanduser(model)):
        key, path = "model", Path(model).expanduser().resolve()
        family = _family(path)
        alike = next((name for name, each in models.items() if each.get("family") == family), None)
        if alike is None:
            raise ByeError(f"{source} has no model of family {family} to take the training settings for {path} from")
        print(f"bye clean: {path} is trained with the settings of {alike} in {source}", flush=True)
        entry = {**models[alike], "path": str(path)}
    else:
        raise ByeError(
            f"there is no model {model!r}: {source} knows {', '.join(models)}, and it is no folder either; add an "
            "entry for it to a config file of your own and give that by --configfile"
        )
    if not isinstance(entry.get("path"), str):
        raise ByeError(f"config key models.{key} of {source} has no path; give a model folder or a hub id")
    found = find_model(f"models.{key}.path", entry["path"], root)
    entry = {**entry, "path": str(Path(found).resolve()) if os.path.isdir(found) else found}  # the run is in OUT/work
    return key, entry | {name: _absolute(entry[name]) for name in ("family", "tuning") if name in entry}


def _models(source):
    """Return the section models of a config file; what is in an entry is checked by the workflow."""
    config = read_yaml(source)
    models = config.get("models") if isinstance(config, dict) else None
    if not isinstance(models, dict) or not all(isinstance(entry, dict) for entry in models.values()):
        raise ByeError(
            f"{source} has no section models with an entry for each model; write it like that of config.yaml"
        )
    return models


def _family(path):
    config = path / "config.json"
    if not config.is_file():
        raise ByeError(f"{path} has no config.json, so it is no model folder")
    model_type = read_json(config).get("model_type")
    if model_type not in kinds("family"):
        raise ByeError(f"{config}: model_type {model_type!r} is not one of {', '.join(kinds('family'))}")
    return model_type


def _suffix(data):
    return ".jsonl" if data.suffix.lower() == ".jsonl" else ".json"
