"""A room of thirty: the day's schedule, the mail before it, what each laptop has, an offline stick.

`llmlite workshop` and `llmlite doctor --code` are the commands. Nothing here draws or runs a model.
"""
