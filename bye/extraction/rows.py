"""The forward pass of the extraction: the attention before each answer, in every layer, for a batch of samples."""

import torch

from bye.models.attention import Rows
from bye.models.family import pad
from bye.models.prefix import run_prefix


@torch.no_grad()
def answer_rows(family, prompts, features, reduction, owners=None):
    """One batched forward pass: what is kept of the attention rows at the places of all answers.

    prompts: B Tokens of conversations up to their last answer, R answers at most; features: of I distinct images;
    owners: which of these each prompt asks about, by default one each, in order. Where several ask about one image, it
    is run once (`run_prefix`). reduction: a function from the tokens' roles (B, N), -1 on padding, to the function of
    rows that `Rows` takes. Returns its tensors, those of all L layers stacked: a tuple of (B, R or fewer, L, ...). A
    prompt with fewer answers has the last one again in their stead.

    Padding has attention 0. It is on the right, where under the causal mask alone no prompt token looks at it: SDPA
    takes its fastest path, without a mask. The language model's head is not run.
    """
    device = family.model.device
    owners = list(range(len(prompts)) if owners is None else owners)
    ids = pad([prompt.ids for prompt in prompts], 0, side="right").to(device)
    roles = pad([prompt.roles for prompt in prompts], -1, side="right").to(device)
    n_answers = max(len(prompt.places) for prompt in prompts)
    places = [[*prompt.places, *[prompt.places[-1]] * (n_answers - len(prompt.places))] for prompt in prompts]
    places = torch.tensor(places, device=device)  # (B, R)
    model, of_each = family.model.model, [features[image] for image in owners]
    shared, cache = run_prefix(family, prompts, features, owners)
    if shared:
        positions = family.positions(ids, of_each)
        with Rows(places - shared, reduction(roles)) as rows:
            model.language_model(
                inputs_embeds=family.model.get_input_embeddings()(ids[:, shared:]),
                position_ids=None if positions is None else positions[..., shared:],
                past_key_values=cache,
            )
    else:
        with Rows(places, reduction(roles)) as rows:
            model(**family.inputs(ids, of_each), use_cache=False)
    return tuple(torch.stack(kept, dim=2) for kept in zip(*rows.layers, strict=True))
