"""What the rules ask of a configuration: paths, inputs, options and resources, as functions of it and of wildcards."""

import re
import shlex

import pytest
from small_workflow import ROOT, small_config
from snakemake.iocontainers import Wildcards

from bye import config as settings
from bye.errors import ByeError
from bye.plan import entries
from bye.plan.definition import definition
from bye.plan.problems import check
from bye.stages.options import target_of
from bye.workflow import Files, JobResources, Options, keys_pattern, record_name
from bye.workflow.texts import as_options

RUN = {"model": "tiny", "dataset": "scienceqa", "attack": "badnet", "seed": "0"}
GUARD = "ACTS_ON = 'generation'\nREADS = ('reference',)\ndef guard(reference, *, tau: float = 0.1): ...\n"


def at(defence="bye", **changes):
    return Wildcards(fromdict={**RUN, "defence": defence, **changes})


@pytest.fixture
def config(tiny_model, monkeypatch, tmp_path):
    """A checked configuration with a defence of each sort, one of them a file of the user's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "guard.py").write_text(GUARD)
    config = small_config(tiny_model("llava"))
    config["defences"] |= {
        "sentinet": {"kind": "sentinet"},
        "zip": {"kind": "zip", "diffusion": str(ROOT / "base_models" / "diffusion-mini")},
        "mine": {"kind": "guard.py", "tau": 0.5},
    }
    settings.check(config, ROOT)
    return config


@pytest.fixture
def plan(config):
    return Files(config)


@pytest.fixture
def options(plan):
    return Options(plan)


# ---- texts -----------------------------------------------------------------------------------------------------------


def test_settings_become_options():
    values = {"batch_size": 16, "plain": False, "deep": True, "root": None, "of": [1, 2], "none": []}
    assert as_options(values) == "--batch-size 16 --no-plain --deep --of 1 2"
    text = as_options({"target": {"kind": "a b.py", "text": "it's"}, "name": "x y"})
    assert shlex.split(text) == ["--target", '{"kind": "a b.py", "text": "it\'s"}', "--name", "x y"]


def test_keys_match_exactly():
    pattern = keys_pattern(["a.b", "c"])
    assert re.fullmatch(pattern, "a.b") and not re.fullmatch(pattern, "axb")
    assert not re.fullmatch(keys_pattern([]), "")


@pytest.mark.parametrize(
    ("output", "place"),
    [
        ("results/{model}/{dataset}/{attack}/s{seed}/bye/flags.parquet", "rule/{model}.{dataset}.{attack}.s{seed}"),
        ("results/{name}.csv", "rule/{name}"),
        ("results/fixed.csv", "rule"),
    ],
)
def test_records_lie_by_rule_and_wildcards(output, place):
    assert record_name("rule", output) == place


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("defence", "reads"),
    [
        ("bye", {"attention"}),
        ("random_drop", {"samples"}),
        ("oracle", {"samples", "labels"}),
        ("sentinet", {"samples", "reference", "adapter", "model"}),
    ],
)
def test_a_detector_gets_what_it_reads_and_no_more(plan, options, defence, reads):
    files = plan.detector_files(at(defence))
    assert {name for name, found in files.items() if found} == reads
    words = shlex.split(options.detect(at(defence)))
    assert {f"--{name}" for name in reads} <= set(words)
    assert ("--labels" in words) == (defence == "oracle")


def test_labels_are_an_input_of_no_other_detector(plan):
    for defence in plan.acting_on("training set"):
        files = plan.detector_files(at(defence))
        assert ("labels" in files) == (plan.config["defences"][defence]["kind"] == "oracle")


def test_the_untouched_set_is_the_clean_one(plan, options):
    clean = at(attack="none")
    assert plan.training_samples(clean) == "results/data/scienceqa/s0/train.json"
    assert plan.training_images(clean) == "results/data/scienceqa/raw"
    assert plan.labels_if_any(clean) == [] and plan.labels_if_any(at()) == "results/labels/scienceqa/badnet/s0.parquet"
    assert plan.test_files(clean)["triggered"] == []
    assert "--target" not in options.evaluate(clean) and "--target" in options.evaluate(at())


def test_who_answers_and_to_what(plan):
    cell = "results/tiny/scienceqa/badnet/s0"
    assert plan.evaluated_adapter(at("bye")) == f"{cell}/bye/adapter"
    for defence in ("vanilla", "zip", "mine"):
        assert plan.evaluated_adapter(at(defence)) == f"{cell}/vanilla/adapter"
    assert plan.test_files(at("zip"))["clean"] == "results/data/scienceqa/s0/zip/test.json"
    assert plan.test_files(at("bye"))["clean"] == "results/data/scienceqa/s0/test.json"


def test_a_guard_gets_its_settings_and_its_clean_samples(plan, options):
    words = shlex.split(options.evaluate(at("mine")))
    assert words[words.index("--guard") + 1] == "guard.py" and words[words.index("--tau") + 1] == "0.5"
    assert words[words.index("--reference") + 1] == "results/data/scienceqa/s0/test.json"
    assert plan.guard_files(at("mine")) == ["results/data/scienceqa/s0/test.json", "guard.py"]
    plan.config["datasets"]["scienceqa"]["reference"] = 5  # set apart: then these, and the mini set has as many more
    assert "--reference results/data/scienceqa/s0/reference.json" in options.evaluate(at("mine"))
    assert plan.detector_files(at("sentinet"))["reference"] == "results/data/scienceqa/s0/reference.json"
    n_test = plan.config["datasets"]["scienceqa"]["test"]
    assert f"--test {n_test + 5}" in options.mini(at()) and f"--test {n_test} --reference 5" in options.prepare(at())
    assert plan.guard_files(at("bye")) == [] and "--guard" not in options.evaluate(at("bye"))


def test_a_local_model_is_an_input_and_so_is_a_purifiers(plan):
    assert any(path.endswith("model.safetensors") for path in plan.model_files(at()))
    assert any(path.endswith("unet/config.json") for path in plan.purifier_files(at("zip")))


def test_detectors_that_write_the_same_files_share_a_rule(plan):
    rules = plan.detectors()
    assert set(rules) == {"detect", "detect_layers"} and "bye" in rules["detect_layers"]
    assert {"random_drop", "oracle", "sentinet"} == set(rules["detect"])


# ---- resources -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cores", "machine", "threads"), [(4, 2, 2), (16, 16, 1), (1, 8, 1), (None, 2, 1)])
def test_a_job_with_torch_counts_as_one_core_of_the_machine(config, cores, machine, threads):
    assert JobResources(Files(config), cores, machine).torch_threads(at()) == threads


def test_only_who_runs_the_model_asks_for_its_resources(config):
    config["models"]["tiny"]["resources"] = {"mem_mb": 5000, "runtime": 99, "gpu": 4}
    needs = JobResources(Files(config), cores=4, machine_cores=4)
    assert (
        needs.detector_mem_mb(at("sentinet"), attempt=2) == 10000
        and needs.detector_mem_mb(at("bye"), attempt=2) == 1000
    )
    assert (needs.detector_gpu(at("sentinet")), needs.detector_gpu(at("bye"))) == (1, 0)
    assert (needs.gpu(at()), needs.processes(at()), needs.process_threads(at())) == (4, 4, 4)


# ---- entries ---------------------------------------------------------------------------------------------------------


def test_a_table_asks_for_the_files_of_its_columns(config):
    found = entries.cell_files(config, "table1")
    assert {(cell.defence, file) for cell, file in found} == {("vanilla", "eval.json"), ("bye", "eval.json")}
    config["tables"]["table1"]["columns"].append({"column": "f1", "defences": ["bye"]})
    assert ("bye", "detection.json") in {(cell.defence, file) for cell, file in entries.cell_files(config, "table1")}
    config["tables"]["table1"]["columns"].append({"name": "before", "column": "ASR", "defence": "random_drop"})
    assert ("random_drop", "eval.json") in {(cell.defence, file) for cell, file in entries.cell_files(config, "table1")}


def test_the_untouched_set_has_no_files_of_columns_that_need_poison(config):
    config["tables"]["table2"]["attack"] = "none"
    config["tables"]["table2"]["columns"] = ["model", "f1", "ASR", "dropped"]
    check(config)
    assert {file for _, file in entries.cell_files(config, "table2")} == {"flags.parquet"}


def test_whatever_an_entry_names_is_planned(config):
    """Each defence that a table names gets files of its own, or the check says why not."""
    for defence in config["defences"]:
        config["tables"] = {"all": {"model": "tiny", "dataset": "scienceqa", "attack": "badnet", "defences": [defence]}}
        config["tables"]["all"] |= {"caption": "All", "columns": ["method", "CP", "f1"]}
        planned = {cell.defence for cell, file in entries.cell_files(config, "all") if file == "detection.json"}
        if entries.method_of(config, defence).acts_on == "training set":
            check(config)
            assert planned == {defence}
        else:
            with pytest.raises(
                ByeError, match=rf"tables.all.columns: f1 is a number of flagged samples, and {defence} "
            ):
                check(config)


def test_what_a_fine_tune_trained_is_asked_where_there_is_one(config):
    """Of the plain fine-tune and of one after a detector, each with its own time; a guard and a purifier have none."""
    entry = {"model": "tiny", "dataset": "scienceqa", "attack": "badnet", "caption": "All"}
    config["tables"] = {"all": entry | {"defences": ["vanilla", "bye"], "columns": ["method", "tuning", "trained"]}}
    check(config)
    wanted = [f"results/tiny/scienceqa/badnet/s0/{defence}/adapter" for defence in ("vanilla", "bye")]
    assert entries.table_files(config, "all")["cells"] == wanted
    config["tables"]["all"]["columns"].append("finetune_seconds")
    told = definition(config, "all")
    assert told["tuning"] == {"tiny": "lora"} and told["benchmarks"]["finetune_seconds"] == {
        f"tiny/{defence}/scienceqa/badnet": [f"results/benchmarks/{rule}/tiny.scienceqa.badnet.s0.{defence}.tsv"]
        for defence, rule in (("vanilla", "finetune_vanilla"), ("bye", "finetune"))
    }
    for defence in ("zip", "mine"):
        config["tables"]["all"]["defences"] = [defence]
        with pytest.raises(ByeError, match=f"trained is of a fine-tune, and {defence} has none of its own"):
            check(config)


def test_targets_are_those_of_the_entries(config):
    found = entries.targets(config)
    assert {"results/table1.csv", "results/figure4.csv", "results/figure4.pdf", "results/figure3.png"} <= set(found)
    assert "results/tiny/scienceqa/badnet/s0/bye/entropy.png" in found and len(found) == len(set(found))
    config["tables"] = {"mine": {**config["tables"]["table1"]}}
    assert entries.targets(config) == ["results/mine.csv"]


def test_designs_are_drawn_from_the_test_samples_with_and_without_each_trigger(config, options):
    config["attacks"]["blend"] = {"trigger": "blend", "rate": 0.1, "target": "Bang!"}
    config["tables"] = {"mine": {"dataset": "scienceqa", "attacks": ["badnet", "blend"], "figure": "designs"}}
    settings.check(config, ROOT)
    data = "results/data/scienceqa"
    samples = [f"{data}/s0/test.json", f"{data}/badnet/s0/triggered.json", f"{data}/blend/s0/triggered.json"]
    assert entries.figure_files(config, "mine") == {"samples": samples}
    images = [f"{data}/raw", f"{data}/badnet/s0/triggered", f"{data}/blend/s0/triggered"]
    told = options.figure(Wildcards(fromdict={"name": "mine"}))
    assert told == f"designs-figure --samples {' '.join(samples)} --names badnet blend --images {' '.join(images)}"


def test_a_table_is_told_no_more_than_it_shows(config):
    told = definition(config, "table2")
    assert told["paper"]["models"] == {"tiny": "llava-1.5-7b"} and "benchmarks" not in told and "rates" not in told
    assert "paper" not in definition(config, "figure4")


# ---- what an entry cannot be -----------------------------------------------------------------------------------------

TINY = {"model": "tiny", "dataset": "scienceqa", "attack": "badnet"}
BYE = {**TINY, "defence": "bye"}
TWO = {**TINY, "defences": ["bye", "tau_0"]}
LAYERS = {**TINY, "rows": "layers", "columns": ["layer", "bsi"]}


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({**LAYERS}, "has no defences"),
        ({**LAYERS, "defence": "sentinet"}, "sentinet chooses none; name one that writes layers.csv"),
        ({**LAYERS, "defence": "bye", "attack": "none"}, "compares layers with the truth"),
        ({**LAYERS, "defences": ["bye", "tau_0"]}, "of one detector in its rows, not of bye, tau_0"),
        ({**LAYERS, "defence": "bye", "pivot": "method"}, "pivot is for rows that are cells"),
        ({**LAYERS, "defence": "bye", "columns": [{"setting": "tau"}]}, "is for rows that are cells, not layers"),
        ({"rows": "datasets", "attack": "badnet", "columns": ["dataset"]}, "and attacks, which they do not have"),
        (
            {**BYE, "columns": ["ASR", {"column": "ASR", "defence": "vanilla"}]},
            "two columns of the name",
        ),
        (
            {**BYE, "columns": [{"column": "f1", "defences": ["oracle"]}]},
            "oracle, which is no defence",
        ),
        (
            {**BYE, "columns": [{"column": "told", "defence": "oracle"}]},
            "no number of another defence",
        ),
        ({**BYE, "columns": [{"name": "v", "labels": {"by": "x"}}]}, "none for the defence bye"),
        ({**TINY, "defence": "random_drop", "columns": [{"setting": "share"}]}, "say of: attack or of: defence"),
        ({**BYE, "columns": [{"setting": "pasted"}]}, "'pasted', which not all of badnet, bye have"),
        ({**TWO, "columns": ["attack", "CP"]}, "add the column method"),
        ({**TWO, "columns": [{"setting": "trigger"}, "CP"]}, "add the column method"),
        (
            {**BYE, "columns": ["method", "CP"], "best": {"method": "max"}},
            "no number that can be best",
        ),
        (
            {**BYE, "columns": ["paper_CP"], "paper": {"table": 1, "setting": "{"}},
            "cannot be filled in",
        ),
        (
            {**BYE, "columns": ["CP"], "paper": {"table": 1, "method": "{tua}"}},
            "a setting of neither",
        ),
        (
            {**BYE, "columns": ["CP"], "files": ["nonsense.png"]},
            "a cell of bye has not; it has flags",
        ),
        ({**TINY, "defence": "vanilla", "columns": ["CP"], "files": ["entropy.png"]}, "a cell of vanilla has not"),
        (
            {**BYE, "columns": ["CP", "f1"], "figure": "bars"},
            "draws the columns model, dataset, variant",
        ),
        (
            {"model": "tiny", "attack": "badnet", "figure": "maps", "datasets": ["scienceqa", "more"]},
            "one of the datasets",
        ),
        ({**BYE, "figure": "maps"}, "looks at no defences"),
        ({**TWO, "figure": "histograms"}, "one of the defences, not of bye, tau_0"),
        ({**TINY, "defence": "sentinet", "figure": "histograms"}, "sentinet has none; name another"),
        ({**TINY, "defence": "zip", "figure": "purified"}, "looks at no models"),
        ({**BYE, "figure": "designs"}, "looks at no defences"),
        ({"attack": "badnet", "figure": "designs", "datasets": ["scienceqa", "more"]}, "one of the datasets"),
        ({**TINY, "defence": "zip", "figure": "ratios"}, "what a guard hides, and zip is none; name another"),
        ({**TINY, "defence": "zip", "columns": ["caught_clean"]}, "what a guard catches, and zip acts on test images"),
    ],
)
def test_what_cannot_be_made_is_said(config, entry, told):
    config["datasets"]["more"] = config["datasets"]["scienceqa"]
    config["tables"] = {"mine": {"caption": "Mine", **entry}}
    with pytest.raises(ByeError) as caught:
        check(config)
    assert told in str(caught.value) and "tables.mine" in str(caught.value)


def test_a_key_of_an_entry_that_is_null_is_not_there(config):
    config["tables"] = {"mine": {**BYE, "defences": ["bye"], "columns": ["CP"]}}
    with pytest.raises(ByeError, match="has both defences and defence; keep one"):
        check(config)
    config["tables"]["mine"]["defence"] = None
    settings.check(config, ROOT)
    assert entries.targets(config) == ["results/mine.csv"]


def test_rates_tell_attacks_apart_also_where_defences_are_columns(config):
    config["attacks"]["more"] = {**config["attacks"]["badnet"], "rate": 0.2}
    entry = {**TINY, "attacks": ["badnet", "more"], "defences": ["bye", "oracle"], "columns": ["rate", "f1"]}
    del entry["attack"]
    config["tables"] = {"mine": {"caption": "Mine", **entry, "pivot": "method"}}
    check(config)
    config["attacks"]["more"]["rate"] = config["attacks"]["badnet"]["rate"]
    with pytest.raises(ByeError, match="rows of badnet and of more that no column tells apart; add the column attack"):
        check(config)


def test_a_text_that_looks_like_json_is_a_target(config, options):
    config["attacks"]["badnet"]["target"] = "{pwned}"
    words = shlex.split(options.poison(at()))
    assert target_of(words[words.index("--target") + 1]) == {"kind": "replace", "text": "{pwned}"}


@pytest.mark.parametrize("name", ["train", "test", "metric"])
def test_a_set_with_official_splits_needs_its_sizes(tiny_model, name):
    config = small_config(tiny_model("llava"))
    del config["datasets"]["scienceqa"][name]
    with pytest.raises(ByeError, match=f"config key datasets.scienceqa lacks {name}; add it"):
        settings.check(config, ROOT)


def test_the_table_of_guards_can_be_made():
    """config/guards.yaml over config.yaml: what each row is made of, and what its time is the time of."""
    config = settings.read_config([ROOT / "config.yaml", ROOT / "config/guards.yaml"])
    settings.check(config, ROOT)
    plan, options = Files(config), Options(Files(config))
    here = {"model": "llava-mini", "dataset": "scienceqa-apart", "attack": "badnet", "seed": "0"}
    cell = Wildcards(fromdict={**here, "defence": "cleansight"})
    assert plan.guard_files(cell) == ["results/data/scienceqa-apart/s0/reference.json"]
    assert "--guard cleansight --preset paper" in options.evaluate(cell)
    files = entries.table_files(config, "table10")
    assert files["reference"] == ["results/data/scienceqa-apart/s0/reference.json"]
    seconds = definition(config, "table10")["benchmarks"]["answer_seconds"]
    assert seconds["llava-mini/zip/scienceqa-apart/badnet"] == [
        "results/benchmarks/purify_test/scienceqa-apart.s0.zip.tsv",
        "results/benchmarks/purify_triggered/scienceqa-apart.badnet.s0.zip.tsv",
        "results/benchmarks/evaluate/llava-mini.scienceqa-apart.badnet.s0.zip.tsv",
    ]
    assert seconds["llava-mini/vanilla/scienceqa-apart/badnet"] == [
        "results/benchmarks/evaluate/llava-mini.scienceqa-apart.badnet.s0.vanilla.tsv"
    ]
    drawn, run = entries.figure_files(config, "figure6"), "results/llava-mini/scienceqa-apart"
    assert drawn["predictions"][0] == f"{run}/badnet/s0/cleansight_released/predictions.parquet"
    assert drawn["attention"][1] == f"{run}/blend/s0/vanilla/attention.parquet"
    assert entries.figure_images(config, "figure6")[0] == "results/data/scienceqa-apart/badnet/s0/triggered"
