"""What this machine has: cores and memory that may be used, instruction sets, measured limits."""
