"""The benchmarks behind scripts/bench.py. Without this file Python would import bench.py as `scripts.bench`."""
