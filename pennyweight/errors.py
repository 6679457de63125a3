"""Every refusal that pennyweight can make, as one tree.

    PennyweightError                  exit code 1
    ├── UsageError                    2   the command line asks for something that does not exist or contradicts itself
    ├── ModelError                        the checkpoint cannot be used as it is
    ├── WorkloadError                     the requests cannot be used as they are
    ├── EngineError                       an engine refused, died or hung
    │   ├── EngineMissing                 its runtime is not installed
    │   └── EngineRefused                 the request or settings are not supported
    ├── EndpointError                     a server did not answer as the OpenAI API says
    │   └── CannotScore                       it does not score given tokens
    ├── MeasurementVoid                   the measurement is invalid (it disturbed itself)
    ├── StorageError                      disk, cache or output directory
    ├── Infeasible                    3   no candidate meets the budget
    └── GateFailed                    4   a deployment does not hold what it was accepted for

A message is one sentence that names the thing, the fault and the fix.
"""


class PennyweightError(Exception):
    """The root of everything that pennyweight raises on purpose."""

    exit_code = 1
    reported = False  # set where a verb has put it into its own line of JSON already


class UsageError(PennyweightError):
    """The command line asks for something that does not exist, or contradicts itself."""

    exit_code = 2


class ModelError(PennyweightError):
    """A checkpoint is missing, damaged or of a kind that we cannot work on."""


class WorkloadError(PennyweightError):
    """A workload file is empty, malformed or does not fit the model."""


class EngineError(PennyweightError):
    """An engine did not start, died, hung or gave no answer."""


class EngineMissing(EngineError):
    """The engine's runtime is not installed here."""


class EngineRefused(EngineError):
    """The engine does not support a setting, a scheme or something in a request."""


class EndpointError(PennyweightError):
    """A server's answer is an error or is not what the OpenAI API promises. `status` is that of HTTP, if one came."""

    status: int | None = None


class CannotScore(EndpointError):
    """The server does not score given tokens: it can be proven in part only."""


class MeasurementVoid(PennyweightError):
    """The run disturbed its own measurement, which is discarded and never reported."""


class StorageError(PennyweightError):
    """The disk is full, a file is damaged, or a directory is in the way."""


class Infeasible(PennyweightError):
    """Every candidate breaks some limit of the budget."""

    exit_code = 3


class GateFailed(PennyweightError):
    """A deployment no longer holds the gates that it was accepted under."""

    exit_code = 4
