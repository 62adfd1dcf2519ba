"""Squares drawn into an image: what the patch triggers of the paper are made of (BYE, appendix B and section 5.5)."""


def side_of(pixels, share):
    """Side in pixels of a square that is `share` of the shorter side of an image (H, W, 3): one at least."""
    return max(1, round(min(pixels.shape[:2]) * share))


def with_squares(pixels, share, centres, value=0):
    """Copy the pixels (H, W, 3) and set squares with these centres, shares (y, x) of height and width."""
    side = side_of(pixels, share)
    triggered = pixels.copy()
    for centre in centres:
        top, left = (_start(size, side, place) for size, place in zip(pixels.shape, centre, strict=False))
        triggered[top : top + side, left : left + side] = value
    return triggered


def _start(size, side, place):
    """First pixel of a square centred at `place`, a share of `size`; places p and 1 - p are exact mirror images."""
    if place > 1 / 2:
        return size - side - _start(size, side, 1 - place)
    return max(0, int(size * place - side / 2))
