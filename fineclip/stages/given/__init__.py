"""Boxes and captions of regions that somebody made and released, in one large JSON: read once, then image by image.

reading.py     the JSON becomes a table with a row for each of its images
boxes.py       a JSON in the form of COCO's instances
captions.py    a flat JSON object of captions
tables.py      the rows of the images of a shard
names.py       which image of the JSON a sample is
"""

VERSION = 1  # of the tables these files write: a change of it makes them again
