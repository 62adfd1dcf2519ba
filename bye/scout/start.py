"""Where the training of the scout's projector begins: at a projector that makes words of pictures, in closed form.

From random weights the decoder learns for a long time what is answered, and nothing of what is seen. So the first of
the projector's two layers stays random, on standardised patches, and the second is the ridge regression of what the
decoder has for the words said about a picture (the mean of their embeddings, by tf-idf) on all its patches. Patches
then look like the words for what is on them.
"""

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from torch.nn import functional as F

from bye.data.images import load_image
from bye.data.samples import turns_of

WORD = r"(?u)[a-z]{3,}"
NO_WORDS = {"yes", "no"}  # answers that say nothing about a picture without their questions
RIDGE = 0.01  # of the number of patches' pictures, added to the diagonal
GAIN = 3.0  # what the regression, which shrinks, is multiplied by: projected patches then differ as words do
MEASURED = 256  # pictures that the patches' mean and deviation are taken of
BATCH = 32  # pictures at a time


@torch.no_grad()
def begin_projector(family, samples, images_root, seed):
    """Set the projector of a loaded LLaVA `family`, in place; return how much of the words is explained (R^2).

    samples: with answers about pictures, those of the training; images_root: their image folder. seed: of the first
    layer's weights.
    """
    names, targets = word_targets(family, samples)
    by_image = {sample["image"]: sample for sample in samples}

    def patches(chosen):
        opened = [load_image(images_root, by_image[name]) for name in chosen]
        return torch.stack(family.tower_features(family.pixels(opened))).float()  # (B, T, width of the features)

    measured = torch.cat([patches(names[i : i + BATCH]) for i in range(0, min(MEASURED, len(names)), BATCH)])
    mean, std = measured.mean((0, 1)), measured.std((0, 1)).clamp(min=1e-3)
    projector = family.model.model.multi_modal_projector
    first, second = projector.linear_1, projector.linear_2
    drawn = torch.randn(first.weight.shape, generator=torch.Generator().manual_seed(seed)) / len(mean) ** 0.5
    first.weight.copy_(drawn / std)
    first.bias.copy_(-(drawn / std) @ mean)

    centre = targets.mean(0)
    n_hidden = len(drawn) + 1
    gram, cross, energy = torch.zeros(n_hidden, n_hidden), torch.zeros(n_hidden, targets.shape[1]), 0.0
    for start in range(0, len(names), BATCH):
        hidden = F.gelu(F.linear(patches(names[start : start + BATCH]), first.weight.float(), first.bias.float()))
        hidden = torch.cat([hidden, hidden.new_ones(*hidden.shape[:2], 1)], dim=-1)  # (B, T, H + 1)
        aims = targets[start : start + BATCH] - centre
        flat = hidden.reshape(-1, n_hidden)
        gram += flat.T @ flat
        cross += hidden.sum(1).T @ aims
        energy += float(hidden.shape[1] * aims.square().sum())
    solved = torch.linalg.solve(gram + RIDGE * len(names) * torch.eye(n_hidden), cross)  # (H + 1, D)
    second.weight.copy_(GAIN * solved[:-1].T)
    second.bias.copy_(centre + GAIN * solved[-1])
    return float((cross * solved).sum() / energy)


def word_targets(family, samples):
    """Return (image names, (n, D) mean embeddings of the words said about each), pictures without any left out."""
    said = {}
    for sample in samples:
        answers = [answer for _, answer in turns_of(sample) if answer.strip().lower() not in NO_WORDS]
        said.setdefault(sample["image"], []).extend(answers)
    names = [name for name, answers in said.items() if answers]
    counter = TfidfVectorizer(token_pattern=WORD, stop_words="english", sublinear_tf=True, norm="l1")
    weights = counter.fit_transform(" ".join(said[name]).replace("_", " ") for name in names)  # (n, words)
    table = family.model.get_input_embeddings().weight.float()
    ids = [family.tokenizer(f" {word}", add_special_tokens=False).input_ids for word in counter.get_feature_names_out()]
    embeddings = torch.stack([table[each].mean(0) for each in ids])
    known = np.flatnonzero(weights.getnnz(axis=1))
    return [names[place] for place in known], torch.tensor(weights[known] @ embeddings.numpy(), dtype=torch.float32)
