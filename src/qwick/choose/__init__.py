"""What fits this machine: memory now; speed and recommendations later."""
