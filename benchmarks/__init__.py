"""The benchmark suite: `python -m benchmarks run`, then `python -m benchmarks report`."""
