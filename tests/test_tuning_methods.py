"""Every tuning method of the suite beside LoRA: trained, killed and resumed, loaded, counted, against PEFT's passes;
virtual tokens against tokens that stand in the sequence."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from tiny_models import TEMPLATES, stock_inputs, write_samples, write_tiny_model

import bye.cli
from bye.answers.generate import generate
from bye.errors import ByeError
from bye.extraction.reductions import Reduction
from bye.extraction.rows import answer_rows
from bye.methods.tuning import prefix, prompt
from bye.models import load_model
from bye.models.attention import record_decoder
from bye.models.guard import Guard
from bye.models.prompt import IMAGE, SYSTEM
from bye.registry import find
from bye.training import finetune as stage
from bye.training.trainer import Watch

SETTINGS = {
    "rslora": {"lora_rank": 2},
    "dora": {"lora_rank": 2, "lora_projector": True},
    "ia3": {},
    "prompt": {"prompt_tokens": 5},
    "prefix": {"prefix_tokens": 5},
    "adapter": {"adapter_size": 4},
    "layers": {"layers": [-1]},
    "biases": {},
}
EVERY = pytest.mark.parametrize("kind", SETTINGS)
OF_PEFT = ("rslora", "dora", "ia3", "prompt", "prefix")
SHARED_KEYS = [
    ("ia3", "internvl"),
    ("prefix", "internvl"),
    ("biases", "internvl"),
]  # heads share keys, some have biases
QUESTIONS = ["What is it?", "a", "Is it red, or is it a small black dog?"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A checkpoint of each family, images and samples."""
    root = tmp_path_factory.mktemp("methods")
    for family in TEMPLATES:
        write_tiny_model(family, root / family, layers=2)
    write_samples(root)
    return root


@pytest.fixture(scope="module")
def tuned(root, tmp_path_factory):
    """A function that gives the folder of a kind's fine-tune of a family, done once."""
    folder, done = tmp_path_factory.mktemp("tuned"), {}

    def of(kind, family="llava"):
        if (kind, family) not in done:
            done[kind, family] = train(root, folder / f"{family}-{kind}", kind, family)
        return done[kind, family]

    return of


def train(root, out, kind, family="llava", **options):
    settings = {"epochs": 2, "learning_rate": 1e-2, "threads": 1, "seed": 3, "tuning": kind, **SETTINGS[kind]}
    stage.finetune(root / family, root / "samples.json", root, out, out.with_suffix(".csv"), **{**settings, **options})
    return out


def losses(out):
    return np.loadtxt(out.with_suffix(".csv"), delimiter=",", skiprows=1)[:, 2]


def learned(out):
    """Whether the loss fell from the first epoch to the last; the last of an epoch's three steps has one sample."""
    of_epochs = losses(out).reshape(-1, 3)[:, :2].mean(axis=1)
    return of_epochs[-1] < of_epochs[0]


def saved(out):
    """{name: tensor} of all that a fine-tune saved."""
    return {name: each for path in sorted(out.glob("*.safetensors")) for name, each in load_file(path).items()}


@pytest.mark.parametrize("kind", ["ia3", "prompt", "adapter", "biases"])
def test_killed_and_started_again_gives_the_same_bytes(root, tuned, tmp_path, monkeypatch, kind):
    plain, out, on_save = tuned(kind), tmp_path / "killed", Watch.on_save

    def killed(self, *arguments, **options):
        on_save(self, *arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Watch, "on_save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(root, out, kind)
    monkeypatch.undo()
    assert not out.exists()
    train(root, out, kind)
    for path in [*plain.iterdir(), plain.with_suffix(".csv")]:
        other = out.with_suffix(".csv") if path.suffix == ".csv" else out / path.name
        assert path.read_bytes() == other.read_bytes(), path.name


@pytest.mark.parametrize(("kind", "family"), [*((kind, "llava") for kind in SETTINGS), *SHARED_KEYS])
def test_counted_without_weights_it_is_as_large_as_what_is_saved(root, tuned, kind, family):
    method = find("tuning method", kind)
    number, words = method.bind("count", SETTINGS[kind])(load_model(root / family, weights=False))
    assert number == sum(each.numel() for each in saved(tuned(kind, family)).values()), words


@EVERY
def test_it_learns_and_nothing_else_of_the_model_changes(root, tuned, kind):
    assert learned(tuned(kind))
    base, loaded = load_model(root / "llava"), load_model(root / "llava", tuned(kind), tuning=kind)
    before, after = dict(base.model.named_parameters()), dict(loaded.model.named_parameters())
    changed = {name for name, each in before.items() if name in after and not torch.equal(after[name], each)}
    assert changed <= {
        name for name in before if ".language_model.layers." in name or ".multi_modal_projector." in name
    }
    assert not any(each.requires_grad for each in loaded.model.parameters())
    if kind in ("layers", "biases"):
        own = saved(tuned(kind))
        assert changed == own.keys() & before.keys()
        assert all(torch.equal(after[name], each) for name, each in own.items())
    if kind == "layers":
        assert changed == {name for name in before if ".language_model.layers.1." in name}
    if kind == "biases":
        added = after.keys() - before.keys()
        assert added == own.keys() - before.keys() and all(".language_model.layers." in name for name in added)


@pytest.mark.parametrize(("kind", "family"), [*((kind, "llava") for kind in OF_PEFT), *SHARED_KEYS[:2]])
@torch.no_grad()
def test_peft_itself_reads_it_and_gives_the_same_logits(root, tuned, kind, family):
    loaded, theirs = load_model(root / family, tuned(kind, family), tuning=kind), load_model(root / family)
    tokens, image = loaded.prompt("s", QUESTIONS[2]), Image.open(root / "0.png").convert("RGB")
    adapted = PeftModel.from_pretrained(theirs.model, str(tuned(kind, family)))
    wanted = adapted(**stock_inputs(theirs, tokens.ids, image)).logits[0, -len(tokens.ids) :]
    base = load_model(root / family).model(**stock_inputs(theirs, tokens.ids, image)).logits[0]
    found = loaded.model(**stock_inputs(loaded, tokens.ids, image)).logits[0]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert (found - base).abs().max() > 1e-2


def in_the_sequence(loaded, numbers, tokens, features, hidden=None):
    """The library's output with the prompt's embeddings before the others, by eager attention.

    hidden: numbers of tokens that those after the image do not see in the last layer.
    """
    n, ids = len(numbers), torch.from_numpy(tokens.ids)[None]
    inputs = loaded.inputs(ids, [features])
    inputs["inputs_embeds"] = torch.cat([numbers[None], inputs["inputs_embeds"]], dim=1)
    positions = inputs.get("position_ids")
    if positions is not None:
        virtual = torch.arange(n).expand(len(positions), 1, n)
        inputs["position_ids"] = torch.cat([virtual, positions + n], dim=2)
    after = n + int(np.flatnonzero(tokens.ids == loaded.image_token_id)[-1]) + 1

    def mask_by_hand(module, arguments, options):
        mask = options["attention_mask"].clone()
        mask[:, :, after:, [n + place for place in hidden]] = -1e30
        return arguments, {**options, "attention_mask": mask}

    layer = loaded.layers[-1].self_attn
    hook = layer.register_forward_pre_hook(mask_by_hand, with_kwargs=True) if hidden is not None else None
    output = loaded.model(**inputs, output_attentions=True, use_cache=False)
    if hook:
        hook.remove()
    return output


class HideFirst(Guard):
    """Hides the first four image tokens after the first layer."""

    layers = {0}

    def see(self, layer, row, roles):
        assert row.shape[-1] == roles.shape[1]
        on_image = roles == IMAGE
        return on_image & (on_image.cumsum(dim=1) <= 4)


@pytest.fixture
def prompted(root, tmp_path, request):
    """(a family with a strong prompt, the family on eager attention without it, the prompt's numbers, its inputs)."""
    loaded, eager = (load_model(root / request.param, attention=name) for name in ("sdpa", "eager"))
    prompt.attach(loaded, seed=1, prompt_tokens=6)
    loaded.model.requires_grad_(False)
    numbers = loaded.virtual.decoder.virtual_tokens
    numbers.mul_(2.0)
    with torch.no_grad():
        loaded.virtual.prepare()
        for each in (loaded, eager):  # so that no answer has one, which the library would take for an image
            each.model.lm_head.weight[each.image_token_id] = 0
    pictures = [Image.open(root / f"{i}.png").convert("RGB") for i in (0, 1)]
    features = [loaded.image_features(loaded.pixels([picture]))[0] for picture in pictures]
    sizes = [(picture.height, picture.width) if loaded.any_resolution else None for picture in pictures]
    return loaded, eager, numbers, features, sizes


BOTH_OWNERS = pytest.mark.parametrize("owners", [[0, 0, 0], [0, 1, 0]], ids=["one image", "two images"])
PROMPTED = pytest.mark.parametrize("prompted", TEMPLATES, indirect=True)


@PROMPTED
@BOTH_OWNERS
@torch.no_grad()
def test_attention_and_hidden_states_are_those_of_tokens_in_the_sequence(prompted, owners):
    """Also where an image that several questions share is run once; virtual tokens have the role of a system prompt."""
    loaded, eager, numbers, features, sizes = prompted
    record_decoder(loaded.model)
    talks = [[(question, "A dog")] for question in QUESTIONS]
    tokens = [loaded.conversation("s", talk, sizes[i]) for talk, i in zip(talks, owners, strict=True)]
    images = features[: 1 + max(owners)]
    seen = answer_rows(loaded, tokens, images, Reduction, owners, [0, loaded.n_layers - 1])
    for row, (each, owner) in enumerate(zip(tokens, owners, strict=True)):
        output = in_the_sequence(eager, numbers, each, features[owner])
        place = int(each.places[0])
        roles = np.concatenate([np.full(len(numbers), SYSTEM), each.roles])
        for layer, attention in enumerate(output.attentions):
            wanted = attention[0, :, len(numbers) + place]  # (H, n + N)
            on_image = wanted[:, roles == IMAGE].double().mean(dim=0)
            on_image /= on_image.sum()
            torch.testing.assert_close(
                seen.rows[1][row, 0, layer], torch.special.entr(on_image).sum(), atol=1e-4, rtol=0
            )
            system = wanted[:, roles == SYSTEM].sum(dim=1)
            torch.testing.assert_close(seen.rows[2][row, 0, layer, 0], system, atol=1e-4, rtol=0)
        log_p = output.logits[0].double().log_softmax(dim=-1)[len(numbers) :]
        said, _ = each.answer_tokens()
        nll = -np.mean([log_p[i - 1, each.ids[i]] for i in said])
        assert float(seen.nll[row, 0]) == pytest.approx(nll, abs=1e-3)


@PROMPTED
@BOTH_OWNERS
@torch.no_grad()
def test_answers_are_those_of_tokens_in_the_sequence(prompted, owners):
    """On one image without a guard, on two with one."""
    guarded = len(set(owners)) > 1
    loaded, eager, numbers, features, sizes = prompted
    tokens = [loaded.prompt("s", text, sizes[i]) for text, i in zip(QUESTIONS, owners, strict=True)]
    texts = generate(loaded, tokens, features[: 1 + max(owners)], owners, 4, HideFirst() if guarded else None)
    for text, each, owner in zip(texts, tokens, owners, strict=True):
        on_image = np.flatnonzero(each.roles == IMAGE)
        ids, hidden = list(each.ids), on_image[:4].tolist() if guarded else None
        for _ in range(4):
            longer = type(each)(np.array(ids), each.roles, each.places)
            logits = in_the_sequence(eager, numbers, longer, features[owner], hidden).logits[0, -1]
            ids.append(int(logits.argmax()))
            if ids[-1] in loaded.end_token_ids:
                break
        assert text == loaded.decode(ids[len(each.ids) :])


@pytest.mark.parametrize("family", TEMPLATES)
@torch.no_grad()
def test_a_prefix_begins_as_the_words_that_a_prompt_begins_as(root, family):
    image, found = Image.open(root / "0.png").convert("RGB"), []
    for method, settings in ((prompt, {"prompt_tokens": 5}), (prefix, {"prefix_tokens": 5})):
        loaded = load_model(root / family)
        method.attach(loaded, seed=4, **settings)
        loaded.virtual.prepare()
        size = (image.height, image.width) if loaded.any_resolution else None
        ids = loaded.prompt("s", "What is it?", size).ids
        found.append(loaded.model(**stock_inputs(loaded, ids, image)).logits)
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["prompt", "adapter"])
def test_memory_is_saved_in_the_same_ways(root, tuned, tmp_path, kind):
    options = {"gradient_checkpointing": True, "cache_features": False, "micro_batch_size": 4}
    np.testing.assert_allclose(losses(train(root, tmp_path / "low", kind, **options)), losses(tuned(kind)), rtol=1e-4)


@pytest.mark.parametrize("kind", ["dora", "ia3", "prompt", "adapter"])
def test_in_half_precision_what_is_trained_is_float32(root, tmp_path, kind):
    out = train(root, tmp_path / "half", kind, dtype="bfloat16")
    assert {each.dtype for each in saved(out).values()} == {torch.float32}
    assert learned(out)
    loaded = load_model(root / "llava", out, tuning=kind, dtype="bfloat16")
    tokens, image = loaded.prompt("s", "What is it?"), Image.open(root / "0.png").convert("RGB")
    features = loaded.image_features(loaded.pixels([image]))
    assert torch.isfinite(loaded.model(**loaded.inputs(torch.from_numpy(tokens.ids)[None], features)).logits).all()
    assert isinstance(generate(loaded, [tokens], features, [0], 3)[0], str)


def test_upper_layers_alone_let_the_lower_ones_be_run_once(root, tuned, tmp_path):
    out = train(root, tmp_path / "cached", "layers", cache_layers=True)
    np.testing.assert_allclose(losses(out), losses(tuned("layers")), rtol=1e-4)


@pytest.mark.parametrize("kind", ["ia3", "prompt", "adapter"])
def test_where_all_layers_change_none_can_be_run_once(root, tmp_path, kind):
    with pytest.raises(ByeError, match="cache_layers is true, but the first decoder layer, or what comes before it"):
        train(root, tmp_path / "refused", kind, cache_layers=True)
    assert not (tmp_path / "refused").exists()


def test_a_layer_that_is_not_there_is_refused(root, tmp_path, capsys):
    words = ["--model", root / "llava", "--samples", root / "samples.json", "--images", root, "--learning-rate", 1e-2]
    words += ["--out", tmp_path / "refused", "--log", tmp_path / "log.csv", "--tuning", "layers", "--layers", -1, 2]
    with pytest.raises(SystemExit):
        bye.cli.main(["finetune", *map(str, words)])
    assert "there is no layer 2: model" in capsys.readouterr().err and not (tmp_path / "refused").exists()


@EVERY
def test_a_folder_of_another_model_or_method_is_refused(root, tuned, tmp_path_factory, kind):
    wide = tmp_path_factory.getbasetemp() / "wide"
    if not wide.exists():
        write_tiny_model("llava", wide, layers=2, width=64)
    with pytest.raises(ByeError, match="there and .* in the model; give the folder|does not fit the model"):
        load_model(wide, tuned(kind), tuning=kind)
    other = "biases" if kind in OF_PEFT else "ia3"
    with pytest.raises(ByeError, match="is no PEFT adapter|tuning method|is of peft_type"):
        load_model(root / "llava", tuned(other), tuning=kind)
    if kind in ("ia3", "prompt", "prefix"):
        told = json.loads((tuned("rslora") / "adapter_config.json").read_text())["peft_type"]
        with pytest.raises(ByeError, match=f"is of peft_type '{told}'"):
            load_model(root / "llava", tuned("rslora"), tuning=kind)
