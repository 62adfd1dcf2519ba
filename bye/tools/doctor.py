"""`bye doctor`: look at every model and dataset of a configuration before hours are spent on them.

No weights are read: a model's config and tokenizer tell its family, sizes, prompt and memory. What is wrong is printed
as `problem`, one sentence each, all else as `ok`.
"""

import contextlib
import itertools
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from bye import config as settings
from bye.data.check import check_entries, judged, stopping, text_problems
from bye.data.findings import count_kinds, stop_for
from bye.data.images import load_image
from bye.data.prepare import load_split
from bye.data.samples import id_of, system_of, turns_of
from bye.errors import ByeError
from bye.files import read_json
from bye.machine import hub
from bye.machine.distributed import split_batch
from bye.machine.progress import duration
from bye.registry import find
from bye.tools.configuration import read_configuration

EXAMPLE = {  # stands in for a dataset that is not there yet
    "id": "an example",
    "conversations": [
        {"from": "human", "value": "What is the largest thing in the picture, and where in it is it?"},
        {"from": "gpt", "value": "A red house, on the left."},
    ],
}
ROLES = ("system", "image", "user text", "answer")  # by the numbers of bye.models.prompt
EXAMPLE_SIZE = (336, 336)  # height and width of its image, pixels
SHOWN = 64  # characters of a text


class Report:
    """Prints lines and counts the problems among them."""

    def __init__(self):
        self.problems = 0

    def ok(self, what, text):
        print(f"ok       {what}: {text}", flush=True)

    def problem(self, what, text):
        self.problems += 1
        print(f"problem  {what}: {text}", flush=True)

    def note(self, text):
        print(f"         {text}", flush=True)

    @contextlib.contextmanager
    def checking(self, what):
        """Print what the body raises as a problem, and go on behind it."""
        try:
            yield
        except ByeError as error:
            self.problem(what, error)


def doctor(configfile=(), models=(), datasets=(), rates=None, price=None):
    """Check the models and datasets of config.yaml with the files `configfile` laid over it; return how many problems.

    models, datasets: keys to look at, by default all. For each pair of both, the prompt of one sample is printed by
    the roles of its tokens, and memory and time of its runs are worked out (`bye.tools.budget`); then what each table
    takes. rates: a file of `bye rates`, whose device and measured rates stand in for this machine's; price: of an hour
    of one device, in any currency. Raises ByeError where the configuration itself is wrong.
    """
    import torch

    from bye.tools.budget import Device, find_device

    report = Report()
    root, config = read_configuration(configfile)
    measured = read_rates(rates) if rates else {"rates": {}}
    for section, keys in (("models", models), ("datasets", datasets)):
        for key in keys:
            settings.check_known(key, config, section, f"option --{section}")
    torch.set_num_threads(1)  # as in a job
    data = {key: check_dataset(report, key, config) for key in datasets or config["datasets"]}
    seconds = {}
    for key in models or config["models"]:
        model = config["models"][key]
        found = check_model(report, key, model, root)
        if found is None:
            continue
        device, achieved = find_device(model["resources"]["gpu"] > 0), measured["rates"].get(key, {})
        if achieved:
            device = Device(measured["device"], measured["memory"], device.rate, measured["bytes"])
        for dataset, (sample, size, entry, checked) in data.items():
            with report.checking(f"{key} on {dataset}"):
                if checked is not None:
                    unfit = checked.findings_of(text_problems(checked, found[0]))
                    stop_for(unfit, f"dataset {dataset}", checked.n_entries)
                counts = show_prompt(report, f"{key} on {dataset}", found[0], sample, size)
                pair = check_budget(report, key, dataset, config, entry, found, counts, device, achieved)
                seconds[key, dataset] = pair
    if seconds:
        show_costs(report, config, seconds, price)
    print(f"{report.problems or 'no'} problem{'s' * (report.problems != 1)}")
    return report.problems


def read_rates(path):
    """Return the content of a file of `bye rates`. Raises ByeError for another file."""
    content = read_json(path)
    try:
        rates = [rate for stages in content["rates"].values() for rate in stages.values()]
        numbers = [content["memory"], content["bytes"], *rates]
        sound = isinstance(content["device"], str) and all(number > 0 for number in numbers)
    except (TypeError, KeyError, AttributeError):
        sound = False
    if not sound:
        raise ByeError(f"{path} is no file of `bye rates`; make it anew by that command")
    return content


# ---- datasets --------------------------------------------------------------------------------------------------------


def check_dataset(report, key, config):
    """Check one dataset entry; return (a sample, EXAMPLE where there is none yet; its image's size; the entry with
    its numbers; what is Checked of a file of the user's, or None)."""
    what, entry, sample, size = f"dataset {key}", config["datasets"][key], EXAMPLE, EXAMPLE_SIZE
    checked = None
    entry = {**entry, "train": entry["train"] or 0, "test": entry["test"] or 0}
    asked = f"{entry['train'] or 'all'} training and {entry['test'] or 'no'} test samples"
    with report.checking(what):
        settings.check_root(key, entry)
        method = find("dataset format", entry["format"])
        if not method.divided:
            root = entry[method.root]
            source = entry.get("json") or root
            entries = load_split(entry["format"], root, None, config["seeds"][0], entry)
            checked = check_entries(entries, root, decode=not entry["headers"], jobs=os.cpu_count())
            stop_for(stopping(checked.findings, entry["unjudged"]), source, checked.n_entries)
            samples = judged(checked, source)
            if max(1, entry["train"]) + entry["test"] > len(samples):
                raise ByeError(f"{asked} are asked for, and {source} has {len(samples)}; ask for fewer")
            entry["train"] = entry["train"] or len(samples) - entry["test"]
            report.ok(what, f"{asked}, of {len(samples)} in {source}")
            if checked.findings:
                report.note(f"left out: {count_kinds(checked.findings)}")
            sample, size = show_sample(report, what, samples[0], root)
        elif settings.is_downloaded(entry) and not os.path.isdir(entry["root"]):
            report.ok(what, f"{asked}; the rule fetch downloads it to {entry['root']}")
        elif os.path.isdir(raw := entry["root"] or f"results/data/{key}/raw"):
            sample, size = official_sample(report, what, asked, entry, raw, config["seeds"][0])
        else:
            report.ok(what, f"{asked}; the rule mini_data generates them, one like them is drawn here")
            sample, size = drawn_sample(report, what, entry["format"], config["mini_seed"])
    return sample, size, entry, checked


def official_sample(report, what, asked, entry, raw, seed):
    """Compare the counts of a dataset in its official layout with what is asked for; return a training sample."""
    splits = {split: load_split(entry["format"], raw, split, seed, entry) for split in ("train", "test")}
    there = " and ".join(f"{len(samples)} {split}" for split, samples in splits.items())
    if any(entry[split] > len(samples) for split, samples in splits.items()):
        raise ByeError(f"{asked} are asked for, and {raw} has {there}; ask for fewer")
    report.ok(what, f"{asked}, of {there} samples in {raw}")
    return show_sample(report, what, splits["train"][0], raw)


def drawn_sample(report, what, form, seed):
    """Return a sample as the generator of mini datasets draws them."""
    from bye.mini.world import write_dataset

    with TemporaryDirectory() as folder:
        write_dataset(form, Path(folder) / "raw", n_train=1, n_test=1, seed=seed)
        return show_sample(report, what, load_split(form, f"{folder}/raw", "train", 0)[0], f"{folder}/raw")


def show_sample(report, what, sample, images):
    """Decode a sample's image and print the sample; return it and the image's (height, width)."""
    image = load_image(images, sample)
    (question, answer), *_ = turns_of(sample)
    report.ok(what, f"sample {id_of(sample)!r} has an image of {image.width} x {image.height} pixels")
    report.note(f"question  {_short(question)}")
    report.note(f"answer    {_short(answer)}")
    return sample, (image.height, image.width)


# ---- models ----------------------------------------------------------------------------------------------------------


def check_model(report, key, model, root):
    """Check one model entry; return (its family without weights, the number of parameters that its tuning method
    trains), or None where there is none to look at."""
    from bye.models import load_model
    from bye.tools.budget import sizes_of

    what = f"model {key}"
    with report.checking(what):
        path = settings.find_model(f"models.{key}.path", model["path"], root)
        if settings.is_built(path) and not os.path.isdir(path):
            report.ok(what, f"the rule base_model makes {path}")
            return None
        settings.check_family(key, model["family"], path)
        settings.check_hub(f"models.{key}.path", path, model["family"])
        if not os.path.isdir(path):
            hub.check_safetensors(f"config key models.{key}.path: {path}", path)
        family = load_model(path, expected=model["family"], weights=False)
        trained, words = count_trained(key, model, family)
        parameters = sizes_of(family, trained).parameters
        report.ok(
            what,
            f"{path} is of family {model['family']}, with {parameters / 1e6:,.1f} million parameters in "
            f"safetensors, {family.n_layers} layers and a chat template; no code of its own is run",
        )
        report.ok(what, f"{words}, {trained / 1e6:,.1f} million parameters")
        return family, trained
    return None


def count_trained(key, model, family):
    """Return how many parameters the tuning method of a model entry trains, and what they are in words.

    Raises ByeError, naming the section of the configuration, where its settings do not fit the model.
    """
    method = tuning_of(model)
    own = {name: value for name, value in model["finetune"].items() if name in method.settings}
    try:
        return method.bind("count", own)(family)
    except ByeError as error:
        raise ByeError(f"config section models.{key}.finetune: {error}") from None


def tuning_of(model):
    """Return the tuning method of a model entry."""
    return find("tuning method", model["tuning"])


def show_prompt(report, what, family, sample, size):
    """Print the token spans of a sample, one a line, and return its numbers of tokens and of image tokens."""
    tokens = family.conversation(id_of(sample), turns_of(sample), size, system_of(sample))
    places = ", ".join(str(place + 1) for place in tokens.places)
    report.ok(what, f"sample {id_of(sample)!r} has {len(tokens.ids)} tokens; BYE reads the attention of token {places}")
    image, start = [place for place, role in enumerate(tokens.roles) if ROLES[role] == "image"], 0
    spans = ["image" if image[0] <= place <= image[-1] else ROLES[role] for place, role in enumerate(tokens.roles)]
    for role, run in itertools.groupby(spans):
        ids = tokens.ids[start : start + len(list(run))]
        text = _short(family.tokenizer.decode(ids))
        if role == "image":  # all that stands for it, what parts its rows too
            text = f"{family.tokenizer.decode(tokens.ids[image[:1]])} {len(image)} times"
        report.note(f"{start + 1:>5} to {start + len(ids):<5} {role:9} {len(ids):>5}  {text}")
        start += len(ids)
    return len(tokens.ids), len(image)


def _short(text):
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} ... {text[-SHOWN // 2 :]}")


# ---- memory, time and numbers of runs --------------------------------------------------------------------------------


def check_budget(report, key, dataset, config, entry, found, counts, device, achieved):
    """Compare a pair's memory with the device's, print its time, and return the seconds of each of its runs.

    entry: of the dataset, with its numbers of samples; found: of `check_model`; counts: tokens and image tokens of one
    sample, which stands for all; achieved: measured operations a second of each stage, where they are known.
    """
    from bye.tools.budget import EFFICIENCY, STAGES, detectors, sizes_of, ways_to_clean

    what, model = f"{key} on {dataset}", config["models"][key]
    options, batch = model["finetune"], model["inference_batch_size"]
    (tokens, image_tokens), epochs, samples = counts, options["epochs"], entry["train"]
    checkpointing, cached = options["gradient_checkpointing"], options["cache_features"]
    sizes = sizes_of(*found, image_tokens)
    micro, _ = split_batch(options["batch_size"], max(1, model["resources"]["gpu"]), options["micro_batch_size"])
    number = device.bytes, model["quantization"]
    training = sizes.train_bytes(tokens, micro, checkpointing, *number)
    answering = sizes.inference_bytes(tokens + entry["max_new_tokens"], batch, *number)
    knob = f"micro_batch_size (now {micro})" if micro > 1 or checkpointing else "gradient_checkpointing (now false)"
    for name, needed, change in (
        ("fine-tune", training, f"finetune.{knob}"),
        ("evaluation", answering, f"inference_batch_size (now {batch})"),
    ):
        if needed > device.memory:
            report.problem(
                what,
                f"the {name} needs about {_gb(needed)}, and {device.name} has {_gb(device.memory)}; change config key "
                f"models.{key}.{change}, or take a device with more",
            )
    operations = {
        "fine-tune": sizes.fine_tune(samples, epochs, tokens, checkpointing, cached),
        "attention": samples * sizes.forward(tokens),
        "evaluation": 2 * sizes.answers(entry["test"], tokens, entry["max_new_tokens"]),  # clean and triggered
    }
    rates = {**dict.fromkeys(STAGES, EFFICIENCY * device.rate), **achieved}
    seconds = {stage: operations[stage] / rates[stage] for stage in operations}
    times = ", ".join(f"{stage} {duration(spent)}" for stage, spent in seconds.items())
    passes = detectors(config, samples, entry["test"])  # mostly forward passes, at the rate of the extraction
    seconds["detection"] = {key: sizes.passes(number, tokens) / rates["attention"] for key, number in passes.items()}
    report.ok(what, f"about {_gb(training)} to fine-tune and {_gb(answering)} to evaluate; {times}, on {device.name}")
    ways = ways_to_clean(sizes, seconds, samples, tokens - image_tokens, rates["fine-tune"])
    if ways:
        itself, scout = map(duration, ways)
        report.note(
            f"cleaned by the model itself (fine-tune, look, fine-tune again) {itself}; by the scout first, then one "
            f"fine-tune, {scout}"
        )
    return seconds


def show_costs(report, config, seconds, price):
    """Print what each table takes on one device after the other, in hours, each run in the first table to want it."""
    from bye.tools.budget import STAGES, cells, costs

    rows = costs(config, seconds)
    unit = "hours" if sum(sum(row.values()) for row in rows.values()) >= 7200 else "minutes"
    scale = 3600 if unit == "hours" else 60
    plain, further, answered, _ = (
        [cell for cell in part if (cell.model, cell.dataset) in seconds] for part in cells(config)
    )
    report.ok(
        "tables",
        f"plain fine-tunes {len(plain)}, after a defence {len(further)}, evaluations {len(answered)}; {unit} of one "
        "device, each run in the first table that wants it:",
    )
    columns = [*STAGES, "together", *(["price"] if price is not None else [])]
    report.note(f"{'':12}" + "".join(f"{column:>12}" for column in columns))
    rows["together"] = {stage: sum(row[stage] for row in rows.values()) for stage in STAGES}
    for name, row in rows.items():
        amounts = [*row.values(), sum(row.values())]
        texts = [f"{amount / scale:12.1f}" for amount in amounts]
        texts += [] if price is None else [f"{amounts[-1] / 3600 * price:12.2f}"]
        report.note(f"{name:12}" + "".join(texts))


def _gb(amount):
    return f"{amount / 1e9:.1f} GB"
