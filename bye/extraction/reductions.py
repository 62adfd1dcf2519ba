"""What is kept of a sample's attention: its distribution over the image tokens, the entropy, and masses by role."""

import torch

from bye.models.prompt import IMAGE, SYSTEM, TEXT


def features_of(attention, roles):
    """What is kept of a batch: (B, L, T) distributions over image tokens, (B, L) entropies, (B, 3, L * H) masses."""
    distribution = image_distribution(attention, roles)
    return distribution, entropy(distribution), masses_by_role(attention, roles).flatten(2)


def image_distribution(attention, roles):
    """Head-averaged attention on image tokens, summing to one (Eq. 4): (B, L, H, N), (B, N) -> (B, L, T) float64.

    T is the largest number of image tokens of a sample; the others have zeros at the end.
    """
    batch, layers, _, length = attention.shape
    averaged = attention.double().mean(dim=2)  # (B, L, N)
    on_image = roles == IMAGE
    counts = on_image.sum(dim=1)
    longest = int(counts.max())
    taken = torch.arange(longest, device=roles.device) < counts[:, None]  # (B, T)
    picked = averaged.new_zeros(batch, layers, longest)
    picked[taken[:, None].expand(batch, layers, longest)] = averaged[on_image[:, None].expand(batch, layers, length)]
    return picked / picked.sum(dim=-1, keepdim=True)


def entropy(distribution):
    """Shannon entropy in nats over the last axis (Eq. 5); a probability of zero adds nothing."""
    return torch.special.entr(distribution).sum(dim=-1)


def masses_by_role(attention, roles):
    """Attention mass of each head on (system, image, question) tokens: (B, L, H, N), (B, N) -> (B, 3, L, H)."""
    members = torch.stack([roles == role for role in (SYSTEM, IMAGE, TEXT)], dim=1)  # (B, 3, N)
    return torch.einsum("blhn,brn->brlh", attention, members.to(attention.dtype))
