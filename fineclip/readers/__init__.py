"""Files that users bring. Sources, benchmarks and released annotations are read here and nowhere else.

text.py            encodings of texts, lines of captions
caption_tables.py  captions in CSV or parquet
json_documents.py  JSON in the form of COCO's, and other JSON files
listed_images.py   images of a JSON, and the entries that refer to them
box_files.py       own boxes of images: which file belongs to which image
image_boxes.py     boxes of one image, numbers and lines of files of boxes
yolo_boxes.py      YOLO text files and class names
voc_boxes.py       Pascal VOC XML
box_tables.py      boxes in CSV
masks.py           PNG masks, polygons and runs, and their boxes
mask_annotations.py  annotations of a JSON that have a mask and no box
boxes.py           frame and unit of boxes, compared with the stored images
names.py           lookup of an image by name
files.py           folders of images
tar_members.py     members of a tar, grouped by sample
"""
