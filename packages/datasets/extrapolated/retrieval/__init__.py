"""Where images of a keyword come from: folders and datasets, lists of URLs, an index. None of them uses a network."""
