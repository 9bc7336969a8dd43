"""A room of thirty: the day's schedule, the mail before it, a table of the laptops, an offline stick.

`llmlite workshop` and `llmlite doctor --code` are the commands. Nothing here draws or runs a model.
"""
