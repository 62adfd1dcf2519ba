"""What is kept of a layer's attention: its distribution over the image tokens, the entropy, and masses by role."""

import torch

from bye.models.prompt import ANSWER, IMAGE, SYSTEM, TEXT

# Whose attention masses are kept: system, image, text. Earlier answers are what was said before, as the questions are.
MASSES = ((SYSTEM,), (IMAGE,), (TEXT, ANSWER))


class Reduction:
    """Reduces the rows of attention of a batch, R for each sample, layer by layer; all layers have the same H.

    roles: (B, N) of the tokens, -1 on padding. What depends on these alone is computed once.
    """

    def __init__(self, roles):
        on_image = roles == IMAGE
        counts = on_image.sum(dim=1, keepdim=True)
        longest = int(counts.max())
        # The places of a sample's image tokens in order, (B, T), then others, which do not count.
        self.image_places = (~on_image).byte().argsort(dim=1, stable=True)[:, :longest]
        self.taken = torch.arange(longest, device=roles.device) < counts  # (B, T)
        members = [torch.stack([roles == role for role in some]).any(dim=0) for some in MASSES]
        self.members = torch.stack(members, dim=1).float()  # (B, 3, N)

    def __call__(self, rows):
        """What is kept of rows (B, R, H, N): the first row's distribution (B, 1, T), entropies (B, R) and masses.

        Masses are (B, R, 3, H).
        """
        distribution = self.image_distribution(rows)
        return distribution[:, :1], entropy(distribution), self.masses_by_role(rows).transpose(1, 2)

    def image_distribution(self, rows):
        """Head-averaged attention on image tokens, summing to one (Eq. 4): (B, R, H, N) -> (B, R, T) float64.

        T is the largest number of image tokens of a sample; the others have zeros at the end.
        """
        averaged = rows.double().mean(dim=2)  # (B, R, N)
        picked = averaged.gather(2, self.image_places[:, None].expand(-1, averaged.shape[1], -1))
        picked = picked.masked_fill(~self.taken[:, None], 0.0)
        return picked / picked.sum(dim=-1, keepdim=True)

    def masses_by_role(self, rows):
        """Attention mass of each head on system, image and text: (B, R, H, N) -> (B, 3, R, H)."""
        return torch.einsum("brhn,bmn->bmrh", rows, self.members)


def entropy(distribution):
    """Shannon entropy in nats over the last axis (Eq. 5); a probability of zero adds nothing."""
    return torch.special.entr(distribution).sum(dim=-1)
