"""Greedy answers to a batch of prompts, which a guard may watch from the first token on."""

import contextlib

import numpy as np
import torch
from torch.nn import functional as F
from transformers import GenerationConfig

from bye.models.attention import record_decoder
from bye.models.family import pad, position_ids
from bye.models.guard import Guard, Guarding
from bye.models.prefix import image_end, run_prefix


def generate(family, prompts, features, owners, max_new_tokens, guard=None):
    """Greedy continuation of a batch of prompts up to an end token: a list of texts.

    prompts: B Tokens; features: of distinct images; owners: which of these each prompt asks about. Where several ask
    about one image, it is run once (`run_prefix`), where positions are simply counted. guard: a Guard, whose `caught`
    is then that of these prompts, or None: the model's own attention. One that answers `again` has the prompts of which
    it hid tokens run a second time, without these from the first layer on.
    """
    texts = _answers(family, prompts, features, owners, max_new_tokens, guard)
    if guard is None or not guard.again or guard.hidden is None:
        return texts
    places = guard.hidden.any(dim=1).nonzero()[:, 0].tolist()
    hidden = [guard.hidden[place][guard.roles[place] >= 0].cpu().numpy() for place in places]
    images = sorted({owners[place] for place in places})
    chosen = [prompts[place] for place in places]
    asked = [features[image] for image in images], [images.index(owners[place]) for place in places]
    for place, text in zip(places, _answers(family, chosen, *asked, max_new_tokens, None, hidden), strict=True):
        texts[place] = text
    return texts


@torch.no_grad()
def _answers(family, prompts, features, owners, max_new_tokens, guard, hidden=None):
    """As `generate`, once. hidden: of each prompt which of its tokens are hidden in all layers, or None."""
    device = family.model.device
    shared, cache = run_prefix(family, prompts, features, owners) if family.counts_positions else (0, None)
    ids = pad([prompt.ids[shared:] for prompt in prompts], 0).to(device)
    mask = pad([np.ones(len(prompt.ids) - shared) for prompt in prompts], 0).to(device)
    if shared:  # padding goes between what is in the cache and the question
        mask = F.pad(mask, (shared, 0), value=1)
        embeddings = F.pad(family.model.get_input_embeddings()(ids), (0, 0, shared, 0))  # what the cache has is unread
        inputs = {"inputs_embeds": embeddings, "attention_mask": mask, "position_ids": position_ids(mask)}
        inputs["past_key_values"] = cache
    else:
        inputs = family.inputs(ids, [features[image] for image in owners], mask)
    end = sorted(family.end_token_ids)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=end, pad_token_id=end[0], use_cache=True
    )
    with _watched(family, guard, prompts, shared, hidden), _head_in_one_piece(family.model.lm_head):
        output = family.model.generate(**inputs, generation_config=settings)
    return [family.decode(row) for row in output]


@contextlib.contextmanager
def _head_in_one_piece(head):
    """Context in which the output layer gets its input contiguous.

    A prompt's last states are a slice of all, for which torch copies the layer's weight once for each row of the batch:
    half the time to the first token where the vocabulary is large.
    """
    hook = head.register_forward_pre_hook(lambda module, inputs: (inputs[0].contiguous(),))
    try:
        yield
    finally:
        hook.remove()


def _watched(family, guard, prompts, shared, hidden):
    """The context of a guard and of hidden tokens, over prompts whose first `shared` tokens are in a cache."""
    if guard is None and hidden is None:
        return contextlib.nullcontext()
    record_decoder(family.model)
    after_image = [np.arange(len(prompt.ids)) >= image_end(family, prompt) for prompt in prompts]
    roles = _lay_out([prompt.roles for prompt in prompts], shared, -1).to(family.model.device)
    after_image, hidden = (
        None if rows is None else _lay_out(rows, shared, 0).to(roles.device).bool() for rows in (after_image, hidden)
    )
    return Guarding(guard or Guard(), roles, after_image, hidden)


def _lay_out(rows, shared, value):
    """Stack a number a token as the batch has its tokens, padding behind the shared ones: (B, N) int64."""
    return torch.cat([pad([row[:shared] for row in rows], value), pad([row[shared:] for row in rows], value)], dim=1)
