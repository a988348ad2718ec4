"""Checkpoints on disk, read into (config, named tensors, tokenizer data): GGUF and safetensors.

Every size and offset is checked before it is used, and nothing in a checkpoint is ever executed.
Knows nothing of kernels, models' computations, tokenizers or downloads.
"""
