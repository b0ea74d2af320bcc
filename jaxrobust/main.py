"""python -m jaxrobust.main --config=configs/<recipe>.py[:variant] [--workdir=DIR]

Flags -> configuration -> one task. The same command continues an interrupted run.
"""

import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrobust.errors import UserError

EXIT_USER, EXIT_STOPPED = 2, 128 + signal.SIGTERM


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status."""
    from jaxrobust.flags import parse

    try:
        return _run(parse(sys.argv if argv is None else argv))
    except UserError as error:
        print(f"jaxrobust: {error}", file=sys.stderr)
        return EXIT_USER


def _run(arguments: Any) -> int:
    from jaxrobust import compile_cache, sharding

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("jaxrobust").setLevel(logging.INFO)
    sharding.split_cpu(arguments.cpu_devices)
    group = sharding.start_distributed(
        arguments.coordinator, arguments.num_processes, arguments.process_id
    )
    if group and not sharding.is_lead():
        logging.getLogger("jaxrobust").setLevel(logging.ERROR)
    compile_cache.switch_on(arguments.compile_cache)
    # Imported late: everything below may touch devices, which a group must join first.
    from jaxrobust.registry import lookup
    from jaxrobust.tasks import TASKS
    from jaxrobust.tasks.fit import STOP, Preempted

    STOP.install()
    task = lookup("task", TASKS, arguments.config["task"])
    try:
        task(arguments.config, str(Path(arguments.workdir)))
    except Preempted as stop:
        print(f"stopped after saving {stop}: the same command goes on", file=sys.stderr)
        return EXIT_STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
