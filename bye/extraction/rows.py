"""The forward pass of the extraction: what the model does before and in each answer, for a batch of samples."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from bye.extraction.states import AnswerTokens, HiddenStates, LastMLP, choose_layers
from bye.models.attention import Rows
from bye.models.family import pad
from bye.models.prefix import run_prefix
from bye.models.prompt import SYSTEM


@dataclass(frozen=True)
class Seen:
    """What is kept of the R answers of B samples; one with fewer answers has its last one again in their stead.

    rows: the reduction's tensors, those of all L layers stacked: a tuple of (B, R or fewer, L, ...); hidden: (B, R, K,
    D) float32, hidden states of the tokens before the answers; nll: (B, R) float32, mean negative log-likelihood of an
    answer's tokens in nats, NaN where it is not there.
    """

    rows: tuple
    hidden: torch.Tensor
    nll: torch.Tensor


@torch.no_grad()
def answer_rows(family, prompts, features, reduction, owners=None, hidden_layers=(-1,)):
    """One batched forward pass: what is kept of the tokens before all answers, and of the answers (Seen).

    prompts: B Tokens of conversations, R answers at most, whose last ones may be yet to come; features: of I distinct
    images; owners: which of these each prompt asks about, by default one each, in order. Where several ask about one
    image, it is run once (`run_prefix`). reduction: a function from the tokens' roles (B, N), -1 on padding, to the
    function of rows that `Rows` takes; hidden_layers: K numbers (`choose_layers`).

    Padding has attention 0. It is on the right, where under the causal mask alone no prompt token looks at it: SDPA
    takes its fastest path, without a mask. For the same reason what comes before an answer does not see it. The last
    answer's last token is not run, for nothing is asked behind it.
    """
    device = family.model.device
    owners = list(range(len(prompts)) if owners is None else owners)
    ids = pad([prompt.ids[: prompt.n_read] for prompt in prompts], 0, side="right").to(device)
    roles = pad([prompt.roles[: prompt.n_read] for prompt in prompts], -1, side="right").to(device)
    if family.virtual:  # they stand where a system prompt would, and as the attention has them, behind all others
        roles = F.pad(roles, (0, family.virtual.n), value=SYSTEM)
    n_answers = max(len(prompt.places) for prompt in prompts)
    places = [[*prompt.places, *[prompt.places[-1]] * (n_answers - len(prompt.places))] for prompt in prompts]
    places = torch.tensor(places, device=device)  # (B, R)
    model, of_each = family.model.model, [features[image] for image in owners]
    shared, cache = run_prefix(family, prompts, features, owners)
    places = places - shared
    answers = AnswerTokens(prompts, n_answers, shared, device)
    read = torch.zeros((len(ids), ids.shape[1] - shared), dtype=torch.bool, device=device)  # what is read at the end
    read[answers.rows, answers.before] = True
    read.scatter_(1, places, True)
    states = HiddenStates(family, choose_layers(family, hidden_layers), places)
    with Rows(places, reduction(roles)) as rows, states, LastMLP(family, read):
        if shared:
            positions = family.positions(ids, of_each)
            output = model.language_model(
                inputs_embeds=family.model.get_input_embeddings()(ids[:, shared:]),
                position_ids=None if positions is None else positions[..., shared:],
                past_key_values=cache,
            )
        else:
            output = model(**family.inputs(ids, of_each), use_cache=False)
    last = output.last_hidden_state  # (B, M, D)
    states.keep(family.n_layers - 1, last)
    kept = tuple(torch.stack(each, dim=2) for each in zip(*rows.layers, strict=True))
    return Seen(kept, states.stacked(), answers.nll(family, last))
