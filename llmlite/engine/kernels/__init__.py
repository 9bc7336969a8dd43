"""Kernels: the loops that run a plan, one file per family.

Every other file here imports numba (through `llmlite.engine.simd`) and is imported only to compile: see
`llmlite.engine.jit`. A kernel neither allocates nor raises; a test checks its IR.
"""
