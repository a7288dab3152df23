"""The fault campaign: thousands of kills, file faults, damaged files and nonsense inputs, each repeatable alone.

`make faults` runs all of it in minutes; see docs/explanation/fault-campaign.md. A trial is decided by the campaign's
seed, the part and its number.
"""
