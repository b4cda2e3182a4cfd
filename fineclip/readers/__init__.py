"""Files that users bring. Sources, benchmarks and released annotations are read here and nowhere else.

text.py            encodings of texts, lines of captions, words
csv_rows.py        separator, columns and line numbers of CSV
caption_tables.py  captions in CSV or parquet
json_documents.py  JSON in the form of COCO's, and other JSON files
names.py           lookup of images by name
files.py           folders of images, links, suffixes of formats
tar_headers.py     headers of a tar, and its damaged parts
tar_members.py     members of a tar, grouped by sample, and links
listed_images.py   images of a JSON, and the entries that refer to them
boxes.py           frame and unit of boxes, compared with the stored images
box_files.py       own boxes of images: which file belongs to which image
image_boxes.py     boxes of one image, numbers and lines of files of boxes
yolo_boxes.py      YOLO text files and class names
voc_boxes.py       Pascal VOC XML
box_tables.py      boxes in CSV
masks.py           PNG masks, polygons and runs, and their boxes
mask_annotations.py  annotations of a JSON that have a mask and no box
"""
