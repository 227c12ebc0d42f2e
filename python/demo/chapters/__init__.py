"""The chapters of the demo's report, one per file. metagrad.demo.job has their order."""
