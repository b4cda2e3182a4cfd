"""Audit of what a user brings, before anything expensive runs.

audit.py      reads source, released annotations and benchmarks with the readers of the stages, and counts what it finds
headers.py    size, format and hash of images, by several processes
findings.py   one kind of finding: severity, count, text, an example
captions.py   scripts and lengths of captions
page.py       the table of findings, in the terminal and as an HTML page
"""
