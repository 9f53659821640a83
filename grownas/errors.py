"""The few errors that users meet. The command line prints them without a traceback and exits with 2."""

USER_ERROR = 2  # exit status where the user's input is wrong


class GrownasError(Exception):
    """The user's input is wrong; the message says what came, what was expected and what to do."""


class ConfigError(GrownasError):
    """A config or an override is wrong."""


class GenotypeError(GrownasError):
    """A genotype or its JSON is wrong."""


class DataError(GrownasError):
    """Data cannot be read or used."""


class RunError(GrownasError):
    """A run folder is missing, damaged, foreign or in use."""


class BackendError(GrownasError, RuntimeError):
    """The backend that was asked for by name cannot run a cell where it lies."""


class TrainingError(Exception):
    """Training met a non-finite loss; the message names stage and step. Not the user's input: exit status 1.

    Attributes:
        seconds: trained until then.
        steps: weight steps trained until then.
        cpu_seconds: processor time of the process until then.
    """

    def __init__(self, message: str, seconds: float = 0.0, steps: int = 0, cpu_seconds: float = 0.0) -> None:
        """Keep what was spent beside the message."""
        super().__init__(message)
        self.seconds, self.steps, self.cpu_seconds = seconds, steps, cpu_seconds
