"""The extraction stage: one forward pass per sample gives the attention features that the detectors read.

For each sample and decoder layer the attention of the last prompt token (the query of the first token to be generated)
is reduced to: the entropy of its head-averaged distribution over the image tokens (BYE, Eq. 4 and 5), and the share of
each head on system, image and question tokens.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import torch

from bye.data.images import image_sizes, load_image
from bye.data.samples import id_of, question_of, read_samples, write_samples
from bye.errors import ByeError
from bye.files import replacing, write_parquet
from bye.flags import read_labels
from bye.machine import distributed
from bye.machine.progress import Progress
from bye.models import load_model
from bye.models.attention import LastRow, record_decoder
from bye.models.family import ImageFeatures, pad, processing_order
from bye.models.prefix import distinct, run_prefix
from bye.models.prompt import IMAGE, SYSTEM, TEXT


def extract(
    model,
    adapter,
    samples,
    images,
    out,
    batch_size=32,
    maps_for=(),
    maps_out=None,
    family=None,
    quantization=None,
    threads=None,
    device="auto",
    dtype="auto",
):
    """Write attention.parquet (and the maps of chosen ids) for the samples of a file, in file order.

    model, adapter, samples, images, out: paths; adapter may be None. Answers, and turns after the first, are not seen.
    maps_for: ids whose maps (Eq. 4) go to the npz file maps_out: ids (n,), grids (n, 2) of rows and columns, and maps
    (n, L, T), where a smaller grid than the largest has zeros at the end. Several processes
    (`bye.machine.distributed`) take the batches in turn, and the first one writes. Raises ByeError for bad input and
    where an entropy is not finite.
    """
    if threads:
        torch.set_num_threads(threads)
    if maps_for and maps_out is None:
        raise ByeError("attention maps are asked for, but no file for them is named; give --maps-out")
    entries = read_samples(samples)
    ids = [id_of(entry) for entry in entries]
    unknown = sorted(set(map(str, maps_for)) - set(ids))
    if unknown:
        raise ByeError(f"there is no sample {unknown[0]!r} in {samples}; correct the ids that maps are asked for")
    loaded = load_model(model, adapter, expected=family, device=device, dtype=dtype, quantization=quantization)
    record_decoder(loaded.model)
    sizes = image_sizes(images, entries) if loaded.any_resolution else [None] * len(entries)
    prompts = [loaded.prompt(*asked) for asked in zip(ids, map(question_of, entries), sizes, strict=True)]
    by_image = {entry["image"]: entry for entry in entries}
    features = ImageFeatures(loaded, lambda name: load_image(images, by_image[name]), cache=False)

    order = processing_order([entry["image"] for entry in entries], [len(prompt.ids) for prompt in prompts])
    entropies = np.empty((len(entries), loaded.n_layers), dtype=np.float32)
    masses = np.empty((len(entries), 3, loaded.n_layers * loaded.n_heads), dtype=np.float32)
    maps, wanted = {}, set(map(str, maps_for))
    progress = Progress("attention", len(entries))
    starts = distributed.share(range(0, len(entries), batch_size))
    for start in starts:
        chosen = order[start : start + batch_size]
        names, owners = distinct([entries[i]["image"] for i in chosen])
        reduced = features_of(*last_rows(loaded, [prompts[i] for i in chosen], features(names, batch_size), owners))
        distribution, entropies[chosen], masses[chosen] = (array.cpu().numpy() for array in reduced)
        for i, row in zip(chosen, distribution, strict=True):
            if ids[i] in wanted:
                maps[ids[i]] = row[:, : np.prod(loaded.grid(sizes[i]))]
        progress(start + len(chosen))
    mine = [i for start in starts for i in order[start : start + batch_size]]
    for theirs, *values in distributed.gather((mine, entropies[mine], masses[mine], maps)):
        entropies[theirs], masses[theirs], found = values
        maps |= found
    if distributed.rank() > 0:
        return
    progress(len(entries))
    _check_finite(entropies, masses, ids, model, adapter)
    n_image_tokens = [np.count_nonzero(prompt.roles == IMAGE) for prompt in prompts]
    write_parquet(out, _table(ids, loaded, n_image_tokens, entropies, masses))
    if maps_out is not None:
        kept = [i for i, name in enumerate(ids) if name in maps]
        longest = max((maps[ids[i]].shape[1] for i in kept), default=0)
        stacked = np.zeros((len(kept), loaded.n_layers, longest), dtype=np.float32)
        for place, i in enumerate(kept):
            stacked[place, :, : maps[ids[i]].shape[1]] = maps[ids[i]]
        grids = np.array([loaded.grid(sizes[i]) for i in kept]).reshape(-1, 2)
        with replacing(maps_out) as partial, open(partial, "wb") as file:
            np.savez(file, ids=np.array([ids[i] for i in kept], dtype=str), maps=stacked, grids=grids)


def example_maps(model, adapter, samples, images, labels, out, count=2, seed=0, **options):
    """Write the attention maps of a few clean and as many poisoned samples, for figures: see `extract`.

    labels: path of the Parquet file (id, poisoned); count: samples of each kind, drawn by seed; out: the npz file.
    Raises ByeError if a sample has no label.
    """
    entries = read_samples(samples)
    poisoned = read_labels(labels, [id_of(entry) for entry in entries])
    order = np.random.default_rng(seed).permutation(len(entries))
    chosen = [entries[i] for kind in (False, True) for i in order[poisoned[order] == kind][:count]]
    with TemporaryDirectory() as folder:
        write_samples(Path(folder) / "chosen.json", chosen)
        extract(
            *(model, adapter, Path(folder) / "chosen.json", images, Path(folder) / "attention.parquet"),
            maps_for=[id_of(entry) for entry in chosen],
            maps_out=out,
            **options,
        )


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


def _check_finite(entropies, masses, ids, model, adapter):
    bad = ~(np.isfinite(entropies).all(axis=1) & np.isfinite(masses).all(axis=(1, 2)))
    if bad.any():
        first = int(bad.argmax())
        layers = np.flatnonzero(~np.isfinite(entropies[first]))
        where = f"layer {layers[0]}" if len(layers) else "an attention mass"
        raise ByeError(
            f"the attention of {bad.sum()} samples is not finite (the first is {ids[first]!r}, {where}) under model "
            f"{model} with adapter {adapter}; the fine-tune has probably diverged, lower its learning rate"
        )


def _table(ids, family, n_image_tokens, entropies, masses):
    """The rows of attention.parquet; the schema's metadata says how many layers and heads there are."""
    columns = {"id": pa.array(ids, pa.string())}
    columns["n_image_tokens"] = pa.array(n_image_tokens, pa.int32())
    for layer in range(family.n_layers):
        columns[f"entropy_{layer:02d}"] = pa.array(entropies[:, layer], pa.float32())
    for role, name in enumerate(("system_mass", "image_mass", "text_mass")):
        columns[name] = pa.array(list(masses[:, role]), pa.list_(pa.float32()))
    metadata = {"n_layers": str(family.n_layers), "n_heads": str(family.n_heads)}
    return pa.table(columns).replace_schema_metadata(metadata)
