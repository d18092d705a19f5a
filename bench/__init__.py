"""Benchmarks: every figure is a ratio against a baseline that the same run starts."""
