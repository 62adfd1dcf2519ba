"""Tables from the cells' result files, as the entries of the config section tables describe them.

All shares (CP, ASR, precision, recall, F1, AUROC) are in per cent with two decimals, as in the paper; CIDEr is times
100. With several seeds a number is the mean over those where it is defined, *_std the sample standard deviation
(n - 1), n_seeds the number of seeds. An empty field is a number that does not exist: not in the paper, undefined
(precision where nobody is flagged), or not asked for in that row.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from bye.data.samples import answer_of, question_of, read_written
from bye.errors import ByeError
from bye.files import count_numbers, read_csv, read_json
from bye.flags import read_flags
from bye.metrics.detection import layer_aurocs
from bye.plan.columns import (
    ADAPTER,
    ANSWER_SECONDS,
    FINETUNE_SECONDS,
    IDENTITY,
    LAYER_COLUMNS,
    MEASURES,
    PAPER,
    SECONDS,
    TEXTS,
    TITLES,
    TOLD,
    TUNING,
    UPPER_BOUND,
)
from bye.plan.definition import identifies
from bye.report.reference import paper_datasets, paper_facts, paper_number
from bye.report.twins import write_table

LAYER_NUMBERS = ("mu_low", "sigma_low", "mu_high", "sigma_high", "bsi")


def table(entry, out, cells, labels=(), reference=()):
    """Write a table: CSV, and Markdown and LaTeX of the same name beside it.

    Parameters
    ----------
    entry : dict, as `bye.plan.definition` makes it of an entry of the configuration.
    out : path of the CSV.
    cells : result files at their places in the path scheme (of a table of datasets, train.json and test.json of each).
    labels : labels of the cells' training sets, .../DATASET/ATTACK/sSEED.parquet; for rows that are layers.
    reference : the clean samples that defences were given, .../DATASET/sSEED/test.json; for the column told.

    Raises
    ------
    ByeError
        If a file is missing or not what its stage writes, or a cell occurs twice.
    """
    if entry["rows"] == "datasets":
        rows = [_named(entry, texts) for texts in dataset_rows(entry["formats"], cells)]
    elif entry["rows"] == "parts":
        rows = [_named(entry, texts) for texts in part_rows(cells_of(cells))]
    elif entry["rows"] == "layers":
        rows = [_named(entry, texts) for texts in layer_rows(cells_of(cells), labels_of(labels))]
    else:
        rows = Cells(entry, cells, reference).rows()
    names = [column["name"] for column in entry["columns"]]
    rows = _sorted(rows, entry.get("sort", []))
    if entry.get("pivot"):
        texts, names = _turned(entry, rows)
        write_table(out, texts, names, entry["caption"])
        return
    notes = [name for name in names if name == "note"]  # it stands last
    names = [*(name for name in names if name != "note"), *_seed_columns(entry, rows), *notes]
    ranks = _ranks(rows, entry.get("best", {}))
    write_table(out, [row.texts for row in rows], names, entry["caption"], ranks)


@dataclass
class Row:
    """A row: the keys of its cell (model, defence, dataset, attack), its texts by column, and whether it competes for
    the best number (what reads the labels does not)."""

    key: dict
    texts: dict
    competes: bool = True


class Cells:
    """The rows of a table of cells."""

    def __init__(self, entry, paths, reference):
        self.entry = entry
        self.results = _results(cells_of(paths))
        self.reference = {Path(path).parent.parent.name: path for path in reference}

    def rows(self):
        """Return a Row for each model, defence, dataset and attack, in that order."""
        keys = itertools.product(*(self.entry[name] for name in ("models", "defences", "datasets", "attacks")))
        return [self._row(dict(zip(("model", "defence", "dataset", "attack"), key, strict=True))) for key in keys]

    def _row(self, key):
        texts = {"n_seeds": len(self.entry["seeds"])}
        for column in self.entry["columns"]:
            texts |= self._texts(column, key)
        return Row(key, texts, "labels" not in self.entry.get("reads", {}).get(key["defence"], []))

    def _texts(self, column, key):
        """{column: text} of one column of a row, with the standard deviation of a number."""
        name, column_of = column["name"], column.get("column")
        if "texts" in column:
            return {name: column["texts"].get(key[column["by"]])}
        if column_of in IDENTITY:
            return {name: key[IDENTITY[column_of]]}
        if column.get("defences") and key["defence"] not in column["defences"]:
            return {name: None}
        owner = {**key, "defence": column.get("defence", key["defence"])}
        if column_of in MEASURES:
            return _statistics(name, self._numbers(MEASURES[column_of], owner))
        if column_of in TEXTS:
            found = self._contents(TEXTS[column_of].file, TEXTS[column_of].keys, owner)
            return {name: TEXTS[column_of].write(found) if found else None}
        return {name: self._derived(column_of, owner)}

    def _numbers(self, measure, key):
        values = []
        file, name = measure.of(key["attack"])
        for content in self._contents(file, (name,), key):
            number = content[name]
            if isinstance(number, list):
                number = mean(number)
            values.append(None if number is None else measure.scale * number)
        return values

    def _contents(self, file, names, key):
        """What a file of each seed of a cell holds; an empty list where the table does not ask for it."""
        seeds = self.results.get((Path(file).stem, *key.values()), {})
        for path, content in seeds.values():
            missing = [name for name in names if name not in content]
            if missing:
                raise ByeError(f"{path} has no {missing[0]!r}; remove the file and run its stage again")
        return [content for _, (_, content) in sorted(seeds.items())]

    def _derived(self, column, key):
        reads = self.entry.get("reads", {}).get(key["defence"], [])
        if column == "rate":
            return self.entry["rates"][key["attack"]]
        if column == "note":
            return UPPER_BOUND if "labels" in reads else None
        if column == TOLD:
            if "labels" in reads:
                return "the labels"
            clean = len(read_written(self.reference[key["dataset"]])) if "reference" in reads else 0
            told = [*([f"{clean} clean samples"] if clean else []), *self.entry["told"][key["defence"]]]
            return ", ".join(told) or "none"
        if column == TUNING:
            return self.entry["tuning"][key["model"]]
        if column == FINETUNE_SECONDS:
            return f"{self._spent(column, key) / len(self.entry['seeds']):.0f}"
        if column == SECONDS:
            spent = self._spent(column, key)
            samples = sum(len(content["flagged"]) for content in self._contents("flags.parquet", ("flagged",), key))
            return f"{1000 * spent / samples:.0f}"
        if column == ANSWER_SECONDS:
            counts = self._contents("eval.json", ("n_clean", "n_triggered"), key)
            answers = sum(count["n_clean"] + count["n_triggered"] for count in counts)
            return f"{self._spent(column, key) / answers:.3f}"
        paper = self.entry["paper"]
        setting = paper["settings"][f"{key['defence']}/{key['attack']}"]
        model, method = paper["models"].get(key["model"]), paper["methods"][key["defence"]]
        return _text(paper_number(paper["table"], model, key["dataset"], method, PAPER[column], setting))

    def _spent(self, column, key):
        """Wall seconds of the steps of a row's cells that a column is about."""
        return sum(_seconds(path) for path in self.entry["benchmarks"][column]["/".join(key.values())])


def _named(entry, texts):
    """A Row of the columns of an entry, of texts by the columns' own names."""
    return Row({}, {column["name"]: texts[column["column"]] for column in entry["columns"]})


def _turned(entry, rows):
    """Return (rows, columns) with a column for each defence, and a row for each number of each of the other cells.

    What a defence is told is one row where it is the same in all; the facts that the paper's table has stand first.
    """
    given = [column for column in entry["columns"] if column.get("column") != "method"]
    context = [column["name"] for column in given if identifies(column)]
    numbers = [column for column in given if column["name"] not in context]
    turned = []
    if entry.get("paper", {}).get("facts"):
        turned += [{"aspect": aspect, **facts} for aspect, facts in paper_facts(entry["paper"]["table"]).items()]
    blocks = {}
    for row in rows:
        blocks.setdefault(tuple(row.texts[name] for name in context), {})[row.key["defence"]] = row.texts
    once = []
    for column in numbers:
        texts = [{defence: row[column["name"]] for defence, row in block.items()} for block in blocks.values()]
        if column.get("column") == TOLD and all(each == texts[0] for each in texts):
            turned.append({"aspect": _title(column), **texts[0]})
            once.append(column)
    for values, block in blocks.items():
        for column in numbers:
            if column not in once:
                texts = {defence: row[column["name"]] for defence, row in block.items()}
                turned.append({"aspect": _title(column), **dict(zip(context, values, strict=True)), **texts})
    return turned, ["aspect", *context, *dict.fromkeys(row.key["defence"] for row in rows)]


def _title(column):
    """What a number is called as a row: the name that it was given, or the title of its column."""
    own = column["name"] != column.get("column")
    return column["name"] if own else TITLES.get(column["column"], column["column"])


def dataset_rows(formats, paths):
    """Return the rows of a table of datasets: numbers of samples, the paper's sizes, and an example.

    formats: {dataset: format}; paths: train.json and test.json of each, in that order. `prompt` is the last line of the
    first training sample's question.
    """
    rows = []
    for (dataset, form), (train, test) in zip(formats.items(), zip(paths[::2], paths[1::2], strict=True), strict=True):
        samples = read_written(train)
        question, answer = question_of(samples[0]), answer_of(samples[0])
        paper = paper_datasets().get(form, {})
        row = {"dataset": dataset, "format": form, "train": str(len(samples)), "test": str(len(read_written(test)))}
        row |= {name: paper.get(name) for name in ("task", "metric", "answer")}
        row |= {f"paper_{name}": paper.get(name) for name in ("train", "test")}
        text, _, prompt = question.rpartition("\n")
        row |= {"prompt": prompt, "question": text.replace("\n", " "), "example": answer.replace("\n", " ")}
        rows.append(row)
    return rows


def layer_rows(cells, labels):
    """Return a row for each layer of each cell: both components (nats), BSI, and AUROC of low entropy in it alone.

    cells: as `cells_of` gives them, each with attention (attention.parquet, of the plain fine-tune) or layers
    (layers.csv, of the detector); labels: {(dataset, attack, seed): path}.
    """
    attention = {_run(cell): cell["attention"] for cell in cells if "attention" in cell}
    rows = []
    for cell in cells:
        if "layers" not in cell:
            continue
        names = dict(zip(("model", "dataset", "attack", "seed"), _run(cell), strict=True))
        aurocs = layer_aurocs(attention[_run(cell)], labels[_run(cell)[1:]])
        for layer, share in zip(read_csv(cell["layers"]), aurocs, strict=True):
            numbers = {name: _text(float(layer[name])) for name in LAYER_NUMBERS}
            row = {**names, **layer, **numbers, "auroc": _text(share)}
            rows.append({name: row[name] for name in LAYER_COLUMNS})
    return rows


def part_rows(cells):
    """Return a row for each model, dataset, defence and size of part, over all draws and seeds: how many parts that
    are, in how many something was flagged, and the share flagged, mean and highest, per cent.

    cells: as `cells_of` gives them, each with parts (parts.csv).
    """
    found = {}
    for cell in cells:
        for row in read_csv(cell["parts"]):
            key = cell["model"], cell["dataset"], cell["defence"], int(row["size"])
            found.setdefault(key, []).append((cell["seed"], 100 * int(row["flagged"]) / int(row["size"])))
    rows = []
    for (model, dataset, method, size), draws in found.items():
        shares = [share for _, share in draws]
        texts = {"model": model, "dataset": dataset, "method": method, "size": str(size), "parts": str(len(draws))}
        texts |= {"harmed": str(sum(share > 0 for share in shares)), "lost": _text(mean(shares))}
        rows.append(texts | {"worst": _text(max(shares)), "n_seeds": str(len({seed for seed, _ in draws}))})
    return rows


def _run(cell):
    return tuple(cell[name] for name in ("model", "dataset", "attack", "seed"))


def labels_of(paths):
    """Return {(dataset, attack, seed): path} of labels files, by their paths .../{dataset}/{attack}/s{seed}.parquet."""
    keys = [(*path.parent.parts[-2:], int(path.stem.removeprefix("s"))) for path in map(Path, paths)]
    return dict(zip(keys, paths, strict=True))


def cells_of(paths):
    """Return the cells of result files, by their paths .../{model}/{dataset}/{attack}/s{seed}/{defence}/NAME.json.

    Each is a dict with model, dataset, attack, seed, defence, and the path under the file's stem (eval or detection).
    Raises ByeError for a path of another form.
    """
    cells = []
    for path in map(Path, paths):
        try:
            model, dataset, attack, seed, defence = path.parent.parts[-5:]
            cell = {"model": model, "dataset": dataset, "attack": attack, "seed": int(seed.removeprefix("s"))}
        except ValueError:
            layout = "{model}/{dataset}/{attack}/s{seed}/{defence}"
            raise ByeError(f"{path} is not in a folder {layout}; give result files of the workflow") from None
        cells.append(cell | {"defence": defence, path.stem: str(path)})
    return cells


def _results(cells):
    """{(stem of the file, model, defence, dataset, attack): {seed: (path, content)}}."""
    found = {}
    for cell in cells:
        (stem,) = set(cell) - {"model", "dataset", "attack", "seed", "defence"}
        seeds = found.setdefault((stem, *(cell[name] for name in ("model", "defence", "dataset", "attack"))), {})
        if cell["seed"] in seeds:
            raise ByeError(f"{cell[stem]} is a second result of the same cell; give each cell once")
        content = _content(cell[stem])
        seeds[cell["seed"]] = cell[stem], content if isinstance(content, dict) else {}
    return found


def _content(path):
    """What a result of a cell holds; of an adapter, how many numbers are in its weights (None where it has none)."""
    if Path(path).name == ADAPTER:
        return {"n_trained": count_numbers(path)}
    return read_flags(path) if path.endswith(".parquet") else read_json(path)


def _seconds(benchmark):
    return float(read_csv(benchmark, delimiter="\t")[0]["s"])


def _sorted(rows, names):
    """Sort rows by columns, numbers as numbers; without columns they stay in their order."""

    def value(text):
        try:
            return (0, float(text), "")
        except (TypeError, ValueError):
            return (1, 0.0, str(text))

    return sorted(rows, key=lambda row: [value(row.texts[name]) for name in names])


def _seed_columns(entry, rows):
    if len(entry.get("seeds", [])) < 2:
        return []
    given = {name for row in rows for name in row.texts}
    deviations = [f"{column['name']}_std" for column in entry["columns"]]
    return [*(name for name in deviations if name in given), "n_seeds"]


def _statistics(name, values):
    """Mean and standard deviation of a number over the seeds where it is defined, as texts."""
    values = [value for value in values if value is not None]
    deviation = _text(stdev(values) if len(values) > 1 else None)
    return {name: _text(mean(values) if values else None), f"{name}_std": deviation}


def _text(number):
    return None if number is None else f"{number:.2f}"


def _ranks(rows, best):
    """Return {(index of the row, column): 1 or 2} of the best and second-best numbers of each model and dataset.

    best: {column: "max" or "min"}, what is best there. The worst number has no rank, even where there are but two.
    """
    ranks = {}
    for name, choose in best.items():
        groups = {}
        for index, row in enumerate(rows):
            if row.competes and row.texts[name] is not None:
                place = row.key.get("model"), row.key.get("dataset")
                groups.setdefault(place, []).append((float(row.texts[name]), index))
        for group in groups.values():
            ordered = sorted({number for number, _ in group}, reverse=choose == "max")
            ranked = ordered[: min(2, len(ordered) - 1)]
            ranks |= {(index, name): 1 + ranked.index(number) for number, index in group if number in ranked}
    return ranks
