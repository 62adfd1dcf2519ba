"""The extraction stage: one forward pass per sample gives the attention features that the detectors read.

For each answer of a sample and each decoder layer the attention of the token before it (the query of its first token)
is reduced to: the entropy of its head-averaged distribution over the image tokens (BYE, Eq. 4 and 5), and the share of
each head on system, image and text tokens.
"""

import pyarrow as pa

from bye.data.check import read_samples
from bye.data.samples import id_of
from bye.errors import ByeError
from bye.extraction.maps import write_maps
from bye.extraction.run import check_finite, load_recording, run
from bye.files import write_parquet
from bye.machine import distributed
from bye.workload import Workload


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
    tuning="lora",
    threads=None,
    device="auto",
    dtype="auto",
    validate=True,
):
    """Write attention.parquet (and the maps of chosen ids): a row for each answer of the samples of a file, in order.

    model, adapter, samples, images, out: paths; adapter may be None; tuning: the method that it is of. What comes
    before an answer is seen, earlier turns among it; the answer itself is not.
    maps_for: ids whose maps (Eq. 4) go to the npz file maps_out (see `write_maps`); validate: check the samples file,
    which is not needed where the suite wrote it. Several processes (`bye.machine.distributed`) take the batches in
    turn, and the first one writes. Raises ByeError for bad input and where an entropy is not finite.
    """
    if maps_for and maps_out is None:
        raise ByeError("attention maps are asked for, but no file for them is named; give --maps-out")
    entries = read_samples(samples, validate=validate)
    maps_for = set(map(str, maps_for))
    unknown = sorted(maps_for - set(map(id_of, entries)))
    if unknown:
        raise ByeError(f"there is no sample {unknown[0]!r} in {samples}; correct the ids that maps are asked for")
    options = {"tuning": tuning, "quantization": quantization, "device": device, "dtype": dtype}
    loaded = load_recording(model, adapter, family, threads, **options)
    work = Workload(loaded, entries, images)
    found = run(work, batch_size, maps_for)
    if distributed.rank() > 0:
        return
    check_finite(found, work.ids, model, adapter)
    write_parquet(out, _table(work, found))
    if maps_out is not None:
        write_maps(maps_out, work, found.maps)


def _table(work, found):
    """The rows of attention.parquet; the schema's metadata says how many layers and heads there are."""
    family = work.family
    columns = {"id": pa.array([work.ids[i] for i in found.samples], pa.string())}
    columns["answer"] = pa.array(found.answers, pa.int32())
    columns["n_image_tokens"] = pa.array(found.n_image_tokens, pa.int32())
    for layer in range(family.n_layers):
        columns[f"entropy_{layer:02d}"] = pa.array(found.entropies[:, layer], pa.float32())
    for role, name in enumerate(("system_mass", "image_mass", "text_mass")):
        columns[name] = pa.array(list(found.masses[:, role]), pa.list_(pa.float32()))
    metadata = {"n_layers": str(family.n_layers), "n_heads": str(family.n_heads)}
    return pa.table(columns).replace_schema_metadata(metadata)
