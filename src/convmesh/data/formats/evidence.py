"""How certain it is that a folder has a layout."""

from __future__ import annotations

import enum


class Evidence(enum.IntEnum):
    """Strength of the evidence for a layout, from its files' names.

    No file is opened but one JSON file, whose first bytes tell LabelMe's from COCO's, and a few
    text files with the names of images: YOLO's labels, or captions.
    """

    POSSIBLE = 1  # it can be read in this layout, but nothing is specific to it
    LAYOUT = 2  # folders and files have the names that the layout prescribes
    DESCRIPTION = 3  # a file that describes the data set in this layout, such as data.yaml
