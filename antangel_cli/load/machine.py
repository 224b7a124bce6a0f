"""What the settings say of the machine, in the words of the runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from antangel_cli.settings import Settings
from antangel_cli.sizes import Amount

if TYPE_CHECKING:
    import runtime


def device_of(settings: Settings, announce: Callable[[str], None] | None = None) -> str:
    """The device that the settings mean: on their own, a GPU that our kernels run on, else the CPU.

    `announce` is told when a GPU is examined, which takes a while once.
    """
    if settings.device == "auto":
        import runtime

        return runtime.best_device(announce)
    return "cuda:0" if settings.device == "cuda" else settings.device


def engine_config(settings: Settings, **options: Any) -> runtime.EngineConfig:
    """What the settings say of the machine, and more by name."""
    import runtime

    return runtime.EngineConfig(
        threads=settings.threads,
        context=settings.context,
        ram=_amount(settings.ram),
        vram=_amount(settings.vram),
        kv=_amount(settings.kv),
        slots=_amount(settings.slots),
        disk=not settings.no_disk,
        policy=settings.policy,
        lookahead=settings.lookahead,
        cpu_share=settings.cpu_share,
        **options,
    )


def _amount(amount: Amount | None) -> int | runtime.Share | None:
    import runtime

    return runtime.Share(amount) if isinstance(amount, float) else amount
