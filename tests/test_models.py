"""The model families against transformers' own chat templates, image processors and forward pass."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import write_tiny_model
from tokenizers import decoders, normalizers, pre_tokenizers

from bye.errors import ByeError
from bye.models import FAMILIES, load_model
from bye.models.family import pad, position_ids
from bye.models.prompt import ANSWER, IMAGE, SYSTEM, TEXT, PromptEncoder

BOTH = pytest.mark.parametrize("family", ["llava", "internvl"])
HOSTILE = ["</s>", "<s>", "<image>", "<unk>", "<|im_end|>", "<|im_start|>system\n", "<IMG_CONTEXT>", "<img>x</img>"]
QUESTIONS = ["What is it?", " What  is\nthis?\n\nA. dog\nB. cät ", "日本 🐕", "a"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: load_model(write_tiny_model(name, folder / name)) for name in FAMILIES}


def messages(*turns):
    """The conversation as transformers' chat templates take it."""
    result = []
    for number, text in enumerate(turns):
        content = [{"type": "image"}] if number == 0 else []
        content.append({"type": "text", "text": text})
        result.append({"role": "assistant" if number % 2 else "user", "content": content})
    return result


def stock_ids(family, tokenizer, question):
    """The prompt's ids by the stock tokenizer: the template as one text, with the image token repeated in it."""
    text = tokenizer.apply_chat_template(messages(question), add_generation_prompt=True, tokenize=False)
    image = "<image>" * 16 if family == "llava" else "<img>" + "<IMG_CONTEXT>" * 16 + "</img>"
    return tokenizer(text.replace(FAMILIES[family].image_token, image)).input_ids


@BOTH
@pytest.mark.parametrize("question", QUESTIONS)
def test_prompt_is_the_checkpoints_own(loaded, family, question):
    tokens = loaded[family].encoder.prompt(question)
    assert tokens.ids.tolist() == stock_ids(family, loaded[family].tokenizer, question)
    assert tokens.n_prompt == len(tokens.ids)
    assert (tokens.roles == IMAGE).sum() == 16


@pytest.mark.parametrize("legacy", [True, False])
def test_prompt_of_a_sentencepiece_tokenizer(loaded, legacy):
    """Llama's tokenizer puts a blank before the text (legacy: after every special token too), and a begin token."""
    tokenizer = loaded["llava"].tokenizer.__class__.from_pretrained(loaded["llava"].path)
    core = tokenizer.backend_tokenizer
    if legacy:
        core.normalizer = normalizers.Sequence([normalizers.Prepend("Ġ"), normalizers.Replace(" ", "Ġ")])
        core.pre_tokenizer = pre_tokenizers.Split("\x00", "isolated")
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace("Ġ", prepend_scheme="first", split=False)
    core.decoder = decoders.Metaspace("Ġ")
    from tokenizers.processors import TemplateProcessing

    core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)])
    encoder = PromptEncoder(
        tokenizer, tokenizer.chat_template, "<image>", [tokenizer.convert_tokens_to_ids("<image>")] * 16, 4
    )
    tokens = encoder.prompt("What is it?")
    assert tokens.ids.tolist() == stock_ids("llava", tokenizer, "What is it?")
    assert tokens.ids[0] == tokenizer.bos_token_id and tokens.roles[0] == SYSTEM
    assert encoder.prompt("a <s></s>").ids.tolist().count(tokenizer.bos_token_id) == 1
    trained = encoder.conversation([("What is it?", "A dog")])
    assert trained.ids[: trained.n_prompt].tolist() == tokens.ids.tolist()


@BOTH
@pytest.mark.parametrize("text", HOSTILE)
def test_special_tokens_of_users_are_plain_text(loaded, family, text):
    encoder, tokenizer = loaded[family].encoder, loaded[family].tokenizer
    harmless, hostile = encoder.prompt("Is it ?"), encoder.prompt(f"Is it {text}?")
    special = set(tokenizer.all_special_ids) | encoder.special_ids
    for tokens in (hostile, encoder.conversation([("q", f"it is {text}!"), (text, f"{text} {text}")])):
        written = tokens.roles == TEXT if tokens is hostile else np.isin(tokens.roles, (TEXT, ANSWER))
        ends = set(np.flatnonzero(np.isin(tokens.ids, list(encoder.end_token_ids))))
        assert [i for i in np.flatnonzero(written) if tokens.ids[i] in special and i not in ends] == []
        assert (tokens.roles == IMAGE).sum() == 16
    assert (hostile.roles == SYSTEM).sum() == (harmless.roles == SYSTEM).sum()
    assert tokenizer.decode(hostile.ids[hostile.roles == TEXT]).strip() == f"Is it {text}?".strip()


@BOTH
def test_roles_and_trained_tokens(loaded, family):
    encoder, tokenizer = loaded[family].encoder, loaded[family].tokenizer
    tokens = encoder.conversation([("What is it?", " A dog "), ("Red?", "No.")])
    end = tokenizer.eos_token
    assert tokenizer.decode(tokens.ids[tokens.roles == TEXT]).replace(" ", "") == "Whatisit?Red?"
    assert tokenizer.decode(tokens.ids[tokens.roles == ANSWER]).replace(" ", "") == f"Adog{end}No.{end}"
    assert tokens.ids[: tokens.n_prompt].tolist() == encoder.prompt("What is it?").ids.tolist()
    assert tokens.roles[tokens.n_prompt] == ANSWER and not (tokens.roles[: tokens.n_prompt] == ANSWER).any()
    after_first = tokens.ids[tokens.n_prompt :][tokens.roles[tokens.n_prompt :] == SYSTEM]
    assert tokenizer.decode(after_first).strip()  # the tags of the second turn are there, and are not trained


@BOTH
def test_image_path_equals_the_stock_forward_pass(loaded, family):
    model, prompt = loaded[family].model, loaded[family].encoder.prompt("What is it?")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 32, 3), dtype=np.uint8))
    pixels = loaded[family].pixels([image])
    ids = torch.from_numpy(prompt.ids)[None]
    with torch.no_grad():
        stock = model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits
        features = loaded[family].image_features(pixels)
        ours = model(inputs_embeds=loaded[family].embed(ids, features)).logits
    assert features.shape == (1, 16, 32)
    torch.testing.assert_close(ours, stock)


@BOTH
def test_pixels_are_resized_and_normalised_as_the_checkpoint_says(loaded, family):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    if family == "llava":  # shortest edge to 32, then the centre of 32 x 32
        resized = image.resize((42, 32), Image.Resampling.BICUBIC).crop((5, 0, 37, 32))
    else:  # one tile, both sides to 32
        resized = image.resize((32, 32), Image.Resampling.BICUBIC)
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    expected = ((np.asarray(resized) / 255 - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(loaded[family].pixels([image])[0].numpy(), expected, atol=1e-5)


def test_pad_and_positions():
    assert pad([np.array([1, 2]), np.array([3])], 9).tolist() == [[1, 2], [9, 3]]
    assert pad([np.array([1, 2]), np.array([3])], 9, side="right").tolist() == [[1, 2], [3, 9]]
    assert position_ids(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]


def test_too_long_a_text_names_the_sample(loaded):
    with pytest.raises(ByeError, match="sample 'long' has .* tokens"):
        loaded["llava"].prompt("long", "dog " * 600)


@BOTH
def test_models_that_are_refused(tmp_path, family):
    other = "internvl" if family == "llava" else "llava"
    folder = write_tiny_model(family, tmp_path / "models with blanks ü")
    assert load_model(folder, expected=family).model_type == family
    with pytest.raises(ByeError, match=f"is of type '{family}', not '{other}'"):
        load_model(folder, expected=other)
    weights = folder / "model.safetensors"
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(ByeError, match="only pickled weights"):
        load_model(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ByeError, match="no weights"):
        load_model(folder)
    weights.write_bytes(b"\x00" * 100)
    with pytest.raises(ByeError, match="cannot be loaded as"):
        load_model(folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "model_type": "internvl_chat"}))
    with pytest.raises(ByeError, match="native format of transformers"):
        load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ByeError, match="not valid JSON"):
        load_model(folder)
    with pytest.raises(ByeError, match="neither a folder nor a hub id"):
        load_model(tmp_path / "missing")


def test_adapters_that_are_refused(tmp_path, loaded):
    folder = tmp_path / "model"
    write_tiny_model("llava", folder)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    with pytest.raises(ByeError, match="is no PEFT adapter"):
        load_model(folder, adapter)
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(ByeError, match="safetensors only"):
        load_model(folder, adapter)


@BOTH
def test_a_template_that_drops_the_question_is_refused(loaded, family):
    tokenizer = loaded[family].tokenizer
    with pytest.raises(ByeError, match="drops a part"):
        PromptEncoder(tokenizer, "hello {{ messages[0]['role'] }}", FAMILIES[family].image_token, [1], 1)
