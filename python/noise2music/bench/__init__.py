"""`noise2music bench`: the one benchmark. What is timed, against what, and how it is told.

`shapes` names what is timed, `roof` measures what the machine could do, `timing` interleaves the
contenders, `ops` and `networks` make rows, `report` and `plot` show them.
"""
