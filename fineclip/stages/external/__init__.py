"""External annotations: boxes and captions that authors released as one large JSON, read once, then used shard by shard.

reading.py            the JSON becomes a table with a row for each of its images
annotation_tables.py  the rows of the images of a shard, by file name
keyed_captions.py     the captions of the boxes of a shard
"""
