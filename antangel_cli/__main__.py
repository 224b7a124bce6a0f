"""`antangel`, and `python -m antangel_cli`. Until the program is loaded, Ctrl-C ends it without a traceback."""

from __future__ import annotations

import signal


def main() -> None:
    """The entry point."""
    loading = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if loading:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from antangel_cli.app import main as run

    if loading:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
