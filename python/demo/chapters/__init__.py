"""The chapters of the demo's report, one per file, in the order in which metagrad.demo.job runs
them.
"""
