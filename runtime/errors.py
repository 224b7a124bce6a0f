"""What can go wrong in the runtime; every error carries its remedy in one line."""

# Of many problems of one kind, an error names this many.
PROBLEMS_SHOWN = 20


def gib(count: int) -> str:
    """Bytes as messages say them: `7.42 GiB`."""
    return f"{count / 2**30:,.2f} GiB"


class AntangelError(Exception):
    """An error with a remedy: what happened and where, then what to do about it."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}"


class CheckpointError(AntangelError):
    """A checkpoint is incomplete, damaged, or of another shape than its config says."""


class ConfigError(AntangelError):
    """A configuration is missing a key, or its values contradict each other."""


class OptionError(ConfigError):
    """An option names what does not exist, or what this model or device does not have."""


class ContextError(AntangelError):
    """A prompt and its answer need more positions than the context has; counts are in tokens."""

    def __init__(self, message: str, remedy: str, *, needed: int, available: int) -> None:
        super().__init__(message, remedy)
        self.needed = needed
        self.available = available


class GrammarError(AntangelError):
    """A grammar cannot be compiled, or no token can continue it."""


class CapacityError(AntangelError):
    """Weights or cache do not fit in the memory there is; `shortfall` is in bytes, 0 where it is not known."""

    def __init__(self, message: str, remedy: str, *, shortfall: int = 0) -> None:
        super().__init__(message, remedy)
        self.shortfall = shortfall


class ExpertReadError(CheckpointError):
    """An expert's bytes cannot be read, or are not those that were packed."""


class NumericsError(AntangelError):
    """An activation is no number: damaged weights, or those of another model."""


class BusyError(AntangelError):
    """Another process has the model; `holder` says which."""

    def __init__(self, message: str, remedy: str, *, holder: str) -> None:
        super().__init__(message, remedy)
        self.holder = holder


class KeptPrefixError(AntangelError):
    """A file of kept blocks is of no use here; with `foreign` it is of another model, to which it may be."""

    def __init__(self, message: str, *, foreign: bool = False) -> None:
        super().__init__(message, "Nothing need be done: what it holds is computed again.")
        self.foreign = foreign
