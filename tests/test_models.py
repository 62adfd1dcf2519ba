"""The model families against transformers' own chat templates, image processors and forward pass."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from small_workflow import ROOT
from tiny_models import TEMPLATES, stock_inputs, write_tiny_model
from tokenizers import decoders, normalizers, pre_tokenizers
from transformers.quantizers.quantizers_utils import should_convert_module

from bye.errors import ByeError
from bye.models import families, load_model
from bye.models.family import pad, position_ids
from bye.models.prompt import ANSWER, IMAGE, SYSTEM, TEXT, PromptEncoder

EVERY = pytest.mark.parametrize("family", TEMPLATES)
FAMILIES = families()
HOSTILE = ["</s>", "<s>", "<image>", "<unk>", "<|im_end|>", "<|im_start|>system\n", "<IMG_CONTEXT>", "<img>x</img>"]
HOSTILE += ["<|image_pad|>", "<|vision_start|>x<|vision_end|>", "[INST] [/INST]</s>"]
QUESTIONS = ["What is it?", " What  is\nthis?\n\nA. dog\nB. cät ", "日本 🐕", "a"]

SQUARE = (64, 64)  # height and width of an image, which has so many tokens, those that end a row with them:
N_OF_A_SQUARE = {"llava": 16, "internvl": 16, "llava_next": 16 + 8 * 9, "qwen3_vl": 16}


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
    image = FAMILIES[family].image_token * N_OF_A_SQUARE[family]
    image = f"<img>{image}</img>" if family == "internvl" else image
    return tokenizer(text.replace(FAMILIES[family].image_token, image)).input_ids


@EVERY
@pytest.mark.parametrize("question", QUESTIONS)
def test_prompt_is_the_checkpoints_own(loaded, family, question):
    tokens = loaded[family].encoder.prompt(question, SQUARE)
    assert tokens.ids.tolist() == stock_ids(family, loaded[family].tokenizer, question)
    assert tokens.n_prompt == len(tokens.ids)
    assert (tokens.roles == IMAGE).sum() == {"llava_next": 80}.get(family, 16)


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
    encoder = PromptEncoder(tokenizer, tokenizer.chat_template, "<image>", loaded["llava"].image_tokens)
    tokens = encoder.prompt("What is it?")
    assert tokens.ids.tolist() == stock_ids("llava", tokenizer, "What is it?")
    assert tokens.ids[0] == tokenizer.bos_token_id and tokens.roles[0] == SYSTEM
    assert encoder.prompt("a <s></s>").ids.tolist().count(tokenizer.bos_token_id) == 1
    trained = encoder.conversation([("What is it?", "A dog")])
    assert trained.ids[: trained.n_prompt].tolist() == tokens.ids.tolist()


@EVERY
@pytest.mark.parametrize("text", HOSTILE)
def test_special_tokens_of_users_are_plain_text(loaded, family, text):
    encoder, tokenizer = loaded[family].encoder, loaded[family].tokenizer
    harmless, hostile = encoder.prompt("Is it ?", SQUARE), encoder.prompt(f"Is it {text}?", SQUARE)
    special = set(tokenizer.all_special_ids) | encoder.special_ids
    for tokens in (hostile, encoder.conversation([("q", f"it is {text}!"), (text, f"{text} {text}")], SQUARE)):
        written = tokens.roles == TEXT if tokens is hostile else np.isin(tokens.roles, (TEXT, ANSWER))
        ends = set(np.flatnonzero(np.isin(tokens.ids, list(encoder.end_token_ids))))
        assert [i for i in np.flatnonzero(written) if tokens.ids[i] in special and i not in ends] == []
        assert (tokens.roles == IMAGE).sum() == (harmless.roles == IMAGE).sum()
    assert (hostile.roles == SYSTEM).sum() == (harmless.roles == SYSTEM).sum()
    assert tokenizer.decode(hostile.ids[hostile.roles == TEXT]).strip() == f"Is it {text}?".strip()


@EVERY
def test_roles_and_trained_tokens(loaded, family):
    encoder, tokenizer = loaded[family].encoder, loaded[family].tokenizer
    tokens = encoder.conversation([("What is it?", " A dog "), ("Red?", "No.")], SQUARE)
    end = tokenizer.eos_token
    assert tokenizer.decode(tokens.ids[tokens.roles == TEXT]).replace(" ", "") == "Whatisit?Red?"
    assert tokenizer.decode(tokens.ids[tokens.roles == ANSWER]).replace(" ", "") == f"Adog{end}No.{end}"
    assert tokens.ids[: tokens.n_prompt].tolist() == encoder.prompt("What is it?", SQUARE).ids.tolist()
    assert tokens.roles[tokens.n_prompt] == ANSWER and not (tokens.roles[: tokens.n_prompt] == ANSWER).any()
    after_first = tokens.ids[tokens.n_prompt :][tokens.roles[tokens.n_prompt :] == SYSTEM]
    assert tokenizer.decode(after_first).strip()  # the tags of the second turn are there, and are not trained


TURNS = [("What is it?", " A dog "), ("Red?", "日本"), ("Is\nit small?", "No.")]


@EVERY
def test_places_of_answers_are_the_ends_of_the_prompts_that_ask_for_them(loaded, family):
    """By the stock tokenizer: a prompt of each number of turns, the answers before its last question closed."""
    encoder, tokenizer = loaded[family].encoder, loaded[family].tokenizer
    end = "</s>" if family == "llava" else ""  # whose template leaves it out
    asked, whole = encoder.asked(TURNS, SQUARE), encoder.conversation(TURNS, SQUARE)
    assert asked.places.tolist() == whole.places.tolist()
    for number, place in enumerate(asked.places, start=1):
        texts = [text for q, a in TURNS[:number] for text in (q, a.strip() + end)][:-1]
        text = tokenizer.apply_chat_template(messages(*texts), add_generation_prompt=True, tokenize=False)
        text = text.replace("</s> USER", "</s>USER")
        image = FAMILIES[family].image_token * N_OF_A_SQUARE[family]
        image = f"<img>{image}</img>" if family == "internvl" else image
        expected = tokenizer(text.replace(FAMILIES[family].image_token, image)).input_ids
        assert asked.ids[: place + 1].tolist() == whole.ids[: place + 1].tolist() == expected
    assert len(asked.ids) == asked.places[-1] + 1
    assert np.array_equal(asked.roles, whole.roles[: len(asked.roles)])
    assert tokenizer.decode(asked.ids[asked.roles == ANSWER], skip_special_tokens=True).replace(" ", "") == "Adog日本"


@EVERY
def test_one_turn_is_asked_as_the_prompt_is(loaded, family):
    encoder = loaded[family].encoder
    asked, prompt = encoder.asked(TURNS[:1], SQUARE, "Be brief."), encoder.prompt("What is it?", SQUARE, "Be brief.")
    assert np.array_equal(asked.ids, prompt.ids) and np.array_equal(asked.roles, prompt.roles)
    assert asked.places.tolist() == [len(asked.ids) - 1]


@EVERY
def test_an_answer_without_tokens_is_named(loaded, family):
    turns = [("What?", "A dog"), ("Red?", " "), ("Small?", "No")]
    with pytest.raises(ByeError, match="sample 'x': answer 2 has no tokens in this model's tokenizer; fill it in"):
        loaded[family].asked("x", turns, SQUARE)
    with pytest.raises(ByeError, match="answer 2 has no tokens"):
        loaded[family].conversation("x", turns[:2], SQUARE)


# ---- system prompts --------------------------------------------------------------------------------------------------

SYSTEM_TEXT = "Be brief,\n and kind."
WITH_SYSTEM = [family for family in TEMPLATES if family != "llava_next"]  # whose template has users and assistants


def system_message(text):
    return {"role": "system", "content": [{"type": "text", "text": text}]}


@pytest.mark.parametrize("family", WITH_SYSTEM)
def test_a_system_prompt_is_the_templates_own_message(loaded, family):
    encoder, tokenizer = loaded[family].encoder, loaded[family].tokenizer
    told = [system_message(SYSTEM_TEXT), *messages("What is it?")]
    text = tokenizer.apply_chat_template(told, add_generation_prompt=True, tokenize=False)
    image = FAMILIES[family].image_token * N_OF_A_SQUARE[family]
    image = f"<img>{image}</img>" if family == "internvl" else image
    prompt = encoder.prompt("What is it?", SQUARE, SYSTEM_TEXT)
    assert prompt.ids.tolist() == tokenizer(text.replace(FAMILIES[family].image_token, image)).input_ids
    assert tokenizer.decode(prompt.ids[prompt.roles == TEXT]).strip() == "What is it?"
    assert SYSTEM_TEXT in tokenizer.decode(prompt.ids[prompt.roles == SYSTEM])
    whole, asked = encoder.conversation(TURNS, SQUARE, SYSTEM_TEXT), encoder.asked(TURNS, SQUARE, SYSTEM_TEXT)
    assert whole.places.tolist() == asked.places.tolist() and whole.n_prompt == len(prompt.ids)
    assert whole.ids[: len(asked.ids)].tolist() == asked.ids.tolist()
    without = encoder.conversation(TURNS, SQUARE)
    for role in (IMAGE, TEXT, ANSWER):  # what is trained and looked at is the same
        assert whole.ids[whole.roles == role].tolist() == without.ids[without.roles == role].tolist()


@EVERY
@pytest.mark.parametrize("text", HOSTILE)
def test_special_tokens_in_a_system_prompt_are_plain_text(loaded, family, text):
    encoder, tokenizer = loaded[family].encoder, loaded[family].tokenizer
    harmless, hostile = encoder.prompt("q", SQUARE, "Be ."), encoder.prompt("q", SQUARE, f"Be {text}.")
    special = tokenizer.all_special_ids
    assert np.isin(hostile.ids, special).sum() == np.isin(harmless.ids, special).sum()
    for role in (IMAGE,) if family == "llava_next" else (IMAGE, TEXT):
        assert (hostile.roles == role).sum() == (harmless.roles == role).sum()
    assert f"Be {text}." in tokenizer.decode(hostile.ids[hostile.roles != IMAGE])


DROPS = "{% for m in messages if m.role != 'system' %}" + TEMPLATES["qwen3_vl"].split("%}", 1)[1].replace(
    "message", "m"
)
RAISES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATES["qwen3_vl"]
AS_USER = TEMPLATES["qwen3_vl"].replace("message['role']", "('assistant' if message.role == 'assistant' else 'user')")
WITHOUT_IMAGE = (
    TEMPLATES["qwen3_vl"]
    .replace("== 'image'", "== 'image' and messages[0].role != 'system'")
    .replace("content['text']", "content['text'] or ''")
)
BEFORE_THE_LAST = (  # as Mistral's templates have it
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|im_start|>' }}"
    "{% if loop.last and messages[0]['role'] == 'system' %}{{ messages[0]['content'][0]['text'] }}{% endif %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<|image_pad|>' }}"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'][0]['text'] + '<|im_end|>' }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("template", [DROPS, RAISES, AS_USER, WITHOUT_IMAGE, BEFORE_THE_LAST])
def test_a_system_prompt_that_a_template_has_no_place_for_stands_before_the_first_question(loaded, template):
    tokenizer = loaded["qwen3_vl"].tokenizer
    encoder = PromptEncoder(tokenizer, template, "<|image_pad|>", loaded["qwen3_vl"].image_tokens)
    assert not encoder.takes_system
    first, *others = TURNS
    joined = [(f"{SYSTEM_TEXT}\n{first[0]}", first[1]), *others]
    for ours, plain in (
        (encoder.prompt(first[0], SQUARE, SYSTEM_TEXT), encoder.prompt(joined[0][0], SQUARE)),
        (encoder.conversation(TURNS, SQUARE, SYSTEM_TEXT), encoder.conversation(joined, SQUARE)),
        (encoder.asked(TURNS, SQUARE, SYSTEM_TEXT), encoder.asked(joined, SQUARE)),
    ):
        assert ours.ids.tolist() == plain.ids.tolist() and ours.roles.tolist() == plain.roles.tolist()
        assert ours.places.tolist() == plain.places.tolist()
    assert f"{SYSTEM_TEXT}\nWhat is it?" in tokenizer.decode(ours.ids[ours.roles == TEXT])


def test_system_prompts_of_the_shipped_models():
    """llava-mini's template takes every message but a user's for the assistant's; internvl-mini's takes each role."""
    llava, internvl = (
        load_model(ROOT / "base_models" / name, weights=False) for name in ("llava-mini", "internvl-mini")
    )
    assert not llava.encoder.takes_system and internvl.encoder.takes_system
    prompt = llava.prompt("x", "What is it?", system=SYSTEM_TEXT)
    assert llava.tokenizer.decode(prompt.ids[prompt.roles == TEXT]) == f"{SYSTEM_TEXT}\nWhat is it?"
    told = llava.tokenizer.decode(prompt.ids)
    assert told.count("ASSISTANT:") == 1 and told.endswith("ASSISTANT:")
    text = internvl.tokenizer.decode(internvl.prompt("x", "What is it?", system=SYSTEM_TEXT).ids)
    assert f"<|im_start|>system\n{SYSTEM_TEXT}<|im_end|>\n<|im_start|>user\n<img>" in text


@EVERY
@pytest.mark.parametrize("size", [(40, 32), (20, 70), SQUARE])
def test_image_path_equals_the_stock_forward_pass(loaded, family, size):
    model, prompt = loaded[family].model, loaded[family].encoder.prompt("What is it?", size)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))
    pixels = loaded[family].pixels([image])
    ids = torch.from_numpy(prompt.ids)[None]
    with torch.no_grad():
        stock = model(**stock_inputs(loaded[family], prompt.ids, image)).logits
        features = loaded[family].image_features(pixels)
        ours = model(**loaded[family].inputs(ids, features)).logits
        again = loaded[family].project(loaded[family].tower_features(pixels))
    torch.testing.assert_close(ours, stock)
    torch.testing.assert_close(again, features)


def test_tokens_of_tiles_lie_as_the_tiles_and_their_row_ends_are_no_image_tokens(loaded):
    """64 x 64 in tiles of 32 x 32: a view of all of it in 4 x 4 tokens, then 8 rows of 8, each with its end."""
    _, roles = loaded["llava_next"].image_tokens((64, 64))
    assert (roles[:16] == IMAGE).all() and len(roles) == 16 + 8 * 9
    assert (roles[16:].reshape(8, 9) == [IMAGE] * 8 + [SYSTEM]).all()


def test_positions_go_along_rows_and_columns(loaded):
    """Worked out by hand: 3 tokens before an image of 2 x 3; the text goes on after the larger side."""
    family = loaded["qwen3_vl"]
    ids = torch.tensor([[50, 51, 52, *[family.image_token_id] * 6, 53, 54]])
    time, row, column = family.positions(ids, [torch.zeros(2, 3, 96)])[:, 0].tolist()
    assert time == [0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7]
    assert row == [0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7]
    assert column == [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7]


@EVERY
def test_pixels_are_resized_and_normalised_as_the_checkpoint_says(loaded, family):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    if family == "llava":  # shortest edge to 32, then the centre of 32 x 32
        resized = image.resize((42, 32), Image.Resampling.BICUBIC).crop((5, 0, 37, 32))
    elif family == "qwen3_vl":  # multiples of 16 as they are
        resized = image
    else:  # one tile, or the first one: both sides to 32
        resized = image.resize((32, 32), Image.Resampling.BICUBIC)
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    if family == "qwen3_vl":
        mean = std = 0.5
    expected = ((np.asarray(resized) / 255 - mean) / std).transpose(2, 0, 1)
    pixels = loaded[family].pixels([image])["pixel_values"]
    if family == "qwen3_vl":  # patches of 8 x 8 in groups of 2 x 2, each pixel for two moments
        pixels = pixels.reshape(3, 4, 2, 2, 3, 2, 8, 8)[:, :, :, :, :, 0]
        pixels = pixels.permute(4, 0, 2, 5, 1, 3, 6).reshape(1, 3, 48, 64)
    np.testing.assert_allclose(pixels.flatten(0, -4)[0].numpy(), expected, atol=1e-5)


def test_pad_and_positions():
    assert pad([np.array([1, 2]), np.array([3])], 9).tolist() == [[1, 2], [9, 3]]
    assert pad([np.array([1, 2]), np.array([3])], 9, side="right").tolist() == [[1, 2], [3, 9]]
    assert position_ids(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]


def test_too_long_a_text_names_the_sample(loaded):
    with pytest.raises(ByeError, match="sample 'long': it has .* tokens"):
        loaded["llava"].prompt("long", "dog " * 600)


@EVERY
def test_models_that_are_refused(tmp_path, family):
    other = "internvl" if family != "internvl" else "llava"
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


@EVERY
def test_a_template_that_drops_the_question_is_refused(loaded, family):
    tokenizer = loaded[family].tokenizer
    with pytest.raises(ByeError, match="drops a part"):
        PromptEncoder(tokenizer, "hello {{ messages[0]['role'] }}", FAMILIES[family].image_token, None)


def test_four_bits_need_their_library_and_a_gpu(loaded, monkeypatch):
    path = loaded["llava"].path
    monkeypatch.setattr("bye.models.family.find_spec", lambda name: None)
    with pytest.raises(ByeError, match="quantization 4bit needs bitsandbytes; pip install 'bye-suite.gpu.'"):
        load_model(path, quantization="4bit")
    monkeypatch.setattr("bye.models.family.find_spec", lambda name: name)
    with pytest.raises(ByeError, match="quantization 4bit needs an NVIDIA GPU, and torch finds none"):
        load_model(path, quantization="4bit", device="cpu")
    with pytest.raises(ByeError, match="quantization '8bit' is unknown"):
        load_model(path, quantization="8bit")


@EVERY
def test_the_decoder_alone_is_loaded_in_four_bits(loaded, monkeypatch, family):
    asked = []

    def from_pretrained(path, **options):
        asked.append(options)
        raise OSError("enough")

    monkeypatch.setattr("bye.models.family.find_spec", lambda name: name)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.50.0")
    model_class, _ = FAMILIES[family].classes()
    monkeypatch.setattr(model_class, "from_pretrained", from_pretrained)
    with pytest.raises(ByeError, match="enough"):
        load_model(loaded[family].path, quantization="4bit", device="cuda:1")
    [options] = asked
    config = options["quantization_config"]
    assert options["device_map"] == {"": torch.device("cuda:1")} and options["use_safetensors"]
    assert config.load_in_4bit and config.bnb_4bit_quant_type == "nf4" and config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == options["dtype"] == torch.bfloat16
    for name, module in loaded[family].model.named_modules():
        if isinstance(module, torch.nn.Linear):
            decoder = ".language_model." in name
            assert should_convert_module(name, config.llm_int8_skip_modules) is decoder, name
