"""How good a checkpoint is on this machine: likelihood of texts, and programs that run or not."""
