"""Compiled programs, kept on disk: a second start of a run compiles nothing.

JAX's persistent cache finds a program by its code, options, devices and the version of
the compiler. On a CPU that is not enough: machine code is for the instructions of one
kind of processor, and loops are cut for a number of cores. A folder has programs of one
kind of machine.
"""

import hashlib
import logging
import os
import platform
import sys
import tempfile
from pathlib import Path

import jax

from jaxrobust import sharding

logger = logging.getLogger(__name__)
AUTO, OFF = "auto", ("off", "")
FOLDER = "jax_compilation_cache_dir"
LIMIT_BYTES = 2**31
THRESHOLDS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
"""A run has a hundred small programs: together they take as long as the large ones."""


def switch_on(asked: str) -> None:
    """Keep compiled programs from now on. Must run before anything is compiled.

    `asked` is "auto", "off", "" (as "off"), or a folder to keep them in. "auto" takes
    what JAX_COMPILATION_CACHE_DIR names, as it is, and else the user's cache folder.
    The thresholds of JAX's own variables stand where these are set. A folder that
    cannot be written costs a warning, not the run.
    """
    named = getattr(jax.config, FOLDER)
    if asked in OFF or (asked == AUTO and named == ""):
        _switch_off()
        return
    own = asked != AUTO or named is None
    try:
        folder = _own_folder(asked) if own else str(named)
        _try_to_write(folder)
    except (OSError, RuntimeError) as error:  # no home is a RuntimeError
        _switch_off()
        logger.warning(
            "compiled programs are not kept, every start compiles: %s; give a folder "
            "by --compile_cache=DIR, or say --compile_cache=off", error,
        )  # fmt: skip
        return
    jax.config.update(FOLDER, folder)
    for name, value in THRESHOLDS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    if own and sharding.is_lead():
        prune(Path(folder), LIMIT_BYTES)


def _switch_off() -> None:
    jax.config.update("jax_enable_compilation_cache", False)


def _own_folder(asked: str) -> str:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    parent = Path(cache) / "jaxrobust" if asked == AUTO else Path(asked).expanduser()
    return str(parent.absolute() / f"compiled-{machine()}")


def _try_to_write(folder: str) -> None:
    """Raises `OSError` where this process cannot make files in `folder`."""
    if "://" in folder:  # a bucket, which JAX writes to by other means
        return
    # What lies here is run: nobody else shall be able to change it.
    Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryFile(dir=folder):
        pass


def prune(folder: Path, limit_bytes: int) -> None:
    """Remove the programs unused for longest until the rest takes `limit_bytes`.

    Deviates: JAX's own limit (jax_compilation_cache_max_size) needs a package more, and
    writes nothing any more once a run was killed between the two files of a program.
    """
    found = []
    for path in folder.glob("*-cache"):
        try:
            facts = path.stat()
        except FileNotFoundError:  # another run was faster
            continue
        used = max(facts.st_atime_ns, facts.st_mtime_ns)
        found.append((used, facts.st_size, path))
    excess = sum(size for _, size, _ in found) - limit_bytes
    for _, size, path in sorted(found):
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= size


def machine() -> str:
    """12 hexadecimal digits: equal where the same CPU code is compiled and can run."""
    facts = [sys.platform, platform.machine(), *_processor(), *_cores()]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def _cores() -> list[str]:
    """How many threads XLA cuts loops for."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count()
    return [str(count), os.environ.get("NPROC", "")]


PROCESSOR = ("vendor_id", "cpu family", "model", "flags")  # x86
PROCESSOR += ("CPU implementer", "CPU part", "CPU variant", "Features")  # ARM


def _processor() -> list[str]:
    """Kind and instructions of the first processor, or else the host's name."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return [platform.processor(), platform.node()]
    lines = [line.partition(":") for line in first.splitlines()]
    facts = {key.strip(): value.split() for key, _, value in lines}
    return [" ".join(sorted(facts.get(key, ()))) for key in PROCESSOR]
