"""Runs spread over a Ray cluster (extra `ray`): whole runs as tasks, a dead worker's run done again elsewhere.

A run's result comes back when the run is over, and whoever asked for it writes it down. So a worker that is killed in
the middle leaves nothing behind: its run is lost by nobody and recorded once.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from metaft.errors import ExecutorError

Item = TypeVar('Item')
Result = TypeVar('Result')

# A run has one core: JAX else starts a thread a core in every worker, and costs measured side by side mean nothing.
_ONE_CORE = {'XLA_FLAGS': '--xla_cpu_multi_thread_eigen=false', 'OMP_NUM_THREADS': '1'}


def map_runs(
    run: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    address: str | None = None,
    gpus_per_run: float = 0.0,
    max_retries: int = 3,
) -> Generator[tuple[Item, Result]]:
    """Yields (item, run(item)) as runs end, in any order, each item once.

    Args:
      run: called in a worker process, one item at a time; what it keeps in memory serves the next item there.
      items: what to run, begun in this order.
      address: of a running cluster ('auto': the one of this machine); None starts one here, for this call.
      gpus_per_run: share of a GPU that a run needs; without any, a run has one CPU core.
      max_retries: how often a run is begun again after its worker died.

    Raises:
      ExecutorError: Ray is missing or cannot be reached; or, after all others have ended, the workers of some runs died
        more than `max_retries` times. What `run` raises is raised here as it is.
    """
    try:
        import ray
    except ImportError:
        raise ExecutorError('Ray is missing; install it with pip install metaft[ray]') from None
    begun_here = not ray.is_initialized()
    if begun_here:
        try:
            ray.init(address=address, log_to_driver=False, logging_level='ERROR', include_dashboard=False)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            reason = ' '.join(str(error).split())[:200]
            place = address or 'this machine'
            raise ExecutorError(f'no Ray cluster at {place} ({reason}); check --ray_address') from error
    try:
        options: dict[str, Any] = {'num_gpus': gpus_per_run} if gpus_per_run else {'num_cpus': 1}
        environment = {} if gpus_per_run else _ONE_CORE
        task = ray.remote(
            max_retries=max_retries, runtime_env={'env_vars': environment}, scheduling_strategy='SPREAD', **options
        )(_call)
        yield from _collect(task, ray.put(run), items)
    finally:
        if begun_here:
            ray.shutdown()


def _call(run, item):
    return run(item)


def _collect(task, run, items: Sequence) -> Generator:
    """Keeps twice as many runs submitted as the cluster has cores: none idles, and few are lost to an interrupt."""
    import ray

    waiting = list(items)[::-1]
    flying: dict[Any, Any] = {}  # Ray's reference -> item
    lost: list[str] = []
    while waiting or flying:
        while waiting and len(flying) < max(2, 2 * int(ray.cluster_resources().get('CPU', 1))):
            item = waiting.pop()
            flying[task.remote(run, item)] = item
        (done,), _ = ray.wait(list(flying), num_returns=1)
        item = flying.pop(done)
        try:
            found = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:  # the worker or its node died, once too often
            lost.append(f'{type(error).__name__}: {" ".join(str(error).split())[:120]}')
            continue
        yield item, found
    if lost:
        raise ExecutorError(
            f'the workers of {len(lost)} runs died again and again ({lost[0]}); is memory short? The same command '
            'tries them again'
        )
