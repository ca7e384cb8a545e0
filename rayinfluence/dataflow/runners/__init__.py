"""Where jobs run: this process, or a Ray cluster."""
