"""Prepare a workshop for thirty people: the schedule, the mail before it, a table of laptops, a USB stick.

The commands are `llmlite workshop` and `llmlite doctor --code`. Nothing here draws or runs a model.
"""
