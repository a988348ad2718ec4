"""The number formats of stored weights: what a block of each type means, and its decoding.

Knows nothing of files, tensors' names, models or kernels.
"""
