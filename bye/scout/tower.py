"""The vision tower: DINOv2-S/14 out of an ONNX graph."""

import re

import numpy as np
import torch

from bye.errors import ByeError

SHAPE = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14, "image_size": 518}
PREFIX = "backbone."
# Of the graph, which has the names of an older transformers, and of today's.
NAMES = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}
MATRIX = re.compile(r"/backbone/(encoder/layer\.\d+/.*)/MatMul")  # a node that multiplies by a layer's matrix


def read_tower(path, shape=SHAPE):
    """Return the weights of a `Dinov2Model` from the ONNX file at `path`: {name: float32 tensor}.

    Biases, norms and scales have their names there. Matrices are nameless and transposed, and are named by the node
    that uses them; the positions are two constants, of the class token and of the patches. shape: of the tower. Raises
    ByeError where the graph is another one.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    arrays = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    found = {name.removeprefix(PREFIX): array for name, array in arrays.items() if name.startswith(PREFIX)}
    for node in graph.node:
        place = MATRIX.fullmatch(node.name)
        if place and node.op_type == "MatMul" and node.input[1] in arrays:
            found[f"{place[1].replace('/', '.')}.weight"] = arrays[node.input[1]].T
    width, patches = shape["hidden_size"], (shape["image_size"] // shape["patch_size"]) ** 2
    nameless = [array for name, array in arrays.items() if name.startswith("onnx::")]
    positions = [[each for each in nameless if each.shape == (1, n, width)] for n in (1, patches)]
    if [len(each) for each in positions] != [1, 1]:
        raise ByeError(f"{path} has no positions of {patches} patches and a class token; it is another graph")
    found["embeddings.position_embeddings"] = np.concatenate([each for (each,) in positions], axis=1)
    found["embeddings.mask_token"] = np.zeros((1, width), dtype=np.float32)  # of DINOv2's training, not used
    return {_today(name): torch.tensor(array) for name, array in found.items()}


def _today(name):
    for before, now in NAMES.items():
        name = name.replace(before, now)
    return name
