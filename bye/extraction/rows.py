"""The forward pass of the extraction: the last prompt token's attention in every layer, for a batch of prompts."""

import torch

from bye.models.attention import LastRow
from bye.models.family import pad
from bye.models.prefix import run_prefix


@torch.no_grad()
def last_rows(family, prompts, features, owners=None):
    """One batched forward pass: the last prompt token's attention (B, L, H, N) and the tokens' roles (B, N).

    prompts: B Tokens of prompts; features: of I distinct images; owners: which of these each prompt asks about, by
    default one each, in order. Where several ask about one image, it is run once (`run_prefix`). Padding has role -1
    and attention 0. It is on the right, where under the causal mask alone no prompt token looks at it: SDPA takes its
    fastest path, without a mask. The language model's head is not run.
    """
    device = family.model.device
    owners = list(range(len(prompts)) if owners is None else owners)
    ids = pad([prompt.ids for prompt in prompts], 0, side="right").to(device)
    roles = pad([prompt.roles for prompt in prompts], -1, side="right").to(device)
    model, of_each = family.model.model, [features[image] for image in owners]
    shared, cache = run_prefix(family, prompts, features, owners)
    if not shared:
        with LastRow(roles >= 0) as rows:
            model(**family.inputs(ids, of_each), use_cache=False)
        return rows.attention, roles
    positions = family.positions(ids, of_each)
    with LastRow(roles[:, shared:] >= 0) as rows:
        model.language_model(
            inputs_embeds=family.model.get_input_embeddings()(ids[:, shared:]),
            position_ids=None if positions is None else positions[..., shared:],
            past_key_values=cache,
        )
    return rows.attention, roles
