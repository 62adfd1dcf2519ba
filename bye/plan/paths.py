"""Where the workflow's files lie: paths with Snakemake's wildcards, below the folder results."""

CELL = "results/{model}/{dataset}/{attack}/s{seed}/{defence}"
LABELS = "results/labels/{dataset}/{attack}/s{seed}.parquet"
CLEAN = "results/data/{dataset}/s{seed}"
ATTACKED = "results/data/{dataset}/{attack}/s{seed}"
RAW = "results/data/{dataset}/raw"
DOWNLOADS = "results/downloads"
BUILT = "results/base_models"
BENCHMARKS = "results/benchmarks"
LOGS = "results/logs"

UNTOUCHED = "none"  # the built-in attack: the clean set, without trigger and labels
PARTS = "parts.csv"  # of a cell of it
OWN_FOLDERS = {"data", "downloads", "labels", "logs", "benchmarks", "base_models"}  # of results, so no names of cells

MODEL_FILES = ["config.json", "model.safetensors"]  # of a base model that a rule builds
DIFFUSION_FILES = [
    *("model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
    "scheduler/scheduler_config.json",
]
MAE_FILES = [*MODEL_FILES, "preprocessor_config.json"]
ISSBA_FILE = f"{BUILT}/issba/issba.safetensors"  # encoder and decoder of that trigger
