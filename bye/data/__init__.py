"""Training and test sets: samples files, images, and the loaders of the datasets' official layouts."""
