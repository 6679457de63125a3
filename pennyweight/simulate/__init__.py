"""A discrete-event simulation of LLM serving: what a cluster of replicas would do to given requests."""

from pennyweight.simulate.cluster import Autoscaling, Disaggregation, Failure, Pool, Router, SimulatedCluster
from pennyweight.simulate.request_table import RequestTable
from pennyweight.simulate.result import SimulatedRun
from pennyweight.simulate.run import simulate

__all__ = ["Autoscaling", "Disaggregation", "Failure", "Pool", "RequestTable", "Router", "SimulatedCluster"]
__all__ += ["SimulatedRun", "simulate"]
