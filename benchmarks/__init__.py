"""Side-by-side measurements against the libraries that people come from: `python -m benchmarks`."""
