//! Nothing of its own: the tests are in `it/`, fuzz targets in `fuzz/`, benchmarks in `bench/`.
