"""``python -m rayinfluence``."""

from rayinfluence.cli import main

if __name__ == "__main__":
    main()
