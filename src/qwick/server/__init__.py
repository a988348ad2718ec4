"""The server: one internal request type, one file per dialect; who may come in; what is seen."""
