"""The page docs/formats.md: every file that the workflow writes, with the columns of `bye.formats`."""

from dataclasses import dataclass

from bye.files import write_text
from bye.formats import (
    ANSWER,
    ATTENTION,
    BENCHMARK,
    CAUGHT,
    CAUGHT_SHARES,
    DETECTION,
    DROPPED,
    ENTRIES,
    EVALUATION,
    EVIDENCE,
    EXAM,
    FLAGS,
    FLAGS_OF_KIND,
    GROUPS,
    HEAD,
    LABEL,
    LAYER,
    LOSS,
    MAPS,
    PART,
    PREDICTION,
    SAMPLE,
    TABLES,
    TRIALS,
    UNJUDGED,
    Column,
)


@dataclass(frozen=True)
class File:
    """A file below results/.

    stage: the sub-command that writes it; form: how it is read; metadata: pairs of a key of a Parquet schema's metadata
    and its meaning; further: pairs of a case, and columns that the file has only then.
    """

    path: str
    stage: str
    form: str
    text: str
    columns: tuple[Column, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    further: tuple[tuple[str, tuple[Column, ...]], ...] = ()


CELL = "MODEL/DATASET/ATTACK/sSEED/DEFENCE"
SAMPLES_FORM = "JSON list of objects, one a line; JSON lines where the file that it comes from has them"
# Sections of the page, each with its files.
FILES = {
    "Datasets": (
        File("data/DATASET/raw/", "mini-data", "folder", "A mini dataset in its original's official layout."),
        File("downloads/FORMAT/", "fetch", "folder", "The official download of a dataset."),
        File(
            "data/DATASET/sSEED/train.json, test.json, reference.json",
            "prepare",
            SAMPLES_FORM,
            (
                "The samples as drawn by the seed; in reference.json are those that a dataset's `reference` sets apart "
                "for defences that read clean ones. Images stay where they are, in the root of the dataset. Further "
                "keys of a file of your own are carried along. Its ids stay, unless some are missing or repeat: then "
                "all are replaced by the entries' places in the file."
            ),
            SAMPLE,
        ),
        File(
            "data/DATASET/sSEED/unjudged.json",
            "prepare",
            "JSON list of objects",
            "Entries of a file of your own that no model can be asked about, and that are in neither of the two.",
            UNJUDGED,
        ),
        File(
            "data/DATASET/ATTACK/sSEED/train.json",
            "poison",
            SAMPLES_FORM,
            "The training set with the poison in it; columns as above.",
        ),
        File(
            "data/DATASET/ATTACK/sSEED/images/",
            "poison",
            "PNG, 8-bit RGB, native size",
            "Its images, each named by a hash of its pixels, clean and poisoned ones alike.",
        ),
        File(
            "data/DATASET/ATTACK/sSEED/triggered.json",
            "trigger-test",
            SAMPLES_FORM,
            "The test samples with the trigger on every image and the target as first answer; columns as above.",
        ),
        File("data/DATASET/ATTACK/sSEED/triggered/", "trigger-test", "PNG, 8-bit RGB, native size", "Their images."),
        File(
            "data/DATASET/sSEED/DEFENCE/test.json, data/DATASET/ATTACK/sSEED/DEFENCE/triggered.json",
            "purify",
            SAMPLES_FORM,
            ("The two test sets with purified images; columns as above. The images are in `images/` beside the file."),
        ),
        File(
            "labels/DATASET/ATTACK/sSEED.parquet",
            "poison",
            "Parquet, one row a training sample",
            (
                "The ground truth. Only scores, tables, figures and `oracle` read it; it lies outside of all folders "
                "that other defences read."
            ),
            LABEL,
        ),
    ),
    "A cell": (
        File(
            f"{CELL}/adapter/",
            "finetune",
            "folder",
            (
                "What was trained, as the tuning method saves it. `lora`, `rslora`, `dora`, `ia3`, `prompt` and "
                "`prefix`: `adapter_config.json` and `adapter_model.safetensors`, loaded by "
                "`peft.PeftModel.from_pretrained(base, folder)`. `lora_and_projector`: these, and the projector in "
                "`non_lora_trainables.safetensors`. `adapter`, `layers`, `biases` and `projector`: "
                "`METHOD.safetensors`, with the names that the weights have in the model. Of a guard or a purifier "
                "there is none: the plain one answers."
            ),
        ),
        File(f"{CELL}/loss.csv", "finetune", "CSV, at most some 200 rows", "The training loss.", LOSS),
        File(
            "MODEL/DATASET/ATTACK/sSEED/vanilla/attention.parquet",
            "attention",
            "Parquet, one row an answer of a training sample",
            (
                "Attention of the token before each answer under the plain fine-tune, its hidden state, and how likely "
                "the answer is; what detectors read. With L layers of H heads, and K hidden states of d numbers, an "
                "answer takes 4 L + 20 L H + 4 K d + 20 bytes and its id, before compression: 1.0 kB in the mini "
                "models, 21.7 kB where L and H are 32 and d is 256, as in a model of 7 billion parameters. Of these "
                "12 L H are the three masses, 240 bytes and 12.3 kB; what heads do, hidden state and likelihood are "
                "8 L H + 4 K d + 8: 0.7 kB and 9.2 kB, in a file about 6.5 kB, for `head_token` is compressed."
            ),
            ATTENTION,
            (
                ("n_layers", "number of decoder layers"),
                ("n_heads", "heads of a layer"),
                ("hidden_layers", "JSON list: decoder layers whose hidden states are kept, from 0"),
                ("hidden_size", "numbers kept of each: the model's width, or 256 where that is more"),
                (
                    "hidden_projection",
                    "none, or what matrix (width, size) multiplied it: `default_rng(seed).standard_normal(shape)` of "
                    "NumPy, divided by the root of the size",
                ),
            ),
        ),
        File(
            "MODEL/DATASET/ATTACK/sSEED/vanilla/maps.npz",
            "attention-maps",
            "NumPy archive",
            "Attention maps of a few samples, for figures 2 and 5.",
            MAPS,
        ),
        File(
            f"{CELL}/groups.csv",
            "detect",
            "CSV, a row a group",
            "The groups of answers that consensus tried, and what each proof came to.",
            GROUPS,
        ),
        File(
            f"{CELL}/trials.csv",
            "detect",
            "CSV, a row a trial",
            "Every trial of consensus, those too that tell which samples of a proven group go.",
            TRIALS,
        ),
        File(
            f"{CELL}/layers.csv",
            "detect",
            "CSV, one row a layer",
            "The layer selection of a detector that makes one, such as `bye`.",
            LAYER,
        ),
        File(
            f"{CELL}/heads.csv", "detect", "CSV, one row a voter", "The heads of attention that vote in `tcap`.", HEAD
        ),
        File(
            f"{CELL}/flags.parquet",
            "detect",
            "Parquet, one row a training sample",
            "What the defence says of each sample.",
            FLAGS,
            (
                (
                    "bye",
                    "JSON, of the kind `bye`: rule, tau, layers, clustering, sensitive_layers, cut (nats), mixture",
                ),
                ("sentinet", "JSON, of the kind `sentinet`: boundary, margin, hosts"),
                ("answer_novelty", "JSON, of that kind: a list of the flagged groups: answer, count, excess"),
                ("activation_clustering", "JSON, of that kind: share of the smaller cluster, silhouette (or null)"),
                ("graceful", "JSON, of that kind: share of the smaller cluster"),
            ),
            tuple((f"the kind `{kind}`", further) for kind, further in FLAGS_OF_KIND.items()),
        ),
        File(f"{CELL}/kept.json", "keep", SAMPLES_FORM, "The samples that are not flagged, every entry as it was."),
        File(
            f"{CELL}/dropped.json",
            "keep",
            SAMPLES_FORM,
            "The flagged samples, every entry as it was, with one further key.",
            DROPPED,
        ),
        File(
            f"{CELL}/parts.csv",
            "detect-parts",
            "CSV, a row a part",
            "How many samples a detector flags in random parts of an untouched set: false alarms.",
            PART,
        ),
        File(f"{CELL}/detection.json", "score", "JSON object", "The flags against the labels.", DETECTION),
        File(
            f"{CELL}/predictions.parquet",
            "evaluate",
            "Parquet, one row a test sample: the clean ones, then the triggered ones",
            "Every answer.",
            PREDICTION,
            further=(("a guard", CAUGHT),),
        ),
        File(
            f"{CELL}/eval.json",
            "evaluate",
            "JSON object",
            "Clean performance and attack success rate.",
            EVALUATION,
            further=(("a guard", CAUGHT_SHARES),),
        ),
        File(f"{CELL}/entropy.png", "entropy-figure", "PNG", "Histogram of the scores with the mixture and the cut."),
        File(
            f"{CELL}/evidence.json",
            "evidence",
            "JSON object",
            "What a page shows of a detector's cell: samples with their attention, scores, proofs. Below 200 kB.",
            EVIDENCE,
        ),
    ),
    "A model of your own, guarded": (
        File(
            "OUT.csv",
            "answer",
            "CSV, one row a sample",
            "What the model says, which inputs a guard caught, and where. OUT.csv is what `--out` says.",
            ANSWER,
        ),
    ),
    "A file of your own, cleaned": (
        File(
            "OUT/kept, dropped",
            "clean",
            "as the file that was given, with its ending",
            "The two parts of it, each entry byte for byte as it was. OUT is where `--out` says.",
        ),
        File("OUT/entries.csv", "clean", "CSV, one row an entry", "What became of each entry, and why.", ENTRIES),
        File("OUT/unjudged.json", "clean", "JSON list of objects", "The entries that were not looked at.", UNJUDGED),
        File("OUT/samples.png", "clean", "PNG", "Some of the samples that were dropped, and of those that were kept."),
        File(
            "OUT/report.html",
            "clean",
            "HTML, one file that loads nothing from elsewhere",
            "The page to open first: the verdict, what was proven, samples with their attention, the command.",
        ),
        File("OUT/summary.txt", "clean", "text", "What was found, dropped and not looked at."),
        File("OUT/groups.csv, trials.csv", "clean", "as in a cell", "What was proven, of the kind consensus."),
        File("OUT/layers.csv, entropy.png", "clean", "as in a cell", "What BYE saw."),
        File("OUT/work/", "clean", "folder", "The run: configuration, the samples that were judged, results, logs."),
    ),
    "Tables and figures": (
        File(
            "TABLE.csv",
            "table",
            "CSV",
            (
                "An entry of the config section `tables`, which says what its rows and columns are. Shares are in per "
                "cent with two decimals; with several seeds a number is the mean over those where it is defined, and "
                "the columns NAME_std (sample standard deviation) and n_seeds are added. An empty field is a number "
                "that does not exist. An entry may give a column a name of its own; with `pivot` a row is a number "
                "(`aspect`), and a column a defence."
            ),
        ),
        File(
            "TABLE.md, TABLE.tex",
            "as above",
            "Markdown, LaTeX (booktabs)",
            "The same cells; the best number of a model and dataset is bold, the second-best underlined.",
        ),
        File(
            "FIGURE.png, FIGURE.pdf",
            "stages that end in -figure",
            "PNG, PDF",
            "The same picture, for the screen and for print.",
        ),
    ),
    "Records": (
        File(
            "logs/RULE/WILDCARDS.log",
            "every stage",
            "text",
            (
                "What a job printed, its error among it. The wildcards are divided by dots: "
                "`logs/detect/MODEL.DATASET.ATTACK.sSEED.DEFENCE.log`."
            ),
        ),
        File(
            "benchmarks/RULE/WILDCARDS.tsv",
            "Snakemake",
            "tab-separated, one row",
            "What a job took, by Snakemake. Where a server forks the jobs (several with models on one machine), `s` "
            "and `h:m:s` alone are of the job; the others are of the process that waits for it.",
            BENCHMARK,
        ),
        File("base_models/MODEL/", "base-model", "model folder", "A mini model that was pre-trained anew."),
        File(
            "base_models/issba/issba.safetensors",
            "base-model",
            "safetensors, float16",
            "Encoder and decoder of the trigger issba, trained anew: names encoder.* and decoder.*.",
        ),
        File(
            "base_models/scout/",
            "fetch",
            "model folder",
            "The scout, in float32, and beside it `LICENCES.txt` of its parts ([scout.md](scout.md)).",
        ),
        File(
            "scout/delta/",
            "scout-train",
            "folder of the tuning method lora_and_projector, and check.json",
            "What is trained of the scout, in bfloat16; `check.json`: a question on a drawn picture, and the answer.",
        ),
        File("scout_exam.csv", "scout-exam", "CSV", "What the scout knows of pictures it was never shown.", EXAM),
        File("scout_exam.png", "scout-exam", "PNG", "Some of its answers."),
    ),
}

INTRO = """# File formats

Every file that the workflow writes, below `results/`. Words in capitals are keys of the configuration and other names
that change; the words of the field are in the [glossary](glossary.md). Each file is written in one step: what is there
is complete. This page is written by `python -m bye formats-page`.

Parquet files are read by pandas, polars and DuckDB:

    import pandas
    flags = pandas.read_parquet("results/llava-mini/scienceqa/badnet/s0/bye/flags.parquet")
"""


def formats_page(out):
    """Write the page to `out`. Returns the number of entries."""
    parts = [INTRO]
    for section, files in FILES.items():
        parts.append(f"## {section}\n")
        for file in files:
            parts += _file(file)
    write_text(out, "\n".join(parts))
    return sum(map(len, FILES.values()))


def _file(file):
    """The parts of the page on one file."""
    paths = ", ".join(f"`{path}`" for path in file.path.split(", "))
    parts = [f"### {paths}\n", f"{file.text}\n", f"Form: {file.form}. Written by: {file.stage}.\n"]
    if file.columns:
        parts.append(_columns(file.columns))
    if file.metadata:
        parts.append("Metadata of the schema:\n")
        parts.append(_table(("key", "meaning"), file.metadata))
    for kind, further in file.further:
        parts.append(f"Further columns with {kind}:\n")
        parts.append(_columns(further))
    if file.path == "TABLE.csv":
        for rows, columns in TABLES.items():
            parts.append(f"Columns that a table may have whose rows are {rows}:\n")
            parts.append(_columns(columns))
    return parts


def _columns(columns):
    return _table(("column", "type", "meaning"), [(c.name, c.type, c.text) for c in columns])


def _table(head, rows):
    """A Markdown table; its first column is code."""
    escaped = [[cell.replace("|", "\\|") for cell in (f"`{first}`", *others)] for first, *others in rows]
    lines = [head, ["---"] * len(head), *escaped]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
