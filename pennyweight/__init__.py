"""pennyweight: models, a workload and a budget go in; the cheapest service proven to hold the budget comes out."""

from pennyweight.budget import Budget, Limit, Outcome, Verdict
from pennyweight.deployment import Deployment
from pennyweight.errors import PennyweightError
from pennyweight.evidence import Evidence, SearchOutcome
from pennyweight.hardware import Hardware
from pennyweight.measurement import Comparison, Measurement, Quantity
from pennyweight.model import Lineage, Model, Step
from pennyweight.schemes import Scheme
from pennyweight.service import CachePolicy, Service
from pennyweight.shape import ModelShape
from pennyweight.study import Stage, Study, Trial
from pennyweight.verbs import apply, bench, evaluate, open_model, open_service, optimize
from pennyweight.workload import Arrivals, PromptShape, Request, Workload

__version__ = "0.2.0"

__all__ = [
    "Arrivals",
    "Budget",
    "CachePolicy",
    "Comparison",
    "Deployment",
    "Evidence",
    "Hardware",
    "Limit",
    "Lineage",
    "Measurement",
    "Model",
    "ModelShape",
    "Outcome",
    "PennyweightError",
    "PromptShape",
    "Quantity",
    "Request",
    "Scheme",
    "SearchOutcome",
    "Service",
    "Stage",
    "Step",
    "Study",
    "Trial",
    "Verdict",
    "Workload",
    "__version__",
    "apply",
    "bench",
    "evaluate",
    "open_model",
    "open_service",
    "optimize",
]
