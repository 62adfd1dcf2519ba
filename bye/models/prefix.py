"""Questions that share an image: the tokens up to the image's last are run through the decoder once for all of them."""

import numpy as np
import torch
from transformers import DynamicCache

from bye.errors import ByeError
from bye.models.family import pad


def distinct(names):
    """The distinct names of a batch in order, and for each of its places which of them it has."""
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return list(number), [number[name] for name in names]


def image_end(family, prompt):
    """The number of a prompt's tokens up to the image's last one, that one counted too. Raises ByeError without any."""
    places = np.flatnonzero(prompt.ids == family.image_token_id)
    if not len(places):
        raise ByeError(f"model {family.path} has no image tokens in its prompts; give one that is shown images")
    return int(places[-1]) + 1


@torch.no_grad()
def run_prefix(family, prompts, features, owners):
    """Run what prompts on the same image have in common: (its number of tokens, a cache with a row for each prompt).

    prompts: B Tokens; features: of I distinct images; owners: which of these each prompt asks about. (0, None) where it
    does not pay, with fewer than two prompts an image, where the images have different numbers of tokens, and where
    what comes before an image is not the same in all prompts on it (a system prompt).
    """
    if 2 * len(features) > len(prompts):
        return 0, None
    lengths = {image_end(family, prompt) for prompt in prompts}
    if len(lengths) > 1:
        return 0, None
    length = lengths.pop()
    one_of_each = [prompts[owners.index(image)].ids[:length] for image in range(len(features))]
    if any((prompt.ids[:length] != one_of_each[i]).any() for prompt, i in zip(prompts, owners, strict=True)):
        return 0, None
    model = family.model.model
    cache = DynamicCache(config=model.language_model.config)
    ids = pad(one_of_each, 0).to(family.model.device)
    model(**family.inputs(ids, features), past_key_values=cache, use_cache=True)
    cache.batch_select_indices(torch.tensor(owners, device=ids.device))
    return length, cache
