"""Other people's formats: samples written as them, and what people corrected in them read back.

A format is a class with ``write(samples, folder)``; a YAML in ``conf/format/`` names it. Three of
them (COCO, YOLO, Label Studio) also have ``corrections(source)``. docs/formats.md describes each.
"""
