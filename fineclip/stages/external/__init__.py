"""External annotations: boxes and captions that authors released as one large JSON, read once, then used shard by shard.

reading.py            the JSON becomes a table with a row for each of its images
coco_boxes.py         JSON in the form of COCO's instances
keyed_captions.py     a flat JSON object of captions
annotation_tables.py  the rows of the images of a shard
names.py              lookup of a sample among the images of the JSON
"""
