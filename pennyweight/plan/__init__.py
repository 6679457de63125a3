"""Predicted performance of a deployment: a cost model of bytes moved and operations done. Runs no engine."""
