"""The stages that decide which training samples to drop (BYE, random drop, oracle), and the one that drops them."""

import json
import zlib

import numpy as np

from bye.data.samples import id_of, read_samples, write_samples
from bye.errors import ByeError, counted
from bye.files import write_csv
from bye.flags import read_flags, read_labels, read_table, write_flags

PAPER_IMAGE_TOKENS = 576  # of LLaVA-1.5: the paper's fixed threshold of 4.5 nats belongs to as many

LAYER_COLUMNS = (
    *("layer", "mu_low", "sigma_low", "weight_low", "mu_high", "sigma_high", "weight_high"),
    *("bsi", "released_margin", "sensitive"),
)


def detect(
    attention, layers_out, flags_out, rule="paper", tau=2.0, layers="bsi", clustering="gmm", threshold=4.5, seed=0
):
    """Run BYE on attention features; write the layer selection and the flags.

    Parameters
    ----------
    attention : path of attention.parquet: id, n_image_tokens, and entropy_00, entropy_01, ... in nats; where samples
        differ in n_image_tokens, entropies are made comparable first, see `read_entropies`.
    layers_out : path of layers.csv, one row a layer: the two components (nats), BSI, released_margin =
        |mu1 - mu2| / (sigma1 + sigma2), and whether the layer is sensitive (true/false).
    flags_out : path of flags.parquet. `score` is NaN without a sensitive layer; the extra column `mean_entropy` is the
        mean over all layers. The metadata hold rule, tau, cut, mixture and sensitive layers as JSON under "bye".
    rule, tau, layers, clustering : see `bye.detect.bye.BYEDetector`.
    threshold : cut of the clustering "threshold" in nats, for 576 image tokens; for T, those of the median sample, it
        is scaled by ln T / ln 576.
    seed : seed of the mixtures' k-means starts.

    Returns
    -------
    int
        Number of flagged samples.

    Raises
    ------
    ByeError
        For entropies that are no finite numbers (naming sample and layer), too few samples, or an unknown setting.
    """
    ids, entropies, n_image_tokens = read_entropies(attention)
    # After the check of the input, since scikit-learn takes a second to load.
    from bye.detect.bye import BYEDetector
    from bye.detect.mixture import MIN_SAMPLES

    if len(ids) < MIN_SAMPLES:
        raise ByeError(
            f"{attention} has {counted(len(ids), 'sample')}, and BYE needs {MIN_SAMPLES} at least; give a larger set"
        )
    threshold *= np.log(n_image_tokens) / np.log(PAPER_IMAGE_TOKENS)
    detector = BYEDetector(rule, tau, clustering, layers, threshold, random_state=seed)
    try:
        detector.fit(entropies)
    except ValueError as error:
        raise ByeError(f"setting of the detector: {error}") from None

    _write_layers(layers_out, detector)
    selected = [int(layer) for layer in detector.sensitive_layers_]
    flagged = detector.labels_ == -1
    place = f"sensitive layer{'s' if len(selected) > 1 else ''} {' '.join(map(str, selected))}"
    reasons = [
        f"attention entropy {score:.3f} nats in {place}, below the cut at {detector.offset_:.3f}" if drop else ""
        for score, drop in zip(detector.scores_, flagged, strict=True)
    ]
    setting = {
        "rule": rule,
        "tau": tau,
        "layers": layers,
        "clustering": clustering,
        "sensitive_layers": selected,
        "cut": float(detector.offset_) if np.isfinite(detector.offset_) else None,
        "mixture": _mixture(detector.gmm_),
    }
    write_flags(
        flags_out,
        ids,
        flagged,
        reasons,
        score=detector.scores_ if selected else None,
        p_low=detector.low_posterior(entropies),
        extra={"mean_entropy": entropies.mean(axis=1)},
        metadata={"bye": json.dumps(setting)},
    )
    return int(flagged.sum())


def read_entropies(path):
    """Return (ids, entropies, number of image tokens) of attention.parquet, entropies made comparable.

    A sample's entropy over T_i image tokens is at most ln T_i, and where attention is spread over most of them, it
    grows in proportion to it. So the file's nats are multiplied by ln T / ln T_i, with T the tokens of the median
    sample, which are returned: the share of the highest possible entropy, in nats at T. Where all samples have the same
    T, the factor is exactly 1. Entropies are float64 of shape (n_samples, n_layers). Raises ByeError where an entropy
    is no finite number, naming the sample and the layer, or a sample has one image token.
    """
    table = read_table(path, ("id", "n_image_tokens", "entropy_00"), prefix="entropy_")
    layers = sorted(int(name[len("entropy_") :]) for name in table if name.startswith("entropy_"))
    ids = table["id"]
    entropies = np.array(
        [table[f"entropy_{layer:02d}"] for layer in layers], dtype=np.float64
    ).T  # (n_samples, n_layers)
    if not np.isfinite(entropies).all():
        bad = np.argwhere(~np.isfinite(entropies))
        sample, layer = bad[0]
        raise ByeError(
            f"{path}: the attention entropy of sample {ids[sample]!r} in layer {layer} is {entropies[sample, layer]} "
            f"({len(np.unique(bad[:, 0]))} of {len(ids)} samples have such values); the fine-tune has probably "
            "diverged, so check its loss and lower the learning rate"
        )
    if not ids:
        return ids, entropies, 0
    tokens = np.array(table["n_image_tokens"], dtype=np.float64)
    if tokens.min() < 2:
        raise ByeError(
            f"{path}: sample {ids[tokens.argmin()]!r} has one image token, and attention on one has no entropy; give a "
            "larger image or drop the sample"
        )
    median = float(np.median(tokens))
    factors = np.where(tokens == median, 1.0, np.log(median) / np.log(tokens))
    return ids, entropies * factors[:, None], median


def random_drop(samples, flags_out, share=0.2, seed=0):
    """Flag exactly round(share x n) samples, drawn uniformly by seed. Returns how many.

    Raises ByeError for a share outside 0..1.
    """
    if not 0 <= share <= 1:
        raise ByeError(f"the share of samples to drop must be between 0 and 1, not {share}; change the setting share")
    ids = _ids(samples)
    count = round(share * len(ids))
    # A stream of its own: the poison is drawn with the same seed, and the same stream would drop just the poison.
    generator = np.random.default_rng([seed, zlib.crc32(b"random_drop")])
    flagged = np.zeros(len(ids), dtype=bool)
    flagged[generator.permutation(len(ids))[:count]] = True
    reason = f"drawn at random (share {share:g}, seed {seed})"
    write_flags(flags_out, ids, flagged, [reason if drop else "" for drop in flagged])
    return count


def oracle(samples, labels, flags_out):
    """Flag exactly the samples that the labels call poisoned: an upper bound, for it reads the truth. Returns how many.

    Raises ByeError if a sample has no label.
    """
    ids = _ids(samples)
    flagged = read_labels(labels, ids)
    write_flags(flags_out, ids, flagged, ["labelled as poisoned" if drop else "" for drop in flagged])
    return int(flagged.sum())


def keep(samples, flags, kept_out, dropped_out):
    """Split a samples file by flags: what is kept, as it was; what is dropped, with the reason.

    Parameters
    ----------
    samples : path of the samples file, JSON list or JSON lines; both outputs have the same form.
    flags : path of flags.parquet for these samples.
    kept_out : path for the entries that are not flagged, in order and with every key as it was.
    dropped_out : path for the flagged entries, each with a further key "bye": {"score", "p_low", "reason"}.

    Returns
    -------
    (int, int)
        How many are kept and dropped.

    Raises
    ------
    ByeError
        If the flags are those of other samples, or nothing would be kept.
    """
    entries = read_samples(samples, validate=False)
    table = read_flags(flags)
    if [id_of(entry) for entry in entries] != table["id"]:
        raise ByeError(f"{flags} does not hold the samples of {samples} in their order; run the defence on this file")
    kept, dropped = [], []
    for entry, drop, score, p_low, reason in zip(
        entries, *(table[name] for name in ("flagged", "score", "p_low", "reason")), strict=True
    ):
        if drop:
            dropped.append({**entry, "bye": {"score": _number(score), "p_low": _number(p_low), "reason": reason}})
        else:
            kept.append(entry)
    if not kept:
        raise ByeError(f"{flags} flags every sample of {samples}; nothing would be left to train on")
    write_samples(dropped_out, dropped, like=samples)
    write_samples(kept_out, kept, like=samples)
    return len(kept), len(dropped)


def _ids(samples):
    return [id_of(entry) for entry in read_samples(samples, validate=False)]


def _write_layers(path, detector):
    rows = []
    for layer in range(detector.n_features_in_):
        (mu_low, mu_high), (sigma_low, sigma_high) = detector.layer_means_[layer], detector.layer_stds_[layer]
        weight_low, weight_high = detector.layer_weights_[layer]
        numbers = mu_low, sigma_low, weight_low, mu_high, sigma_high, weight_high
        numbers += detector.bsi_[layer], detector.released_margin_[layer]
        sensitive = "true" if layer in detector.sensitive_layers_ else "false"
        rows.append(dict(zip(LAYER_COLUMNS, [layer, *(f"{number:.6g}" for number in numbers), sensitive], strict=True)))
    write_csv(path, rows, LAYER_COLUMNS)


def _mixture(gmm):
    if gmm is None:
        return None
    return {
        "means": gmm.means_.reshape(2).tolist(),
        "stds": np.sqrt(gmm.covariances_.reshape(2)).tolist(),
        "weights": gmm.weights_.tolist(),
    }


def _number(value):
    return None if value is None or np.isnan(value) else value
