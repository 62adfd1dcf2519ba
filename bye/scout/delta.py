"""What is trained of the scout, as a delta: made small, and put on the parts.

A delta is a folder of the tuning method lora_and_projector in bfloat16, and check.json with a question about a drawn
picture and the answer that the whole model gave where it was made.
"""

import shutil
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from bye.answers.generate import generate
from bye.errors import ByeError
from bye.files import read_json, replacing_folder, write_json
from bye.models import load_model

TUNING = "lora_and_projector"
CONFIG, CHECK = "adapter_config.json", "check.json"
QUESTION = "What kind of land use is shown?\nAnswer the question using a single word or phrase."
NEW_TOKENS = 16


def write_delta(trained, parts, out):
    """Write the folder `trained`, of a fine-tune of the scout's `parts`, as a delta to the folder `out`."""
    trained = Path(trained)
    with replacing_folder(out) as folder:
        for path in sorted(trained.glob("*.safetensors")):
            save_file({name: each.to(torch.bfloat16) for name, each in load_file(path).items()}, folder / path.name)
        config = read_json(trained / CONFIG)
        config["base_model_name_or_path"] = "scout-parts"  # and not a folder of this machine
        write_json(folder / CONFIG, config)
        answer = answer_example(load_model(parts, folder, TUNING, dtype="float32"))
        write_json(folder / CHECK, {"question": QUESTION, "answer": answer})


def put_delta(parts, delta, out):
    """Write the scout to the folder `out`: its parts with the delta added to their weights, in float32.

    parts: a folder of `bye.scout.build`; its licences are copied. Raises ByeError where the delta does not fit, and
    where the model does not say what it should about a drawn picture.
    """
    delta = Path(delta)
    check = read_json(delta / CHECK)
    family = load_model(parts, delta, TUNING, dtype="float32")
    answer = answer_example(family, check["question"])
    if answer != check["answer"]:
        raise ByeError(
            f"the scout answers {check['question']!r} about a drawn picture by {answer!r}, not {check['answer']!r}; "
            "its delta is of other parts, or a package computes otherwise than it should"
        )
    save_model(family, parts, out)


def save_model(family, parts, out):
    """Write a loaded model to the folder `out`, with all that stands beside the weights of its `parts`."""
    with replacing_folder(out) as folder:
        for path in Path(parts).iterdir():
            if path.suffix != ".safetensors" and path.name != "model.safetensors.index.json":
                shutil.copy(path, folder / path.name)
        family.model.save_pretrained(folder)


def answer_example(family, question=QUESTION):
    """Return what a model answers to a question about a drawn picture: water, a beach and a road."""
    picture = Image.new("RGB", (256, 256), (38, 92, 130))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 120, 256, 256), fill=(214, 196, 150))
    draw.line((0, 215, 256, 190), fill=(90, 90, 92), width=16)
    prompt = family.encoder.prompt(question)
    return generate(family, [prompt], family.image_features(family.pixels([picture])), [0], NEW_TOKENS)[0]
