"""Makes a pack of random weights of a true shape, to be measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from antangel_cli.load.kept import cache_home
from antangel_cli.load.problems import pack_problems
from antangel_cli.meter import Advance
from antangel_cli.source import EMBEDDED


def random_model(
    shape: str, layers: int | None, directory: str | None, advance: Advance, announce: Callable[[str], None]
) -> str:
    """The directory of a pack of random weights of a true shape, made at the first use. Raises ModelError."""
    import runtime

    base = Path(directory).expanduser().absolute() if directory else cache_home() / "bench"
    with pack_problems():
        whole = runtime.true_shape(shape)
        wanted = whole if layers is None else whole.with_layers(layers)
        place, model = runtime.random_pack_place(base, shape, wanted)
        if model != wanted:
            announce(f"The disk of {base} has room for {model.layers} of {wanted.layers} layers.")
        if not runtime.is_pack(place):
            announce(f"Making {model.nbytes / 1e9:.1f} GB of random weights, once: {place}")
            runtime.write_random_pack(model, place, tokenizer=EMBEDDED, progress=advance)
    return str(place)
