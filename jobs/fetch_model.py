"""Copy a model from object storage to the folder that the configuration names, once.

``python jobs/fetch_model.py --config CONFIG --from s3://bucket/models/mine``
"""

import argparse
import sys
from pathlib import Path

from rayinfluence.config import RunConfig
from rayinfluence.errors import RayInfluenceError
from rayinfluence.storage.fetch import fetch
from rayinfluence.storage.store import Store
from rayinfluence.text import visible


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description="copy a model to where the run loads it from")
    arguments.add_argument("--config", required=True, help="the run's YAML file")
    arguments.add_argument("--from", dest="source", required=True, help="where the model is")
    return arguments


if __name__ == "__main__":
    given = parser().parse_args()
    try:
        config = RunConfig.load(given.config)
        store = Store(given.source, config.storage.options(given.source))
        print(f"{fetch(store, Path(config.model))} files copied to {config.model}")
    except RayInfluenceError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
