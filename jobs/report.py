"""The report of a run that is done: ``ray job submit ... -- python jobs/report.py --config C``."""

import argparse
import sys

from rayinfluence.cli import main
from rayinfluence.config import RunConfig
from rayinfluence.errors import RayInfluenceError
from rayinfluence.text import visible

if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="rayinfluence report, as a Ray job")
    arguments.add_argument("--config", required=True, help="the run's YAML file")
    try:
        config = RunConfig.load(arguments.parse_args().config)
    except RayInfluenceError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    endpoint = config.storage.endpoint_url
    main(["report", config.run, *(["--endpoint-url", endpoint] if endpoint else [])])
