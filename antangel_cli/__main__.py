"""`python -m antangel_cli` is `antangel`."""

from antangel_cli.app import main

main()
