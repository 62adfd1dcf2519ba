"""LoRA adapters of others: what fits is loaded as PEFT would, known names are converted, the rest is an error."""

import json
import shutil
import warnings

import numpy as np
import pyarrow
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import TEMPLATES, stock_inputs, write_tiny_model

import bye.cli
import bye.models.family
from bye.errors import ByeError
from bye.files import write_json, write_parquet
from bye.methods.tuning import lora
from bye.models import load_model

WEIGHTS, CONFIG, BESIDE = "adapter_model.safetensors", "adapter_config.json", "non_lora_trainables.safetensors"
QKV = ["q_proj", "v_proj", "down_proj"]  # the tower of llava has the first two as well
DECODER, PROJECTOR = "base_model.model.model.language_model.", "base_model.model.model.multi_modal_projector."
SIZE = (64, 64)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """{family: folder} of base models."""
    folder = tmp_path_factory.mktemp("bases")
    return {family: write_tiny_model(family, folder / family) for family in TEMPLATES}


def write_adapter(base, folder, **settings):
    """Train nothing, but draw all of an adapter's weights; return its folder, as the suite writes it."""
    torch.manual_seed(1)
    adapted = lora.attach(load_model(base), lora_rank=4, **settings)
    draw(adapted)
    folder.mkdir(parents=True)
    lora.save(adapted, folder)
    return folder


def draw(adapted):
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, mean=1.0 if "magnitude" in name else 0.0, std=0.2)


def peft_adapter(base, folder, **settings):
    """The same by PEFT alone, with settings of its own."""
    torch.manual_seed(1)
    model = load_model(base).model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, **settings))
        draw(adapted)
        adapted.save_pretrained(folder)
    return folder


def changed(adapter, folder, rename=None, drop=(), add=None, **settings):
    """A copy of an adapter with other keys (a function of each), without some, with more, and with other settings."""
    shutil.copytree(adapter, folder)
    weights = load_file(adapter / WEIGHTS)
    weights = {key: weights[key] for key in weights if key not in drop} | (add or {})
    save_file({rename(key) if rename else key: tensor for key, tensor in weights.items()}, folder / WEIGHTS)
    config = json.loads((adapter / CONFIG).read_text())
    write_json(folder / CONFIG, config | settings)
    return folder


def logits(loaded, model=None):
    """Of one prompt on one image, by the library's own forward pass."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8))
    ids = loaded.encoder.prompt("What is it?", SIZE).ids
    with torch.no_grad():
        return (model or loaded.model)(**stock_inputs(loaded, ids, image)).logits


def by_peft(base, adapter):
    """Logits of the model with an adapter in our names, loaded by PEFT alone."""
    loaded = load_model(base)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", FutureWarning)
        return logits(loaded, PeftModel.from_pretrained(loaded.model, str(adapter)))


def same(base, adapter, ours, **options):
    """Whether an adapter gives the same weights as the one in our names, to the bit, and others than the base."""
    found, wanted, bare = (load_model(base, each, **options).model for each in (adapter, ours, None))
    found, wanted = found.state_dict(), wanted.state_dict()
    assert list(found) == list(wanted)
    assert any(name not in found or not torch.equal(tensor, found[name]) for name, tensor in bare.state_dict().items())
    return all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())


# ---- our own -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("projector", [False, True])
@pytest.mark.parametrize("family", TEMPLATES)
def test_our_own_adapter_is_loaded_as_peft_does_it(bases, tmp_path, capsys, family, projector):
    adapter = write_adapter(bases[family], tmp_path / "adapter", lora_projector=projector)
    base = load_model(bases[family]).model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().state_dict()
    found = load_model(bases[family], adapter).model.state_dict()
    assert list(found) == list(merged) and all(torch.equal(tensor, found[name]) for name, tensor in merged.items())
    half = load_model(bases[family], adapter, dtype="bfloat16")
    again = load_model(bases[family], dtype="bfloat16")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        unmerged = PeftModel.from_pretrained(again.model, str(adapter)).base_model.model.state_dict()
    found = half.model.state_dict()
    assert list(found) == list(unmerged) and all(torch.equal(tensor, found[name]) for name, tensor in unmerged.items())
    assert capsys.readouterr().err == ""


def test_no_draw_of_random_numbers_and_no_file_is_changed_by_the_check(bases, tmp_path):
    adapter, loaded = write_adapter(bases["llava"], tmp_path / "adapter"), load_model(bases["llava"])
    files = [*adapter.iterdir(), *bases["llava"].iterdir()]
    before, state = [file.read_bytes() for file in files], torch.get_rng_state()
    lora.check(loaded, adapter)
    assert torch.equal(torch.get_rng_state(), state)
    load_model(bases["llava"], adapter)
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": QKV, "use_rslora": True},
        {"target_modules": QKV, "use_dora": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["multi_modal_projector"]},
        {"target_modules": "all-linear", "rank_pattern": {"o_proj": 2}, "alpha_pattern": {"o_proj": 3}},
        {"target_modules": QKV, "layers_to_transform": [0, 1], "layers_pattern": "layers"},
    ],
    ids=["rslora", "dora", "modules_to_save", "all-linear", "layers"],
)
def test_adapters_of_peft_with_settings_of_its_own(bases, tmp_path, settings):
    adapter = peft_adapter(bases["llava"], tmp_path / "adapter", **settings)
    torch.testing.assert_close(
        logits(load_model(bases["llava"], adapter)), by_peft(bases["llava"], adapter), atol=1e-4, rtol=1e-4
    )
    nowhere = changed(adapter, tmp_path / "nowhere", base_model_name_or_path="nobody/nothing")
    assert same(bases["llava"], nowhere, adapter)


# ---- names that are known --------------------------------------------------------------------------------------------


def llava_name(key):
    """As LLaVA's own repository has it, written out here once more."""
    key = key.replace("model.language_model.layers", "model.layers")
    key = key.replace("multi_modal_projector.linear_1", "mm_projector.0")
    return key.replace("multi_modal_projector.linear_2", "mm_projector.2")


@pytest.mark.parametrize("family", ["llava", "llava_next"])
@pytest.mark.parametrize(
    "targets", [QKV, [f"model.layers.{n}.{name}" for n in range(3) for name in ("self_attn.q_proj", "self_attn.v_proj")]
                + [f"model.layers.{n}.mlp.down_proj" for n in range(3)], r"model\.layers\.\d+\..*(q|v|down)_proj"],
    ids=["short names", "full names", "a pattern"],
)  # fmt: skip
def test_names_of_llavas_own_repository_are_converted(bases, tmp_path, capsys, family, targets):
    ours = write_adapter(bases[family], tmp_path / "ours", lora_targets=QKV)
    theirs = changed(ours, tmp_path / "theirs", llava_name, target_modules=targets, base_model_name_or_path="lm/base")
    assert all("language_model" not in key for key in load_file(theirs / WEIGHTS))
    capsys.readouterr()
    torch.testing.assert_close(
        logits(load_model(bases[family], theirs)), by_peft(bases[family], ours), atol=1e-4, rtol=1e-4
    )
    assert capsys.readouterr().err.splitlines() == [
        f"adapter {theirs} (made on lm/base): 18 of 18 keys have names of LLaVA's own repository and are converted on "
        "loading",
        f"adapter {theirs}: it has no {BESIDE}, so the projector is the model's own",
    ]
    assert same(bases[family], theirs, ours)
    assert same(bases[family], theirs, ours, dtype="bfloat16")


@pytest.mark.parametrize("beside", [True, False], ids=["beside", "in the adapter"])
def test_llavas_projector_in_full_is_put_in(bases, tmp_path, capsys, beside):
    ours = write_adapter(bases["llava"], tmp_path / "ours", lora_targets=QKV)
    drawn = {f"linear_{n}.weight": torch.randn(32, 32) for n in (1, 2)}
    drawn |= {f"linear_{n}.bias": torch.randn(32) for n in (1, 2)}
    full = {llava_name(PROJECTOR + name): tensor for name, tensor in drawn.items()}
    assert "base_model.model.model.mm_projector.2.bias" in full
    theirs = changed(ours, tmp_path / "theirs", llava_name, add={} if beside else full, target_modules=QKV)
    if beside:
        save_file(full, theirs / BESIDE)
        (theirs / BESIDE).with_suffix(".bin").write_bytes(b"the same, pickled")
    found, wanted = (load_model(bases["llava"], each).model for each in (theirs, ours))
    told = capsys.readouterr().err
    assert "22 of 22 keys have names of LLaVA's own repository" in told
    assert "it replaces 4 weights of the model (the first is model.multi_modal_projector.linear_" in told
    state = found.state_dict()
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(state[name], drawn.get(name.removeprefix("model.multi_modal_projector."), tensor)), name


def test_lora_of_llavas_projector_and_ranks_of_its_own(bases, tmp_path):
    ours = write_adapter(bases["llava"], tmp_path / "ours", lora_projector=True)
    theirs = changed(
        ours, tmp_path / "theirs", llava_name, target_modules=[*lora.TARGETS, "mm_projector.0", "mm_projector.2"]
    )
    assert same(bases["llava"], theirs, ours)
    names = [f"model.language_model.layers.{n}.self_attn.{name}" for n in range(3) for name in ("q_proj", "v_proj")]
    patterns = {"rank_pattern": {names[2]: 2, "v_proj": 3}, "alpha_pattern": {names[2]: 5}}
    ours = peft_adapter(bases["llava"], tmp_path / "ranks", target_modules=names, **patterns)
    patterns = {key: {llava_name(name): value for name, value in given.items()} for key, given in patterns.items()}
    theirs = changed(ours, tmp_path / "their ranks", llava_name, target_modules=["q_proj", "v_proj"], **patterns)
    assert same(bases["llava"], theirs, ours)
    settings = {"target_modules": names, "modules_to_save": ["multi_modal_projector"], "use_dora": True}
    ours = peft_adapter(bases["llava"], tmp_path / "saved", **settings)
    settings = {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["mm_projector"]}
    assert same(bases["llava"], changed(ours, tmp_path / "their saved", llava_name, **settings), ours)


OLDER = {
    "before 4.52": (
        ("base_model.model.model.language_model.", "base_model.model.language_model.model."),
        ("base_model.model.model.multi_modal_projector.", "base_model.model.multi_modal_projector."),
        ("base_model.model.model.vision_tower.", "base_model.model.vision_tower.vision_model."),
        ("base_model.model.lm_head", "base_model.model.language_model.lm_head"),
    ),
    "4.52": (("base_model.model.model.vision_tower.", "base_model.model.model.vision_tower.vision_model."),),
    "no prefix": (("base_model.model.", ""),),
    "an adapter's name": ((".lora_A.weight", ".lora_A.default.weight"), (".lora_B.weight", ".lora_B.default.weight")),
}


@pytest.mark.parametrize("version", OLDER)
@pytest.mark.parametrize("family", ["llava", "llava_next", "internvl"])
def test_names_of_older_versions_are_converted(bases, tmp_path, capsys, family, version):
    def older(key):
        for ours, theirs in OLDER[version]:
            key = key.replace(ours, theirs)
        return key.replace("vision_tower.vision_model", "vision_tower") if family == "internvl" else key

    targets = [*QKV, "linear_1", *(["lm_head"] if family != "internvl" else [])]  # whose head is tied
    ours = peft_adapter(bases[family], tmp_path / "ours", target_modules=targets)
    assert any("vision_tower" in key for key in load_file(ours / WEIGHTS))
    theirs = changed(ours, tmp_path / "theirs", older)
    capsys.readouterr()
    assert same(bases[family], theirs, ours)
    if not (family == "internvl" and version == "4.52"):  # whose names are those of today
        assert "are converted on loading" in capsys.readouterr().err
    half = sorted(key for key in load_file(ours / WEIGHTS) if "lora_" in key)[::2]
    with pytest.raises(ByeError, match=f"it lacks {len(half)} keys of its adapted layers"):
        load_model(bases[family], changed(ours, tmp_path / "half", older, drop=half))


# ---- what does not fit -----------------------------------------------------------------------------------------------

FIRST = f"{DECODER}layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture(scope="module")
def adapters(bases, tmp_path_factory):
    """{family: folder} of adapters, in our names."""
    folder = tmp_path_factory.mktemp("adapters")
    return {family: write_adapter(base, folder / family, lora_targets=QKV) for family, base in bases.items()}


@pytest.fixture
def no_weights(monkeypatch):
    """Fail where a weight is read, of a base model or of an adapter."""

    def fail(*arguments, **options):
        raise AssertionError("weights are read")

    for model_class in (family.classes()[0] for family in bye.models.families().values()):
        monkeypatch.setattr(model_class, "from_pretrained", fail)
    monkeypatch.setattr("bye.models.adapters._read", fail)


@pytest.mark.parametrize("family", TEMPLATES)
def test_keys_that_do_not_all_fit(bases, adapters, tmp_path, no_weights, family):
    ours = adapters[family]
    keys = sorted(load_file(ours / WEIGHTS))
    one = {"base_model.model.model.language_model.layers.9.self_attn.q_proj.lora_A.weight": torch.zeros(4, 32)}
    other = {FIRST: torch.zeros(4, 48)}
    untouched = {FIRST.replace("q_proj", "k_proj"): torch.zeros(4, 32)}

    def renamed(key):
        return key.replace("layers.0.self_attn.q_proj.lora_A", "layers.0.self_attention.q_proj.lora_A")

    for name, options, told in (
        ("half", {"drop": keys[::2]}, r": it lacks 9 keys of its adapted layers \(the first is .*copy it again or"),
        (
            "a layer",
            {"add": one},
            rf": there is no place for 1 of its 19 keys \(the first is {next(iter(one))}\); give",
        ),
        ("no target", {"add": untouched}, r": there is no place for 1 of its 19 keys .*k_proj"),
        (
            "a shape",
            {"add": other},
            r": the shape of 1 of its 18 keys is another \(.*, \[4, 48\] in place of \[4, 32\]\)",
        ),
        (
            "rank",
            {"r": 8},
            r": the shape of 18 of its 18 keys is another .*; .* or correct r in its adapter_config.json",
        ),
        (
            "renamed",
            {"rename": renamed},
            r": there is no place for 1 of its 18 keys .*, and it lacks 1 key .* rename its ke",
        ),
        ("foreign", {"rename": lambda key: f"x.{key}"}, rf"18 of its 18 .*such as {FIRST.split('layers')[0]}layers.0"),
        ("one layer less", {"target_modules": ["nothing"]}, r"does not fit the model .* correct its adapter_config"),
    ):
        adapter = changed(ours, tmp_path / name, **options)
        with pytest.raises(ByeError, match=told) as caught:
            load_model(bases[family], adapter)
        assert f"adapter {adapter} does not fit the model {bases[family]}" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["internvl", "qwen3_vl"])
def test_an_adapter_of_llavas_repository_is_none_of_another_family(bases, tmp_path, adapters, family):
    theirs = changed(adapters["llava"], tmp_path / "theirs", llava_name, target_modules=QKV)
    with pytest.raises(ByeError, match="there is no place for 18 of its 18 keys"):
        load_model(bases[family], theirs)


def test_half_of_llavas_names_is_an_error_in_them(bases, tmp_path, adapters, no_weights):
    drop = [key for key in load_file(adapters["llava"] / WEIGHTS) if "layers.1" in key or "layers.2" in key]
    theirs = changed(adapters["llava"], tmp_path / "theirs", llava_name, drop=drop, target_modules=QKV)
    with pytest.raises(
        ByeError, match=r"it lacks 12 keys .* \(the first is base_model.model.model.layers.1."
    ) as caught:
        load_model(bases["llava"], theirs)
    assert "vision_tower" not in str(caught.value)
    extra = {"base_model.model.model.mm_projector.4.weight": torch.zeros(32, 32)}
    theirs = changed(adapters["llava"], tmp_path / "more", llava_name, target_modules=QKV)
    save_file(extra, theirs / BESIDE)
    with pytest.raises(ByeError, match=r"1 of its 19 keys \(the first is .*mm_projector.4.weight"):
        load_model(bases["llava"], theirs)


def test_folders_that_are_no_lora_adapter(bases, adapters, tmp_path, no_weights):
    def refused(name, told, **settings):
        adapter = tmp_path / name
        if not adapter.exists():
            changed(adapters["llava"], adapter, **settings)
        with pytest.raises(ByeError, match=told):
            load_model(bases["llava"], adapter)

    refused("ia3", "adapter_config.json is of peft_type 'IA3'; LoRA alone is read", peft_type="IA3")
    refused("none", "adapter_config.json is of peft_type None", peft_type=None)
    refused("targets", "has no target_modules", target_modules=None)
    refused("rank", "has no settings of LoRA|does not fit", r="many")
    refused("pattern", "does not fit the model .* correct its adapter_config.json", target_modules="(")
    refused("alora", "sets alora_invocation_tokens, with which LoRA is no part", alora_invocation_tokens=[1, 2])
    refused("layers", "sets layer_replication", layer_replication=[[0, 2], [1, 3]])
    pickled = changed(adapters["llava"], tmp_path / "pickled", llava_name, target_modules=QKV)
    (pickled / BESIDE).with_suffix(".bin").write_bytes(b"pickle")
    refused("pickled", "non_lora_trainables.bin, which is pickled and could run code .*; write them to non_lora_train")
    for name, content in (("text", b"not safetensors at all"), ("cut", (pickled / WEIGHTS).read_bytes()[:3000])):
        broken = changed(adapters["llava"], tmp_path / name)
        (broken / WEIGHTS).write_bytes(content)
        refused(name, "cannot be read as safetensors .*; copy it again")
    save_file({}, changed(adapters["llava"], tmp_path / "empty") / WEIGHTS)
    refused("empty", "has no weights")
    (changed(adapters["llava"], tmp_path / "json") / CONFIG).write_text("{")
    refused("json", "is not valid JSON")


def test_every_stage_that_reads_an_adapter_refuses_it(bases, adapters, tmp_path, capsys):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "0.png")
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A dog"}]
    write_json(
        tmp_path / "samples.json", [{"id": f"s{n}", "image": "0.png", "conversations": turns} for n in range(20)]
    )
    half = changed(adapters["llava"], tmp_path / "half", drop=list(load_file(adapters["llava"] / WEIGHTS))[::2])
    samples = ["--samples", tmp_path / "samples.json", "--images", tmp_path]
    clean = ["--clean", tmp_path / "samples.json", "--clean-images", tmp_path, "--metric", "accuracy"]
    clean += ["--max-new-tokens", "4", "--predictions", tmp_path / "predictions.parquet"]
    maps = ["--maps-for", "s1", "--maps-out", tmp_path / "maps.npz"]
    write_parquet(tmp_path / "labels", pyarrow.table({"id": [f"s{n}" for n in range(20)], "poisoned": [True] * 20}))
    labelled = [*samples, "--labels", tmp_path / "labels"]
    reference = ["--reference", tmp_path / "samples.json", "--reference-images", tmp_path]
    for words in (
        ["detect", "--kind", "sentinet", *samples, *reference, "--flags", tmp_path / "flags.parquet"],
        ["attention-maps", *labelled, "--out", tmp_path / "maps.npz"],
        ["attention", *samples, "--out", tmp_path / "attention.parquet"],
        ["attention", *samples, *maps, "--out", tmp_path / "attention.parquet"],
        ["evaluate", *clean, "--out", tmp_path / "eval.json"],
    ):
        with pytest.raises(SystemExit) as caught:
            bye.cli.main([*map(str, words), "--model", str(bases["llava"]), "--adapter", str(half), "--threads", "1"])
        assert caught.value.code == 2
        assert "it lacks 9 keys of its adapted layers" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.parquet")) and not (tmp_path / "eval.json").exists()
