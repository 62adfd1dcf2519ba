"""Hidden states of the tokens before the answers, and how likely the last ones make the answers."""

import numpy as np
import torch
from torch.nn import functional as F

from bye.errors import ByeError

PROJECTED = 256  # numbers kept of a hidden state that has more
SEED = 0  # of the projection
LOGITS_AT_ONCE = 2**24  # numbers, 64 MB in float32: a few thousand tokens of a small vocabulary, a hundred of a large


class HiddenStates:
    """Context in which decoder layers of a family leave their hidden states of some tokens.

    layers: their numbers, 0 to L - 1; that of the last is taken after the final norm, where the language model's head
    reads it, by `keep`. places: (B, R) among the tokens of the forward pass.
    """

    def __init__(self, family, layers, places):
        self.layers, self.places, self.found = layers, places, {}
        self.modules = {layer: family.layers[layer] for layer in layers if layer < family.n_layers - 1}
        self.entries = torch.arange(len(places), device=places.device)[:, None]

    def __enter__(self):
        self._hooks = [module.register_forward_hook(self._hook(layer)) for layer, module in self.modules.items()]
        return self

    def __exit__(self, *exception):
        for hook in self._hooks:
            hook.remove()

    def keep(self, layer, states):
        """Keep of a layer's states (B, M, D) those at the places."""
        self.found[layer] = states[self.entries, self.places].float()

    def _hook(self, layer):
        return lambda module, inputs, output: self.keep(layer, output[0] if isinstance(output, tuple) else output)

    def stacked(self):
        """What was kept, (B, R, K, D) float32, in the order of the layers."""
        return torch.stack([self.found[layer] for layer in self.layers], dim=2)


def choose_layers(family, layers):
    """Numbers of decoder layers, from 0, of numbers that may count from the end. Raises ByeError for another."""
    for layer in layers:
        if not -family.n_layers <= layer < family.n_layers:
            raise ByeError(
                f"there is no hidden layer {layer}: model {family.path} has {family.n_layers} layers; name them from "
                "0, or from -1, the last"
            )
    return [layer % family.n_layers for layer in layers]


def projection(width):
    """The matrix (width, d) that a hidden state is multiplied by: random, the same everywhere, so that distances stay.

    d is PROJECTED, and the numbers are Gaussian of variance 1 / d (Johnson and Lindenstrauss 1984). None where the
    width is no larger than that.
    """
    if width <= PROJECTED:
        return None
    numbers = np.random.default_rng(SEED).standard_normal((width, PROJECTED))
    return (numbers / np.sqrt(PROJECTED)).astype(np.float32)


class AnswerTokens:
    """The n tokens of all answers of B prompts, R answers at most, among those behind the first `shared` ones.

    rows: (n,) their prompts; before: (n,) the places of the tokens before them; targets: (n,) their ids; answers: (n,)
    numbers of their answers among B x R.
    """

    def __init__(self, prompts, n_answers, shared, device):
        found = [prompt.answer_tokens() for prompt in prompts]
        rows = np.repeat(np.arange(len(prompts)), [len(places) for places, _ in found])
        before = np.concatenate([places for places, _ in found]) - 1 - shared
        targets = np.concatenate([prompt.ids[places] for prompt, (places, _) in zip(prompts, found, strict=True)])
        self.rows, self.before, self.targets = (torch.from_numpy(x).to(device) for x in (rows, before, targets))
        self.answers = rows * n_answers + np.concatenate([numbers for _, numbers in found])
        self.shape = len(prompts), n_answers

    def nll(self, family, last):
        """Mean negative log-likelihood of each answer's tokens, in nats: (B, R) float32, NaN where there is none.

        last: (B, M, D) hidden states after the final norm. The language model's head is run only where an answer's
        token comes next, on a few at a time.
        """
        at_once = max(1, LOGITS_AT_ONCE // family.model.config.text_config.vocab_size)
        losses = [
            F.cross_entropy(family.model.lm_head(states).float(), targets, reduction="none")
            for states, targets in zip(
                last[self.rows, self.before].split(at_once), self.targets.split(at_once), strict=True
            )
        ]
        n = self.shape[0] * self.shape[1]
        sums = np.bincount(self.answers, torch.cat(losses).cpu().numpy(), minlength=n)
        counts = np.bincount(self.answers, minlength=n)
        means = np.divide(sums, counts, out=np.full(n, np.nan), where=counts > 0)
        return torch.from_numpy(means.reshape(self.shape)).float()


class LastMLP:
    """Context in which the MLP of a family's last decoder layer is run on some tokens alone, (B, M) bool.

    What it would make of the others nobody reads: the keys and values of all layers are there before it.
    """

    def __init__(self, family, tokens):
        self.module, self.tokens = family.layers[-1].mlp, tokens

    def __enter__(self):
        take = self.module.register_forward_pre_hook(lambda module, inputs: (inputs[0][self.tokens],))
        self._hooks = [take, self.module.register_forward_hook(self._give)]
        return self

    def __exit__(self, *exception):
        for hook in self._hooks:
            hook.remove()

    def _give(self, module, inputs, output):
        whole = output.new_zeros((*self.tokens.shape, output.shape[-1]))
        whole[self.tokens] = output
        return whole
