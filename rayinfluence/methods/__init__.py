"""Attribution methods: `method.py` says what one is, and `registry.py` which there are."""
