"""The models: readable Python over the kernels, from token indices to logits.

Knows layers, weights and cache pages; knows nothing of requests, sampling or text.
"""
