"""The errors that users see. The command line prints a `GrownasError` without a traceback and exits with status 2."""

USER_ERROR = 2  # exit status where the user's input is wrong


class GrownasError(Exception):
    """The user's input is wrong. The message gives the value, what was expected and what to do."""


class ConfigError(GrownasError):
    """A config or an override is wrong."""


class GenotypeError(GrownasError):
    """A genotype or its JSON is wrong."""


class DataError(GrownasError):
    """Data cannot be read or used."""


class TooFewRowsError(DataError):
    """A baseline cannot be fitted to so few rows; a search goes on without it."""


class RunError(GrownasError):
    """A run folder is missing, damaged, foreign or in use."""


class BackendError(GrownasError, RuntimeError):
    """The backend that the user named cannot run a cell on its device or in its dtype."""


class TrainingError(Exception):
    """A loss or a gradient is not finite; the message names the step or the batch. The exit status is 1.

    Attributes:
        seconds: training time up to the error.
        steps: weight steps up to the error.
        cpu_seconds: processor time of the process up to the error, in seconds.
        gradients: forward and backward passes on a window up to the error.
    """

    def __init__(
        self, message: str, seconds: float = 0.0, steps: int = 0, cpu_seconds: float = 0.0, gradients: int = 0
    ) -> None:
        """Store the time and the steps spent beside the message."""
        super().__init__(message)
        self.seconds, self.steps, self.cpu_seconds, self.gradients = seconds, steps, cpu_seconds, gradients


class Interrupted(KeyboardInterrupt):
    """The user interrupted the run; its state is saved, so the run can be resumed."""
