"""For all tests: a shell starts background jobs deaf to SIGINT; the tests hear it wherever they are started."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
