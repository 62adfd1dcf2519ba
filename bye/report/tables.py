"""The paper's tables from the cells' result files: CSV, and the same as Markdown and LaTeX beside it.

All shares (CP, ASR, precision, recall, F1, AUROC) are in per cent with two decimals, as in the paper; CIDEr is times
100. With several seeds a number is the mean over those where it is defined, *_std the sample standard deviation
(n - 1), n_seeds the number of seeds. An empty field is a number that does not exist: not in the paper, or undefined
(precision where nobody is flagged).
"""

from pathlib import Path
from statistics import mean, stdev

from bye.data.samples import answer_of, question_of, read_samples
from bye.errors import ByeError
from bye.files import read_csv, read_json, write_csv, write_text
from bye.flags import read_flags
from bye.metrics.detection import layer_aurocs
from bye.report.reference import paper_datasets, paper_number

CELL_NAMES = ("model", "defence", "dataset", "attack")
DETECTION = ("precision", "recall", "f1")
LAYER_NUMBERS = ("mu_low", "sigma_low", "mu_high", "sigma_high", "bsi")
# The paper's rows of Table 8: aspect, SentiNet, BYE.
ASPECTS = (
    ("Architecture scope", "CNN-based, saliency-driven", "Transformer-based, attention entropy-driven"),
    ("Attack assumption", "Localized universal patch", "Generic patch-based backdoors"),
    ("Input modalities", "Unimodal (images only)", "Multimodal (vision-language)"),
    ("Auxiliary dependency", "Grad-CAM, object proposals, clean reference images", "Self-contained"),
    ("Generalizability", "Limited to fixed spatial triggers", "Robust to multi-trigger variants"),
)
UPPER_BOUNDS = ("oracle",)
NOTE = "upper bound: reads the labels"


def table1(cells, out, paper_models=None, upper_bounds=UPPER_BOUNDS):
    """Write Table 1: clean performance and attack success rate of each method.

    Parameters
    ----------
    cells : list of dict with keys model, dataset, attack, seed, defence and eval (path of eval.json): see `cells_of`.
    out : path of the CSV; .md and .tex of the same name are written beside it. Columns: model, method, dataset, CP,
        ASR, paper_CP, paper_ASR, with several seeds CP_std, ASR_std, n_seeds, and note (which marks an upper bound).
    paper_models : dict, our model key -> the paper's name of its original (models without one have no paper number).
    upper_bounds : defences that read the labels.

    Raises
    ------
    ByeError
        If a file is missing or no evaluation, a cell occurs twice, or the cells are of several attacks.
    """
    rows = []
    for (model, method, dataset, _), results in _of_one_attack(cells, "eval", ("CP", "ASR")).items():
        row = {"model": model, "method": method, "dataset": dataset}
        row |= _statistics({"CP": [result["CP"] for result in results], "ASR": [result["ASR"] for result in results]})
        for metric in ("CP", "ASR"):
            row[f"paper_{metric}"] = _text(_paper(1, paper_models, model, dataset, method, metric))
        row["note"] = NOTE if method in upper_bounds else None
        rows.append(row)
    columns = ["model", "method", "dataset", "CP", "ASR", "paper_CP", "paper_ASR"]
    _write(
        out,
        rows,
        [*columns, *_seed_columns(cells, ("CP", "ASR")), "note"],
        "Clean performance and attack success",
        best={"CP": max, "ASR": min},
        competing=lambda row: row["note"] != NOTE,
    )


def table2(cells, out, paper_models=None):
    """Write Table 2: how well the poisoned samples are found.

    Parameters
    ----------
    cells : list of dict as in `table1`, with the key detection (path of detection.json); of one detector.
    out : path of the CSV; .md and .tex beside it. Columns: model, dataset, precision, recall, f1, auroc, n_flagged,
        sensitive_layers ("2 3", or "none" where no layer is sensitive; with several seeds "2 3 | none | 2"), paper_P,
        paper_R, paper_F1, and with several seeds the standard deviations and n_seeds.
    paper_models : as in `table1`.

    Raises
    ------
    ByeError
        As `table1`, and if the cells are of several detectors.
    """
    detectors = {cell["defence"] for cell in cells}
    if len(detectors) > 1:
        raise ByeError(f"table 2 is about one detector, not {', '.join(sorted(detectors))}; give the cells of one")
    measures = ("precision", "recall", "f1", "auroc")
    rows = []
    for (model, method, dataset, _), results in _of_one_attack(cells, "detection", (*measures, "n_flagged")).items():
        flagged = [result["n_flagged"] for result in results]
        row = {"model": model, "dataset": dataset, **_statistics(_per_cent(results, measures))}
        row["n_flagged"] = f"{mean(flagged):.1f}" if len(set(flagged)) > 1 else flagged[0]
        row["sensitive_layers"] = " | ".join(_layers(result.get("sensitive_layers")) for result in results)
        for metric in ("P", "R", "F1"):
            row[f"paper_{metric}"] = _text(_paper(2, paper_models, model, dataset, method, metric))
        rows.append(row)
    columns = ["model", "dataset", *measures, "n_flagged", "sensitive_layers", "paper_P", "paper_R", "paper_F1"]
    _write(out, rows, [*columns, *_seed_columns(cells, measures)], "Detection of poisoned samples")


def table_of_attacks(cells, out, number, triggers, paper_models=None):
    """Write Table 3 or 6: one defence under several attacks.

    Parameters
    ----------
    cells : list of dict as in `table1`, each with eval or detection; of one defence.
    out : path of the CSV; .md and .tex beside it. Columns: model, dataset, attack, CP, ASR, precision, recall, f1, and
        the same of the paper.
    number : 3 or 6, the table's number in the paper.
    triggers : dict, our attack key -> its trigger.
    paper_models : as in `table1`.
    """
    evaluations = _grouped([cell for cell in cells if "eval" in cell], "eval", ("CP", "ASR"))
    detections = _grouped([cell for cell in cells if "detection" in cell], "detection", DETECTION)
    rows = []
    for key, results in detections.items():
        model, method, dataset, attack = key
        found = evaluations.get(key, [])
        row = {"model": model, "dataset": dataset, "attack": attack}
        row |= _statistics({name: [result[name] for result in found] for name in ("CP", "ASR")})
        row |= _statistics(_per_cent(results, DETECTION))
        setting = "default" if triggers[attack] == "badnet" else triggers[attack]  # as the paper calls it
        for metric in ("CP", "ASR", "P", "R", "F1"):
            row[f"paper_{metric}"] = _text(_paper(number, paper_models, model, dataset, method, metric, setting))
        rows.append(row)
    columns = ["model", "dataset", "attack", "CP", "ASR", *DETECTION]
    columns += [f"paper_{name}" for name in ("CP", "ASR", "P", "R", "F1")]
    _write(out, rows, [*columns, *_seed_columns(cells, ("CP", "ASR", *DETECTION))], "BYE under other triggers")


def table4(datasets, out):
    """Write Table 4: the datasets as loaded.

    Parameters
    ----------
    datasets : list of dict with keys dataset, format, train and test (paths of the samples files; test may be None).
    out : path of the CSV; .md and .tex beside it. Columns: dataset, format, train, test (numbers of samples), the
        paper's task, metric, answer form, and sizes (paper_train, paper_test), and of the first training sample the
        prompt (the last line of the user's text), the question and the answer.
    """
    rows = []
    for entry in datasets:
        samples = read_samples(entry["train"])
        question, answer = question_of(samples[0]), answer_of(samples[0])
        paper = paper_datasets().get(entry["format"], {})
        row = {"dataset": entry["dataset"], "format": entry["format"], "train": str(len(samples))}
        row["test"] = str(len(read_samples(entry["test"]))) if entry["test"] else None
        row |= {name: paper.get(name) for name in ("task", "metric", "answer")}
        row |= {f"paper_{name}": paper.get(name) for name in ("train", "test")}
        text, _, prompt = question.rpartition("\n")
        row |= {"prompt": prompt, "question": text.replace("\n", " "), "example": answer.replace("\n", " ")}
        rows.append(row)
    columns = ["dataset", "format", "train", "test", "paper_train", "paper_test", "task", "metric", "answer"]
    _write(out, rows, [*columns, "prompt", "question", "example"], "The datasets as loaded")


def table5(cells, out, taus, paper_models=None):
    """Write Table 5: detection under several thresholds of the BSI.

    Parameters
    ----------
    cells : list of dict as in `table1`, with the key detection; the defences are BYE with each threshold.
    out : path of the CSV; .md and .tex beside it. Columns: model, dataset, tau, precision, recall, f1, n_layers (the
        number of sensitive layers; their mean over several seeds), the paper's P, R, F1, and note, which says where no
        layer is sensitive.
    taus : dict, defence key -> its threshold.
    paper_models : as in `table1`.
    """
    rows = []
    for (model, method, dataset, _), results in _of_one_attack(cells, "detection", DETECTION).items():
        row = {
            "model": model,
            "dataset": dataset,
            "tau": f"{taus[method]:g}",
            **_statistics(_per_cent(results, DETECTION)),
        }
        counts = [len(result["sensitive_layers"]) for result in results]
        row["n_layers"] = f"{mean(counts):g}"
        row["note"] = None if all(counts) else "no sensitive layer" + (" in some seed" if any(counts) else "")
        for metric in ("P", "R", "F1"):
            setting = f"tau_bsi={taus[method]:.1f}"
            row[f"paper_{metric}"] = _text(_paper(5, paper_models, model, dataset, "bye", metric, setting))
        rows.append(row)
    rows.sort(key=lambda row: float(row["tau"]))
    columns = ["model", "dataset", "tau", *DETECTION, "n_layers", "paper_P", "paper_R", "paper_F1"]
    _write(
        out,
        rows,
        [*columns, *_seed_columns(cells, DETECTION), "note"],
        "Effect of the BSI threshold",
        best=dict.fromkeys(DETECTION, max),
    )


def table_of_variants(cells, out, names, number=None, paper_models=None):
    """Write Table 7 or the numbers of Figure 4: F1 of variants of the detector.

    Parameters
    ----------
    cells : list of dict as in `table1`, with the key detection; the defences are the variants.
    out : path of the CSV; .md and .tex beside it. Columns: model, variant, dataset, f1, and, for a table of the paper,
        paper_F1.
    names : dict, defence key -> the variant's name in the paper.
    number : of the paper's table, or None.
    """
    rows = []
    for (model, method, dataset, _), results in _of_one_attack(cells, "detection", DETECTION).items():
        row = {"model": model, "variant": names[method], "dataset": dataset, **_statistics(_per_cent(results, ["f1"]))}
        if number is not None:
            row["paper_F1"] = _text(_paper(number, paper_models, model, dataset, names[method], "F1"))
        rows.append(row)
    columns = ["model", "variant", "dataset", "f1", *(["paper_F1"] if number is not None else [])]
    _write(out, rows, [*columns, *_seed_columns(cells, ["f1"])], "F1 of variants of the detector", best={"f1": max})


def poison_rate_table(cells, out, rates, plain):
    """Write how detection and cleaning depend on the share of poison, the untouched set included.

    Parameters
    ----------
    cells : list of dict as in `table1`, each with flags, detection or eval; of several detectors. eval also of the
        plain fine-tune.
    out : path of the CSV; .md and .tex beside it. Columns: model, dataset, method, rate (per cent), precision, recall,
        f1, dropped (per cent of the set), ASR_vanilla and ASR (after cleaning); empty where there is no poison.
    rates : dict, attack key -> share of poison.
    plain : defence key of the plain fine-tune.
    """
    detections = _grouped([cell for cell in cells if "detection" in cell], "detection", DETECTION)
    evaluations = _grouped([cell for cell in cells if "eval" in cell], "eval", ("ASR",))
    flags = {}
    for cell in cells:
        if "flags" in cell:
            flagged = read_flags(cell["flags"])["flagged"]
            flags.setdefault(tuple(cell[name] for name in CELL_NAMES), []).append(100 * mean(flagged))
    rows = []
    for key, dropped in flags.items():
        model, method, dataset, attack = key
        row = {"model": model, "dataset": dataset, "method": method, "rate": f"{100 * rates[attack]:g}"}
        row |= _statistics(_per_cent(detections.get(key, []), DETECTION))
        row |= _statistics({"ASR": [result["ASR"] for result in evaluations.get(key, [])]})
        before = evaluations.get((model, plain, dataset, attack), [])
        row |= _statistics({"ASR_vanilla": [result["ASR"] for result in before]})
        rows.append(row | _statistics({"dropped": dropped}))
    rows.sort(key=lambda row: (row["model"], row["dataset"], row["method"], float(row["rate"])))
    columns = ["model", "dataset", "method", "rate", *DETECTION, "dropped", "ASR_vanilla", "ASR"]
    measures = (*DETECTION, "dropped", "ASR_vanilla", "ASR")
    _write(out, rows, [*columns, *_seed_columns(cells, measures)], "Share of poison")


def table8(cells, benchmarks, n_reference, out):
    """Write Table 8: BYE against SentiNet, the paper's five aspects and what was measured.

    Parameters
    ----------
    cells : list of dict as in `table1`, with the key detection; of the defences "sentinet" and "bye".
    benchmarks : dict, (defence, attack) -> Snakemake's benchmark files of the steps that the defence takes after the
        plain fine-tune.
    n_reference : number of clean samples that SentiNet was given.
    out : path of the CSV; .md and .tex beside it. Columns: aspect, attack, sentinet, bye.
    """
    detections = _grouped(cells, "detection", (*DETECTION, "n_samples"))
    rows = [dict(zip(("aspect", "sentinet", "bye"), row, strict=True)) for row in ASPECTS]
    rows.append({"aspect": "Auxiliary data used", "sentinet": f"{n_reference} clean samples", "bye": "none"})
    for attack in dict.fromkeys(attack for _, _, _, attack in detections):
        own = {method: results for (_, method, _, other), results in detections.items() if other == attack}
        for measure, name in zip(DETECTION, ("Precision (%)", "Recall (%)", "F1 (%)"), strict=True):
            numbers = {method: _statistics(_per_cent(results, [measure]))[measure] for method, results in own.items()}
            rows.append({"aspect": name, "attack": attack, **numbers})
        seconds = {}
        for method, results in own.items():
            total = sum(_seconds(path) for path in benchmarks[method, attack])
            seconds[method] = f"{1000 * total / sum(result['n_samples'] for result in results):.0f}"
        rows.append({"aspect": "Seconds per 1,000 samples", "attack": attack, **seconds})
    _write(out, rows, ["aspect", "attack", "sentinet", "bye"], "BYE against SentiNet")


def _seconds(benchmark):
    return float(read_csv(benchmark, delimiter="\t")[0]["s"])


def labels_of(paths):
    """Return {(dataset, attack, seed): path} of labels files, by their paths .../{dataset}/{attack}/s{seed}.parquet."""
    keys = [(*path.parent.parts[-2:], int(path.stem.removeprefix("s"))) for path in map(Path, paths)]
    return dict(zip(keys, paths, strict=True))


def layers_table(cells, labels, out):
    """Write every layer's BSI and AUROC, for all cells.

    Parameters
    ----------
    cells : list of dict as in `table1`, each with attention or layers (paths of attention.parquet, of the plain
        fine-tune, and layers.csv, of the detector).
    labels : dict, (dataset, attack, seed) -> path of the labels.
    out : path of the CSV; .md and .tex beside it. Columns: model, dataset, attack, seed, layer, mu_low, sigma_low,
        mu_high, sigma_high (nats), bsi, auroc (of low entropy in this layer alone, 0..1), sensitive.
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
            rows.append({**names, **layer, **numbers, "auroc": _text(share)})
    columns = ["model", "dataset", "attack", "seed", "layer", *LAYER_NUMBERS, "auroc", "sensitive"]
    _write(out, rows, columns, "BSI and AUROC of every layer")


def _run(cell):
    return tuple(cell[name] for name in ("model", "dataset", "attack", "seed"))


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


def _of_one_attack(cells, kind, keys):
    """`_grouped`, of cells that must be of one attack."""
    attacks = sorted({cell["attack"] for cell in cells})
    if len(attacks) != 1:
        raise ByeError(f"a table is about one attack, not {', '.join(attacks) or 'none'}; give the cells of one")
    return _grouped(cells, kind, keys)


def _grouped(cells, kind, keys):
    """Return {(model, defence, dataset, attack): results of its seeds}, each of them in order of appearance."""
    results = {}
    for cell in cells:
        path = cell.get(kind)
        if path is None:
            raise ByeError(f"cell {cell} has no {kind}.json; give the path of that file")
        content = read_json(path)
        missing = [key for key in keys if not isinstance(content, dict) or key not in content]
        if missing:
            raise ByeError(f"{path} has no {missing[0]!r}; remove the file and run its stage again")
        seeds = results.setdefault(tuple(cell[name] for name in CELL_NAMES), {})
        if cell["seed"] in seeds:
            raise ByeError(f"{path} is a second result of the same cell; give each cell once")
        seeds[cell["seed"]] = content
    first = {name: list(dict.fromkeys(cell[name] for cell in cells)) for name in CELL_NAMES}

    def order(key):
        return [first[name].index(value) for name, value in zip(CELL_NAMES, key, strict=True)]

    return {key: [results[key][seed] for seed in sorted(results[key])] for key in sorted(results, key=order)}


def _seed_columns(cells, measures):
    several = len({cell["seed"] for cell in cells}) > 1
    return [*(f"{name}_std" for name in measures), "n_seeds"] if several else []


def _statistics(measures):
    """Return mean and standard deviation of each measure, over the seeds where it is defined, as text."""
    row = {}
    for name, values in measures.items():
        row["n_seeds"] = len(values)
        values = [value for value in values if value is not None]
        row[name] = _text(mean(values) if values else None)
        row[f"{name}_std"] = _text(stdev(values) if len(values) > 1 else None)
    return row


def _per_cent(results, measures):
    """Return {measure: [its value in per cent in each result, or None]}."""
    return {name: [None if (share := result[name]) is None else 100 * share for result in results] for name in measures}


def _paper(table, paper_models, model, dataset, method, metric, setting="default"):
    return paper_number(table, (paper_models or {}).get(model), dataset, method, metric, setting)


def _layers(layers):
    if layers is None:
        return "-"
    return " ".join(map(str, layers)) or "none"


def _text(number):
    return None if number is None else f"{number:.2f}"


def _write(out, rows, columns, caption, best=None, competing=lambda row: True):
    """Write a table as CSV, Markdown and LaTeX; the latter two show the best and the second-best number.

    best: {column: max or min}, what is best there; ranked among the rows of a model and dataset that are `competing`.
    """
    rows = [{name: row.get(name) for name in columns} for row in rows]
    cells = [["" if row[name] is None else str(row[name]) for name in columns] for row in rows]
    numeric = [all(_is_number(row[index]) for row in cells) for index in range(len(columns))]
    ranks = _ranks([row for row in rows if competing(row)], best or {})
    places = [[ranks.get((id(row), name)) for name in columns] for row in rows]
    write_text(Path(out).with_suffix(".md"), _markdown(columns, cells, numeric, places))
    write_text(Path(out).with_suffix(".tex"), _latex(columns, cells, numeric, places, caption))
    write_csv(out, rows, columns)


def _ranks(rows, best):
    """Return {(id of the row, column): 1 or 2} of the best and second-best numbers of each model and dataset.

    The worst number has no rank, even where there are but two.
    """
    ranks = {}
    for name, choose in best.items():
        groups = {}
        for row in rows:
            if row[name] is not None:
                groups.setdefault((row["model"], row["dataset"]), []).append((float(row[name]), id(row)))
        for group in groups.values():
            ordered = sorted({number for number, _ in group}, reverse=choose is max)
            ranked = ordered[: min(2, len(ordered) - 1)]
            ranks |= {(row, name): 1 + ranked.index(number) for number, row in group if number in ranked}
    return ranks


def _is_number(text):
    return text == "" or text.replace(".", "", 1).isdigit()


def _markdown(columns, cells, numeric, places):
    marks = {1: "**{}**", 2: "<u>{}</u>", None: "{}"}
    escaped = [
        [marks[place].format(text.replace("|", "\\|")) for text, place in zip(row, row_places, strict=True)]
        for row, row_places in zip(cells, places, strict=True)
    ]
    lines = [columns, ["---:" if right else "---" for right in numeric], *escaped]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _latex(columns, cells, numeric, places, caption):
    escape = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "|": r"$|$"}
    marks = {1: r"\textbf{%s}", 2: r"\underline{%s}", None: "%s"}
    lines = [
        " & ".join(
            marks[place] % "".join(escape.get(c, c) for c in text) for text, place in zip(line, row_places, strict=True)
        )
        + r" \\"
        for line, row_places in zip([columns, *cells], [[None] * len(columns), *places], strict=True)
    ]
    alignment = "".join("r" if right else "l" for right in numeric)
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}.}}",
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
