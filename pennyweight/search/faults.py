"""Errors that end a trial but not the search. A full disk ends the search: every later trial would fail too."""

from pennyweight.errors import EndpointError, EngineError, MeasurementVoid, ModelError, UsageError, WorkloadError

TRIAL_FAULTS = (EngineError, EndpointError, MeasurementVoid, ModelError, UsageError, WorkloadError)
