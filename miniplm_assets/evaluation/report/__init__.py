"""The report: one HTML file that says what an experiment found, to somebody who has nothing but that file.

What it says is made of blocks (`blocks`), by a file for each part, and set by one template. It loads nothing: style and
pictures are in it, there is no script, and a policy in its head forbids both. Texts of the corpus and names are what
others wrote: the template escapes everything, and `page` shows the characters that steer a terminal or turn a line.
"""
