"""Endpoint + workload -> measurement. Nothing here depends on an engine: it only talks to an OpenAI endpoint.

client.py      one request to an endpoint, streamed or whole, and its times
replay.py      a workload at its arrival times, and how late the load generator was
resources.py   memory, CPU seconds and joules of an engine's process tree meanwhile
speed.py       latency, throughput and resources as one `Measurement`
scorers.py     was a labelled answer right
quality.py     task score and fidelity of a candidate against a baseline
statistics.py  percentiles, paired bootstrap
compare.py     interleaved speed ratio of two endpoints
acceptance.py  acceptance length of a draft model
workload_report.py  description of a workload
"""
