"""Where runs run: this process, so far."""
