"""What happens when a model with a memory runs.

Read three files from top to bottom: `attachment` (which functions of a model are replaced),
`attend` (what a memory layer does) and `fotmem.attention` (attention in parts, and their merging).
`forward` cuts long input into windows; `reading` fills a memory.
"""
