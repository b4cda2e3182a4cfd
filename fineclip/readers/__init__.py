"""Files that users bring. Sources, benchmarks and released annotations are read here and nowhere else.

text.py            encodings of texts, lines of captions, words
csv_rows.py        separator, columns and line numbers of CSV
caption_tables.py  captions in CSV or parquet
json_documents.py  JSON in the form of COCO's, and other JSON files
names.py           lookup of images by name
files.py           folders of images, links, suffixes of formats
tar_headers.py     headers of a tar, and its damaged parts
tar_members.py     members of a tar, grouped by sample, and links
"""
