"""How many connections to the database the workers of a pod may hold at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Connections:
    """What the engines of a pod's workers may open; each has a pool of its own.

    Attributes:
        pool_limit: connections that one engine may open.
        workers: workers that serve.
        restarting: replacements that boot, while the old worker serves.
        draining: replaced workers that finish their last requests.
        upstream: in all, of plain LiteLLM, which starts a worker when the old one has ended.
        ours: in all, of litellm-resilience.
    """

    pool_limit: int
    workers: int
    restarting: int
    draining: int
    upstream: int
    ours: int

    @property
    def sum(self) -> str:
        """How `ours` is reckoned."""
        return (
            f"{self.ours} = ({self.workers} serving + {self.restarting} booting + "
            f"{self.draining} draining) x a pool of {self.pool_limit}"
        )


def of(
    workers: int, max_restarting: int, pool_limit: int, draining: int | None = None
) -> Connections:
    """Count them.

    Args:
        workers: workers in the pod.
        max_restarting: how many are being replaced at once, at most.
        pool_limit: connections that one engine may open.
        draining: how many drain at once, at most; if not known, one for each replacement.
    """
    spare = min(workers, max_restarting)
    draining = spare if draining is None else draining
    return Connections(
        pool_limit=pool_limit,
        workers=workers,
        restarting=spare,
        draining=draining,
        upstream=workers * pool_limit,
        ours=(workers + spare + draining) * pool_limit,
    )
