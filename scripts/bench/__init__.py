"""The benchmarks behind scripts/bench.py. A package with a file of its own: otherwise bench.py would hide it."""
