"""Benchmarks that anyone can run: `python -m tests.bench.eigs --nodes 500000`; figures are kept in RESULTS.md."""
