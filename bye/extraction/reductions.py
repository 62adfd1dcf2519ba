"""What is kept of a layer's attention: its distribution over the image tokens, entropies, and masses by role."""

import torch

from bye.models.prompt import ANSWER, IMAGE, SYSTEM, TEXT

# Whose attention masses are kept: system, image, text. Earlier answers are what was said before, as the questions are.
MASSES = ((SYSTEM,), (IMAGE,), (TEXT, ANSWER))
TINY = torch.finfo(torch.float32).tiny  # so little of it makes a head that looks at no image token look at all alike


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
        self.others = torch.arange(longest, device=roles.device) >= counts  # (B, T)
        members = [torch.stack([roles == role for role in some]).any(dim=0) for some in MASSES]
        self.members = torch.stack(members, dim=1).float()  # (B, 3, N)

    def __call__(self, rows):
        """What is kept of rows (B, R, H, N): the first row's distribution (B, 1, T), entropies (B, R), masses by role
        (B, R, 3, H), and each head's entropy and most attended image token (B, R, H)."""
        on_image = self.on_image(rows)
        distribution = averaged(on_image)
        heads = self.shares(on_image)
        masses = self.masses_by_role(rows).transpose(1, 2)
        return distribution[:, :1], entropy(distribution), masses, entropy(heads), heads.argmax(dim=-1).int()

    def on_image(self, rows):
        """Attention on the image tokens alone: (B, R, H, N) -> (B, R, H, T).

        T is the largest number of image tokens of a sample; the others have zeros at the end.
        """
        places = self.image_places[:, None, None].expand(-1, *rows.shape[1:3], -1)
        return rows.gather(3, places).masked_fill(self.others[:, None, None], 0.0)

    def shares(self, on_image):
        """Each head's attention on image tokens, (B, R, H, T), made to sum to one; all alike where it has none."""
        weights = (on_image + TINY).masked_fill(self.others[:, None, None], 0.0)
        return weights / weights.sum(dim=-1, keepdim=True)

    def masses_by_role(self, rows):
        """Attention mass of each head on system, image and text: (B, R, H, N) -> (B, 3, R, H)."""
        return torch.einsum("brhn,bmn->bmrh", rows, self.members)


def averaged(on_image):
    """Head-averaged attention on image tokens, summing to one (Eq. 4): (B, R, H, T) -> (B, R, T) float64."""
    means = on_image.double().mean(dim=2)
    return means / means.sum(dim=-1, keepdim=True)


def entropy(distribution):
    """Shannon entropy in nats over the last axis (Eq. 5); a probability of zero adds nothing."""
    return torch.special.entr(distribution).sum(dim=-1)
