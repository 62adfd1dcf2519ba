"""`bye clean`: take the suspicious samples out of a training file, by the workflow's own rules.

The command looks at every entry of the file, writes those that can be judged and a configuration with them as its one
dataset into OUT/work, has Snakemake make that cell there, and gives the file back in OUT in two parts. Snakemake's
records stay in OUT/work: a killed run goes on where it was, and a finished one does nothing.
"""

import os
from pathlib import Path

import yaml

from bye.config import find_model, is_built, read_yaml
from bye.data.check import check_entries, judged, stopping, text_problems, write_unjudged
from bye.data.entries import EntryFile
from bye.data.findings import count_kinds, stop_for
from bye.data.images import image_path
from bye.data.samples import write_samples
from bye.errors import ByeError, counted, together
from bye.files import read_csv, read_json, write_bytes, write_text
from bye.flags import read_flags
from bye.registry import find, kinds
from bye.report.file_page import file_page
from bye.report.histogram import histogram
from bye.tools.configuration import find_workflow
from bye.tools.making import find_profile, make
from bye.tools.outcome import Outcome, draw_samples, summarise, write_outcome
from bye.tools.verdict import verdict
from bye.workflow.texts import as_options

SCOUT = "config/scout.yaml"  # whose models are known too
DATASET = "mine"  # the names of the one cell in OUT/work
DEFENCE = "detector"
NOVELTY = "answer_novelty"  # what it finds among the kept samples is told, and not dropped
BYE = ("layers.csv", "entropy.png")  # its evidence, which stands beside that of consensus
EVIDENCE = {*BYE, "groups.csv", "trials.csv"}  # that a run of another detector may have left


def clean(
    model,
    data,
    images,
    out,
    seed=0,
    cores=None,
    configfile=None,
    profile=None,
    unjudged=None,
    follow_links=False,
    kind="consensus",
    **settings,
):
    """Write kept, dropped, summary.txt, report.html and the detector's evidence of the samples file `data` to `out`.

    model: a key of the section models in config.yaml or `configfile`, or a folder with a checkpoint of a family known
    there, whose training settings it then gets; images: the folder that image paths start from. kept and dropped have
    the form of `data`, each entry byte for byte as it was. unjudged: "keep", "drop" or "stop", what becomes of entries
    that cannot be judged, by default what is usual for their kind (`bye.data.findings`); follow_links: what is linked
    in `images` is in it, wherever it lies. kind: the detector, with its settings; consensus leaves groups.csv and
    trials.csv, and BYE, beside it or alone, layers.csv and entropy.png. profile: of Snakemake, for a cluster; without
    one jobs run here, whatever the user's own Snakemake is set up to do. Returns the summary. Raises ByeError, for bad
    input before anything is trained.
    """
    from bye.detect.mixture import MIN_SAMPLES

    root = find_workflow()
    method, file, (key, entry), place = together(
        lambda: _detector(kind, settings),
        lambda: EntryFile(data),
        lambda: _model(root, configfile, model),
        lambda: None if profile is None else find_profile(root, profile),
    )
    given = {"model": model, "configfile": configfile, "data": data, "images": images, "out": out, "unjudged": unjudged}
    given |= {"follow_links": follow_links or None, "kind": kind, "seed": seed, "profile": profile}
    chosen = {name: value for name, value in settings.items() if value != method.settings[name].default}
    made_by = f"bye clean {as_options(given | chosen)}"
    data, images, out = (Path(path).expanduser().resolve() for path in (data, images, out))
    for path in (data, images, out):
        if set("{}") & set(str(path)):
            raise ByeError(f"{path} has a brace in its name, which the workflow reads as a placeholder; rename it")
    work, suffix = out / "work", data.suffix.lower() or file.suffix
    evidence = dict.fromkeys(method.writes, DEFENCE)
    if kind in ("bye", "consensus"):
        evidence |= dict.fromkeys(BYE, DEFENCE if kind == "bye" else "bye")
    written = [f"kept{suffix}", f"dropped{suffix}", "unjudged.json", "entries.csv", "samples.png", "summary.txt"]
    written += ["report.html", *evidence]
    if images == out or data in [out / name for name in written] or data.is_relative_to(work):
        raise ByeError(f"a result in {out} could take the place of a file of {data} or {images}; choose another --out")

    config = {
        "seeds": [seed],
        "models": {key: entry},
        "datasets": {DATASET: {"format": "llava", "json": "samples.json", "images": str(images), "headers": True}},
        "attacks": {},
        "defences": {
            "vanilla": {"kind": "none"},
            DEFENCE: {"kind": _absolute(kind), **settings},
            "bye": {"kind": "bye"},
            NOVELTY: {"kind": NOVELTY},
        },
    }
    _write_config(work, config)  # first of all: it may be that nothing can be written there
    checked = look_at(file, images, entry, out, unjudged, follow_links)
    if len(checked.samples) < MIN_SAMPLES:
        found = counted(len(checked.samples), "sample")
        left = f" that can be judged, beside {count_kinds(checked.findings)}" if checked.findings else ""
        raise ByeError(f"{data} has {found}{left}; the detector needs {MIN_SAMPLES} or more")
    if follow_links:
        images = _follow(checked, images)
        config["datasets"][DATASET]["images"] = str(images)
        _write_config(work, config)
    _write_new(work / "samples.json", lambda path: write_samples(path, checked.samples))

    cells = work / "results" / key / DATASET / "none" / f"s{seed}"
    print(f"bye clean: {len(checked.samples)} samples to look at; work and logs are in {work}", flush=True)
    flags = [cells / name / "flags.parquet" for name in ([DEFENCE] if kind == NOVELTY else [DEFENCE, NOVELTY])]
    targets = {"kept.json": DEFENCE, "dropped.json": DEFENCE, "evidence.json": DEFENCE, **evidence}
    made = [*(cells / of / name for name, of in targets.items()), *flags]
    make(root, work, [os.path.relpath(path, work) for path in made], cores, place)
    for name in EVIDENCE - set(evidence):
        (out / name).unlink(missing_ok=True)  # of another detector, by an earlier run
    for name, of in evidence.items():
        write_bytes(out / name, (cells / of / name).read_bytes())
    outcome = Outcome(file, checked, unjudged, *map(read_flags, flags))
    write_outcome(outcome, out, f"kept{suffix}", f"dropped{suffix}")
    draw_samples(outcome, out / "samples.png", images, seed)
    layers = out / "layers.csv" if "layers.csv" in method.writes else None
    groups = out / "groups.csv" if kind == "consensus" else None
    summary = summarise(outcome, out, layers, method.fill(settings).get("tau"), groups)
    write_text(out / "summary.txt", summary + "\n")
    lines = verdict(outcome, None if groups is None else read_csv(groups))
    beside = [("bye, on the same fine-tune", histogram(cells / "bye" / "flags.parquet"))] if kind == "consensus" else []
    found = read_json(cells / DEFENCE / "evidence.json")
    write_text(out / "report.html", file_page(data.name, lines, found, made_by, [(kind, found["histogram"]), *beside]))
    print(summary)
    return summary


def look_at(file, images, model, out, unjudged, follow_links):
    """Return what is Checked of the whole file: forms, images, and whether the texts fit the model.

    Raises ByeError where there is something that is to stop the run; all of it then stands in OUT/unjudged.json.
    """
    print(f"bye clean: looking at {file.path}, its images and its texts", flush=True)
    checked = check_entries(file, images, decode=True, links=follow_links, jobs=os.cpu_count())
    if checked.samples and (os.path.isdir(model["path"]) or not is_built(model["path"])):
        from bye.models import load_model  # after the first words: torch takes seconds to load

        family = load_model(model["path"], expected=model["family"], weights=False)
        checked.leave_out(text_problems(checked, family))
    stops = stopping(checked.findings, unjudged)
    if stops:
        write_unjudged(out / "unjudged.json", checked.findings, unjudged)
        remedy = "mend them, or say by --unjudged keep or --unjudged drop what becomes of them"
        stop_for(stops, file.path, checked.n_entries, remedy, out / "unjudged.json")
    judged(checked, file.path)
    return checked


def _follow(checked, images):
    """Name the images by where they really are; return the folder that these names start from."""
    paths = [image_path(images, sample["image"], links=True) for sample in checked.samples]
    folder = os.path.commonpath([os.path.realpath(images), *{path.parent for path in paths}])
    for sample, path in zip(checked.samples, paths, strict=True):
        sample["image"] = os.path.relpath(path, folder)
    return folder


def _write_config(work, config):
    write_text(work / "config.yaml", yaml.safe_dump(config, allow_unicode=True, sort_keys=False))


def _write_new(path, write):
    """Write a file, unless it is there with the same content: what was made of it then is not made again."""
    new = path.with_name(f"new {path.name}")
    write(new)
    if path.is_file() and path.read_bytes() == new.read_bytes():
        new.unlink()
    else:
        os.replace(new, path)


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
    if not configfile:
        models = {**models, **{name: each for name, each in _models(root / SCOUT).items() if name not in models}}
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
    if is_built(found) and (root / found).is_dir():
        found = root / found  # and is not built anew in OUT/work, where the run is
    entry = {**entry, "path": str(Path(found).resolve()) if os.path.isdir(found) else found}
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
