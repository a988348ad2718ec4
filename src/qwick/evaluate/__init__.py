"""How good and how fast a checkpoint is here: likelihood of texts, programs that run, speed."""
