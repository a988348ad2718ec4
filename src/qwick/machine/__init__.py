"""What this machine has: cores, memory and GPUs, instruction sets, measured limits."""
