"""What ends a trial and not the search. A full disk ends the search: every later trial would meet it too."""

from pennyweight.errors import EndpointError, EngineError, MeasurementVoid, ModelError, UsageError, WorkloadError

TRIAL_FAULTS = (EngineError, EndpointError, MeasurementVoid, ModelError, UsageError, WorkloadError)
