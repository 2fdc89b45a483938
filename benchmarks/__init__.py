"""What is measured, how, and against whom: `python -m benchmarks [--only NAME,...] [--quick]`. See README.md.

Here: workloads, the processes that carry them out, accounts of time and CPU, results and their pictures. Not
here: tests (a benchmark proves nothing), and no other room imports this one.
"""
