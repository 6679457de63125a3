"""Is what is served proven? One part a file; proof.py runs them.

same_question.py  the candidate reads the reference's prompts, token by token
weights.py        nats added on the reference's answers, and divergence both ways
decode.py         what the serving path loses beyond scoring
endings.py        finish reasons, lengths, empty answers
tails.py          how many requests lose far more than the mean
tasks.py          labelled answers, and forms.py: schemas and tool calls; sampling.py: a two-sample test
allowance.py      the one error allowance of looks, candidates and attempts
intervals.py      the bounds that they are judged by
"""
