"""Several processes that train together: how they join, and what they tell each other."""

from __future__ import annotations

from typing import Any

import jax
from jax.experimental import multihost_utils

from noise2music.train.options import TrainOptions


def join(options: TrainOptions) -> None:
    """Makes this process one of `num_processes`; nothing where no coordinator is given.

    coordinator "auto" asks the cluster (TPU pods, Slurm) for all three. On CPUs gloo carries what
    the processes say.
    """
    if options.coordinator is None:
        if options.num_processes is not None or options.process_id is not None:
            raise ValueError(
                "n2m.train: coordinator must be host:port or auto where num_processes or "
                "process_id is given, got none"
            )
        return
    if jax.distributed.is_initialized():
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if options.coordinator == "auto":
        jax.distributed.initialize()
        return
    count, index = options.num_processes, options.process_id
    if count is None or index is None or not 0 <= index < count:
        raise ValueError(
            "n2m.train: num_processes and process_id (from 0, below it) must be given with "
            f"coordinator, got {count} and {index}"
        )
    jax.distributed.initialize(options.coordinator, count, index)


def fetched(tree: Any) -> Any:
    """A tree of arrays that lie on all processes' devices, as numpy arrays on every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def barrier(name: str) -> None:
    """Returns when all processes have come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"noise2music {name}")
