"""Continuous batching: requests of token ids in, sampled ids out. Knows no text."""
