"""pennyweight: a model, a workload and a budget go in; the cheapest deployment proven to hold the budget comes out."""

from pennyweight.budget import Budget, Limit, Outcome, Verdict
from pennyweight.deployment import Deployment
from pennyweight.errors import PennyweightError
from pennyweight.hardware import Hardware
from pennyweight.measurement import Measurement, Quantity
from pennyweight.model import Lineage, Model, Step
from pennyweight.study import Study, Trial
from pennyweight.workload import Arrivals, PromptShape, Request, Workload

__version__ = "0.1.0"

__all__ = [
    "Arrivals",
    "Budget",
    "Deployment",
    "Hardware",
    "Limit",
    "Lineage",
    "Measurement",
    "Model",
    "Outcome",
    "PennyweightError",
    "PromptShape",
    "Quantity",
    "Request",
    "Step",
    "Study",
    "Trial",
    "Verdict",
    "Workload",
    "__version__",
]
