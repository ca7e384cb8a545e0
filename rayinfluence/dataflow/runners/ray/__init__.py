"""Jobs on a Ray cluster, or on a local Ray."""
