"""Parquet files of entries: their rows, and a copy without some of them."""

from bye.errors import ByeError


def _batches(path):
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if not file.schema_arrow.names:
                raise ByeError(f"{path} is Parquet without columns; give a file with samples")
            yield from file.iter_batches(batch_size=1024)
    except (OSError, pyarrow.ArrowException) as error:
        raise ByeError(f"{path} cannot be read as Parquet ({error}); give a whole file") from None


def rows_of(path):
    for batch in _batches(path):
        try:
            rows = batch.to_pylist()
        except (ValueError, OverflowError) as error:  # of times, and of texts that are none
            raise ByeError(f"{path} has values that Python cannot hold ({error}); mend or drop that column") from None
        yield from rows


def copy_rows(path, out, wanted):
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        schema, groups = file.schema_arrow, file.metadata.num_row_groups
        codec = file.metadata.row_group(0).column(0).compression if groups else "SNAPPY"
    place = 0
    with pyarrow.parquet.ParquetWriter(out, schema, compression="none" if codec == "UNCOMPRESSED" else codec) as writer:
        for batch in _batches(path):
            chosen = pyarrow.array(wanted[place : place + len(batch)], pyarrow.bool_())
            place += len(batch)
            writer.write_batch(batch.filter(chosen))
