"""Our metrics on LiteLLM's own `/metrics`, and metric files that outlive the worker.

With several workers `prometheus_client` keeps a file for each process id in
PROMETHEUS_MULTIPROC_DIR, and for counters it has to keep those of dead processes: recycled workers
would leave more and more of them. Here a worker's files are named after its row of the scoreboard,
and the next worker in that row goes on counting in them; `metric_files` has space for them first,
`metric_places` says whose scoreboard it is.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import weakref
from typing import TYPE_CHECKING, Any

from litellm_resilience.repairs import metric_files, metric_places
from litellm_resilience.repairs.base import Outcome, PatchState, require, require_parameters
from litellm_resilience.supervisor import scoreboard

if TYPE_CHECKING:
    from litellm_resilience.repairs.base import Changes, Context
    from litellm_resilience.supervisor.scoreboard import Scoreboard


def apply(context: Context) -> Outcome:
    """Show our metrics wherever this process shows its own."""
    try:
        importlib.import_module("prometheus_client")
    except ImportError:
        return Outcome(PatchState.NOT_NEEDED, "prometheus_client is not installed")
    _name_files_after_rows(context.changes)
    _reserve_space(context)
    _extend_multiprocess_registries(context)
    _extend_default_registry(context)
    return Outcome(PatchState.APPLIED, "ours are on /metrics too, recycled workers leave no files")


def _name_files_after_rows(changes: Changes) -> None:
    values = importlib.import_module("prometheus_client.values")
    require(values, "MultiProcessValue", "ValueClass")
    require_parameters(values.MultiProcessValue, "process_identifier")
    if values.ValueClass._multiprocess:
        changes.replace(values, "ValueClass", values.MultiProcessValue(_process_name))


def _reserve_space(context: Context) -> None:
    values = importlib.import_module("prometheus_client.values")
    require(values, "MmapedDict")
    if metric_files.possible():
        reserving = metric_files.reserving(values.MmapedDict, context.log)
        context.changes.replace(values, "MmapedDict", reserving)


def _process_name() -> str:
    entered = scoreboard.entered()
    return str(os.getpid()) if entered is None else _name_of(*entered)


def _name_of(board: Scoreboard, slot: int) -> str:
    """Return what stands for the process id in the names of a worker's metric files."""
    return f"{metric_places.prefix(board.totals.metrics_place)}{slot}"


def forget(board: Scoreboard, slot: int) -> None:
    """Remove the live gauges of a worker that has ended, such as its requests in flight."""
    directory = os.environ.get(metric_places.DIRECTORY_VARIABLE)
    if directory is None:
        return
    with contextlib.suppress(ImportError, OSError):
        multiprocess: Any = importlib.import_module("prometheus_client.multiprocess")
        multiprocess.mark_process_dead(_name_of(board, slot), path=directory)


def _extend_multiprocess_registries(context: Context) -> None:
    multiprocess = importlib.import_module("prometheus_client.multiprocess")
    collector_class = multiprocess.MultiProcessCollector
    require_parameters(collector_class.__init__, "self", "registry")
    original = collector_class.__init__
    extended: weakref.WeakSet[Any] = weakref.WeakSet()

    def extending(self: Any, registry: Any, *args: Any, **kwargs: Any) -> None:
        original(self, registry, *args, **kwargs)
        if registry is not None and registry not in extended:
            extended.add(registry)
            registry.register(_Collector(context))

    context.changes.replace(collector_class, "__init__", extending)


def _extend_default_registry(context: Context) -> None:
    registry = importlib.import_module("prometheus_client").REGISTRY
    collector = _Collector(context)
    registry.register(collector)

    def unregister() -> None:
        with contextlib.suppress(KeyError):  # somebody may have emptied the registry
            registry.unregister(collector)

    context.changes.done(unregister)


class _Collector:
    """Collects what this process knows at the time: it may be forked after it was registered."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def collect(self) -> list[Any]:
        """Return all metrics, or none rather than failing LiteLLM's own."""
        try:
            metrics = importlib.import_module("litellm_resilience.status.metrics")
            entered = scoreboard.entered()
            if entered is None:
                return list(metrics.ProcessCollector(self._context.keeper.counters).collect())
            return list(metrics.ScoreboardCollector(entered[0]).collect())
        except Exception:
            self._context.log.exception("litellm-resilience: Metrics could not be collected")
            return []

    def describe(self) -> list[Any]:
        """Claim no names: they depend on where the process will be."""
        return []
