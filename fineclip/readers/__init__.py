"""Files that users bring. Sources, benchmarks and released annotations are read here and nowhere else.

text.py            encodings of texts, lines of captions
caption_tables.py  captions in CSV or parquet
json_documents.py  JSON in the form of COCO's, and other JSON files
listed_images.py   images of a JSON, and the entries that refer to them
boxes.py           frame and unit of boxes, compared with the stored images
names.py           lookup of an image by name
files.py           folders of images
tar_members.py     members of a tar, grouped by sample
"""
