"""Stages that write tables, figures and pages."""

import shlex

from bye.errors import ByeError
from bye.files import parse_json
from bye.stages.options import (
    CELL_LABELS,
    CELLS,
    CONFIGFILES,
    FINETUNED,
    IMAGES,
    PICTURES,
    SAMPLES,
    SEED,
    THREADS,
    may,
    need,
    stage,
)

PAGE = (  # of a run
    may("--facts", (), "lines on the run: commit, machine", nargs="*", type=str),
    may("--title", "Results of a mini run", "title of the page"),
    may(
        "--options", "", "options that snakemake was given, for the commands on the page; if none, --configfile of here"
    ),
    CONFIGFILES,
)


def _with_configfile(configfile, options):
    """The options of a page; snakemake's are those files that are laid over config.yaml, where no others are given."""
    if configfile and not options["options"]:
        return options | {"options": f"--configfile {shlex.join(configfile)}"}
    return options


def entry_of(text):
    """Return the description of a table that an option gives as JSON. Raises ByeError where it is none."""
    entry = parse_json(text, "option --entry")
    missing = [key for key in ("caption", "rows", "columns") if not isinstance(entry, dict) or key not in entry]
    if missing:
        raise ByeError(f"option --entry lacks {', '.join(missing)}; snakemake -n -p shows it for each table")
    return entry


@stage(
    "table",
    need("--entry", "what the table shows, as JSON: see bye.plan.definition", type=entry_of),
    may("--cells", (), "result files of all cells, at their places in the path scheme", nargs="+", type=str),
    may("--labels", (), "labels, .../DATASET/ATTACK/sSEED.parquet, where rows are layers", nargs="+", type=str),
    may("--reference", (), "clean samples that defences were given", nargs="+", type=str),
    need("--out", "CSV to write; Markdown and LaTeX go beside it"),
)
def table(entry, cells, labels, reference, out):
    """Write a table of the configuration, the paper's numbers beside ours."""
    from bye.report.tables import table

    table(entry, out, cells, labels, reference)


@stage(
    "histograms-figure",
    CELLS,
    CELL_LABELS,
    PICTURES,
)
def histograms_figure(cells, labels, out):
    """Draw Figure 3: the histograms of many cells."""
    from bye.report.figures import histograms_figure
    from bye.report.tables import cells_of, labels_of

    labels = labels_of(labels)
    pairs = {
        (cell["model"], cell["dataset"]): (cell["flags"], labels[cell["dataset"], cell["attack"], cell["seed"]])
        for cell in cells_of(cells)
    }
    for path in out:
        histograms_figure(pairs, path)


@stage(
    "bars-figure",
    need("--table", "CSV with model, dataset, and the two columns below"),
    may("--series", "variant", "column that names the bars"),
    may("--value", "f1", "column with their heights"),
    may("--ylabel", "F1 (%)", "label of the axis"),
    PICTURES,
)
def bars_figure(table, out, **options):
    """Draw Figure 4: a table as bars."""
    from bye.report.figures import bars_figure

    for path in out:
        bars_figure(table, path, **options)


@stage(
    "poison-rate-figure",
    need("--table", "CSV of the shares of poison, with the columns that config.yaml gives it"),
    PICTURES,
)
def poison_rate_figure(table, out):
    """Draw detection and attack success over the share of poison."""
    from bye.report.figures import poison_rate_figure

    for path in out:
        poison_rate_figure(table, path)


@stage(
    "matrix-figure",
    need(
        "--table", "CSV of detectors, triggers and shares of poison, with the columns that config/matrix.yaml gives it"
    ),
    PICTURES,
)
def matrix_figure(table, out):
    """Draw F1 of every detector against triggers and shares of poison."""
    from bye.report.matrix import matrix_figure

    for path in out:
        matrix_figure(table, path)


@stage(
    "false-alarms-figure",
    need("--table", "CSV of a table whose rows are parts"),
    PICTURES,
)
def false_alarms_figure(table, out):
    """Draw what detectors take from untouched sets."""
    from bye.report.matrix import false_alarms_figure

    for path in out:
        false_alarms_figure(table, path)


@stage(
    "layers-figure",
    need("--table", "CSV of a table whose rows are layers"),
    may("--tau", 2.0, "threshold of the BSI"),
    PICTURES,
)
def layers_figure(table, tau, out):
    """Draw BSI and AUROC of every layer."""
    from bye.report.figures import layers_figure

    for path in out:
        layers_figure(table, path, tau)


OF_SAMPLES = (
    need("--names", "attacks", nargs="+"),
    need("--maps", "npz file of attention-maps of each", nargs="+"),
    need("--samples", "training samples of each", nargs="+"),
    need("--images", "image folder of each", nargs="+"),
    need("--labels", "ground truth of each", nargs="+"),
)


@stage("maps-figure", *OF_SAMPLES, PICTURES)
def maps_figure(names, maps, samples, images, labels, out):
    """Draw Figure 2: attention maps over the layers, clean above poisoned."""
    from bye.report.figures import maps_figure

    for path in out:
        maps_figure(list(zip(names, maps, samples, images, labels, strict=True)), path)


@stage("triggers-figure", *OF_SAMPLES, PICTURES)
def triggers_figure(names, maps, samples, images, labels, out):
    """Draw Figure 5: a poisoned image of each attack and its attention."""
    from bye.report.figures import triggers_figure

    for path in out:
        triggers_figure(list(zip(names, maps, samples, images, labels, strict=True)), path)


@stage(
    "designs-figure",
    need("--names", "attacks", nargs="+"),
    need("--samples", "test samples as they are, and with the trigger of each attack", nargs="+"),
    need("--images", "their image folders", nargs="+"),
    PICTURES,
)
def designs_figure(names, samples, images, out):
    """Draw a test sample with the trigger of each attack, and what that changed."""
    from bye.report.figures import designs_figure

    plain, *triggered = zip(samples, images, strict=True)
    for path in out:
        designs_figure(plain, dict(zip(names, triggered, strict=True)), path)


@stage(
    "purified-figure",
    need("--names", "datasets", nargs="+"),
    need("--samples", "of each: test samples, purified, triggered, triggered and purified", nargs="+"),
    need("--images", "their image folders", nargs="+"),
    PICTURES,
)
def purified_figure(names, samples, images, out):
    """Draw test images before and after purification."""
    from bye.report.figures import purified_figure

    files = list(zip(samples, images, strict=True))
    columns = {name: files[4 * index : 4 * index + 4] for index, name in enumerate(names)}
    for path in out:
        purified_figure(columns, path)


@stage(
    "ratios-figure",
    need("--names", "attacks", nargs="+"),
    need("--attention", "attention of the training samples of each", nargs="+"),
    need("--labels", "ground truth of each", nargs="+"),
    need("--predictions", "answers under a guard, of each", nargs="+"),
    need("--samples", "triggered test samples of each", nargs="+"),
    need("--images", "their image folders", nargs="+"),
    PICTURES,
)
def ratios_figure(names, attention, labels, predictions, samples, images, out):
    """Draw Figure 6: the ratio of image to text attention over the layers, and what a guard hides."""
    from bye.report.guarded import ratios_figure

    for path in out:
        ratios_figure(list(zip(names, attention, labels, predictions, samples, images, strict=True)), path)


@stage(
    "evidence",
    need("--flags", "Parquet file with the flags of a detector"),
    may("--groups", None, "groups.csv of a detector that proves groups of answers"),
    may("--trials", None, "its trials.csv"),
    may("--labels", None, "ground truth, to mark the samples that are shown"),
    *FINETUNED,
    SAMPLES,
    IMAGES,
    may("--batch-size", 32, "samples a forward pass"),
    SEED,
    THREADS,
    need("--out", "JSON file to write"),
)
def evidence(**options):
    """Gather what a page shows of a detector's cell: some samples with their attention, histogram, proofs."""
    from bye.report.evidence import write_evidence

    count = write_evidence(**options)
    print(f"evidence: {count} samples in {options['out']}")


@stage(
    "results-page",
    may("--results", "results", "folder with tables and figures"),
    may("--notes", "docs/notes", "folder with what is to be said about them"),
    may("--out", "docs/results.md", "page to write; figures go to the folder figures beside it"),
    *PAGE,
)
def results_page(configfile, **options):
    """Write one page with every table and figure of a run."""
    from bye.report.measured import verdict
    from bye.report.page import results_page
    from bye.tools.configuration import read_configuration

    _, config = read_configuration(configfile)
    lines = [line for _, line in verdict(config, options["results"])]
    count = results_page(entries=config["tables"], verdict=lines, **_with_configfile(configfile, options))
    print(f"results-page: {count} targets in {options['out']}")


@stage(
    "run-page",
    may("--results", "results", "folder with tables, figures and the evidence of cells"),
    may("--out", "results/index.html", "page to write"),
    may("--megabytes", 6.0, "evidence of cells that the page has room for, of what fails first"),
    *PAGE,
)
def run_page(configfile, **options):
    """Write one HTML file with the verdict on a run, every table and figure, and the evidence behind the rows."""
    from bye.report.run_page import run_page
    from bye.tools.configuration import read_configuration

    _, config = read_configuration(configfile)
    count, cells = run_page(config, **_with_configfile(configfile, options))
    print(f"run-page: {count} targets in {options['out']}, {cells} cells to look into")


@stage(
    "formats-page",
    may("--out", "docs/formats.md", "page to write"),
)
def formats_page(out):
    """Write the page on the files that the workflow writes."""
    from bye.report.formats_page import formats_page

    count = formats_page(out)
    print(f"formats-page: {count} entries in {out}")
