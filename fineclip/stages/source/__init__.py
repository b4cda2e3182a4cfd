"""Where samples come from: one table per shard, a row for each sample, failed ones too.

plan.py         which shards there are, known before the first job
listing.py      kinds folder and coco: read once what there is
shard.py        the stage itself, by kind of source
"""

VERSION = 1  # of the listing and of the rows of every kind: a change of it makes them again
