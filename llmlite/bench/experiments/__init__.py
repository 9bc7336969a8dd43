"""Small programs that put a claim to the test in one framework, each in a process of its own.

A module here has `run() -> dict`, whose JSON the parent reads; see `llmlite.bench.article`.
"""
