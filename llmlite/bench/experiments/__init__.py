"""Small programs that test a claim in one framework, each in its own process.

Each module has `run() -> dict`; the parent reads its result as JSON. See `llmlite.bench.article`.
"""
