"""The decoder's layers below the first one that is trained: run over each sample once, and passed over in training."""

import torch

from bye.errors import ByeError
from bye.models.family import Family, input_of, pad


class LowerLayers:
    """What the lower layers make of each sample, kept in the machine's memory: (N, D) for N tokens of width D.

    loaded: a Family, whose lower layers pass on what they get from then on; dataset: [(Tokens, image name), ...];
    features: an ImageFeatures; batch_size: samples at a time, in the order of their length, so that a run that was
    killed finds the same numbers again. Raises ByeError where something below is trained, or adds to upper layers.
    """

    def __init__(self, loaded, dataset, features, batch_size):
        self.device, self.kept = loaded.model.device, {}
        n_lower = self._count(loaded)
        order = sorted(range(len(dataset)), key=lambda place: len(dataset[place][0].ids))
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            self._run(loaded, n_lower, places, [dataset[place] for place in places], features)
        for layer in loaded.layers[:n_lower]:
            layer.forward = _pass_on

    def __call__(self, places, length):
        """Return (B, length, D) of the samples at these places of the dataset, zero behind their ends."""
        rows = [self.kept[place] for place in places]
        stacked = rows[0].new_zeros(len(rows), length, rows[0].shape[1])
        for row, kept in zip(stacked, rows, strict=True):
            row[: len(kept)] = kept
        return stacked.to(self.device)

    @staticmethod
    def _count(loaded):
        trained = {id(each) for each in loaded.model.parameters() if each.requires_grad}
        in_layers = [sum(id(each) in trained for each in layer.parameters()) for layer in loaded.layers]
        n_lower = next((number for number, count in enumerate(in_layers) if count), len(in_layers))
        if n_lower == 0 or sum(in_layers) < len(trained):
            raise ByeError(
                "cache_layers is true, but the first decoder layer, or what comes before it, is trained; set it to "
                "false, or train the upper layers alone (lora_layers, or tuning layers)"
            )
        if type(loaded).inputs is not Family.inputs:
            raise ByeError(
                f"cache_layers is true, but in {loaded.path} image features go to upper layers too; set it to false"
            )
        return n_lower

    @torch.no_grad()
    def _run(self, loaded, n_lower, places, samples, features):
        ids = pad([tokens.ids for tokens, _ in samples], 0, side="right").to(self.device)
        embedded = loaded.embed(ids, features([image for _, image in samples]))
        decoder = loaded.model.model.language_model
        hidden = input_of(loaded.layers[n_lower], lambda: decoder(inputs_embeds=embedded, use_cache=False)).cpu()
        for place, row, (tokens, _) in zip(places, hidden, samples, strict=True):
            self.kept[place] = row[: len(tokens.ids)].clone()


def _pass_on(hidden, *arguments, **options):
    return hidden
