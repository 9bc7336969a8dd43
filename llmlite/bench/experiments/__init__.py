"""Small programs that test a claim in one framework, each in its own process.

Each module has a function `run` that returns a dict; the parent gets it as JSON. See `llmlite.bench.article`.
"""
