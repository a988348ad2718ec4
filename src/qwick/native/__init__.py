"""The compiled kernels (`ops`) and the same functions in NumPy (`reference`).

Knows arrays, packed weights and threads; knows nothing of models, files or text.
"""
