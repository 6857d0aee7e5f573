"""The listening study (section 4.3.3, Table 7): pairs of clips for a caption, rated blind.

``study``    what is compared, and every rating, in one SQLite file
``server``   the web page on this machine, on Python's own http.server
``scores``   wins a source, Bradley-Terry scores and their intervals
"""
