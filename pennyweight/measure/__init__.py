"""Endpoint + workload -> measurement. Nothing in here knows an engine: it only ever talks to an OpenAI endpoint.

client.py      one request to an endpoint, streamed or whole, and its times
replay.py      a workload at its arrival times, and what that did to the generator
resources.py   memory, CPU seconds and joules of an engine's process tree meanwhile
speed.py       the two together as one `Measurement`
scorers.py     was a labelled answer right
quality.py     task score and fidelity of a candidate against a baseline
statistics.py  percentiles, paired bootstrap
compare.py     interleaved speed ratio of two endpoints
"""
